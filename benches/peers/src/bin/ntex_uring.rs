//! ntex 3 on its own io_uring runtime: the feature `neon-uring`, which leaves no other reactor to fall back to.
//!
//! `--workers` sets its worker threads; one more thread accepts. Version 4 needs a newer compiler than this package.
//! The listener has the socket options of the other peers; nothing else is tuned.

use std::error::Error as StdError;
use std::rc::Rc;

use anyhow::{Context, Result};
use clap::Parser;
use futures_util::stream;
use ntex::http::body::SizedStream;
use ntex::http::header::{CONTENT_TYPE, SERVER};
use ntex::util::Bytes;
use ntex::web::types::{Path, Payload};
use ntex::web::{self, App, Error, HttpResponse, HttpServer};
use ringmill_peers::net::{self, ServerArgs};
use ringmill_peers::site::{self, Message, Pieces};

#[derive(Parser)]
#[command(about = "ntex HTTP/1 server on its io_uring runtime")]
struct Args {
    #[command(flatten)]
    server: ServerArgs,
}

#[ntex::main]
async fn main() -> Result<()> {
    let args = Args::parse().server;
    net::raise_open_files_limit()?;
    let listener = net::tcp_listener(&args.listen).context("cannot listen")?;
    net::announce(&listener)?;
    let app = async || {
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
        .header(SERVER, site::SERVER)
        .header(CONTENT_TYPE, site::TEXT)
        .body(site::PLAINTEXT)
}

async fn json() -> HttpResponse {
    HttpResponse::Ok()
        .header(SERVER, site::SERVER)
        .json(&Message::new())
}

async fn bytes(count: Path<u64>) -> HttpResponse {
    let count = count.into_inner();
    let mut pieces = Pieces::new(count as usize);
    let mut response = HttpResponse::Ok();
    response
        .header(SERVER, site::SERVER)
        .header(CONTENT_TYPE, site::OCTETS);
    if count <= site::PIECE_BYTES as u64 {
        response.body(Bytes::from_static(pieces.next_slice().unwrap_or_default()))
    } else {
        // Its bytes type is its own; from_static copies nothing.
        let next = move || {
            Some(Ok::<_, Rc<dyn StdError>>(Bytes::from_static(
                pieces.next_slice()?,
            )))
        };
        response.body(SizedStream::new(count, stream::iter(std::iter::from_fn(next))))
    }
}

async fn upload(mut body: Payload) -> Result<HttpResponse, Error> {
    let mut total = 0;
    while let Some(piece) = body.recv().await {
        total += piece?.len();
    }
    Ok(HttpResponse::Ok()
        .header(SERVER, site::SERVER)
        .header(CONTENT_TYPE, site::TEXT)
        .body(total.to_string()))
}
