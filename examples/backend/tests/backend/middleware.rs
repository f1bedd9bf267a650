#[allow(dead_code)] // Its `main`.
#[path = "../../src/bin/middleware.rs"]
pub mod program;

use super::{client, on_each_server, text};
use program::app;
use reqwest::{Method, StatusCode};
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex};

#[test]
fn bodies_are_compressed_as_the_client_asks() {
    on_each_server(app, async |address| {
        let url = format!("http://{address}/page");
        let plain = client().no_gzip().no_brotli().no_zstd().build().unwrap();
        let expected = plain.get(&url).send().await.unwrap().text().await.unwrap();
        assert_eq!(expected.len(), 4400);
        for coding in ["gzip", "br", "zstd"] {
            let reply = plain.get(&url).header("accept-encoding", coding).send().await.unwrap();
            assert_eq!(text(&reply, "content-encoding"), coding);
            assert!(text(&reply, "vary").contains("accept-encoding"));
            assert!(reply.bytes().await.unwrap().len() < 400, "{coding}");
            let unpacking = client().gzip(coding == "gzip").brotli(coding == "br").zstd(coding == "zstd");
            let reply = unpacking.build().unwrap().get(&url).send().await.unwrap();
            assert_eq!(reply.text().await.unwrap(), expected, "{coding}");
        }
    });
}

#[test]
fn what_a_client_has_is_not_sent_again() {
    on_each_server(app, async |address| {
        let (client, url) = (client().build().unwrap(), format!("http://{address}/page"));
        let first = client.get(&url).send().await.unwrap();
        assert_eq!(text(&first, "cache-control"), "public, max-age=60");
        let tag = text(&first, "etag").to_owned();
        let again = client.get(&url).header("if-none-match", &tag).send().await.unwrap();
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(text(&again, "etag"), tag);
        assert_eq!(again.text().await.unwrap(), "");
        let other = client.get(&url).header("if-none-match", "\"other\"").send().await.unwrap();
        assert_eq!((other.status(), other.text().await.unwrap().len()), (StatusCode::OK, 4400));
    });
}

#[test]
fn other_origins_are_told_what_they_may() {
    on_each_server(app, async |address| {
        let (client, url) = (client().build().unwrap(), format!("http://{address}/upload"));
        let ask = |origin: &'static str| {
            let preflight = client.request(Method::OPTIONS, &url).header("origin", origin);
            preflight.header("access-control-request-method", "POST").send()
        };
        let reply = ask("https://shop.example").await.unwrap();
        assert_eq!(text(&reply, "access-control-allow-origin"), "https://shop.example");
        assert_eq!(text(&reply, "access-control-allow-methods"), "GET,POST");
        assert_eq!(text(&reply, "access-control-max-age"), "600");
        let reply = ask("https://elsewhere.example").await.unwrap();
        assert_ne!(text(&reply, "access-control-allow-origin"), "https://elsewhere.example");
    });
}

#[test]
fn long_bodies_slow_handlers_and_panics_are_answered() {
    on_each_server(app, async |address| {
        let client = client().build().unwrap();
        let url = |path| format!("http://{address}{path}");
        for (bytes, status) in [(16 * 1024, StatusCode::OK), (16 * 1024 + 1, StatusCode::PAYLOAD_TOO_LARGE)] {
            let reply = client.post(url("/upload")).body("x".repeat(bytes)).send().await.unwrap();
            assert_eq!(reply.status(), status);
            // Without a length, in chunks.
            let pieces = vec!["x".repeat(bytes - 1), "x".to_owned()];
            let stream = futures_util::stream::iter(pieces.into_iter().map(Ok::<_, std::io::Error>));
            let body = reqwest::Body::wrap_stream(stream);
            assert_eq!(client.post(url("/upload")).body(body).send().await.unwrap().status(), status);
        }
        let slow = client.get(url("/slow")).send().await.unwrap();
        assert_eq!(slow.status(), StatusCode::GATEWAY_TIMEOUT);
        for _ in 0..3 {
            let failed = client.get(url("/panic")).send().await.unwrap();
            assert_eq!(failed.status(), StatusCode::INTERNAL_SERVER_ERROR);
        }
        assert_eq!(client.get(url("/page")).send().await.unwrap().status(), StatusCode::OK);
    });
}

#[test]
fn traces_go_on_and_begin() {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    on_each_server(app, async |address| {
        let (client, url) = (client().build().unwrap(), format!("http://{address}/next"));
        let next = async |parent: &str| {
            let request = client.get(&url).header("traceparent", parent).header("tracestate", "shop=1");
            let fields: BTreeMap<String, String> = request.send().await.unwrap().json().await.unwrap();
            let parts: Vec<String> = fields["traceparent"].split('-').map(str::to_owned).collect();
            (parts, fields.get("tracestate").cloned().unwrap_or_default())
        };
        let (parts, state) = next(&format!("00-{TRACE}-00f067aa0ba902b7-01")).await;
        assert_eq!((parts[0].as_str(), parts[1].as_str(), parts[3].as_str()), ("00", TRACE, "01"));
        assert_ne!(parts[2], "00f067aa0ba902b7", "the span of this service is its own");
        assert_eq!(state, "shop=1");
        let (parts, _) = next("malformed").await;
        assert_eq!(parts[1].len(), 32);
        assert_ne!(parts[1], TRACE);
    });
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn requests_have_ids_that_the_log_knows() {
    let log = Log::default();
    let lines = log.clone();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_ansi(false);
    subscriber.with_writer(move || lines.clone()).init();
    on_each_server(app, async |address| {
        let (client, url) = (client().build().unwrap(), format!("http://{address}/page"));
        let made = client.get(&url).send().await.unwrap();
        let id = text(&made, "x-request-id");
        assert_eq!(id.len(), 36);
        let given = client.get(&url).header("x-request-id", "of-the-client").send().await.unwrap();
        assert_eq!(text(&given, "x-request-id"), "of-the-client");
        let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        for id in [id, "of-the-client"] {
            let line = |line: &&str| {
                line.contains(&format!("path=\"/page\" id=\"{id}\"")) && line.contains("status=200")
            };
            assert!(logged.lines().any(|l| line(&l)), "no line with {id} in\n{logged}");
        }
    });
}
