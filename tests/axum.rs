//! One axum app, served by its one changed line on both drivers, against clients of other people's making: hyper's for HTTP/2,
//! tungstenite's for WebSocket.
#![cfg(feature = "tls")]

mod common;

use axum::body::Body;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{ConnectInfo, Multipart, Path, Request, State};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use bytes::Bytes;
use common::http::{exchange, get as get_request, post as post_request, reply};
use common::tls::{Trust, secure};
use common::*;
use futures_util::SinkExt;
use futures_util::StreamExt;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use ringmill::http::Peer;
use ringmill::{DriverChoice, Facts, Running, Serve, TlsStore};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite;

/// No answer takes longer.
const LONG: Duration = Duration::from_secs(10);

#[derive(Clone, Default)]
struct Shared {
    /// Handlers of `/wait` wait for it.
    notify: Arc<Notify>,
    waiting: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
}

struct Guard(Arc<AtomicUsize>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

async fn wait(State(shared): State<Shared>) -> &'static str {
    let _guard = Guard(shared.dropped.clone());
    shared.waiting.fetch_add(1, SeqCst);
    shared.notify.notified().await;
    "waited"
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
    let is_told = extensions.get::<Peer>().is_some_and(|peer| !peer.is_gone());
    format!("{peer} {:?} {is_told} {}", request.version(), alpn.unwrap_or_default().escape_ascii())
}

fn app(shared: Shared) -> Router {
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
        .route("/multipart", post(multipart))
        .route("/events", get(events))
        .route("/socket", any(socket))
        .route("/wait", get(wait))
        .route("/who", get(who))
        .with_state(shared)
}

type Served = axum::extract::connect_info::IntoMakeServiceWithConnectInfo<Router, SocketAddr>;

fn serve(driver: DriverChoice, shared: Shared) -> Serve<Served> {
    let app = app(shared).into_make_service_with_connect_info::<SocketAddr>();
    ringmill::serve("127.0.0.1:0", app).config(config(driver)).drain(Duration::from_secs(5))
}

/// Calls `test` with the app and its address, on both drivers, in a client's runtime.
fn on_an_app(test: impl AsyncFn(&Running, SocketAddr, Shared)) {
    on_both_drivers(|driver| {
        let shared = Shared::default();
        let running = serve(driver, shared.clone()).start().expect("the engine starts");
        let address = ip(&running.addresses()[0]);
        block_on(test(&running, address, shared));
    });
}

fn block_on(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), test).await.expect("it ends") });
}

fn answer(media_type: &str, body: &str) -> String {
    reply("200 OK", &format!("content-type: {media_type}\r\ncontent-length: {}\r\n", body.len()), body)
}

fn text(body: &str) -> String {
    answer("text/plain; charset=utf-8", body)
}

#[test]
fn over_http1() {
    on_an_app(async |_, address, _| {
        let check = |request: String, expected: String| assert_eq!(exchange(address, request), expected);
        check(get_request("/"), text("hello"));
        let json =
            post_request("/json", r#"{"a":[1]}"#).replace("Host", "Content-Type: application/json\r\nHost");
        check(json, answer("application/json", r#"{"a":[1]}"#));
        check(get_request("/nothing"), reply("404 Not Found", "content-length: 0\r\n", ""));
        let mut client = connect_to(address);
        client.send(get_request("/events"));
        let events = common::http::receive(&mut client);
        assert_eq!(events.field("content-type"), Some("text/event-stream"));
        assert_eq!(events.text(), "data: 0\n\ndata: 1\n\ndata: 2\n\n");
        let form = "--b\r\ncontent-disposition: form-data; name=\"one\"\r\n\r\n12345\r\n--b\r\n\
                    content-disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n1234567\r\n--b--\r\n";
        let form = post_request("/multipart", form)
            .replace("Host", "Content-Type: multipart/form-data; boundary=b\r\nHost");
        check(form, text("one=5 file=7"));
        // Mixed requests in one packet, in their order.
        let all = [
            get_request("/sleep/20"),
            post_request("/echo", "abc"),
            get_request("/blocking/21"),
            get_request("/"),
        ];
        let echoed = reply("200 OK", "content-length: 3\r\n", "abc");
        assert_eq!(
            whole(address, &all.concat(), 4),
            text("slept 20") + &echoed + &text("42") + &text("hello")
        );
        let told = whole(address, &get_request("/who"), 1);
        assert!(told.contains("\r\n\r\n127.0.0.1:") && told.ends_with(" HTTP/1.1 true "), "{told}");
    });
}

/// Asks without ending the stream, and reads so many replies.
fn whole(address: SocketAddr, requests: &str, replies: usize) -> String {
    let mut client = connect_to(address);
    client.send(requests);
    let mut one = || {
        let received = common::http::receive(&mut client);
        received.head.clone() + received.text()
    };
    (0..replies).map(|_| one()).collect()
}

#[test]
fn an_upload_and_a_download_of_many_megabytes() {
    on_an_app(async |_, address, _| {
        let upload = [
            post_request("/count", "").replace("Length: 0", "Length: 30000000").as_bytes(),
            &vec![b'x'; 30_000_000],
        ]
        .concat();
        let mut client = connect_to(address);
        client.send(upload);
        assert_eq!(common::http::receive(&mut client).text(), "30000000");
        client.send(get_request("/large/50000000"));
        assert_eq!(common::http::receive(&mut client).text().len(), 50_000_000);
    });
}

#[test]
fn a_websocket_by_axums_own_extractor() {
    on_an_app(async |_, address, _| {
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
    on_an_app(async |running, address, _| {
        let mut client = http2_client(address).await;
        assert_eq!(ask(&mut client, "GET", "/", "").await.unwrap(), (200, "hello".into()));
        let (status, told) = ask(&mut client, "GET", "/who", "").await.unwrap();
        assert!(
            status == 200 && told.starts_with(b"127.0.0.1:") && told.ends_with(b" HTTP/2.0 true "),
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
        assert_eq!(running.stats().total().requests, 105);
    });
}

#[test]
fn a_client_that_leaves_takes_its_handlers_along() {
    on_an_app(async |_, address, shared| {
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
        let (shared, shutdown) = (Shared::default(), Arc::new(Notify::new()));
        let port = free_port();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let signal = shutdown.clone();
        let app = app(shared.clone()).into_make_service_with_connect_info::<SocketAddr>();
        let serve = ringmill::serve(address.to_string(), app).config(config(driver));
        let serve = serve.with_graceful_shutdown(async move { signal.notified().await });
        block_on(async {
            let served = tokio::spawn(serve.into_future());
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
            assert_eq!(told, text("waited").replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n"));
            served.await.unwrap().unwrap();
        });
    });
}

/// Free a moment ago.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
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
        let told = common::http::receive(&mut one).text().to_owned();
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
