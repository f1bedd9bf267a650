//! hyper 1.x the fast way: one current-thread tokio runtime a worker, each with its own SO_REUSEPORT listener.
//!
//! It never sets a timeout or a limit beyond hyper's defaults (no timer is installed, so the head timeout is off too):
//! what is measured is hyper at its leanest. Same header fields as ringmill's /plaintext; hyper writes the date.

use std::convert::Infallible;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use clap::Parser;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue, SERVER};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use ringmill_peers::net::{self, ListenArgs};
use tokio::net::TcpListener;

/// How long a worker waits after a failed accept (descriptors used up, for example) before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

#[derive(Parser)]
#[command(about = "hyper HTTP/1 server with one current-thread runtime a worker")]
struct Args {
    #[command(flatten)]
    listen: ListenArgs,
    /// Threads, each with a runtime and a listener of its own.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: u16,
}

fn main() -> Result<()> {
    let mut args = Args::parse();
    net::raise_open_files_limit()?;
    let first = net::tcp_listener(&args.listen).context("cannot listen")?;
    // All listeners exist before the first accepts: a later one would change which worker gets a connection.
    args.listen.listen = first
        .local_addr()?
        .as_socket()
        .context("the listener has no IP address")?;
    let mut listeners = vec![first];
    for _ in 1..args.workers {
        listeners.push(net::tcp_listener(&args.listen).context("cannot listen")?);
    }
    net::announce(&listeners[0])?;

    let threads: Vec<_> = listeners
        .into_iter()
        .map(|listener| std::thread::spawn(move || work(listener.into())))
        .collect();
    for thread in threads {
        thread.join().expect("panics abort the process")?;
    }
    Ok(())
}

fn work(listener: std::net::TcpListener) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(accept_all(listener))
}

async fn accept_all(listener: std::net::TcpListener) -> Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            std::thread::sleep(ACCEPT_PAUSE);
            continue;
        };
        tokio::spawn(async move {
            // An error here is the peer's: it broke off or sent something that is not HTTP.
            let _ = hyper::server::conn::http1::Builder::new()
                .pipeline_flush(true)
                .serve_connection(TokioIo::new(stream), service_fn(answer))
                .await;
        });
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, body): (_, &'static [u8]) = match request.uri().path() {
        "/plaintext" => (StatusCode::OK, b"Hello, World!"),
        _ => (StatusCode::NOT_FOUND, b"not found"),
    };
    let mut response = Response::new(Full::new(Bytes::from_static(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(SERVER, HeaderValue::from_static("ringmill"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}
