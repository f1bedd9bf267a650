//! The site as a service of hyper, for the peers on it: with TLS and without they differ in nothing else.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Either, Full, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, SERVER};
use hyper::{Method, Request, Response, StatusCode};

use crate::site::{self, Message, Pieces};

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The reply to one request.
pub async fn answer(
    request: Request<Incoming>,
) -> hyper::Result<Response<impl Body<Data = Bytes, Error = BoxError>>> {
    let text = |body: Bytes| (StatusCode::OK, site::TEXT, Either::Left(Full::new(body)));
    let mut length = None;
    let (status, media_type, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/plaintext") => text(Bytes::from_static(site::PLAINTEXT.as_bytes())),
        (&Method::GET, "/json") => {
            let json = Full::new(Bytes::from(Message::new().serialise()));
            (StatusCode::OK, site::JSON, Either::Left(json))
        }
        (&Method::POST, "/upload") => text(Bytes::from(count(request.into_body()).await?.to_string())),
        (&Method::GET, path) if let Some(bytes) = site::bytes_asked(path) => {
            let mut pieces = Pieces::new(bytes);
            let body = if bytes <= site::PIECE_BYTES {
                Either::Left(Full::new(pieces.next().unwrap_or_default()))
            } else {
                length = Some(bytes);
                let frames = pieces.map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
                Either::Right(StreamBody::new(stream::iter(frames)))
            };
            (StatusCode::OK, site::OCTETS, body)
        }
        _ => {
            let body = Full::new(Bytes::from_static(site::NOT_FOUND.as_bytes()));
            (StatusCode::NOT_FOUND, site::TEXT, Either::Left(body))
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let fields = response.headers_mut();
    fields.insert(SERVER, HeaderValue::from_static(site::SERVER));
    fields.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    if let Some(length) = length {
        fields.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(response)
}

async fn count(mut body: Incoming) -> hyper::Result<usize> {
    let mut total = 0;
    while let Some(frame) = body.frame().await {
        total += frame?.data_ref().map_or(0, Bytes::len);
    }
    Ok(total)
}
