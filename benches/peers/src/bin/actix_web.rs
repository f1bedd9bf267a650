//! actix-web: its own server with `--workers` threads, each a current-thread tokio runtime; one thread accepts for all.
//!
//! The listener has the socket options of the other peers; nothing else is tuned.

use actix_web::body::SizedStream;
use actix_web::http::header::{CONTENT_TYPE, SERVER};
use actix_web::web::{self, Bytes, Path, Payload};
use actix_web::{App, Error, HttpResponse, HttpServer};
use anyhow::{Context, Result};
use clap::Parser;
use futures_util::{StreamExt, stream};
use ringmill_peers::net::{self, ServerArgs};
use ringmill_peers::site::{self, Message, Pieces};

#[derive(Parser)]
#[command(about = "actix-web HTTP/1 server")]
struct Args {
    #[command(flatten)]
    server: ServerArgs,
}

#[actix_web::main]
async fn main() -> Result<()> {
    let args = Args::parse().server;
    net::raise_open_files_limit()?;
    let listener = net::tcp_listener(&args.listen).context("cannot listen")?;
    net::announce(&listener)?;
    let app = || {
        App::new()
            .route("/plaintext", web::get().to(plaintext))
            .route("/json", web::get().to(json))
            .route("/bytes/{count}", web::get().to(bytes))
            .route("/upload", web::post().to(upload))
    };
    HttpServer::new(app)
        .workers(args.workers.into())
        .listen(listener.into())?
        .run()
        .await?;
    Ok(())
}

async fn plaintext() -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((SERVER, site::SERVER))
        .insert_header((CONTENT_TYPE, site::TEXT))
        .body(site::PLAINTEXT)
}

async fn json() -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((SERVER, site::SERVER))
        .json(Message::new())
}

async fn bytes(count: Path<u64>) -> HttpResponse {
    let count = count.into_inner();
    let mut pieces = Pieces::new(count as usize);
    let mut response = HttpResponse::Ok();
    response
        .insert_header((SERVER, site::SERVER))
        .insert_header((CONTENT_TYPE, site::OCTETS));
    if count <= site::PIECE_BYTES as u64 {
        response.body(pieces.next().unwrap_or_default())
    } else {
        response.body(SizedStream::new(
            count,
            stream::iter(pieces.map(Ok::<Bytes, Error>)),
        ))
    }
}

async fn upload(mut body: Payload) -> Result<HttpResponse, Error> {
    let mut total = 0;
    while let Some(piece) = body.next().await {
        total += piece?.len();
    }
    Ok(HttpResponse::Ok()
        .insert_header((SERVER, site::SERVER))
        .insert_header((CONTENT_TYPE, site::TEXT))
        .body(total.to_string()))
}
