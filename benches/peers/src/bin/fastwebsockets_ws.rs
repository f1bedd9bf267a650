//! WebSocket echo on fastwebsockets and hyper's upgrade, as its README shows, on one current-thread tokio runtime a worker, each with its
//! own SO_REUSEPORT listener.

use std::convert::Infallible;

use anyhow::Result;
use bytes::Bytes;
use clap::Parser;
use fastwebsockets::{FragmentCollector, OpCode, WebSocketError, upgrade};
use futures_util::FutureExt;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use ringmill_peers::net::{self, ServerArgs};

#[derive(Parser)]
#[command(about = "WebSocket echo on fastwebsockets and hyper with one current-thread runtime a worker")]
struct Args {
    #[command(flatten)]
    server: ServerArgs,
}

fn main() -> Result<()> {
    net::serve_on_tokio(&Args::parse().server, |stream| async move {
        // An error here is the client's: it broke off, or what it sent is no WebSocket.
        let _ = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service_fn(answer))
            .with_upgrades()
            .await;
    })
}

async fn answer(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(match upgrade::upgrade(&mut request) {
        Ok((response, socket)) => {
            tokio::spawn(echo(socket).map(|_| ()));
            response.map(|_| Full::default())
        }
        Err(_) => {
            let mut response = Response::new(Full::from("a WebSocket is here\n"));
            *response.status_mut() = StatusCode::BAD_REQUEST;
            response
        }
    })
}

async fn echo(socket: upgrade::UpgradeFut) -> Result<(), WebSocketError> {
    let mut socket = FragmentCollector::new(socket.await?);
    loop {
        let frame = socket.read_frame().await?;
        match frame.opcode {
            OpCode::Close => return Ok(()),
            OpCode::Text | OpCode::Binary => socket.write_frame(frame).await?,
            _ => {}
        }
    }
}
