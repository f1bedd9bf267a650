//! An app of axum with the site, a handler that waits and a gRPC service: the same program for `axum::serve`, for hyper with a runtime a
//! worker, and for `ringmill::serve`.

use crate::rpc;
use crate::site::{self, Message, Pieces};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Path;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, SERVER};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::{StreamExt, stream};
use std::convert::Infallible;

pub fn router() -> Router {
    Router::new()
        .route("/plaintext", get(plaintext))
        .route("/pending", get(pending))
        .route("/json", get(json))
        .route("/bytes/{count}", get(bytes))
        .route("/upload", post(upload))
        .merge(rpc::router())
}

async fn plaintext() -> impl IntoResponse {
    (
        [(SERVER, site::SERVER), (CONTENT_TYPE, site::TEXT)],
        site::PLAINTEXT,
    )
}

/// Not ready when it is first asked, and woken at once: what waiting costs, without what is waited for.
async fn pending() -> impl IntoResponse {
    tokio::task::yield_now().await;
    plaintext().await
}

async fn json() -> impl IntoResponse {
    ([(SERVER, site::SERVER)], axum::Json(Message::new()))
}

async fn bytes(Path(count): Path<usize>) -> Response {
    let mut pieces = Pieces::new(count);
    let body = if count <= site::PIECE_BYTES {
        Body::from(pieces.next().unwrap_or_default())
    } else {
        Body::from_stream(stream::iter(pieces.map(Ok::<Bytes, Infallible>)))
    };
    let fields = [
        (SERVER, site::SERVER.to_owned()),
        (CONTENT_TYPE, site::OCTETS.to_owned()),
        (CONTENT_LENGTH, count.to_string()),
    ];
    (fields, body).into_response()
}

async fn upload(body: Body) -> Result<impl IntoResponse, StatusCode> {
    let mut total = 0;
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        total += piece.map_err(|_| StatusCode::BAD_REQUEST)?.len();
    }
    Ok((
        [(SERVER, site::SERVER), (CONTENT_TYPE, site::TEXT)],
        total.to_string(),
    ))
}
