//! The app of axum on hyper, with one current-thread tokio runtime a worker, each with its own SO_REUSEPORT listener: what people write
//! who want axum and no thread that takes work from another.
//!
//! As `hyper_percore`, hyper is at its leanest: no timer, no limit beyond its defaults, pipeline flush on.

use anyhow::Result;
use clap::Parser;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use ringmill_peers::app;
use ringmill_peers::net::{self, ServerArgs};
use tokio::net::TcpListener;

#[derive(Parser)]
#[command(about = "axum app on hyper with one current-thread runtime a worker")]
struct Args {
    #[command(flatten)]
    server: ServerArgs,
    /// Speak HTTP/2 (without TLS, by prior knowledge) instead of HTTP/1.
    #[arg(long)]
    http2: bool,
}

fn main() -> Result<()> {
    let Args { server, http2 } = Args::parse();
    net::serve(&server, move |listener| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(accept_all(listener, http2))
    })
}

async fn accept_all(listener: std::net::TcpListener, http2: bool) -> Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let app = app::router();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            std::thread::sleep(net::ACCEPT_PAUSE);
            continue;
        };
        let (stream, service) = (TokioIo::new(stream), TowerToHyperService::new(app.clone()));
        // An error of either is the client's: it broke off or sent something that is not HTTP.
        if http2 {
            tokio::spawn(async move {
                let _ = http2::Builder::new(TokioExecutor::new())
                    .serve_connection(stream, service)
                    .await;
            });
        } else {
            tokio::spawn(async move {
                let _ = http1::Builder::new()
                    .pipeline_flush(true)
                    .serve_connection(stream, service)
                    .await;
            });
        }
    }
}
