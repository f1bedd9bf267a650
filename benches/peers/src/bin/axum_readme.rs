//! axum as its README shows: a router of async functions on tokio's multi-threaded runtime, served by `axum::serve`.
//!
//! The listener has the socket options of the other peers; nothing else is tuned. `--workers` sets the runtime's threads.

use anyhow::{Context, Result};
use clap::Parser;
use ringmill_peers::app;
use ringmill_peers::net::{self, ServerArgs};

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
        axum::serve(tokio::net::TcpListener::from_std(listener.into())?, app::router()).await?;
        Ok(())
    })
}
