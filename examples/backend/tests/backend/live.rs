#[allow(dead_code)] // Its `main`.
#[path = "../../src/bin/live.rs"]
pub mod program;

use super::{client, on_each_server, text};
use futures_util::{SinkExt, StreamExt};
use program::app;
use reqwest::multipart::{Form, Part};
use reqwest::{Response, StatusCode};
use std::path::Path;
use std::time::Duration;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

/// Reads events until `until` is among them.
async fn read_until(events: &mut Response, until: &str) -> String {
    let mut read = String::new();
    while !read.contains(until) {
        let chunk = events.chunk().await.unwrap().expect("events go on");
        read.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    read
}

#[test]
fn what_is_said_by_websocket_comes_as_events_and_to_all_sockets() {
    let folder = tempfile::tempdir().unwrap();
    on_each_server(
        || app(folder.path()),
        async |address| {
            let request = client().build().unwrap().get(format!("http://{address}/events"));
            let mut events = request.send().await.unwrap();
            assert_eq!(text(&events, "content-type"), "text/event-stream");
            read_until(&mut events, "event: hello\ndata: 0\n\n").await;
            let url = format!("ws://{address}/chat");
            let (mut one, _) = connect_async(&url).await.unwrap();
            let (mut two, _) = connect_async(&url).await.unwrap();
            // Answered when it has joined.
            for socket in [&mut one, &mut two] {
                socket.send(Message::Ping("here?".into())).await.unwrap();
                assert_eq!(socket.next().await.unwrap().unwrap(), Message::Pong("here?".into()));
            }
            for n in 0..20 {
                let said = Message::text(format!("message {n}"));
                one.send(said.clone()).await.unwrap();
                assert_eq!(one.next().await.unwrap().unwrap(), said);
                assert_eq!(two.next().await.unwrap().unwrap(), said);
                read_until(&mut events, &format!("event: said\ndata: message {n}\n\n")).await;
            }
            // A comment, so that nobody between takes it for dead.
            read_until(&mut events, ":\n\n").await;
            one.close(None).await.unwrap();
            while let Some(Ok(last)) = one.next().await {
                assert!(last.is_close(), "{last:?}");
            }
            two.send(Message::text("x".repeat(5000))).await.unwrap();
            assert!(!matches!(two.next().await, Some(Ok(Message::Text(_)))), "it is too long");
        },
    );
}

#[test]
fn files_go_up_and_come_back() {
    let folder = tempfile::tempdir().unwrap();
    on_each_server(
        || app(folder.path()),
        async |address| {
            let (client, url) = (client().build().unwrap(), format!("http://{address}"));
            let large: Vec<u8> = (0..3_000_000u32).map(|n| n.to_le_bytes()[n as usize % 2]).collect();
            let part = |bytes: Vec<u8>, name: &str| Part::bytes(bytes).file_name(name.to_owned());
            let form = Form::new().part("a", part(large.clone(), "large.bin"));
            let form = form.part("b", part(b"hello".to_vec(), "hello.txt"));
            let reply = client.post(format!("{url}/upload")).multipart(form).send().await.unwrap();
            assert_eq!(reply.status(), StatusCode::CREATED);
            assert_eq!(reply.text().await.unwrap(), "[[\"large.bin\",3000000],[\"hello.txt\",5]]");
            let back = client.get(format!("{url}/files/large.bin")).send().await.unwrap();
            assert!(back.bytes().await.unwrap() == large);
            let request = client.get(format!("{url}/files/large.bin")).header("range", "bytes=1000-1999");
            let range = request.send().await.unwrap();
            assert_eq!(range.status(), StatusCode::PARTIAL_CONTENT);
            assert_eq!(text(&range, "content-range"), "bytes 1000-1999/3000000");
            assert!(range.bytes().await.unwrap() == large[1000..2000]);
            let hello = client.get(format!("{url}/files/hello.txt")).send().await.unwrap();
            assert_eq!(text(&hello, "content-type"), "text/plain");
            let since = text(&hello, "last-modified").to_owned();
            let again = client.get(format!("{url}/files/hello.txt")).header("if-modified-since", since);
            assert_eq!(again.send().await.unwrap().status(), StatusCode::NOT_MODIFIED);
            for path in ["nothing.txt", "..%2f..%2fetc%2fpasswd"] {
                let reply = client.get(format!("{url}/files/{path}")).send().await.unwrap();
                assert_eq!(reply.status(), StatusCode::NOT_FOUND, "{path}");
            }
        },
    );
}

#[test]
fn uploads_stay_in_their_folder_and_under_their_limit() {
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("inner");
    std::fs::create_dir(&folder).unwrap();
    let count = |folder: &Path| std::fs::read_dir(folder).unwrap().count();
    on_each_server(
        || app(&folder),
        async |address| {
            let (client, url) = (client().build().unwrap(), format!("http://{address}/upload"));
            for name in ["../out.txt", "/tmp/out.txt", "..", ".hidden", "a/b", ""] {
                let form = Form::new().part("a", Part::bytes(b"x".to_vec()).file_name(name));
                let reply = client.post(&url).multipart(form).send().await.unwrap();
                assert_eq!(reply.status(), StatusCode::BAD_REQUEST, "{name}");
            }
            let form = Form::new().part("a", Part::bytes(vec![0; 9 << 20]).file_name("huge.bin"));
            // The server may answer and hang up while the client still sends.
            if let Ok(reply) = client.post(&url).multipart(form).send().await {
                assert_eq!(reply.status(), StatusCode::PAYLOAD_TOO_LARGE);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert_eq!((count(outer.path()), count(&folder)), (1, 0));
        },
    );
}
