//! A tower service on a simulated worker: no panic, nothing left behind, the same replies however the input is cut, and the same as those
//! of a sync handler that answers alike.
#![no_main]

use http::{Method, Request, Response, StatusCode, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use libfuzzer_sys::fuzz_target;
use ringmill_engine::Layer;
use ringmill_protocols::adapt::{Body, BoxError, tower};
use ringmill_protocols::http::{
    BodyWriter, Fill, Handler, Limits, Plan, Reply, Request as OwnRequest, Server, Source, Upload,
};
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use tower_service::Service;

type Bytes = bytes::Bytes;

const RAMP_BYTES: usize = 3000;

/// The next piece of what both count down.
fn ramp(left: &mut usize) -> Vec<u8> {
    let bytes = (*left).min(700);
    *left -= bytes;
    vec![b'0' + (*left / 700) as u8; bytes]
}

/// The oracle. Whatever a reply is, its body has come in full before, but for `/u`.
struct Routes;

impl Handler for Routes {
    fn handle(&mut self, request: &OwnRequest<'_>, reply: &mut Reply<'_>) {
        match request.path_bytes() {
            b"/b" | b"/w" => reply.body(request.body()),
            b"/n" => reply.status(204).empty(),
            // Without a body there is no plan.
            b"/u" => reply.empty(),
            b"/s" => reply.stream(Some(RAMP_BYTES as u64), Ramp(RAMP_BYTES)),
            b"/c" => reply.stream(None, Ramp(RAMP_BYTES)),
            _ => reply.status(404).empty(),
        }
    }

    fn plan(&mut self, request: &OwnRequest<'_>) -> Plan {
        match request.path_bytes() {
            b"/u" => Plan::Stream(Box::new(Back(false))),
            _ => Plan::Collect,
        }
    }
}

struct Ramp(usize);

impl Source for Ramp {
    fn fill(&mut self, body: &mut BodyWriter<'_>) -> Fill {
        body.write(&ramp(&mut self.0));
        if self.0 == 0 { Fill::End } else { Fill::More }
    }
}

/// Sends a body back as it comes.
struct Back(bool);

impl Upload for Back {
    fn chunk(&mut self, bytes: &[u8], reply: &mut Reply<'_>) {
        if !std::mem::replace(&mut self.0, true) {
            reply.begin(None);
        }
        reply.write(bytes);
    }

    fn end(self: Box<Self>, reply: &mut Reply<'_>) {
        if !self.0 {
            reply.begin(None);
        }
        reply.end();
    }
}

/// The same as a service.
#[derive(Clone)]
struct Lane;

impl Service<Request<Body>> for Lane {
    type Response = Response<Out>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Out>, Infallible>>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(async move {
            Ok(answer(request).await.unwrap_or_else(|_| {
                let response = Response::builder().status(400).header(header::CONNECTION, "close");
                response.body(Out::default()).expect("two constants")
            }))
        })
    }
}

async fn answer(request: Request<Body>) -> Result<Response<Out>, BoxError> {
    let (parts, mut body) = request.into_parts();
    let mut response = Response::new(Out::default());
    if parts.method == Method::CONNECT {
        *response.status_mut() = StatusCode::NOT_IMPLEMENTED;
        response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
        return Ok(response);
    }
    if parts.uri.path() == "/u" {
        let first = body.frame().await.transpose()?;
        let first = first.and_then(|frame| frame.into_data().ok());
        *response.body_mut() = Out { first, back: Some(body), ..Out::default() };
        return Ok(response);
    }
    let whole = body.collect().await?.to_bytes();
    match parts.uri.path() {
        "/b" => response.body_mut().first = Some(whole),
        "/w" => {
            for _ in 0..whole.len() % 4 {
                wait().await;
            }
            response.body_mut().first = Some(whole);
        }
        "/n" => *response.status_mut() = StatusCode::NO_CONTENT,
        "/s" => *response.body_mut() = Out { left: RAMP_BYTES, is_sized: true, ..Out::default() },
        "/c" => *response.body_mut() = Out { left: RAMP_BYTES, ..Out::default() },
        _ => *response.status_mut() = StatusCode::NOT_FOUND,
    }
    Ok(response)
}

/// Is pending once.
async fn wait() {
    let mut is_over = false;
    poll_fn(|context| {
        if std::mem::replace(&mut is_over, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

/// One frame, then a body that comes back, or one that counts down.
#[derive(Default)]
struct Out {
    first: Option<Bytes>,
    back: Option<Body>,
    left: usize,
    is_sized: bool,
}

impl HttpBody for Out {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        if let Some(back) = &mut self.back {
            return Pin::new(back).poll_frame(context).map_err(Into::into);
        }
        let piece = ramp(&mut self.left);
        Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece.into()))))
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_sized { SizeHint::with_exact(self.left as u64) } else { SizeHint::default() }
    }
}

/// What the client receives, and whether it ended with a reset.
fn converse(protocol: impl Layer, input: &[u8], piece: usize) -> (Vec<u8>, bool) {
    let (received, was_reset) = ringmill_fuzz::converse(protocol, b"", input, piece);
    (replies(&received), was_reset)
}

/// The final replies without what may differ: dates, how a body is framed, and of a refusal all but its status.
fn replies(mut received: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    while received.starts_with(b"HTTP/1.1 ") {
        let Some(end) = find(received, b"\r\n\r\n") else { break };
        let head;
        (head, received) = received.split_at(end + 4);
        let status = &head[9..12];
        if status == b"100" {
            continue;
        }
        let is_refusal = status[0] >= b'4';
        let (mut body_bytes, mut is_chunked) = (0, false);
        for line in head.split_inclusive(|byte| *byte == b'\n') {
            if let Some(length) = line.strip_prefix(b"content-length: ") {
                body_bytes = number(length, 10).expect("a length");
            } else if line == b"transfer-encoding: chunked\r\n" {
                is_chunked = true;
            } else if !is_refusal && !line.starts_with(b"date: ") {
                text.extend_from_slice(line);
            }
        }
        if is_refusal {
            text.extend_from_slice(status);
            text.push(b'\n');
        }
        let body_start = text.len();
        if is_chunked && !received.starts_with(b"HTTP/1.1 ") {
            received = unchunk(received, &mut text);
        } else if !received.starts_with(b"HTTP/1.1 ") {
            // Else it was the reply to HEAD.
            let body;
            (body, received) = received.split_at(body_bytes.min(received.len()));
            text.extend_from_slice(body);
        }
        if is_refusal {
            text.truncate(body_start);
        }
    }
    // A body that ends with the connection, or the start of something that was reset.
    text.extend_from_slice(received);
    text
}

/// Moves the data of the chunks to `text`, those that came; returns what follows the last one.
fn unchunk<'r>(mut received: &'r [u8], text: &mut Vec<u8>) -> &'r [u8] {
    while let Some(end) = find(received, b"\r\n")
        && let Some(bytes) = number(&received[..end], 16)
    {
        let data = &received[end + 2..];
        text.extend_from_slice(&data[..bytes.min(data.len())]);
        received = data.get(bytes + 2..).unwrap_or_default();
        if bytes == 0 {
            break;
        }
    }
    received
}

fn number(text: &[u8], radix: u32) -> Option<usize> {
    usize::from_str_radix(str::from_utf8(text).ok()?.trim_ascii_end(), radix).ok()
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

fn check(told: &(Vec<u8>, bool), expected: &(Vec<u8>, bool), how: &str) {
    assert_eq!(told.1, expected.1, "whether it was reset, {how}");
    // A reset overtakes what was written: how much came before it is a matter of time.
    let length = if told.1 { told.0.len().min(expected.0.len()) } else { usize::MAX };
    let cut = |text: &[u8]| String::from_utf8_lossy(&text[..length.min(text.len())]).into_owned();
    assert_eq!(cut(&told.0), cut(&expected.0), "{how}");
}

fuzz_target!(|data: &[u8]| {
    let Some((&piece, input)) = data.split_first() else { return };
    // HTTP/2 is hyper's.
    if input.len() > 4096 || input.starts_with(b"PRI ") {
        return;
    }
    let limits = Limits { requests_max: Some(20), ..Limits::default() };
    let lane = |piece| converse(tower(Lane).with_limits(limits.clone()), input, piece);
    let whole = lane(input.len());
    check(&lane(usize::from(piece)), &whole, &format!("in pieces of {piece}"));
    // A target that our parser takes and the crate `http` does not is refused.
    let oracle = converse(Server::new(Routes).with_limits(limits.clone()), input, input.len());
    if !whole.0.ends_with(b"400\n") {
        check(&whole, &oracle, "unlike the handler");
    }
});
