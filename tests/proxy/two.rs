//! HTTP/2 on either side of the proxy, and gRPC through it: what a client and a server of hyper see of each other.

use super::{before, serve};
use crate::common::http::{get, post_chunked, receive, receive_head};
use crate::common::upstream::Upstream;
use crate::common::*;
use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use ringmill::http::Limits;
use ringmill::proxy::{Check, ProxyConfig};
use ringmill::{Address, Running};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};

type Body = BoxBody<Bytes, Infallible>;

/// A server of HTTP/2 alone, until the test is over.
struct Server {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    /// Requests that were dropped before they had an answer.
    cancelled: Arc<AtomicUsize>,
    /// Lets `/two` go on.
    go: Arc<Notify>,
}

struct Guard(Arc<AtomicUsize>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed()
}

/// A body of a piece, with trailers: nobody says its length before.
fn trailed(text: String, trailers: HeaderMap) -> Body {
    let frames = [Frame::data(text.into()), Frame::trailers(trailers)].map(Ok);
    BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames)))
}

fn fields(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
}

/// A body that another task fills.
fn channel() -> (mpsc::Sender<Frame<Bytes>>, Body) {
    let (sender, receiver) = mpsc::channel(1);
    let frames = futures_util::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|frame| (Ok(frame), receiver))
    });
    (sender, BodyExt::boxed(StreamBody::new(frames)))
}

impl Server {
    /// Ends its first connection, kindly, behind the first request where that is asked for.
    fn start(ends_first: bool) -> Server {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let [accepted, cancelled] = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
        let server = Server { address, accepted, cancelled, go: Arc::default() };
        let (accepted, cancelled, go) =
            (server.accepted.clone(), server.cancelled.clone(), server.go.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                loop {
                    let stream = listener.accept().await.unwrap().0;
                    let number = accepted.fetch_add(1, SeqCst);
                    let (cancelled, go, served) = (cancelled.clone(), go.clone(), Arc::new(Notify::new()));
                    let is_served = served.clone();
                    let service = service_fn(move |request| {
                        is_served.notify_one();
                        answer(request, cancelled.clone(), go.clone())
                    });
                    tokio::spawn(async move {
                        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
                        if ends_first && number == 0 {
                            tokio::select! {
                                _ = connection.as_mut() => return,
                                () = served.notified() => connection.as_mut().graceful_shutdown(),
                            }
                        }
                        let _ = connection.await;
                    });
                }
            });
        });
        server
    }

    fn proxied(&self, driver: ringmill::DriverChoice) -> Running {
        let address = vec![Address::Ip(self.address)];
        serve(driver, ProxyConfig { is_http2: true, ..ProxyConfig::new(address) })
    }
}

async fn answer(
    request: Request<Incoming>,
    cancelled: Arc<AtomicUsize>,
    go: Arc<Notify>,
) -> Result<Response<Body>, Infallible> {
    let (parts, mut body) = request.into_parts();
    let mut response = Response::new(Empty::new().boxed());
    match parts.uri.path() {
        // Everything at once, with what came in trailers.
        "/sum" => {
            let collected = body.collect().await.unwrap();
            let mut trailers = collected.trailers().cloned().unwrap_or_default();
            trailers.extend(fields(&[("grpc-status", "0")]));
            let bytes = collected.to_bytes().len().to_string();
            *response.body_mut() = trailed(bytes, trailers);
        }
        // The second half when it is told to.
        "/two" => {
            let (sender, body) = channel();
            tokio::spawn(async move {
                sender.send(Frame::data("one".into())).await.unwrap();
                go.notified().await;
                sender.send(Frame::data("two".into())).await.unwrap();
                sender.send(Frame::trailers(fields(&[("grpc-status", "0")]))).await.unwrap();
            });
            *response.body_mut() = body;
        }
        "/echo" => {
            let (sender, echo) = channel();
            tokio::spawn(async move {
                while let Some(Ok(frame)) = body.frame().await {
                    if sender.send(frame).await.is_err() {
                        return;
                    }
                }
            });
            *response.body_mut() = echo;
        }
        // A word, and another one when three were heard.
        "/listen" => {
            let (sender, reply) = channel();
            tokio::spawn(async move {
                sender.send(Frame::data("one".into())).await.unwrap();
                for _ in 0..3 {
                    body.frame().await.unwrap().unwrap();
                }
                sender.send(Frame::data("two".into())).await.unwrap();
            });
            *response.body_mut() = reply;
        }
        "/missing" => *response.headers_mut() = fields(&[("grpc-status", "5"), ("grpc-message", "no")]),
        "/wait" => {
            let _guard = Guard(cancelled);
            std::future::pending::<()>().await;
        }
        "/waste" => {
            // It answers before it has read anything, and never does.
            *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
        }
        _ => {
            let uri = parts.uri.to_string();
            let mut said: Vec<String> = parts
                .headers
                .iter()
                .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
                .collect();
            said.sort();
            *response.body_mut() = full(format!("{} {uri}|{}", parts.method, said.join("|")));
        }
    }
    Ok(response)
}

async fn client(running: &Running) -> SendRequest<Body> {
    let stream = tokio::net::TcpStream::connect(ip(&running.addresses()[0])).await.unwrap();
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    sender
}

fn call(path: &str, body: Body) -> Request<Body> {
    let request = Request::post(format!("http://a.test{path}")).header("te", "trailers");
    request.header("content-type", "application/grpc").body(body).unwrap()
}

async fn text(response: Response<Incoming>) -> (String, HeaderMap) {
    let collected = response.into_body().collect().await.unwrap();
    let trailers = collected.trailers().cloned().unwrap_or_default();
    (String::from_utf8(collected.to_bytes().to_vec()).unwrap(), trailers)
}

fn wait<T>(what: impl Future<Output = T>) -> T {
    // Connections go on while a test looks at something else.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, what).await.expect("in time") })
}

/// Sends a body in two halves, the second one after `meanwhile`; what is answered.
pub(super) fn post_in_halves(
    running: &Running,
    halves: (&'static str, &'static str),
    meanwhile: impl FnOnce(),
) -> String {
    wait(async {
        let (sender, body) = channel();
        let asking = client(running).await.send_request(call("/slow", body));
        let asking = tokio::spawn(asking);
        sender.send(Frame::data(halves.0.into())).await.unwrap();
        tokio::task::block_in_place(meanwhile);
        sender.send(Frame::data(halves.1.into())).await.unwrap();
        drop(sender);
        text(asking.await.unwrap().unwrap()).await.0
    })
}

#[test]
fn grpc_passes_in_all_its_kinds() {
    on_both_drivers(|driver| {
        let server = Server::start(false);
        let running = server.proxied(driver);
        wait(async {
            let mut client = client(&running).await;
            // One message each way, trailers both ways.
            let body = trailed("12345".to_owned(), fields(&[("x-sent", "yes")]));
            let (said, trailers) = text(client.send_request(call("/sum", body)).await.unwrap()).await;
            assert_eq!(
                (said.as_str(), &trailers["grpc-status"], &trailers["x-sent"]),
                ("5", &"0".parse().unwrap(), &"yes".parse().unwrap())
            );
            // The server streams: the first message is here before the second is sent.
            let mut response = client.send_request(call("/two", full(""))).await.unwrap().into_body();
            let first = response.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(&first[..], b"one");
            server.go.notify_one();
            let rest = response.collect().await.unwrap();
            assert_eq!(rest.trailers().unwrap()["grpc-status"], "0");
            assert_eq!(&rest.to_bytes()[..], b"two");
            // The client streams.
            let (sender, body) = channel();
            let sent = tokio::spawn(async move {
                for _ in 0..100 {
                    sender.send(Frame::data(vec![b'x'; 10_000].into())).await.unwrap();
                }
            });
            let (said, _) = text(client.send_request(call("/sum", body)).await.unwrap()).await;
            sent.await.unwrap();
            assert_eq!(said, "1000000");
            // Both stream, and each message waits for the one before.
            let (sender, body) = channel();
            sender.send(Frame::data("0".into())).await.unwrap();
            let mut echo = client.send_request(call("/echo", body)).await.unwrap().into_body();
            for n in 0..20 {
                let frame = echo.frame().await.unwrap().unwrap().into_data().unwrap();
                assert_eq!(frame, n.to_string());
                sender.send(Frame::data((n + 1).to_string().into())).await.unwrap();
            }
            sender.send(Frame::trailers(fields(&[("x-end", "yes")]))).await.unwrap();
            let rest = echo.collect().await.unwrap();
            assert_eq!(rest.trailers().unwrap()["x-end"], "yes");
            // An answer that is a head alone.
            let response = client.send_request(call("/missing", full("x"))).await.unwrap();
            assert_eq!(
                (response.status(), &response.headers()["grpc-status"]),
                (StatusCode::OK, &"5".parse().unwrap())
            );
            // A client that gives up takes its request along, and so does a deadline.
            let waiting = client.send_request(call("/wait", full("x")));
            assert!(tokio::time::timeout(Duration::from_millis(100), waiting).await.is_err());
            let mut late = call("/wait", full("x"));
            late.headers_mut().insert("grpc-timeout", "100m".parse().unwrap());
            let response = client.send_request(late).await.unwrap();
            assert_eq!(response.headers()["grpc-status"], "4");
            while server.cancelled.load(SeqCst) < 2 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            // An answer that comes before the request was read.
            let (sender, body) = channel();
            let response = client.send_request(call("/waste", body)).await.unwrap();
            assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
            drop(sender);
            // All that over one connection, on which as many go on at once as there are.
            let all = (0..50).map(|n| {
                let answer = client.send_request(call("/sum", full(vec![b'x'; n * 1000])));
                async move { (n, text(answer.await.unwrap()).await.0) }
            });
            let all: Vec<_> = futures_util::stream::iter(all).buffer_unordered(50).collect().await;
            assert!(all.iter().all(|(n, said)| *said == (n * 1000).to_string()), "{all:?}");
        });
        assert_eq!(server.accepted.load(SeqCst), 1);
    });
}

/// Asks whether a body is wanted, and waits with it; what is answered.
pub(super) fn status_of_a_body_that_waits(running: &Running) -> StatusCode {
    wait(async {
        let (_silent, body) = channel();
        let mut request = call("/waits", body);
        request.headers_mut().insert("expect", "100-continue".parse().unwrap());
        client(running).await.send_request(request).await.unwrap().status()
    })
}

/// Once its server has answered, a client may be silent with its body for longer than bodies may be; and the server while its client speaks.
/// When both are, that is the end. By a client and a server of either version.
#[test]
fn a_client_that_only_listens_is_not_hurried() {
    const PAUSE: Duration = Duration::from_millis(700);
    on_both_drivers(|driver| {
        let server = Server::start(false);
        let old = Upstream::new(|line| {
            line.head();
            line.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n");
            for _ in 0..3 {
                line.byte();
            }
            line.try_send("3\r\ntwo\r\n0\r\n\r\n");
            line.wait_for_end();
        });
        // An answer comes sooner, on a machine that has much to do as well.
        let limits = Limits { body_idle_timeout: PAUSE * 6 / 7, ..Limits::default() };
        let proxied = |address: Address, is_http2| {
            let config = ProxyConfig { limits: limits.clone(), is_http2, ..ProxyConfig::new(vec![address]) };
            serve(driver, ProxyConfig { idle_timeout: 5 * PAUSE / 2, ..config })
        };
        let (new, old) = (proxied(Address::Ip(server.address), true), proxied(old.address.clone(), false));
        let mut one = connect(&old);
        one.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n");
        assert_eq!(receive_head(&mut one).status, 200);
        wait(async {
            let mut client = client(&new).await;
            let ((speak, body), (_silent, other)) = (channel(), channel());
            let mut two = client.send_request(call("/listen", body)).await.unwrap().into_body();
            // Where neither says anything.
            let quiet = client.send_request(call("/listen", other)).await.unwrap().into_body();
            for _ in 0..3 {
                tokio::time::sleep(PAUSE).await;
                one.send("x");
                speak.send(Frame::data("x".into())).await.unwrap();
            }
            drop(speak);
            one.expect("3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n");
            for expected in ["one", "two"] {
                assert_eq!(two.frame().await.unwrap().unwrap().into_data().unwrap(), expected);
            }
            quiet.collect().await.expect_err("it is cut");
        });
    });
}

/// Before a server of HTTP/2 the body may as well come at once; and then it is its client that has time for it.
#[test]
fn who_waits_for_a_100_before_a_server_of_http2_is_told_at_once() {
    on_both_drivers(|driver| {
        let server = Server::start(false);
        let first_byte_timeout = Duration::from_millis(400);
        let config = ProxyConfig::new(vec![Address::Ip(server.address)]);
        let running = serve(driver, ProxyConfig { is_http2: true, first_byte_timeout, ..config });
        let mut client = connect(&running);
        client.send("POST /sum HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
        assert_eq!(receive_head(&mut client).status, 100);
        std::thread::sleep(first_byte_timeout * 3 / 2);
        client.send("ok");
        let raw = receive_trailed(&mut client);
        assert!(raw.starts_with("HTTP/1.1 200 ") && raw.contains("\r\n1\r\n2\r\n"), "{raw}");
    });
}

#[test]
fn heads_follow_the_same_rules_in_either_version() {
    on_both_drivers(|driver| {
        let server = Server::start(false);
        let running = server.proxied(driver);
        wait(async {
            let mut client = client(&running).await;
            let request = Request::get("http://a.test/x?y").header("cookie", "a=b").header("cookie", "c=d");
            let request =
                request.header("x-forwarded-for", "6.6.6.6").header("proxy", "x").body(full("")).unwrap();
            let (said, _) = text(client.send_request(request).await.unwrap()).await;
            assert_eq!(
                said,
                "GET http://a.test/x?y|cookie: a=b; c=d|via: 2.0 ringmill|x-forwarded-for: 127.0.0.1|x-forwarded-host: a.test|x-forwarded-proto: http"
            );
            let request = Request::get("http://a.test/").header("host", "b.test").body(full("")).unwrap();
            assert_eq!(client.send_request(request).await.unwrap().status(), StatusCode::BAD_REQUEST);
            let request = Request::connect("a.test:1").body(full("")).unwrap();
            assert_eq!(client.send_request(request).await.unwrap().status(), StatusCode::NOT_IMPLEMENTED);
        });
        // A client of HTTP/1.1, with the same server.
        let mut client = connect(&running);
        client.send("GET /z HTTP/1.1\r\nHost: b.test\r\nConnection: x-a\r\nX-A: b\r\nX-B: c\r\n\r\n");
        let reply = receive(&mut client);
        let said = "GET http://b.test/z|via: 1.1 ringmill|x-b: c|x-forwarded-for: 127.0.0.1|x-forwarded-host: b.test|x-forwarded-proto: http";
        assert_eq!((reply.text(), reply.field("via")), (said, Some("2.0 ringmill")));
        client.send(post_chunked("/sum", "3\r\nabc\r\n0\r\nX-Sent: too\r\n\r\n"));
        let raw = receive_trailed(&mut client);
        assert!(
            raw.contains("1\r\n3\r\n")
                && raw.contains("grpc-status: 0\r\n")
                && raw.contains("x-sent: too\r\n"),
            "{raw}"
        );
        client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
        assert_eq!(receive(&mut client).status, 501);
        // A client of HTTP/2, with a server of HTTP/1.1.
        let honest = Upstream::honest();
        let running = before(driver, &[&honest]);
        wait(async {
            let mut client = self::client(&running).await;
            for n in 0..3 {
                let request = Request::post(format!("http://a.test/{n}")).body(full("hello")).unwrap();
                let response = client.send_request(request).await.unwrap();
                assert_eq!(response.headers()["via"], "1.1 ringmill");
                assert_eq!(text(response).await.0, format!("/{n} hello"));
            }
        });
        assert!(honest.asked().contains("via: 2.0 ringmill\r\n"));
        assert_eq!(honest.accepted(), 1);
    });
}

/// Until the empty line behind a chunked body.
fn receive_trailed(client: &mut std::net::TcpStream) -> String {
    use std::io::Read;
    let (mut raw, mut byte) = (String::new(), [0]);
    while !raw.contains("\r\n0\r\n") || !raw.ends_with("\r\n\r\n") {
        assert_eq!(client.read(&mut byte).unwrap(), 1, "{raw}");
        raw.push(char::from(byte[0]));
    }
    raw
}

#[test]
fn connections_of_http2_come_and_go() {
    on_both_drivers(|driver| {
        // The first connection is told to end: what follows goes over the next, and nothing is lost.
        let server = Server::start(true);
        let running = server.proxied(driver);
        let mut client = connect(&running);
        for n in 0..10 {
            client.send(get(&format!("/{n}")));
            let reply = receive(&mut client);
            assert!(
                reply.status == 200 && reply.text().contains(&format!("a.test/{n}|"))
                    || reply.text().contains(&format!("/{n}|")),
                "{}",
                reply.text()
            );
        }
        assert_eq!(server.accepted.load(SeqCst), 2);
        // Nobody is there, or whoever is there speaks another protocol.
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let old = Upstream::new(|line| {
            line.byte();
            line.try_send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        });
        for address in [Address::Ip(nobody), old.address.clone()] {
            let running = serve(driver, ProxyConfig { is_http2: true, ..ProxyConfig::new(vec![address]) });
            let mut client = connect(&running);
            client.send(get("/"));
            assert_eq!(receive(&mut client).status, 502);
        }
    });
}

/// Checks of servers of HTTP/2 are streams as well, and their connections come and go beside those of clients.
#[test]
fn checks_in_http2_disturb_nobody() {
    on_both_drivers(|driver| {
        let server = Server::start(false);
        let check = Check { every: Duration::from_millis(5), ..Check::new("/check".parse().unwrap()) };
        let address = vec![Address::Ip(server.address)];
        // A reply that comes only when the wait for a connection ends comes too late.
        let queue_timeout = PATIENCE * 6;
        let proxy =
            ProxyConfig { is_http2: true, check: Some(check), queue_timeout, ..ProxyConfig::new(address) };
        let running = serve(driver, proxy);
        for n in 0..30 {
            let checks = server.accepted.load(SeqCst);
            eventually(true, || server.accepted.load(SeqCst) > checks + 1);
            let mut client = connect(&running);
            client.send(get(&format!("/{n}")));
            let reply = receive(&mut client);
            assert!(reply.status == 200 && reply.text().contains(&format!("/{n}|")), "{}", reply.head);
        }
    });
}

/// An upstream of HTTP/1.1 that says in capitals what it hears, and one word behind the end.
fn shouting() -> Upstream {
    Upstream::new(|line| {
        while let Some(head) = line.head() {
            assert!(
                head.ends_with("\r\n\r\n") && head.contains("connection: upgrade\r\nupgrade: websocket\r\n"),
                "{head}"
            );
            assert!(head.contains("sec-websocket-version: 13\r\n") && !head.contains("made up"), "{head}");
            let key = head.split_once("sec-websocket-key: ").unwrap().1.lines().next().unwrap();
            let accept = ringmill::websocket::accept_key(key.as_bytes());
            let begin = |status: &str, accept: &str| {
                format!(
                    "HTTP/1.1 {status}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
                )
            };
            match head.split(' ').nth(1).unwrap() {
                "/no" => line.send("HTTP/1.1 403 No\r\nContent-Length: 4\r\n\r\nnone"),
                "/ok" => line.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
                "/unproved" => line.send(begin("101 Go", "x") + "evil"),
                _ => {
                    line.send(begin("101 Go", &accept) + "first");
                    while let Some(heard) = line.some() {
                        line.try_send(heard.to_ascii_uppercase());
                    }
                    line.try_send("last");
                    return;
                }
            }
        }
    })
}

#[test]
fn a_websocket_is_a_stream_for_its_client() {
    on_both_drivers(|driver| {
        let upstream = shouting();
        let running = before(driver, &[&upstream]);
        wait(async {
            let stream = tokio::net::TcpStream::connect(ip(&running.addresses()[0])).await.unwrap();
            let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
            let (mut client, connection) = handshake.await.unwrap();
            let connection = tokio::spawn(connection);
            let ask = |protocol: Option<&'static str>, path: &str| {
                let request = Request::connect(format!("http://a.test{path}"));
                let request =
                    request.header("sec-websocket-version", "13").header("sec-websocket-key", "made up");
                match protocol {
                    Some(protocol) => request.extension(hyper::ext::Protocol::from_static(protocol)),
                    None => Request::connect("a.test:80"),
                }
                .body(full(""))
                .unwrap()
            };
            // The server says that it takes this, which is heard with its first answer.
            let plain = client.send_request(ask(None, "")).await.unwrap();
            assert_eq!(plain.status(), 501);
            for (path, status, said) in [("/no", 403, "none"), ("/ok", 502, ""), ("/unproved", 502, "")] {
                let response = client.send_request(ask(Some("websocket"), path)).await.unwrap();
                assert_eq!(response.status(), status, "{path}");
                assert_eq!(text(response).await.0, said, "{path}");
            }
            let response = client.send_request(ask(Some("connect-udp"), "/")).await.unwrap();
            assert_eq!(response.status(), 501);
            // Two beside each other, and much both ways.
            let mut talks = Vec::new();
            for _ in 0..2 {
                let response = client.send_request(ask(Some("websocket"), "/")).await.unwrap();
                assert_eq!(response.status(), 200);
                let fields = response.headers();
                assert!(
                    fields["sec-websocket-protocol"] == "chat"
                        && !fields.contains_key("sec-websocket-accept")
                );
                let stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
                talks.push(tokio::spawn(async move {
                    let (mut reader, mut writer) = tokio::io::split(stream);
                    let mut word = [0; 10];
                    writer.write_all(b"hello").await.unwrap();
                    reader.read_exact(&mut word).await.unwrap();
                    assert_eq!(&word, b"firstHELLO");
                    let sending = tokio::spawn(async move {
                        for _ in 0..64 {
                            writer.write_all(&[b'a'; 16 * 1024]).await.unwrap();
                        }
                        // Its end is passed on, and what is said behind that still comes.
                        writer.shutdown().await.unwrap();
                    });
                    let mut rest = Vec::new();
                    reader.read_to_end(&mut rest).await.unwrap();
                    sending.await.unwrap();
                    assert_eq!(rest.len(), (1 << 20) + 4);
                    assert!(rest.ends_with(b"AAlast") && rest[..1 << 20].iter().all(|byte| *byte == b'A'));
                }));
            }
            for talk in talks {
                talk.await.unwrap();
            }
            // Who leaves leaves nothing behind, and the connection serves on.
            let response = client.send_request(ask(Some("websocket"), "/")).await.unwrap();
            drop(hyper::upgrade::on(response).await.unwrap());
            let plain = client.send_request(ask(None, "")).await.unwrap();
            assert_eq!(plain.status(), 501);
            drop(client);
            connection.abort();
        });
        eventually(0, || running.stats().total().connections);
        assert_eq!(running.stats().total().panics, 0);
    });
}

/// A client and a server of frames, by the library that hyper uses: with what hyper does not show.
mod frames {
    use super::*;
    use crate::common::frames as wire;
    use h2::client::SendRequest;
    use h2::server::SendResponse;
    use h2::{Reason, RecvStream};

    type Answer = SendResponse<Bytes>;

    async fn client(running: &Running) -> SendRequest<Bytes> {
        let stream = tokio::net::TcpStream::connect(ip(&running.addresses()[0])).await.unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    fn get(path: &str) -> Request<()> {
        Request::get(format!("http://a.test{path}")).body(()).unwrap()
    }

    /// What of a reply came: its status, its body, whether it is whole.
    async fn ask(client: &SendRequest<Bytes>, request: Request<()>) -> Result<(u16, String), Option<Reason>> {
        let (response, _) = client.clone().send_request(request, true).map_err(|error| error.reason())?;
        let response = response.await.map_err(|error| error.reason())?;
        let (status, mut body) = (response.status().as_u16(), response.into_body());
        let mut text = String::new();
        while let Some(data) = body.data().await {
            text.push_str(std::str::from_utf8(&data.map_err(|error| error.reason())?).unwrap());
        }
        Ok((status, text))
    }

    /// A server that answers each request as it is told, with its number on this server.
    fn server(answer: fn(usize, Request<RecvStream>, Answer)) -> SocketAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let asked = Arc::new(AtomicUsize::new(0));
                loop {
                    let (stream, asked) = (listener.accept().await.unwrap().0, asked.clone());
                    tokio::spawn(async move {
                        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                        while let Some(Ok((request, respond))) = connection.accept().await {
                            answer(asked.fetch_add(1, SeqCst), request, respond);
                        }
                    });
                }
            });
        });
        address
    }

    fn reply(status: u16, named: &[(&'static str, &str)]) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        *response.headers_mut() = fields(named);
        response
    }

    fn proxied(driver: ringmill::DriverChoice, address: SocketAddr) -> Running {
        serve(driver, ProxyConfig { is_http2: true, ..ProxyConfig::new(vec![Address::Ip(address)]) })
    }

    #[test]
    fn interim_replies_and_announced_trailers_pass() {
        on_both_drivers(|driver| {
            let address = server(|_, request, mut respond| {
                respond.send_informational(reply(103, &[("link", "</a>")])).unwrap();
                tokio::spawn(async move {
                    let mut body = request.into_body();
                    while let Some(data) = body.data().await {
                        body.flow_control().release_capacity(data.unwrap().len()).unwrap();
                    }
                    let sent = body.trailers().await.unwrap().unwrap_or_default();
                    let named = [("content-length", "2"), ("trailer", "x-end")];
                    let mut stream = respond.send_response(reply(200, &named), false).unwrap();
                    stream.send_data("hi".into(), false).unwrap();
                    let end = sent.get("x-sent").map_or("none", |value| value.to_str().unwrap());
                    stream.send_trailers(fields(&[("x-end", end)])).unwrap();
                });
            });
            let http1 = Upstream::new(|line| {
                line.request();
                line.send("HTTP/1.1 103 Early Hints\r\nLink: </b>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nho");
                line.wait_for_end();
            });
            let running = proxied(driver, address);
            wait(async {
                for (running, link, text) in
                    [(&running, "</a>", "hi"), (&before(driver, &[&http1]), "</b>", "ho")]
                {
                    let mut client = client(running).await;
                    let mut request = get("/");
                    *request.method_mut() = hyper::Method::POST;
                    *request.headers_mut() =
                        fields(&[("te", "trailers"), ("trailer", "x-sent"), ("content-length", "1")]);
                    let (mut response, mut body) = client.send_request(request, false).unwrap();
                    body.send_data("x".into(), false).unwrap();
                    body.send_trailers(fields(&[("x-sent", "yes")])).unwrap();
                    let interim = std::future::poll_fn(|context| response.poll_informational(context));
                    let interim = interim.await.unwrap().unwrap();
                    assert_eq!(
                        (interim.status().as_u16(), &interim.headers()["link"]),
                        (103, &link.parse().unwrap())
                    );
                    let mut body = response.await.unwrap().into_body();
                    assert_eq!(body.data().await.unwrap().unwrap(), text);
                    if text == "hi" {
                        assert!(body.data().await.is_none());
                        assert_eq!(body.trailers().await.unwrap().unwrap()["x-end"], "yes");
                    }
                }
            });
            assert!(http1.asked().contains("\r\nx-sent: yes\r\n"), "the trailers of the request");
            // The same reply for a client of HTTP/1.1.
            let mut client = connect(&running);
            client.send("GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n");
            let raw = receive_trailed(&mut client);
            assert!(raw.starts_with("HTTP/1.1 103 ") && raw.contains("\r\nlink: </a>\r\nvia: 2.0 "), "{raw}");
            assert!(raw.ends_with("\r\n2\r\nhi\r\n0\r\nx-end: none\r\n\r\n"), "{raw}");
        });
    }

    #[test]
    fn a_connection_has_as_many_requests_as_it_may() {
        on_both_drivers(|driver| {
            let upstream = Upstream::honest();
            let config = || ProxyConfig::new(vec![upstream.address.clone()]);
            let limits = Limits { requests_max: Some(2), ..Limits::default() };
            let running = serve(driver, ProxyConfig { limits, ..config() });
            wait(async {
                let client = client(&running).await;
                for n in 0..2 {
                    let path = format!("/{n}");
                    assert_eq!(ask(&client, get(&path)).await, Ok((200, format!("{path} "))));
                }
                assert!(ask(&client, get("/2")).await.is_err(), "the connection was told to end");
            });
            // Taken back one by one, each when it is under way: as many as may, and those of others go on.
            let upstream = Upstream::new(|line| line.wait_for_end());
            let slow = ProxyConfig::new(vec![upstream.address.clone()]);
            let running = serve(driver, ProxyConfig { http2_resets_per_sec_max: 1, ..slow });
            wait(async {
                let (client, other) = (client(&running).await, self::client(&running).await);
                let waiting = other.clone().send_request(get("/"), true).unwrap();
                let mut taken_back = 0;
                while let Ok((response, mut stream)) = client.clone().send_request(get("/"), true) {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    stream.send_reset(Reason::CANCEL);
                    let said = response.await.unwrap_err();
                    taken_back += 1;
                    if said.is_go_away() || said.is_io() {
                        break;
                    }
                    assert!(taken_back < 1000, "there is no end of it");
                }
                assert!(taken_back > 10, "{taken_back}");
                let late = tokio::time::timeout(Duration::from_millis(50), waiting.0).await;
                assert!(late.is_err(), "the other client waits as before");
            });
        });
    }

    /// What servers may do wrong, each as the answer to its first request; the next request of the same client is served.
    #[test]
    fn servers_that_break_off_cost_the_reply_that_they_broke() {
        fn good(mut respond: Answer) {
            let mut stream = respond.send_response(reply(200, &[]), false).unwrap();
            stream.send_data("good".into(), true).unwrap();
        }
        type Wrong = fn(usize, Request<RecvStream>, Answer);
        /// First whether it is told in the reply's status, or by breaking off what there is of it.
        const WRONGS: [(&str, Result<u16, ()>, Wrong); 6] = [
            ("reset before the reply", Ok(502), |n, _, mut respond| match n {
                0 => respond.send_reset(Reason::INTERNAL_ERROR),
                _ => good(respond),
            }),
            ("refused, and so asked again", Ok(200), |n, _, mut respond| match n {
                0 => respond.send_reset(Reason::REFUSED_STREAM),
                _ => good(respond),
            }),
            ("reset within the reply", Err(()), |n, _, mut respond| match n {
                0 => {
                    let mut stream = respond.send_response(reply(200, &[]), false).unwrap();
                    stream.send_data("par".into(), false).unwrap();
                    tokio::spawn(async move {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        stream.send_reset(Reason::INTERNAL_ERROR);
                    });
                }
                _ => good(respond),
            }),
            ("less than was said", Err(()), |n, _, mut respond| match n {
                0 => {
                    let named = [("content-length", "9")];
                    let mut stream = respond.send_response(reply(200, &named), false).unwrap();
                    stream.send_data("par".into(), true).unwrap();
                }
                _ => good(respond),
            }),
            ("more than was said", Err(()), |n, _, mut respond| match n {
                0 => {
                    let named = [("content-length", "2")];
                    let mut stream = respond.send_response(reply(200, &named), false).unwrap();
                    stream.send_data("part".into(), true).unwrap();
                }
                _ => good(respond),
            }),
            ("two lengths", Ok(502), |n, _, mut respond| match n {
                0 => {
                    let mut two = reply(200, &[("content-length", "2")]);
                    two.headers_mut().append("content-length", "3".parse().unwrap());
                    respond.send_response(two, false).unwrap();
                }
                _ => good(respond),
            }),
        ];
        on_both_drivers(|driver| {
            for (what, expected, answer) in WRONGS {
                let running = proxied(driver, server(answer));
                wait(async {
                    let client = client(&running).await;
                    let mut request = get("/");
                    *request.method_mut() = hyper::Method::POST;
                    let said = ask(&client, request).await;
                    match expected {
                        Ok(status) => assert_eq!(said.as_ref().map(|said| said.0), Ok(status), "{what}"),
                        Err(()) => assert!(said.is_err(), "{what}: {said:?}"),
                    }
                    assert_eq!(ask(&client, get("/")).await, Ok((200, "good".to_owned())), "{what}");
                });
            }
        });
    }

    /// The frames of the reply to a GET, up to the one that ends the stream: what each is, and whether it does.
    fn frames_of_a_reply(running: &Running) -> Vec<(u8, bool)> {
        let mut client = connect(running);
        client.send(
            [wire::PREFACE, &wire::frame(wire::SETTINGS, 0, 0, b""), &wire::request(1, "GET", "/", true)]
                .concat(),
        );
        let mut frames = Vec::new();
        while frames.last().is_none_or(|(_, is_last)| !is_last) {
            let frame = wire::read_frame(&mut client).expect("a frame");
            if frame.stream == 1 && frame.kind <= wire::HEADERS {
                frames.push((frame.kind, frame.flags & wire::END_STREAM != 0));
            }
        }
        frames
    }

    #[test]
    fn a_head_alone_stays_a_head_alone() {
        on_both_drivers(|driver| {
            let two = server(|_, _, mut respond| {
                respond.send_response(reply(200, &[("grpc-status", "5")]), true).unwrap();
            });
            let one = Upstream::new(|line| {
                line.request();
                line.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
                line.wait_for_end();
            });
            for running in [proxied(driver, two), before(driver, &[&one])] {
                assert_eq!(frames_of_a_reply(&running), [(wire::HEADERS, true)]);
            }
        });
    }

    /// A reply may be whole before its stream ends, and before its request was taken: the next request does not wait for either.
    #[test]
    fn what_follows_a_whole_reply_keeps_nobody() {
        on_both_drivers(|driver| {
            let address = server(|n, request, mut respond| {
                let mut stream =
                    respond.send_response(reply(200, &[("content-length", "1")]), false).unwrap();
                tokio::spawn(async move {
                    if !request.body().is_end_stream() {
                        // The body has time to fill what there is of room for it.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                    stream.send_data(n.to_string().into(), false).unwrap();
                    let _kept = (request, stream);
                    std::future::pending::<()>().await;
                });
            });
            let to = ProxyConfig::new(vec![Address::Ip(address)]);
            let running = serve(driver, ProxyConfig { is_http2: true, connections_max: 1, ..to });
            let ask = |request: String| {
                let mut client = connect(&running);
                client.send(request);
                receive(&mut client).text().to_owned()
            };
            let get = || crate::common::http::get("/");
            assert_eq!(ask(get()), "0");
            // More than the window of a stream, of which the rest is on its way.
            assert_eq!(ask(crate::common::http::post("/", &"x".repeat(100 * 1024))), "1");
            assert_eq!(ask(get()), "2");
        });
    }
}
