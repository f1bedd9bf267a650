//! A tower service, whose futures and bodies wait for what the simulation completes, in any order. What it answers does not depend on
//! how anything was cut.

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use ringmill_engine::driver::sim::{Rng, Watch};
use ringmill_protocols::adapt::{Body, BoxError, Notices, TowerServer, tower};
use ringmill_protocols::http::{Limits, WhenGone};
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tower_service::Service;

pub fn server(watch: Watch, limits: Limits) -> TowerServer<Lane> {
    tower(Lane(watch)).with_limits(limits).when_gone(WhenGone::HalfClose)
}

#[derive(Clone)]
pub struct Lane(Watch);

type Waits = Pin<Box<dyn Future<Output = ()>>>;

impl Service<Request<Body>> for Lane {
    type Response = Response<Out>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Out>, BoxError>>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // Who reads a body tells the session that fills it.
        self.0.wakes_itself();
        let watch = self.0.clone();
        Box::pin(async move { answer(watch, request).await })
    }
}

async fn answer(watch: Watch, request: Request<Body>) -> Result<Response<Out>, BoxError> {
    let path = request.uri().path().to_owned();
    let (route, number) = path[1..].split_once('/').unwrap_or((&path[1..], "0"));
    let number: usize = number.parse().unwrap_or(0);
    let ok = |body| Ok(Response::new(body));
    match route {
        "text" => ok(Out::full("text")),
        "wait" => {
            for _ in 0..number {
                watch.task().await;
            }
            ok(Out::full(request.into_body().collect().await?.to_bytes()))
        }
        "gone" => {
            let peer = request.extensions().get::<Notices>().expect("every request has them").peer().clone();
            peer.gone().await;
            ok(Out::full("gone"))
        }
        "collect" => ok(Out::full(request.into_body().collect().await?.to_bytes())),
        // Whether something has come before the head is written depends on how it was cut; so these wait until something has.
        "mirror" => {
            let mut body = request.into_body();
            let first = body.frame().await.transpose()?;
            ok(Out::Mirror(first, body))
        }
        "recut" => {
            let mut recut = Recut { body: request.into_body(), kept: VecDeque::new(), end: None };
            let first = recut.body.frame().await.transpose()?;
            recut.take(first.map(Ok));
            ok(Out::Recut(recut))
        }
        "sized" => ok(Out::Count { left: number, is_sized: true }),
        "chunked" => ok(Out::Count { left: number, is_sized: false }),
        "slow" => ok(Out::Slow { left: number, waits: None, watch }),
        "fails" => Err("on purpose".into()),
        "panic" => panic!("on purpose"),
        _ => {
            let mut response = Response::new(Out::full("404"));
            *response.status_mut() = StatusCode::NOT_FOUND;
            Ok(response)
        }
    }
}

/// What goes out: all at once, as it comes in, in pieces of a size of its own, or as it is waited for.
pub enum Out {
    Full(Full<Bytes>),
    Mirror(Option<Frame<Bytes>>, Body),
    Recut(Recut),
    Count { left: usize, is_sized: bool },
    Slow { left: usize, waits: Option<Waits>, watch: Watch },
}

impl Out {
    fn full(bytes: impl Into<Bytes>) -> Out {
        Out::Full(Full::new(bytes.into()))
    }
}

/// A body that is cut anew. What has come goes out before its end, also where that is an error.
pub struct Recut {
    body: Body,
    kept: VecDeque<u8>,
    end: Option<Result<(), BoxError>>,
}

const RECUT_BYTES: usize = 37;

impl Recut {
    fn take(&mut self, frame: Option<Result<Frame<Bytes>, BoxError>>) {
        match frame {
            Some(Ok(frame)) => self.kept.extend(frame.into_data().unwrap_or_default()),
            Some(Err(error)) => self.end = Some(Err(error)),
            None => self.end = Some(Ok(())),
        }
    }

    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Result<Vec<u8>, BoxError>> {
        while self.kept.len() < RECUT_BYTES && self.end.is_none() {
            let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
            self.take(frame.map(|frame| frame.map_err(Into::into)));
        }
        let piece: Vec<u8> = self.kept.drain(..RECUT_BYTES.min(self.kept.len())).collect();
        match self.end.replace(Ok(())) {
            Some(Err(error)) if piece.is_empty() => return Poll::Ready(Err(error)),
            end => self.end = end,
        }
        Poll::Ready(Ok(piece))
    }
}

impl HttpBody for Out {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let piece = match self.get_mut() {
            Out::Full(body) => return Pin::new(body).poll_frame(context).map_err(|never| match never {}),
            Out::Mirror(first, body) => match first.take() {
                Some(first) => return Poll::Ready(Some(Ok(first))),
                None => return Pin::new(body).poll_frame(context).map_err(Into::into),
            },
            Out::Recut(recut) => match ready!(recut.poll_piece(context)) {
                Ok(piece) => piece,
                Err(error) => return Poll::Ready(Some(Err(error))),
            },
            Out::Count { left, .. } => {
                let bytes = (*left).min(300);
                *left -= bytes;
                vec![b'0' + (*left % 10) as u8; bytes]
            }
            Out::Slow { left, waits, watch } => {
                if *left > 0 {
                    ready!(waits.get_or_insert_with(|| Box::pin(watch.task())).as_mut().poll(context));
                    (*waits, *left) = (None, *left - 1);
                    vec![b'0' + (*left % 10) as u8]
                } else {
                    Vec::new()
                }
            }
        };
        Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece.into()))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Out::Full(body) => body.is_end_stream(),
            // When the end of a body is known depends on how it was cut, so the others never know it.
            _ => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Out::Full(body) => body.size_hint(),
            Out::Mirror(first, body) => {
                let first = first.as_ref().and_then(Frame::data_ref).map_or(0, Bytes::len) as u64;
                body.size_hint()
                    .exact()
                    .map_or(SizeHint::default(), |rest| SizeHint::with_exact(first + rest))
            }
            Out::Count { left, is_sized: true } => SizeHint::with_exact(*left as u64),
            _ => SizeHint::default(),
        }
    }
}

/// What was heard, without the framing of chunks: a frame that is larger than there is room for goes out in several.
pub fn unchunked(mut heard: &[u8]) -> Vec<u8> {
    const CHUNKED: &[u8] = b"transfer-encoding: chunked\r\n\r\n";
    let mut all = Vec::new();
    while let Some(at) = find(heard, CHUNKED) {
        let (head, mut rest) = heard.split_at(at + CHUNKED.len());
        all.extend_from_slice(head);
        loop {
            // A size or a chunk that is cut short is the last.
            let Some(end) = find(rest, b"\r\n") else { return all };
            let size =
                std::str::from_utf8(&rest[..end]).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
            let size = size.unwrap_or_else(|| panic!("no chunk begins {}", rest[..end].escape_ascii()));
            let data = &rest[end + 2..];
            all.extend_from_slice(&data[..size.min(data.len())]);
            let Some(after) = data.get(size..).and_then(|after| after.strip_prefix(b"\r\n")) else {
                return all;
            };
            rest = after;
            if size == 0 {
                all.extend_from_slice(b"(end)");
                break;
            }
        }
        heard = rest;
    }
    all.extend_from_slice(heard);
    all
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|part| part == wanted)
}

/// What a client of the service says.
pub fn requests(rng: &mut Rng) -> Vec<u8> {
    let mut text = String::new();
    for _ in 0..1 + rng.up_to(4) {
        let number = rng.up_to(2500);
        let body = "body".repeat(rng.below(200));
        let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        let post = |path: &str| {
            format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        };
        let chunks = |path: &str| {
            let chunk = |part: &str| match part.len() {
                0 => String::new(),
                bytes => format!("{bytes:x}\r\n{part}\r\n"),
            };
            let (a, b) = body.split_at(body.len() / 2);
            let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
            head + &chunk(a) + &chunk(b) + "0\r\nx: y\r\n\r\n"
        };
        text += &match rng.below(22) {
            0 => get(&format!("/sized/{number}")),
            1 => get(&format!("/chunked/{number}")),
            2 | 3 => get(&format!("/slow/{}", number % 5)),
            4 | 5 => get(&format!("/wait/{}", number % 4)),
            6 => post(&format!("/wait/{}", number % 4)),
            7 => chunks(&format!("/wait/{}", number % 4)),
            8 => post("/collect"),
            9 => chunks("/collect"),
            10 | 11 => post("/mirror"),
            12..=14 => chunks("/recut"),
            15 => format!("HEAD /sized/{} HTTP/1.1\r\nHost: a\r\n\r\n", number + 1),
            16 => get("/fails"),
            17 if rng.one_in(2) => get("/panic"),
            18 => get("/missing"),
            // Bodies that nobody wants.
            19 => post("/text"),
            20 if rng.one_in(2) => return (text + &get("/gone")).into_bytes(),
            _ => get("/text"),
        };
    }
    text.into_bytes()
}
