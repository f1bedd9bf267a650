//! What Ringmill's server has beyond axum's: a notice of a shutdown for what has no end, deadlines of gRPC, WebSocket over HTTP/2,
//! listeners that are bound already, topics.

use super::app::{Shared, app, wait};
use super::common::*;
use super::servers::{block_on, on_an_app};
use super::*;
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::IntoResponse;
use axum::response::sse::{Event, Sse};
use axum::routing::{any, post};
use ringmill::adapt::Feed;
use ringmill::topic::{Subscribe, Topics};
use ringmill::{DriverChoice, Notices, Serve};

/// Events until the server drains.
async fn ticks(State(shared): State<Shared>, Extension(notices): Extension<Notices>) -> impl IntoResponse {
    Sse::new(futures_util::stream::unfold((notices, 0), move |(notices, n)| {
        // It has begun once its first event is asked behind.
        shared.waiting.fetch_add(usize::from(n == 1), SeqCst);
        async move {
            let is_over = tokio::select! {
                () = notices.shutdown().begun() => true,
                () = tokio::time::sleep(Duration::from_millis(5)) => false,
            };
            (!is_over).then(|| (Ok::<_, Infallible>(Event::default().data("tick")), (notices, n + 1)))
        }
    }))
}

/// A poll that has no answer before the server drains.
async fn poll(State(shared): State<Shared>, Extension(notices): Extension<Notices>) -> &'static str {
    shared.waiting.fetch_add(1, SeqCst);
    notices.shutdown().begun().await;
    "later"
}

fn serve_more(driver: DriverChoice, shared: Shared) -> Serve<Router> {
    let more = Router::new()
        .route("/ticks", any(ticks))
        .route("/poll", get(poll))
        .route("/rest", post(wait))
        .with_state(shared.clone());
    let app = app(shared).merge(more);
    ringmill::serve("127.0.0.1:0", app).config(config(driver)).drain(Duration::from_secs(5))
}

fn on_more(test: impl AsyncFn(SocketAddr, Shared)) {
    on_both_drivers(|driver| {
        let shared = Shared::default();
        let running = serve_more(driver, shared.clone()).start().expect("the engine starts");
        block_on(test(ip(&running.addresses()[0]), shared));
    });
}

#[test]
fn what_has_no_end_ends_when_the_server_drains() {
    on_both_drivers(|driver| {
        let shared = Shared::default();
        let running = serve_more(driver, shared.clone()).start().expect("the engine starts");
        let address = ip(&running.addresses()[0]);
        block_on(async {
            let clients = ["/ticks", "/poll"].map(|path| {
                let mut client = connect_to(address);
                client.send(get_request(path));
                client
            });
            let asking = ["/ticks", "/poll"].map(|path| {
                tokio::spawn(async move { ask(&mut http2_client(address).await, "GET", path, "").await })
            });
            while shared.waiting.load(SeqCst) < 4 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            // The time of the drain is far longer than this test may take.
            running.handle().drain(Duration::from_secs(600));
            tokio::task::spawn_blocking(move || running.join()).await.unwrap().unwrap();
            let [ticks, mut poll] = clients.map(|mut client| client.rest());
            assert!(ticks.ends_with(b"data: tick\n\n\r\n0\r\n\r\n"), "{}", show(&ticks));
            assert!(poll.split_off(poll.len() - 5) == b"later", "{}", show(&poll));
            let [ticks, poll] = asking;
            let (ticks, poll) = (ticks.await.unwrap().unwrap(), poll.await.unwrap().unwrap());
            assert!(ticks.0 == 200 && ticks.1.starts_with(b"data: tick\n\n"), "{ticks:?}");
            assert_eq!(poll, (200, "later".into()));
        });
    });
}

/// A call of gRPC, as far as deadlines go: what its answer and its trailers have in `grpc-status`.
async fn call(address: SocketAddr, path: &str, timeout: &str) -> (u16, Option<String>, Option<String>) {
    let request = hyper::Request::builder().method("POST").uri(format!("http://test{path}"));
    let request = request.header("content-type", "application/grpc").header("grpc-timeout", timeout);
    let request = request.body(Full::new(Bytes::new())).unwrap();
    let response = http2_client(address).await.send_request(request).await.unwrap();
    let status = |fields: &hyper::HeaderMap| Some(fields.get("grpc-status")?.to_str().unwrap().to_owned());
    let (code, at_once) = (response.status().as_u16(), status(response.headers()));
    let trailers = response.into_body().collect().await.unwrap().trailers().and_then(status);
    (code, at_once, trailers)
}

#[test]
fn a_call_of_grpc_ends_with_its_deadline() {
    on_more(async |address, shared| {
        let deadline_exceeded = || Some("4".to_owned());
        let app = call(address, "/rest", "100m").await;
        assert_eq!(app, (200, deadline_exceeded(), None));
        assert_eq!(shared.dropped.load(SeqCst), 1, "the handler is dropped");
        assert_eq!(call(address, "/ticks", "100000u").await, (200, None, deadline_exceeded()));
        let since = Instant::now();
        assert_eq!(call(address, "/nothing", "100S").await, (404, None, None));
        assert!(since.elapsed() < LONG);
    });
}

#[test]
fn a_websocket_over_http2() {
    on_an_app(async |_, address, _| {
        let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
        let (mut client, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        // The server says that it takes this (SETTINGS_ENABLE_CONNECT_PROTOCOL), which is heard with its first answer.
        assert_eq!(ask(&mut client, "GET", "/", "").await.unwrap().0, 200);
        let request = hyper::Request::builder().method("CONNECT").uri(format!("http://{address}/socket"));
        let request = request.header("sec-websocket-version", "13");
        let request = request.extension(hyper::ext::Protocol::from_static("websocket"));
        let response = client.send_request(request.body(Full::new(Bytes::new())).unwrap()).await.unwrap();
        assert_eq!(response.status(), 200);
        let stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        let role = tungstenite::protocol::Role::Client;
        let mut socket = tokio_tungstenite::WebSocketStream::from_raw_socket(stream, role, None).await;
        for n in 0..1000 {
            socket.send(tungstenite::Message::text(format!("message {n}"))).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap().into_text().unwrap(), format!("message {n}"));
        }
        let long = vec![b'x'; 3_000_000];
        socket.send(tungstenite::Message::binary(long.clone())).await.unwrap();
        assert!(socket.next().await.unwrap().unwrap().into_data() == long);
        socket.close(None).await.unwrap();
        while let Some(Ok(_)) = socket.next().await {}
        assert_eq!(ask(&mut client, "GET", "/", "").await.unwrap().0, 200);
    });
}

#[test]
fn a_listener_that_is_bound_already_is_taken() {
    on_both_drivers(|driver| {
        let check = |serve: Serve<Router>, address: SocketAddr| {
            let config = config(driver).with_workers(2);
            let running = serve.config(config).start().expect("the engine starts");
            assert_eq!(ip(&running.addresses()[0]), address);
            for _ in 0..20 {
                assert_eq!(exchange(address, get_request("/")), text("hello"));
            }
            drop(running);
            assert!(std::net::TcpStream::connect(address).is_err(), "nobody listens any more");
        };
        let app = || Router::new().route("/", get(async || "hello"));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        check(ringmill::serve(listener, app()), address);
        block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            check(ringmill::serve(listener, app()), address);
        });
    });
}

/// Many subscriptions on one connection, which a browser could not have over HTTP/1.1.
#[test]
fn events_of_topics_over_http2() {
    on_both_drivers(|driver| {
        let topics = Topics::default();
        let feeds = topics.clone();
        let events = async move || Body::new(Feed::new(&feeds, "room", Subscribe::default()).into_body());
        let app = Router::new().route("/events", get(events));
        let serve =
            ringmill::serve("127.0.0.1:0", app).config(config(driver).with_workers(2)).topics(&topics);
        let running = serve.start().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut client = http2_client(ip(&running.addresses()[0])).await;
            let mut bodies = Vec::new();
            for _ in 0..20 {
                let request = hyper::Request::builder().uri("http://test/events");
                client.ready().await.unwrap();
                let response = client.send_request(request.body(Full::default()).unwrap()).await.unwrap();
                bodies.push(response.into_body());
            }
            eventually(20, || topics.subscribers("room"));
            for text in ["one", "two"] {
                topics.publish("room", text);
                for body in &mut bodies {
                    let mut next = async || {
                        let frame = tokio::time::timeout(LONG, body.frame()).await.unwrap().unwrap();
                        String::from_utf8(frame.unwrap().into_data().unwrap().to_vec()).unwrap()
                    };
                    let mut event = next().await;
                    // Where it is, before anything else.
                    if !event.contains("\ndata: ") {
                        event = next().await;
                    }
                    assert!(event.ends_with(&format!("\ndata: {text}\n\n")), "{event:?}");
                }
            }
            drop(bodies);
            let since = Instant::now();
            while topics.subscribers("room") > 0 && since.elapsed() < LONG {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(topics.subscribers("room"), 0);
        });
    });
}
