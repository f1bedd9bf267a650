//! The app of these tests: an axum program as it is, which knows nothing of what serves it.

use axum::body::Body;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{ConnectInfo, Multipart, Path, Request, State};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use http_body_util::BodyExt;
use ringmill::Facts;
use ringmill::Notices;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

#[derive(Clone, Default)]
pub struct Shared {
    /// Handlers of `/wait` wait for it.
    pub notify: Arc<Notify>,
    pub waiting: Arc<AtomicUsize>,
    pub dropped: Arc<AtomicUsize>,
}

struct Guard(Arc<AtomicUsize>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

pub async fn wait(State(shared): State<Shared>) -> &'static str {
    let _guard = Guard(shared.dropped.clone());
    shared.waiting.fetch_add(1, SeqCst);
    shared.notify.notified().await;
    "waited"
}

/// So many receives that are all ready, and how often the handler was polled for them.
async fn channel(Path(n): Path<u64>) -> String {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    (0..n).for_each(|n| sender.send(n).unwrap());
    let mut polls = 0;
    let mut receive = std::pin::pin!(async {
        let mut sum = 0;
        for _ in 0..n {
            sum += receiver.recv().await.unwrap();
        }
        sum
    });
    let sum: u64 = std::future::poll_fn(|context| {
        polls += 1;
        receive.as_mut().poll(context)
    })
    .await;
    format!("{sum} in {polls}")
}

async fn multipart(mut parts: Multipart) -> String {
    let mut told = Vec::new();
    while let Ok(Some(part)) = parts.next_field().await {
        let name = part.name().unwrap_or_default().to_owned();
        told.push(format!("{name}={}", part.bytes().await.unwrap().len()));
    }
    told.join(" ")
}

async fn events() -> impl IntoResponse {
    Sse::new(futures_util::stream::unfold(0, |n| async move {
        tokio::time::sleep(Duration::from_millis(5)).await;
        (n < 3).then(|| (Ok::<_, Infallible>(Event::default().data(n.to_string())), n + 1))
    }))
}

async fn socket(upgrade: WebSocketUpgrade) -> Response {
    upgrade.max_message_size(8 << 20).on_upgrade(async |mut socket: WebSocket| {
        while let Some(Ok(message)) = socket.recv().await {
            if matches!(message, Message::Text(_) | Message::Binary(_)) && socket.send(message).await.is_err()
            {
                break;
            }
        }
    })
}

async fn who(ConnectInfo(peer): ConnectInfo<SocketAddr>, request: Request) -> String {
    let extensions = request.extensions();
    let alpn =
        extensions.get::<Arc<Facts>>().and_then(|facts| facts.secure.clone()).and_then(|secure| secure.alpn);
    let is_told = extensions.get::<Notices>().is_some_and(|notices| !notices.peer().is_gone());
    format!("{peer} {:?} {is_told} {}", request.version(), alpn.unwrap_or_default().escape_ascii())
}

pub fn app(shared: Shared) -> Router {
    Router::new()
        .route("/", get(async || "hello"))
        .route("/json", post(async |Json(value): Json<serde_json::Value>| Json(value)))
        .route("/echo", post(async |request: Request| Body::new(request.into_body())))
        .route("/count", post(async |body: Body| body.collect().await.unwrap().to_bytes().len().to_string()))
        .route("/large/{bytes}", get(async |Path(bytes): Path<usize>| vec![b'x'; bytes]))
        .route(
            "/sleep/{ms}",
            get(async |Path(ms): Path<u64>| {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                format!("slept {ms}")
            }),
        )
        .route(
            "/blocking/{n}",
            get(async |Path(n): Path<u64>| {
                tokio::task::spawn_blocking(move || n * 2).await.unwrap().to_string()
            }),
        )
        .route("/channel/{n}", get(channel))
        .route("/multipart", post(multipart))
        .route("/events", get(events))
        .route("/socket", any(socket))
        .route("/wait", get(wait))
        .route("/who", get(who))
        .with_state(shared)
}
