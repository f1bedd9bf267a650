//! The site of `site.rs` as a service of tower: what it answers is the same, so that the cases of HTTP can be run against both.

use super::pattern;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use hyper::{Method, Request, Response, StatusCode, Uri, header};
use ringmill::adapt::{Body, BoxError, TowerServer, tower};
use ringmill::http::Limits;
use std::pin::Pin;
use std::task::{Context, Poll};
use tower_service::Service;

/// A server with these limits. That of bodies is the service's own, as that of the other site is its plan's.
pub fn server(limits: Limits) -> TowerServer<TowerSite> {
    tower(TowerSite { body_bytes_max: limits.body_bytes_max }).with_limits(limits)
}

#[derive(Clone)]
pub struct TowerSite {
    body_bytes_max: u64,
}

/// A body of any kind.
pub struct AnyBody(Pin<Box<dyn HttpBody<Data = Bytes, Error = BoxError>>>);

impl HttpBody for AnyBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.0.as_mut().poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

fn any(body: impl HttpBody<Data = Bytes, Error: Into<BoxError>> + 'static) -> AnyBody {
    AnyBody(Box::pin(body.map_err(Into::into)))
}

impl Service<Request<Body>> for TowerSite {
    type Response = Response<AnyBody>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<AnyBody>, BoxError>>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let body_bytes_max = self.body_bytes_max;
        Box::pin(async move { Ok(answer(request, body_bytes_max).await) })
    }
}

/// The answer, with a type and whether the connection ends with it.
fn response(status: u16, media_type: Option<&str>, closes: bool, body: AnyBody) -> Response<AnyBody> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    let fields = response.headers_mut();
    if let Some(media_type) = media_type {
        fields.insert(header::CONTENT_TYPE, media_type.parse().expect("a value"));
    }
    if closes {
        fields.insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    }
    response
}

fn text(status: u16, body: impl Into<Bytes>) -> Response<AnyBody> {
    response(status, Some("text/plain"), false, any(Full::new(body.into())))
}

fn closing(status: u16, body: &'static str) -> Response<AnyBody> {
    response(status, Some("text/plain"), true, any(Full::new(body.into())))
}

async fn answer(request: Request<Body>, body_bytes_max: u64) -> Response<AnyBody> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    match (path, &parts.method) {
        (_, &Method::CONNECT) => return closing(501, "501: nothing tunnels here\n"),
        ("/echo", _) if body.is_end_stream() => return response(200, None, false, any(Full::default())),
        ("/echo", _) => return response(200, Some("text/plain"), false, any(body)),
        ("/early", &Method::POST) => return closing(403, "no need for more"),
        ("/panic-upload", _) => panic!("as asked"),
        _ => {}
    }
    let bytes_max = if path.starts_with("/small") { 10 } else { body_bytes_max };
    let collected = match collect(body, bytes_max).await {
        Ok(collected) => collected,
        Err(response) => return response,
    };
    let trailers = collected.trailers().cloned().unwrap_or_default();
    let body = collected.to_bytes();
    match path {
        "/hello" => text(200, "hello"),
        "/json" => response(200, Some("application/json"), false, any(Full::new("{}".into()))),
        "/collect" => text(200, body),
        "/small-stream" => text(200, body),
        "/trailers" => {
            let line = |(name, value): (&header::HeaderName, &header::HeaderValue)| {
                [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat()
            };
            text(200, trailers.iter().map(line).collect::<Vec<_>>().concat())
        }
        "/target" => text(200, target(&parts.method, &parts.uri, parts.headers.get(header::HOST))),
        "*" => {
            let mut response = response(204, None, false, any(Full::default()));
            response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET"));
            response
        }
        "/close" => closing(200, "closing"),
        "/split" => {
            let mut response = text(200, "whole");
            response.headers_mut().insert("x-e", header::HeaderValue::from_static("f"));
            response
        }
        "/teapot" => text(418, "short and stout"),
        "/unchanged" => {
            let mut response = response(304, None, false, any(Full::new("not sent".into())));
            response.headers_mut().insert(header::ETAG, header::HeaderValue::from_static("\"1\""));
            response
        }
        "/panic" => panic!("as asked"),
        "/panic-source" => response(200, None, false, any(Panics(false))),
        "/short" => {
            let mut response = response(200, None, false, any(Pieces::new(5, None)));
            response.headers_mut().insert(header::CONTENT_LENGTH, 10.into());
            response
        }
        "/slow" => response(200, None, false, any(Pieces { is_slow: true, ..Pieces::new(3, None) })),
        _ => match path.rsplit_once('/').and_then(|(route, n)| Some((route, n.parse::<usize>().ok()?))) {
            Some(("/bytes", end)) => response(200, None, false, any(Pieces::new(end, Some(end as u64)))),
            Some(("/chunked", end)) => response(200, None, false, any(Pieces::new(end, None))),
            Some(("/status", status)) => text(status as u16, "text"),
            Some(("/stream", status)) => response(status as u16, None, false, any(Pieces::new(3, None))),
            _ => text(404, "nothing"),
        },
    }
}

/// The whole body, or the answer where it is too large. One that says so is not asked for.
async fn collect(body: Body, bytes_max: u64) -> Result<http_body_util::Collected<Bytes>, Response<AnyBody>> {
    const TOO_LARGE: &str = "413: the body is too large\n";
    if HttpBody::size_hint(&body).lower() > bytes_max {
        return Err(closing(413, TOO_LARGE));
    }
    Limited::new(body, bytes_max as usize).collect().await.map_err(|error| {
        match error.is::<LengthLimitError>() {
            true => closing(413, TOO_LARGE),
            false => closing(400, "400: the body is cut\n"),
        }
    })
}

/// As the other site tells it.
fn target(method: &Method, uri: &Uri, host: Option<&header::HeaderValue>) -> String {
    let host =
        uri.authority().map(|authority| authority.as_str()).or(host.and_then(|host| host.to_str().ok()));
    let host = host.filter(|host| !host.is_empty());
    format!("{method} {uri} {} {:?} {host:?}", uri.path(), uri.query())
}

/// The pattern up to `end`, in pieces; one byte at a time and only when woken, if it is slow.
struct Pieces {
    at: usize,
    end: usize,
    length: Option<u64>,
    is_slow: bool,
    is_due: bool,
}

impl Pieces {
    fn new(end: usize, length: Option<u64>) -> Pieces {
        Pieces { at: 0, end, length, is_slow: false, is_due: false }
    }
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.at == self.end {
            return Poll::Ready(None);
        }
        if self.is_slow && !std::mem::replace(&mut self.is_due, false) {
            self.is_due = true;
            let waker = context.waker().clone();
            std::thread::spawn(move || waker.wake());
            return Poll::Pending;
        }
        let bytes = if self.is_slow { 1 } else { 10_000.min(self.end - self.at) };
        let frame = Frame::data(pattern(self.at, bytes).into());
        self.at += bytes;
        Poll::Ready(Some(Ok(frame)))
    }

    fn size_hint(&self) -> SizeHint {
        let left = |length: u64| SizeHint::with_exact(length - self.at as u64);
        self.length.map_or(SizeHint::default(), left)
    }
}

/// Panics when it is polled for the second time: behind the head of its answer.
struct Panics(bool);

impl HttpBody for Panics {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        assert!(!self.0, "as asked");
        self.0 = true;
        context.waker().wake_by_ref();
        Poll::Pending
    }
}
