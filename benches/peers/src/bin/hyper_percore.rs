//! hyper 1.x the fast way: one current-thread tokio runtime a worker, each with its own SO_REUSEPORT listener.
//!
//! It never sets a timeout or a limit beyond hyper's defaults (no timer is installed, so the head timeout is off too):
//! what is measured is hyper at its leanest. Same header fields as ringmill's; hyper writes date and most lengths.

use anyhow::Result;
use clap::Parser;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use ringmill_peers::hyper_site::answer;
use ringmill_peers::net::{self, ServerArgs};

#[derive(Parser)]
#[command(about = "hyper HTTP/1 server with one current-thread runtime a worker")]
struct Args {
    #[command(flatten)]
    server: ServerArgs,
}

fn main() -> Result<()> {
    net::serve_on_tokio(&Args::parse().server, |stream| async move {
        // An error here is the peer's: it broke off or sent something that is not HTTP.
        let _ = hyper::server::conn::http1::Builder::new()
            .pipeline_flush(true)
            .serve_connection(TokioIo::new(stream), service_fn(answer))
            .await;
    })
}
