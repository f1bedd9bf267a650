//! axum as its README shows: a router of async functions on tokio's multi-threaded runtime, served by `axum::serve`.
//!
//! The listener has the socket options of the other peers; nothing else is tuned. `--workers` sets the runtime's threads.

use anyhow::{Context, Result};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Path;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, SERVER};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use clap::Parser;
use futures_util::{StreamExt, stream};
use ringmill_peers::net::{self, ServerArgs};
use ringmill_peers::site::{self, Message, Pieces};
use std::convert::Infallible;

#[derive(Parser)]
#[command(about = "axum HTTP/1 server as its README shows")]
struct Args {
    #[command(flatten)]
    server: ServerArgs,
}

fn main() -> Result<()> {
    let args = Args::parse().server;
    net::raise_open_files_limit()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(args.workers.into())
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = net::tcp_listener(&args.listen).context("cannot listen")?;
        net::announce(&listener)?;
        let app = Router::new()
            .route("/plaintext", get(plaintext))
            .route("/json", get(json))
            .route("/bytes/{count}", get(bytes))
            .route("/upload", post(upload));
        axum::serve(tokio::net::TcpListener::from_std(listener.into())?, app).await?;
        Ok(())
    })
}

async fn plaintext() -> impl IntoResponse {
    (
        [(SERVER, site::SERVER), (CONTENT_TYPE, site::TEXT)],
        site::PLAINTEXT,
    )
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
