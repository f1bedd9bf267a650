//! One program that has it all: WebSocket, server-sent events, multipart and ServeDir, in all of the layers.

use super::live::program as site;
use super::middleware::program as layers;
use super::{client, on_each_server, text};
use axum::Router;
use futures_util::{SinkExt, StreamExt};
use reqwest::StatusCode;
use reqwest::multipart::{Form, Part};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

fn app(folder: &Path) -> Router {
    layers::layered(site::app(folder), 4 << 20)
}

#[test]
fn sockets_and_events_outlive_the_timeout_of_handlers() {
    let folder = tempfile::tempdir().unwrap();
    on_each_server(
        || app(folder.path()),
        async |address| {
            let request = client().build().unwrap().get(format!("http://{address}/events"));
            let mut events = request.header("accept-encoding", "br").send().await.unwrap();
            assert_eq!(
                (text(&events, "content-type"), text(&events, "content-encoding")),
                ("text/event-stream", "")
            );
            assert_eq!(text(&events, "x-request-id").len(), 36);
            let (mut socket, reply) = connect_async(format!("ws://{address}/chat")).await.unwrap();
            assert_eq!(reply.headers()["x-request-id"].len(), 36);
            // It has joined when it answers.
            socket.send(Message::Ping("here?".into())).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), Message::Pong("here?".into()));
            let (began, mut read) = (Instant::now(), String::new());
            let mut n = 0;
            while began.elapsed() < Duration::from_secs(1) {
                let said = Message::text(format!("message {n}"));
                socket.send(said.clone()).await.unwrap();
                assert_eq!(socket.next().await.unwrap().unwrap(), said);
                while !read.contains(&format!("data: message {n}\n\n")) {
                    let chunk = events.chunk().await.unwrap().expect("events go on");
                    read.push_str(std::str::from_utf8(&chunk).unwrap());
                }
                n += 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            socket.close(None).await.unwrap();
            while let Some(Ok(last)) = socket.next().await {
                assert!(last.is_close(), "{last:?}");
            }
        },
    );
}

#[test]
fn files_go_up_within_the_limit_and_come_back_compressed() {
    let folder = tempfile::tempdir().unwrap();
    on_each_server(
        || app(folder.path()),
        async |address| {
            let (plain, url) =
                (client().no_gzip().no_brotli().no_zstd().build().unwrap(), format!("http://{address}"));
            let lines = "a line that comes again and again\n".repeat(30_000).into_bytes();
            let part = Part::bytes(lines.clone()).file_name("lines.txt");
            let request = plain.post(format!("{url}/upload")).multipart(Form::new().part("a", part));
            let reply = request.header("x-request-id", "of-the-client").send().await.unwrap();
            assert_eq!(reply.status(), StatusCode::CREATED);
            assert_eq!(text(&reply, "x-request-id"), "of-the-client");
            let file = format!("{url}/files/lines.txt");
            let range = plain.get(&file).header("range", "bytes=10-19").send().await.unwrap();
            assert_eq!(range.status(), StatusCode::PARTIAL_CONTENT);
            assert_eq!(range.bytes().await.unwrap(), lines[10..20]);
            for coding in ["gzip", "br", "zstd"] {
                let request = plain.get(&file).header("accept-encoding", coding);
                let reply = request.header("origin", "https://shop.example").send().await.unwrap();
                assert_eq!(text(&reply, "content-encoding"), coding);
                assert_eq!(text(&reply, "access-control-allow-origin"), "https://shop.example");
                assert!(reply.bytes().await.unwrap().len() < lines.len() / 20, "{coding}");
                let unpacking = client().gzip(coding == "gzip").brotli(coding == "br").zstd(coding == "zstd");
                let reply = unpacking.build().unwrap().get(&file).send().await.unwrap();
                assert!(reply.bytes().await.unwrap() == lines, "{coding}");
            }
            let part = Part::bytes(vec![0; 5 << 20]).file_name("huge.bin");
            // The server may answer and hang up while the client still sends.
            let request = plain.post(format!("{url}/upload")).multipart(Form::new().part("a", part));
            if let Ok(reply) = request.send().await {
                assert_eq!(reply.status(), StatusCode::PAYLOAD_TOO_LARGE);
            }
            assert_eq!(
                plain.get(format!("{url}/files/huge.bin")).send().await.unwrap().status(),
                StatusCode::NOT_FOUND
            );
        },
    );
}
