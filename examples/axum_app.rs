//! An axum app on Ringmill. `cargo run --example axum_app`, then `curl -i http://127.0.0.1:3000/hello/you`, or
//! `curl --http2-prior-knowledge ..`; `curl -N http://127.0.0.1:3000/ticks` shows server-sent events, and /echo is a WebSocket.
//!
//! What differs from a program on `axum::serve` is the last line.

use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{ConnectInfo, Path};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

#[derive(Deserialize, Serialize)]
struct Sum {
    numbers: Vec<i64>,
    sum: Option<i64>,
}

async fn hello(Path(name): Path<String>, ConnectInfo(peer): ConnectInfo<SocketAddr>) -> String {
    // Timers of tokio, and whatever is built on them, work in handlers.
    tokio::time::sleep(Duration::from_millis(1)).await;
    format!("Hello, {name} at {}!\n", peer.ip())
}

async fn sum(Json(given): Json<Sum>) -> Json<Sum> {
    let sum = given.numbers.iter().sum();
    Json(Sum { sum: Some(sum), ..given })
}

async fn ticks() -> impl IntoResponse {
    Sse::new(futures_util::stream::unfold(0, |n| async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        Some((Ok::<_, Infallible>(Event::default().data(n.to_string())), n + 1))
    }))
}

async fn echo(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(async |mut socket: WebSocket| {
        while let Some(Ok(message)) = socket.recv().await {
            if matches!(message, Message::Text(_) | Message::Binary(_)) && socket.send(message).await.is_err()
            {
                break;
            }
        }
    })
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), ringmill::Error> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:3000".to_owned());
    let app = Router::new()
        .route("/", get(async || "Hello, World!"))
        .route("/hello/{name}", get(hello))
        .route("/sum", post(sum))
        .route("/ticks", get(ticks))
        .route("/echo", get(echo));
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    let tell = |running: &ringmill::Running| {
        println!("axum on http://{} with {}", running.addresses()[0], running.driver())
    };
    ringmill::serve(address, app).on_start(tell).await
}
