//! may_minihttp: stackful coroutines of `may`, `--workers` threads over one listener.
//!
//! It opens its listener itself: SO_REUSEPORT, the backlog, TCP_NODELAY and congestion control are out of reach. Each
//! burst leaves in one write, so the missing TCP_NODELAY costs nothing here. It writes "Server: M" and "200 Ok" itself,
//! so its replies are a few bytes shorter than the others'.

use std::io::{self, BufRead};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use may_minihttp::{HttpServer, HttpService, Request, Response};
use ringmill_peers::net::{self, ServerArgs};
use ringmill_peers::site::{self, Message, Pieces};

#[derive(Parser)]
#[command(about = "may_minihttp HTTP/1 server")]
struct Args {
    #[command(flatten)]
    server: ServerArgs,
}

fn main() -> Result<()> {
    let args = Args::parse().server;
    ensure!(
        args.listen.congestion.is_none(),
        "may_minihttp cannot set congestion control on its sockets"
    );
    ensure!(
        args.listen.defer_accept.is_none(),
        "may_minihttp cannot defer accepts on its sockets"
    );
    ensure!(
        args.listen.listen.port() != 0,
        "may_minihttp cannot tell which free port it took: give one"
    );
    net::raise_open_files_limit()?;
    may::config().set_workers(args.workers.into());
    let server = HttpServer(Site)
        .start(args.listen.listen)
        .context("cannot listen")?;
    println!("listening {}", args.listen.listen);
    server.join().ok().context("the accepting coroutine ended")
}

#[derive(Clone)]
struct Site;

impl HttpService for Site {
    fn call(&mut self, request: Request, response: &mut Response) -> io::Result<()> {
        match (request.method(), request.path()) {
            ("GET", "/plaintext") => {
                response.header("content-type: text/plain").body(site::PLAINTEXT);
            }
            ("GET", "/json") => {
                response
                    .header("content-type: application/json")
                    .body_vec(Message::new().serialise());
            }
            ("POST", "/upload") => {
                let mut body = request.body();
                let mut total = 0;
                loop {
                    let count = body.fill_buf()?.len();
                    if count == 0 {
                        break;
                    }
                    body.consume(count);
                    total += count;
                }
                response
                    .header("content-type: text/plain")
                    .body_vec(total.to_string().into_bytes());
            }
            ("GET", path) if let Some(bytes) = site::bytes_asked(path) => {
                response.header("content-type: application/octet-stream");
                // A body is one piece of memory here, so a long one is copied together.
                for piece in Pieces::new(bytes) {
                    response.body_mut().extend_from_slice(&piece);
                }
            }
            _ => {
                response.status_code(404, "Not Found");
                response.header("content-type: text/plain").body(site::NOT_FOUND);
            }
        }
        Ok(())
    }
}
