//! WebSocket echo on tokio-tungstenite, one current-thread tokio runtime a worker, each with its own SO_REUSEPORT listener.
//!
//! What has come is answered before it is flushed, so that messages that came at once leave at once. All else is its default.

use anyhow::Result;
use clap::Parser;
use futures_util::{FutureExt, SinkExt, StreamExt};
use ringmill_peers::net::{self, ServerArgs};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite;

#[derive(Parser)]
#[command(about = "WebSocket echo on tokio-tungstenite with one current-thread runtime a worker")]
struct Args {
    #[command(flatten)]
    server: ServerArgs,
}

fn main() -> Result<()> {
    // An error is the client's: it broke off, or what it sent is no WebSocket.
    net::serve_on_tokio(&Args::parse().server, |stream| echo(stream).map(|_| ()))
}

async fn echo(stream: TcpStream) -> tungstenite::Result<()> {
    let mut socket = tokio_tungstenite::accept_async(stream).await?;
    loop {
        let next = match socket.next().now_or_never() {
            Some(next) => next,
            None => {
                socket.flush().await?;
                socket.next().await
            }
        };
        let Some(message) = next else { return Ok(()) };
        let message = message?;
        if message.is_text() || message.is_binary() {
            socket.feed(message).await?;
        }
    }
}
