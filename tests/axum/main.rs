//! One axum app, unchanged, on axum's own server and by its one changed line on Ringmill with both drivers, against clients of other
//! people's making: hyper's for HTTP/2, tungstenite's for WebSocket. What the clients expect is the same on each server.
#![cfg(feature = "tls")]

mod app;
mod beyond;
#[path = "../common/mod.rs"]
mod common;
mod promises;
mod servers;

use app::{Shared, app};
use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use common::http::{Received, exchange, get as get_request, post as post_request, receive, reply};
use common::tls::{Trust, secure};
use common::*;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use ringmill::TlsStore;
use servers::{block_on, on_an_app, on_each_server, serve};
use std::convert::Infallible;
use std::net::{SocketAddr, TcpStream as StdStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite;

/// No answer takes longer.
const LONG: Duration = Duration::from_secs(10);

fn answer(media_type: &str, body: &str) -> String {
    reply("200 OK", &format!("content-type: {media_type}\r\ncontent-length: {}\r\n", body.len()), body)
}

fn text(body: &str) -> String {
    answer("text/plain; charset=utf-8", body)
}

#[track_caller]
fn expect(received: &Received, status: u16, media_type: Option<&str>, body: &str) {
    let told = (received.status, received.field("content-type"), received.text());
    assert_eq!(told, (status, media_type, body), "{}", received.head);
    let length = received.field("content-length").map(|length| length.parse());
    let is_chunked = received.field("transfer-encoding") == Some("chunked");
    assert!(if is_chunked { length.is_none() } else { length == Some(Ok(body.len())) }, "{}", received.head);
}

const TEXT: Option<&str> = Some("text/plain; charset=utf-8");

fn with_type(request: &str, media_type: &str) -> String {
    request.replace("Host", &format!("Content-Type: {media_type}\r\nHost"))
}

#[test]
fn over_http1() {
    on_each_server(async |address, _| {
        let mut client = connect_to(address);
        let mut check = |request: String, status, media_type, body: &str| {
            client.send(request);
            expect(&receive(&mut client), status, media_type, body);
        };
        check(get_request("/"), 200, TEXT, "hello");
        let (json, sent) = ("application/json", r#"{"a":[1]}"#);
        check(with_type(&post_request("/json", sent), json), 200, Some(json), sent);
        check(get_request("/nothing"), 404, None, "");
        let events = "data: 0\n\ndata: 1\n\ndata: 2\n\n";
        check(get_request("/events"), 200, Some("text/event-stream"), events);
        let form = "--b\r\ncontent-disposition: form-data; name=\"one\"\r\n\r\n12345\r\n--b\r\n\
                    content-disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n1234567\r\n--b--\r\n";
        let form = with_type(&post_request("/multipart", form), "multipart/form-data; boundary=b");
        check(form, 200, TEXT, "one=5 file=7");
        // Mixed requests in one packet, in their order.
        let all = [
            get_request("/sleep/20"),
            post_request("/echo", "abc"),
            get_request("/blocking/21"),
            get_request("/"),
        ];
        client.send(all.concat());
        for (media_type, body) in [(TEXT, "slept 20"), (None, "abc"), (TEXT, "42"), (TEXT, "hello")] {
            expect(&receive(&mut client), 200, media_type, body);
        }
        client.send(get_request("/who"));
        let told = receive(&mut client);
        assert!(told.text().starts_with("127.0.0.1:") && told.text().contains(" HTTP/1.1 "), "{told:?}");
    });
}

/// Ringmill's own, beside what each server does.
#[test]
fn whole_replies_and_what_a_request_knows_of_its_peer() {
    on_an_app(async |_, address, _| {
        let check = |request: &str, expected: &str| assert_eq!(exchange(address, request), expected);
        check(&get_request("/"), &text("hello"));
        check(&get_request("/nothing"), &reply("404 Not Found", "content-length: 0\r\n", ""));
        check(&post_request("/echo", "abc"), &reply("200 OK", "content-length: 3\r\n", "abc"));
        let mut client = connect_to(address);
        client.send(get_request("/who"));
        let told = receive(&mut client);
        assert!(told.text().ends_with(" HTTP/1.1 true "), "{told:?}");
    });
}

#[test]
fn an_upload_and_a_download_of_many_megabytes() {
    on_each_server(async |address, _| {
        let upload = [
            post_request("/count", "").replace("Length: 0", "Length: 30000000").as_bytes(),
            &vec![b'x'; 30_000_000],
        ]
        .concat();
        let mut client = connect_to(address);
        client.send(upload);
        assert_eq!(receive(&mut client).text(), "30000000");
        client.send(get_request("/large/50000000"));
        assert_eq!(receive(&mut client).text().len(), 50_000_000);
    });
}

#[test]
fn a_websocket_by_axums_own_extractor() {
    on_each_server(async |address, _| {
        let stream = TcpStream::connect(address).await.unwrap();
        let config =
            tungstenite::protocol::WebSocketConfig::default().max_message_size(None).max_frame_size(None);
        let url = format!("ws://{address}/socket");
        let (mut socket, response) =
            tokio_tungstenite::client_async_with_config(url, stream, Some(config)).await.unwrap();
        assert_eq!(response.status(), 101);
        for n in 0..1000 {
            socket.send(tungstenite::Message::text(format!("message {n}"))).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap().into_text().unwrap(), format!("message {n}"));
        }
        let long = vec![b'x'; 3_000_000];
        socket.send(tungstenite::Message::binary(long.clone())).await.unwrap();
        assert!(socket.next().await.unwrap().unwrap().into_data() == long);
        socket.close(None).await.unwrap();
        while let Some(Ok(_)) = socket.next().await {}
    });
}

async fn http2_client(address: SocketAddr) -> http2::SendRequest<Full<Bytes>> {
    let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (client, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn ask(
    client: &mut http2::SendRequest<Full<Bytes>>,
    method: &str,
    path: &str,
    body: impl Into<Bytes>,
) -> hyper::Result<(u16, Bytes)> {
    let request = hyper::Request::builder().method(method).uri(format!("http://test{path}"));
    client.ready().await?;
    let response = client.send_request(request.body(Full::new(body.into())).unwrap()).await?;
    let status = response.status().as_u16();
    Ok((status, response.into_body().collect().await?.to_bytes()))
}

#[test]
fn over_http2_by_prior_knowledge() {
    on_each_server(async |address, _| {
        let mut client = http2_client(address).await;
        assert_eq!(ask(&mut client, "GET", "/", "").await.unwrap(), (200, "hello".into()));
        let (status, told) = ask(&mut client, "GET", "/who", "").await.unwrap();
        assert!(
            status == 200
                && told.starts_with(b"127.0.0.1:")
                && told.windows(8).any(|word| word == b"HTTP/2.0"),
            "{told:?}"
        );
        assert_eq!(ask(&mut client, "GET", "/nothing", "").await.unwrap().0, 404);
        let mut together = Vec::new();
        for n in 0..100 {
            let (mut client, body) = (client.clone(), vec![n as u8; 1000 * n]);
            together.push(tokio::spawn(async move {
                let path = if n % 2 == 0 { "/echo".to_owned() } else { format!("/sleep/{n}") };
                let method = if n % 2 == 0 { "POST" } else { "GET" };
                let (status, heard) = ask(&mut client, method, &path, body.clone()).await.unwrap();
                let expected = if n % 2 == 0 { body } else { format!("slept {n}").into_bytes() };
                assert!(status == 200 && heard == expected, "{n}");
            }));
        }
        for one in together {
            one.await.unwrap();
        }
        assert_eq!(ask(&mut client, "POST", "/count", vec![0; 5_000_000]).await.unwrap().1, "5000000");
        assert_eq!(ask(&mut client, "GET", "/large/50000000", "").await.unwrap().1.len(), 50_000_000);
    });
}

#[test]
fn requests_of_http2_are_counted_and_know_their_peer() {
    on_an_app(async |running, address, _| {
        let mut client = http2_client(address).await;
        let (status, told) = ask(&mut client, "GET", "/who", "").await.unwrap();
        assert!(status == 200 && told.ends_with(b" HTTP/2.0 true "), "{told:?}");
        for _ in 0..10 {
            assert_eq!(ask(&mut client, "POST", "/echo", "abc").await.unwrap(), (200, "abc".into()));
        }
        assert_eq!(running.stats().total().requests, 11);
    });
}

#[test]
fn a_client_that_leaves_takes_its_handlers_along() {
    on_each_server(async |address, shared| {
        let count = async |counter: &AtomicUsize, expected: usize| {
            let since = Instant::now();
            while counter.load(SeqCst) < expected {
                assert!(since.elapsed() < LONG, "{} of {expected}", counter.load(SeqCst));
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let mut one = connect_to(address);
        one.send(get_request("/wait"));
        let mut two = http2_client(address).await;
        let asking = tokio::spawn(async move { ask(&mut two, "GET", "/wait", "").await.map(drop) });
        count(&shared.waiting, 2).await;
        drop(one);
        count(&shared.dropped, 1).await;
        // A stream that is reset ends its handler; the connection goes with its last user.
        asking.abort();
        count(&shared.dropped, 2).await;
    });
}

#[test]
fn a_drain_has_an_end_whatever_still_waits() {
    on_both_drivers(|driver| {
        let shared = Shared::default();
        let running = serve(driver, shared.clone()).start().expect("the engine starts");
        let address = ip(&running.addresses()[0]);
        block_on(async {
            let mut one = connect_to(address);
            one.send(get_request("/wait"));
            let mut two = http2_client(address).await;
            let asking = tokio::spawn(async move { ask(&mut two, "GET", "/wait", "").await });
            while shared.waiting.load(SeqCst) < 2 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            running.handle().drain(Duration::from_millis(200));
            asking.await.unwrap().unwrap_err();
            tokio::task::spawn_blocking(move || running.join()).await.unwrap().unwrap();
            assert_eq!(shared.dropped.load(SeqCst), 2);
        });
    });
}

#[test]
fn a_graceful_shutdown_loses_nothing() {
    on_both_drivers(|driver| {
        let (shared, shutdown, address) = (Shared::default(), Arc::new(Notify::new()), free_address());
        let signal = shutdown.clone();
        let app = app(shared.clone()).into_make_service_with_connect_info::<SocketAddr>();
        let serve = ringmill::serve(address.to_string(), app).config(config(driver));
        let serve = serve.with_graceful_shutdown(async move { signal.notified().await });
        block_on(async {
            let (served, told) = shut_down(address, shared, shutdown, serve.into_future()).await;
            assert_eq!(told, text("waited").replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n"));
            served.unwrap();
        });
    });
}

#[test]
fn a_graceful_shutdown_of_axums_own_server_is_the_same() {
    let (shared, shutdown, address) = (Shared::default(), Arc::new(Notify::new()), free_address());
    let signal = shutdown.clone();
    let app = app(shared.clone()).into_make_service_with_connect_info::<SocketAddr>();
    block_on(async {
        let serve = axum::serve(TcpListener::bind(address).await.unwrap(), app);
        let serve = serve.with_graceful_shutdown(async move { signal.notified().await });
        let (served, told) = shut_down(address, shared, shutdown, serve.into_future()).await;
        assert!(told.starts_with("HTTP/1.1 200 ") && told.contains("\r\nconnection: close\r\n"), "{told}");
        assert!(told.ends_with("\r\n\r\nwaited"), "{told}");
        served.unwrap();
    });
}

/// Shuts a server down while two clients wait; gives back how it ended, and what the one of HTTP/1.1 heard.
async fn shut_down<E: Send + 'static>(
    address: SocketAddr,
    shared: Shared,
    shutdown: Arc<Notify>,
    serving: impl Future<Output = Result<(), E>> + Send + 'static,
) -> (Result<(), E>, String) {
    let served = tokio::spawn(serving);
    while TcpStream::connect(address).await.is_err() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut one = connect_to(address);
    one.send(get_request("/wait"));
    let mut two = http2_client(address).await;
    let mut next = two.clone();
    let asking = tokio::spawn(async move { ask(&mut two, "GET", "/wait", "").await });
    while shared.waiting.load(SeqCst) < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    shutdown.notify_one();
    while TcpStream::connect(address).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // HTTP/2 is told (GOAWAY): it opens no stream any more.
    let refused = ask(&mut next, "GET", "/", "").await.unwrap_err();
    assert!(refused.is_canceled(), "{refused:?}");
    shared.notify.notify_waiters();
    assert_eq!(asking.await.unwrap().unwrap(), (200, "waited".into()));
    let told = tokio::task::spawn_blocking(move || common::http::undated(&one.rest())).await.unwrap();
    (served.await.unwrap(), told)
}

/// Free a moment ago.
fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn over_tls_alpn_chooses_the_version() {
    on_both_drivers(|driver| {
        let trust = Trust::new();
        let store = TlsStore::new(trust.server(&["h2", "http/1.1"])).unwrap();
        let running = serve(driver, Shared::default()).listen("127.0.0.1:0").tls(store).start().unwrap();
        let (plain, secured) = (ip(&running.addresses()[0]), ip(&running.addresses()[1]));
        assert_eq!(exchange(plain, get_request("/")), text("hello"));
        let mut one = secure(secured, &Arc::new(trust.client(&["http/1.1"]))).unwrap();
        one.send(get_request("/who"));
        let told = receive(&mut one).text().to_owned();
        assert!(told.starts_with("127.0.0.1:") && told.ends_with(" HTTP/1.1 true http/1.1"), "{told}");
        let mut two = secure(secured, &Arc::new(trust.client(&["h2"]))).unwrap();
        assert_eq!(two.conn.alpn_protocol(), Some(&b"h2"[..]));
        // The preface and SETTINGS that say nothing (RFC 9113, 3.4): the answer begins with SETTINGS of its own.
        two.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
        let mut head = [0; 9];
        std::io::Read::read_exact(&mut two, &mut head).unwrap();
        assert_eq!((head[3], &head[5..]), (4, &[0; 4][..]), "{head:?}");
    });
}

#[test]
fn who_no_longer_awaits_a_server_stops_it() {
    on_both_drivers(|driver| {
        block_on(async {
            // What the factory asks is served by the runtime that awaits.
            let upstream = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let asked = upstream.local_addr().unwrap();
            let accepting = tokio::spawn(async move { upstream.accept().await.map(drop) });
            let (tell, told) = tokio::sync::oneshot::channel();
            let serve = ringmill::serve_with("127.0.0.1:0", async move |_| {
                TcpStream::connect(asked).await?;
                Ok::<_, std::io::Error>(Router::new().route("/", get(async || "hello")))
            });
            let serve = serve.config(config(driver)).on_start(move |running| {
                let _ = tell.send(ip(&running.addresses()[0]));
            });
            let serving = tokio::spawn(serve.into_future());
            let address = told.await.unwrap();
            accepting.await.unwrap().unwrap();
            let answer = tokio::task::spawn_blocking(move || exchange(address, get_request("/")));
            assert_eq!(answer.await.unwrap(), text("hello"));
            serving.abort();
            let since = Instant::now();
            while TcpStream::connect(address).await.is_ok() {
                assert!(since.elapsed() < LONG, "it still listens");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
    });
}

#[test]
fn workers_may_make_their_own() {
    on_both_drivers(|driver| {
        let serve = ringmill::serve_with("127.0.0.1:0", async |worker| {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let index = worker.index;
            Ok::<_, Infallible>(Router::new().route("/", get(async move || format!("worker {index}"))))
        });
        let running = serve.config(config(driver)).start().unwrap();
        assert_eq!(exchange(ip(&running.addresses()[0]), get_request("/")), text("worker 0"));
        let fails = ringmill::serve_with("127.0.0.1:0", async |_| Err::<Router, _>("no database"));
        let error = fails.config(config(driver)).start().map(drop).unwrap_err();
        assert!(error.to_string().contains("no database"), "{error}");
        let error = ringmill::serve("nonsense", Router::new()).start().map(drop).unwrap_err();
        assert!(error.to_string().contains("nonsense"), "{error}");
    });
}

/// Of one body that is far larger than a connection may queue, a slow reader costs no byte more than the body itself.
#[test]
fn one_frame_of_50_mb_is_read_slowly_in_flat_memory() {
    const BODY_BYTES: usize = 50_000_000;
    const SLACK_BYTES: usize = 4 << 20;
    alone(|| {
        on_an_app(async |_, address, _| {
            let read = |client: &mut StdStream, bytes: usize| {
                let mut buffer = vec![0; bytes];
                std::io::Read::read_exact(client, &mut buffer).expect("the body goes on");
                assert!(buffer.iter().all(|byte| *byte == b'x'));
            };
            // Whatever a first reply takes for good is there before.
            let mut client = connect_narrow(address, 32 * 1024);
            client.send(get_request("/large/1000000"));
            assert_eq!(receive(&mut client).body.len(), 1_000_000);
            let before = rss_anon_bytes();
            client.send(get_request(&format!("/large/{BODY_BYTES}")));
            let head = common::http::receive_head(&mut client);
            assert_eq!(head.field("content-length"), Some("50000000"));
            for n in 0..50 {
                read(&mut client, 20_000);
                std::thread::sleep(Duration::from_millis(5));
                let growth = rss_anon_bytes().saturating_sub(before);
                assert!(growth < BODY_BYTES + SLACK_BYTES, "{growth} bytes after {n} pieces");
                assert!(growth > BODY_BYTES / 2, "{growth} bytes: the body is not one frame");
            }
            for _ in 0..(BODY_BYTES - 50 * 20_000) / 100_000 {
                read(&mut client, 100_000);
            }
            client.send(get_request("/"));
            assert_eq!(receive(&mut client).text(), "hello");
            let growth = rss_anon_bytes().saturating_sub(before);
            assert!(growth < SLACK_BYTES, "{growth} bytes are kept behind it");
        });
    });
}
