//! What lives longer than a reply: server-sent events and WebSocket of one chat room. Beside them uploads (multipart), which are
//! written to disk as they come, and static files.

use axum::extract::multipart::{Field, Multipart, MultipartError};
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use futures_util::{Stream, StreamExt, stream};
use ringmill_backend::{address, tell};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::sync::broadcast::{self, error::RecvError};
use tower_http::services::ServeDir;

/// Who lags further behind misses messages.
const MESSAGES_MAX: usize = 64;
const MESSAGE_BYTES_MAX: usize = 4096;
const UPLOAD_BYTES_MAX: usize = 8 << 20;

#[derive(Clone)]
struct Site {
    room: broadcast::Sender<String>,
    folder: PathBuf,
}

/// Serves the files of `folder`, and puts uploads into it.
pub fn app(folder: &Path) -> Router {
    let (room, _) = broadcast::channel(MESSAGES_MAX);
    Router::new()
        .route("/events", get(events))
        .route("/chat", any(chat))
        .route("/upload", post(upload))
        .layer(DefaultBodyLimit::max(UPLOAD_BYTES_MAX))
        .nest_service("/files", ServeDir::new(folder))
        .with_state(Site { room, folder: folder.to_owned() })
}

/// What is said, as it is said.
async fn events(State(site): State<Site>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let messages = stream::unfold(site.room.subscribe(), |mut messages| async move {
        let event = match messages.recv().await {
            Ok(text) => Event::default().event("said").data(text),
            Err(RecvError::Lagged(missed)) => Event::default().event("missed").data(missed.to_string()),
            Err(RecvError::Closed) => return None,
        };
        Some((Ok(event), messages))
    });
    let hello = stream::once(async { Ok(Event::default().event("hello").data("0")) });
    Sse::new(hello.chain(messages)).keep_alive(KeepAlive::new().interval(Duration::from_millis(200)))
}

async fn chat(State(site): State<Site>, upgrade: WebSocketUpgrade) -> Response {
    upgrade.max_message_size(MESSAGE_BYTES_MAX).on_upgrade(async |socket| join(site, socket).await)
}

/// Whatever one says, all hear, also who said it.
async fn join(site: Site, mut socket: WebSocket) {
    let mut messages = site.room.subscribe();
    loop {
        tokio::select! {
            said = socket.recv() => match said {
                // There is a receiver: this one.
                Some(Ok(Message::Text(text))) => _ = site.room.send(text.to_string()),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
            heard = messages.recv() => match heard {
                Ok(text) => if socket.send(text.into()).await.is_err() {
                    return;
                },
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            },
        }
    }
}

/// Takes files of any size up to the limit in flat memory, and tells their sizes.
async fn upload(State(site): State<Site>, mut parts: Multipart) -> Result<Response, Response> {
    let refuse = |error: MultipartError| (error.status(), error.body_text()).into_response();
    let mut stored = Vec::new();
    while let Some(part) = parts.next_field().await.map_err(refuse)? {
        let name = part.file_name().map(str::to_owned).filter(|name| is_plain(name));
        let name = name.ok_or_else(|| StatusCode::BAD_REQUEST.into_response())?;
        let path = site.folder.join(&name);
        match store(part, &path).await {
            Ok(bytes) => stored.push((name, bytes)),
            Err(refused) => {
                // A part of a file is of no use; if it is not there, neither.
                let _ = tokio::fs::remove_file(&path).await;
                return Err(refused);
            }
        }
    }
    Ok((StatusCode::CREATED, Json(stored)).into_response())
}

async fn store(mut part: Field<'_>, path: &Path) -> Result<u64, Response> {
    let failed = |error: std::io::Error| {
        tracing::error!(%error, "an upload is not stored");
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    };
    let refuse = |error: MultipartError| (error.status(), error.body_text()).into_response();
    let mut file = tokio::fs::File::create(path).await.map_err(failed)?;
    let mut bytes = 0;
    while let Some(chunk) = part.chunk().await.map_err(refuse)? {
        file.write_all(&chunk).await.map_err(failed)?;
        bytes += chunk.len() as u64;
    }
    file.flush().await.map_err(failed)?;
    Ok(bytes)
}

/// Whether it names a file in a folder, and nothing else.
fn is_plain(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    name.len() <= 100 && !name.starts_with('.') && !name.is_empty() && name.bytes().all(allowed)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::temp_dir().join("ringmill-live");
    std::fs::create_dir_all(&folder)?;
    println!("files are in {}", folder.display());
    Ok(ringmill::serve(address(), app(&folder)).on_start(tell).await?)
}
