//! Tower services over our HTTP/1.1, on the simulated driver: services that wait, bodies both ways, connections given over.
#![cfg(feature = "tower")]

mod desk;

use bytes::Bytes;
use desk::{Desk, Guard, Run, get, post, undated};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Frame;
use hyper::rt::{Read, ReadBuf, Write};
use ringmill_engine::driver::sim::Chaos;
use ringmill_protocols::adapt::{Body, BoxError, TowerServer, tower};
use ringmill_protocols::http::Limits;
use ringmill_protocols::websocket;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tower_service::Service;

/// A body of any kind. It may stay on its thread.
struct AnyBody(Pin<Box<dyn http_body::Body<Data = Bytes, Error = BoxError>>>);

impl http_body::Body for AnyBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.0.as_mut().poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.0.size_hint()
    }
}

fn any(body: impl http_body::Body<Data = Bytes, Error: Into<BoxError>> + 'static) -> AnyBody {
    AnyBody(Box::pin(body.map_err(Into::into)))
}

#[derive(Clone)]
struct Program {
    desk: Desk,
    readiness: Readiness,
}

/// How ready the service is.
#[derive(Clone, Default)]
struct Readiness {
    /// Requests that it takes before it is not.
    permits: Rc<Cell<Option<usize>>>,
    asking: Rc<RefCell<Vec<Waker>>>,
}

impl Service<Request<Body>> for Program {
    type Response = Response<AnyBody>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<AnyBody>, BoxError>>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match self.readiness.permits.get() {
            Some(0) => {
                self.readiness.asking.borrow_mut().push(context.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if let Some(permits) = self.readiness.permits.get() {
            self.readiness.permits.set(Some(permits.checked_sub(1).expect("it said that it is ready")));
        }
        let desk = self.desk.clone();
        Box::pin(async move { serve(desk, request).await })
    }
}

fn full(bytes: impl Into<Bytes>) -> AnyBody {
    any(Full::new(bytes.into()))
}

fn frames(frames: Vec<Result<Frame<Bytes>, BoxError>>) -> AnyBody {
    any(StreamBody::new(futures_util::stream::iter(frames)))
}

async fn serve(desk: Desk, mut request: Request<Body>) -> Result<Response<AnyBody>, BoxError> {
    let path = request.uri().path().to_owned();
    let (route, number) =
        path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_start_matches('/'), "0"));
    let number: usize = number.parse().unwrap_or(0);
    let ok = |body| Ok(Response::new(body));
    match route {
        "now" => ok(full("now")),
        "wait" => {
            let _guard = Guard(desk.clone());
            for _ in 0..number.max(1) {
                desk.wait().await;
            }
            desk.say("over");
            ok(full(format!("waited {number}")))
        }
        "collect" => ok(full(request.into_body().collect().await?.to_bytes())),
        "echo" => ok(any(request.into_body())),
        "count" => {
            let (mut body, mut bytes, mut frames) = (request.into_body(), 0, 0);
            while let Some(frame) = body.frame().await {
                let frame = frame.inspect_err(|error| desk.say(error.to_string()))?;
                bytes += frame.data_ref().map_or(0, Bytes::len);
                frames += 1;
                if number > 0 && frames % number == 0 {
                    desk.wait().await;
                }
            }
            ok(full(bytes.to_string()))
        }
        "trailers" => {
            let collected = request.into_body().collect().await?;
            let sum = collected.trailers().and_then(|trailers| trailers.get("x-sum")).cloned();
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", sum.unwrap_or(HeaderValue::from_static("none")));
            ok(frames(vec![Ok(Frame::data(collected.to_bytes())), Ok(Frame::trailers(trailers))]))
        }
        "hint" => {
            let hint = http_body::Body::size_hint(request.body());
            ok(full(format!("{:?} {}", hint.exact(), hint.lower())))
        }
        "large" => ok(full(vec![b'x'; number])),
        "early" => {
            let mut response = Response::new(full("early"));
            *response.status_mut() = StatusCode::UNAUTHORIZED;
            Ok(response)
        }
        "status" => {
            let mut response = Response::new(full("text"));
            *response.status_mut() = StatusCode::from_u16(number as u16)?;
            Ok(response)
        }
        "fails" => Err("as asked".into()),
        "panics" => panic!("as asked"),
        "body-fails" => {
            ok(frames(vec![Ok(Frame::data(Bytes::from_static(b"part"))), Err("as asked".into())]))
        }
        "drip" => {
            let waits = desk.wait();
            let guard = Guard(desk);
            ok(any(StreamBody::new(futures_util::stream::unfold(
                (0, Some(waits), guard),
                |(at, waits, guard)| async move {
                    match (at, waits) {
                        (0, waits) => Some((
                            Ok::<_, BoxError>(Frame::data(Bytes::from_static(b"first"))),
                            (1, waits, guard),
                        )),
                        (1, Some(waits)) => {
                            waits.await;
                            Some((Ok(Frame::data(Bytes::from_static(b"last"))), (2, None, guard)))
                        }
                        _ => None,
                    }
                },
            ))))
        }
        "upgrade" => {
            let upgrade = hyper::upgrade::on(&mut request);
            let spawner = desk.clone();
            spawner.spawn(async move {
                match upgrade.await {
                    Ok(upgraded) => echo(upgraded, desk).await,
                    Err(error) => desk.say(error.to_string()),
                }
            });
            let response = Response::builder().status(101);
            let response = response.header("connection", "upgrade").header("upgrade", "echo");
            Ok(response.body(any(Empty::new()))?)
        }
        _ if request.method() == "CONNECT" => {
            let upgrade = hyper::upgrade::on(&mut request);
            let spawner = desk.clone();
            spawner.spawn(async move {
                if let Ok(upgraded) = upgrade.await {
                    echo(upgraded, desk).await;
                }
            });
            ok(full("not sent"))
        }
        _ => {
            let mut response = Response::new(full("404"));
            *response.status_mut() = StatusCode::NOT_FOUND;
            Ok(response)
        }
    }
}

/// Sends back what it reads, until its end.
async fn echo(mut io: hyper::upgrade::Upgraded, desk: Desk) {
    let mut memory = vec![0; 10_000];
    loop {
        let mut buffer = ReadBuf::new(&mut memory);
        let read = poll_fn(|context| Pin::new(&mut io).poll_read(context, buffer.unfilled())).await;
        let mut left = match (read, buffer.filled()) {
            (Ok(()), b"") => return desk.say("the end"),
            (Err(error), _) => return desk.say(error.to_string()),
            (Ok(()), bytes) => bytes,
        };
        while !left.is_empty() {
            match poll_fn(|context| Pin::new(&mut io).poll_write(context, left)).await {
                Ok(bytes) => left = &left[bytes..],
                Err(error) => return desk.say(error.to_string()),
            }
        }
    }
}

fn run() -> Run {
    run_with(0, Chaos::CALM, |server| server)
}

fn run_with(
    seed: u64,
    chaos: Chaos,
    adapt: impl FnOnce(TowerServer<Program>) -> TowerServer<Program>,
) -> Run {
    run_ready(Readiness::default(), seed, chaos, adapt)
}

fn run_ready(
    readiness: Readiness,
    seed: u64,
    chaos: Chaos,
    adapt: impl FnOnce(TowerServer<Program>) -> TowerServer<Program>,
) -> Run {
    let desk = Desk::default();
    Run::of(adapt(tower(Program { desk: desk.clone(), readiness })), seed, chaos, desk)
}

fn chunked(target: &str, chunks: &str) -> String {
    format!("POST {target} HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}")
}

fn reply(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nserver: ringmill\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn ok(body: &str) -> String {
    reply("200 OK", body)
}

#[test]
fn what_is_ready_is_answered_in_place_and_what_is_not_when_it_is() {
    let mut run = run();
    let peer = run.connect();
    assert_eq!(run.ask(&peer, get("/now")), ok("now"));
    assert_eq!((run.ask(&peer, get("/wait/1")), run.desk.waiting()), (String::new(), 1));
    run.desk.complete_all();
    run.rest();
    assert_eq!(undated(&peer.take()), ok("waited 1"));
    assert_eq!(run.desk.said(), ["over", "dropped"]);
    assert_eq!((run.counters().requests, run.counters().panics), (2, 0));
}

/// Each a conversation, and its replies without the date.
fn conversations() -> Vec<(String, String)> {
    let stream = "HTTP/1.1 200 OK\r\nserver: ringmill\r\ntransfer-encoding: chunked\r\n\r\n";
    vec![
        (
            get("/wait/3") + &get("/now") + &post("/collect", "hello") + &get("/wait/1"),
            ok("waited 3") + &ok("now") + &ok("hello") + &ok("waited 1"),
        ),
        (
            chunked("/collect", "5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n") + &get("/now"),
            ok("hello!") + &ok("now"),
        ),
        (
            chunked("/trailers", "2\r\nab\r\n0\r\nX-Sum: 7\r\n\r\n") + &get("/now"),
            stream.to_owned() + "2\r\nab\r\n0\r\nx-sum: 7\r\n\r\n" + &ok("now"),
        ),
        (
            chunked("/trailers", "2\r\nab\r\n0\r\nX-Sum: 7\r\n\r\n").replace("TE: trailers\r\n", ""),
            stream.to_owned() + "2\r\nab\r\n0\r\n\r\n",
        ),
        (
            "HEAD /now HTTP/1.1\r\nHost: a\r\n\r\n".to_owned() + &get("/nothing"),
            ok("now").replace("\r\n\r\nnow", "\r\n\r\n") + &reply("404 Not Found", "404"),
        ),
        (
            get("/status/204") + &get("/status/304") + &get("/status/205") + &get("/status/201"),
            "HTTP/1.1 204 No Content\r\nserver: ringmill\r\n\r\n\
             HTTP/1.1 304 Not Modified\r\nserver: ringmill\r\ncontent-length: 4\r\n\r\n\
             HTTP/1.1 205 \r\nserver: ringmill\r\ncontent-length: 0\r\n\r\n"
                .to_owned()
                + &reply("201 Created", "text"),
        ),
        (
            get("/drip") + &get("/fails") + &get("/now"),
            stream.to_owned()
                + "5\r\nfirst\r\n4\r\nlast\r\n0\r\n\r\n"
                + "HTTP/1.1 500 Internal Server Error\r\nserver: ringmill\r\ncontent-type: text/plain\r\n\
                   content-length: 26\r\n\r\n500 Internal Server Error\n"
                + &ok("now"),
        ),
        (get("/body-fails") + &get("/now"), stream.to_owned() + "4\r\npart\r\n"),
        (
            "GET /drip HTTP/1.0\r\n\r\n".to_owned(),
            "HTTP/1.1 200 OK\r\nserver: ringmill\r\nconnection: close\r\n\r\nfirstlast".to_owned(),
        ),
        (
            get("/`"),
            "HTTP/1.1 400 Bad Request\r\nserver: ringmill\r\ncontent-type: text/plain\r\ncontent-length: 92\r\n\
             connection: close\r\n\r\n\
             400 Bad Request: the request target holds a byte that stands in no URI (RFC 3986 section 2)\n"
                .to_owned(),
        ),
        (chunked("/collect", "5\r\nhello\r\nx\r\n"), "HTTP/1.1 400 Bad Request".to_owned()),
    ]
}

#[test]
fn replies_do_not_depend_on_how_the_input_was_cut() {
    for (said, expected) in conversations() {
        for cut in 0..said.len() {
            let mut run = run_with(0, Chaos::CALM, |server| {
                server.when_gone(ringmill_protocols::http::WhenGone::HalfClose)
            });
            let peer = run.connect();
            peer.send(&said.as_bytes()[..cut]);
            run.simulation.run_for(Duration::from_millis(3));
            peer.send(&said.as_bytes()[cut..]);
            let heard = run.hear_all(&peer);
            assert!(heard.starts_with(&expected), "cut at {cut}: {said}\nheard {heard}");
            assert!(
                heard == expected || expected.ends_with("Request"),
                "cut at {cut}: {said}\nheard {heard}"
            );
        }
    }
}

#[test]
fn nor_on_what_the_kernel_does() {
    for (said, expected) in conversations() {
        for seed in 0..100 {
            let mut run = run_with(seed, Chaos::WILD, |server| server);
            let peer = run.connect();
            peer.send(said.as_bytes());
            let heard = run.hear_all(&peer);
            assert!(heard.starts_with(&expected), "seed {seed}: {said} heard {heard}");
        }
    }
}

#[test]
fn what_flows_both_ways_comes_whole_whatever_the_kernel_does() {
    let bytes: String = (0..150_000).map(|n| char::from(b'a' + (n % 23) as u8)).collect();
    for seed in 0..60 {
        let mut run = run_with(seed, Chaos::WILD, |server| server);
        let (uploads, tunnels, counts) = (run.connect(), run.connect(), run.connect());
        uploads.send(chunked("/echo", &format!("249f0\r\n{bytes}\r\n0\r\n\r\n")).as_bytes());
        tunnels.send((offer("/upgrade") + &bytes).as_bytes());
        counts.send((post("/count/2", &bytes) + &get("/now")).as_bytes());
        let mut heard = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..600 {
            run.simulation.run_for(Duration::from_millis(5));
            run.desk.complete_all();
            run.desk.poll_tasks();
            for (peer, heard) in [&uploads, &tunnels, &counts].into_iter().zip(&mut heard) {
                heard.extend(peer.take());
            }
        }
        let [uploaded, tunnelled, counted] = heard.map(|heard| undated(&heard));
        if !uploads.was_broken() {
            assert!(uploaded.ends_with("\r\n0\r\n\r\n"), "seed {seed}: {} bytes came back", uploaded.len());
            assert_eq!(unchunked(&uploaded), bytes, "seed {seed}");
        }
        if !tunnels.was_broken() {
            assert!(tunnelled == SWITCHED.to_owned() + &bytes, "seed {seed}: {} bytes", tunnelled.len());
        }
        if !counts.was_broken() {
            assert_eq!(counted, ok("150000") + &ok("now"), "seed {seed}");
        }
    }
}

/// The data of a reply in chunks.
fn unchunked(reply: &str) -> String {
    let (_, mut rest) = reply.split_once("\r\n\r\n").expect("a head");
    let mut data = String::new();
    while let Some((size, behind)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).expect("a size");
        if size == 0 {
            break;
        }
        data.push_str(&behind[..size]);
        rest = behind[size..].strip_prefix("\r\n").expect("the end of a chunk");
    }
    data
}

#[test]
fn a_service_that_is_not_ready_gets_the_request_when_it_is() {
    let readiness = Readiness::default();
    let mut run = run_ready(readiness.clone(), 0, Chaos::CALM, |server| server);
    readiness.permits.set(Some(1));
    let (first, other) = (run.connect(), run.connect());
    assert_eq!(run.ask(&first, get("/now") + &get("/now")), ok("now"));
    assert_eq!(run.ask(&other, post("/collect", "all")), "");
    readiness.permits.set(Some(9));
    for waker in readiness.asking.take() {
        waker.wake();
    }
    run.rest();
    assert_eq!((undated(&first.take()), undated(&other.take())), (ok("now"), ok("all")));
}

#[test]
fn a_long_body_comes_in_as_it_is_read() {
    let (piece, mut run) = (vec![b'x'; 100_000], run());
    let peer = run.connect();
    peer.send(
        format!("POST /count/3 HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", 300 * piece.len())
            .as_bytes(),
    );
    for _ in 0..300 {
        peer.send(&piece);
    }
    run.rest();
    let waiting_bytes = run.counters().received_bytes;
    assert!(waiting_bytes < 600_000, "{waiting_bytes} bytes are taken from a client whose body nobody reads");
    let mut heard = String::new();
    for _ in 0..3000 {
        run.simulation.run_for(Duration::from_millis(2));
        run.desk.complete_all();
        heard.push_str(&undated(&peer.take()));
    }
    assert_eq!(heard, ok("30000000"));
    assert_eq!(run.ask(&peer, get("/now")), ok("now"));
}

#[test]
fn a_body_goes_back_while_it_comes_in() {
    let mut run = run();
    let peer = run.connect();
    let head = "HTTP/1.1 200 OK\r\nserver: ringmill\r\ntransfer-encoding: chunked\r\n\r\n";
    assert_eq!(run.ask(&peer, chunked("/echo", "3\r\nabc\r\n")), format!("{head}3\r\nabc\r\n"));
    assert_eq!(run.ask(&peer, "2\r\nde\r\n"), "2\r\nde\r\n");
    assert_eq!(run.ask(&peer, "0\r\n\r\n".to_owned() + &get("/now")), "0\r\n\r\n".to_owned() + &ok("now"));
    let sized = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n";
    assert_eq!(run.ask(&peer, sized), "HTTP/1.1 200 OK\r\nserver: ringmill\r\ncontent-length: 4\r\n\r\n");
    assert_eq!(run.ask(&peer, "ab"), "ab");
    assert_eq!(run.ask(&peer, "cd".to_owned() + &get("/now")), "cd".to_owned() + &ok("now"));
    assert_eq!(run.ask(&peer, post("/hint", "abc")), ok("Some(3) 3"));
    assert_eq!(
        run.ask(&peer, "POST /hint HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n"),
        ok("Some(9) 9")
    );
}

#[test]
fn a_client_is_told_to_go_on_when_its_body_is_wanted() {
    let mut run = run();
    let peer = run.connect();
    let expects = |target: &str| {
        format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
    };
    let go_on = "HTTP/1.1 100 Continue\r\n\r\n";
    assert_eq!(run.ask(&peer, expects("/collect")), go_on);
    assert_eq!(run.ask(&peer, "abc"), ok("abc"));
    assert_eq!(run.ask(&peer, expects("/count/1")), go_on);
    assert_eq!(run.ask(&peer, "abc"), "");
    run.desk.complete_all();
    run.rest();
    assert_eq!(undated(&peer.take()), ok("3"));
    assert_eq!(run.ask(&peer, expects("/collect") + "abc"), ok("abc"), "it did not wait");
    // Nobody wants it, and nobody knows whether it will come.
    let early = reply("401 Unauthorized", "early").replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
    assert_eq!(run.ask(&peer, expects("/early")), early);
    assert!(peer.is_at_end());
}

#[test]
fn a_body_that_nobody_reads_costs_the_connection_only_if_it_is_long() {
    let mut run = run();
    let early = reply("401 Unauthorized", "early");
    let peer = run.connect();
    let long = format!("POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", 200_000);
    assert_eq!(run.ask(&peer, &long), early);
    for _ in 0..2 {
        assert_eq!(run.ask(&peer, "x".repeat(100_000)), "");
    }
    assert_eq!(run.ask(&peer, get("/now")), ok("now"));
    assert_eq!(
        run.ask(&peer, long.replace("200000", "300000")),
        early.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n")
    );
    let peer = run.connect();
    assert_eq!(run.ask(&peer, chunked("/early", "4\r\nabcd\r\n")), early);
    assert_eq!(run.ask(&peer, format!("40000\r\n{}", "x".repeat(300_000)) + &get("/now")), "");
    assert!(peer.is_at_end());
}

#[test]
fn bodies_are_limited_and_have_to_come() {
    let mut run = run_with(0, Chaos::CALM, |server| server.with_body_bytes_max(10));
    let peer = run.connect();
    assert_eq!(run.ask(&peer, chunked("/collect", "a\r\n0123456789\r\n0\r\n\r\n")), ok("0123456789"));
    assert!(
        run.ask(&peer, chunked("/collect", "b\r\n0123456789x\r\n0\r\n\r\n")).starts_with("HTTP/1.1 413 ")
    );
    let peer = run.connect();
    assert!(
        run.ask(&peer, "POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n")
            .starts_with("HTTP/1.1 413 ")
    );
    let peer = run.connect();
    assert_eq!(run.ask(&peer, "POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n1"), "");
    run.simulation.run_for(Duration::from_secs(70));
    assert!(peer.is_at_end());
    let peer = run.connect();
    assert_eq!(run.ask(&peer, "POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n1"), "");
    peer.shutdown();
    run.rest();
    assert!(peer.is_at_end());
}

#[test]
fn one_large_frame_goes_out_as_the_client_reads_it() {
    let mut run = run();
    let peer = run.connect();
    peer.set_window(1_000_000);
    peer.send((get("/large/50000000") + &get("/now")).as_bytes());
    let (mut heard, mut queued_max) = (Vec::new(), 0);
    for _ in 0..3000 {
        run.simulation.run_for(Duration::from_millis(2));
        queued_max = queued_max.max(run.counters().memory_bytes);
        heard.extend(peer.take());
    }
    let text = undated(&heard);
    let (head, rest) = text.split_at(text.find("\r\n\r\n").expect("a head") + 4);
    assert_eq!(head, "HTTP/1.1 200 OK\r\nserver: ringmill\r\ncontent-length: 50000000\r\n\r\n");
    assert_eq!((rest.len() - 50_000_000, &rest[50_000_000..]), (ok("now").len(), &*ok("now")));
    assert!(queued_max < 8 << 20, "{queued_max} bytes");
}

#[test]
fn who_leaves_takes_the_future_along() {
    for (is_reset, request) in
        [(false, get("/wait/1")), (true, get("/wait/1")), (false, get("/drip")), (true, get("/drip"))]
    {
        let mut run = run();
        let peer = run.connect();
        run.ask(&peer, &request);
        assert_eq!(run.desk.said(), [] as [&str; 0]);
        if is_reset {
            peer.reset()
        } else {
            peer.shutdown()
        }
        run.simulation.run_for(Duration::from_millis(5));
        assert_eq!(run.desk.said(), ["dropped"], "reset: {is_reset}, {request}");
        assert_eq!(run.counters().receives_cancelled, 0);
    }
}

#[test]
fn a_panic_is_answered_and_ends_its_connection_alone() {
    let mut run = run();
    let (peer, other) = (run.connect(), run.connect());
    assert!(run.ask(&peer, get("/panics")).starts_with("HTTP/1.1 500 "));
    assert!(peer.is_at_end());
    assert_eq!((run.ask(&other, get("/now")), run.counters().panics), (ok("now"), 1));
}

fn offer(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
}

const SWITCHED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nserver: ringmill\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";

struct Socket;

impl websocket::Handler for Socket {
    type State = ();

    fn accept(
        &mut self,
        request: &ringmill_protocols::http::Request<'_>,
        _: &mut websocket::Accept<'_>,
    ) -> Option<()> {
        request.query().is_none().then_some(())
    }

    fn message(&mut self, _: &mut (), message: websocket::Message<'_>, ws: &mut websocket::Ws<'_>) {
        ws.send(message);
    }
}

#[test]
fn a_websocket_is_served_beside_a_service() {
    let mut run = run_with(0, Chaos::CALM, |server| server.websocket("/socket", Socket));
    let peer = run.connect();
    assert_eq!(run.ask(&peer, get("/now")), ok("now"));
    let handshake = |target: &str| {
        format!(
            "GET {target} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
    };
    let heard = run.ask(&peer, handshake("/socket"));
    assert!(heard.starts_with("HTTP/1.1 101 "), "{heard}");
    let other = run.connect();
    assert!(run.ask(&other, handshake("/socket?no")).starts_with("HTTP/1.1 403 "));
    let other = run.connect();
    run.ask(&other, handshake("/socket"));
    other.send(b"\x81\x85\0\0\0\0hello");
    run.rest();
    assert_eq!(other.take(), b"\x81\x05hello");
}

#[test]
fn an_upgraded_connection_is_the_programs() {
    let mut run = run();
    let peer = run.connect();
    let heard = run.ask(&peer, offer("/upgrade") + "in the same packet");
    assert_eq!(heard, SWITCHED.to_owned() + "in the same packet");
    for n in 0..1000 {
        peer.send(format!("message {n}").as_bytes());
        run.simulation.run_for(Duration::from_millis(1));
        run.desk.poll_tasks();
        run.simulation.run_for(Duration::from_millis(1));
        assert_eq!(String::from_utf8_lossy(&peer.take()), format!("message {n}"));
    }
    let long: Vec<u8> = (0..3_000_000).map(|n: u32| n as u8).collect();
    peer.send(&long);
    let mut heard = Vec::new();
    for _ in 0..2000 {
        run.simulation.run_for(Duration::from_millis(1));
        run.desk.poll_tasks();
        heard.extend(peer.take());
    }
    assert!(heard == long, "{} bytes", heard.len());
    peer.shutdown();
    run.rest();
    run.rest();
    assert_eq!(run.desk.said(), ["the end"]);
    assert!(peer.is_at_end());
}

#[test]
fn the_other_end_of_an_upgraded_connection_may_leave() {
    let mut run = run();
    let peer = run.connect();
    run.ask(&peer, offer("/upgrade"));
    peer.reset();
    run.rest();
    assert_eq!(run.desk.said(), ["connection reset"]);
}

#[test]
fn an_offer_that_is_declined_changes_nothing() {
    let mut run = run();
    let peer = run.connect();
    assert_eq!(
        run.ask(&peer, offer("/now") + &get("/now") + &offer("/nothing")),
        ok("now") + &ok("now") + &reply("404 Not Found", "404")
    );
    // Nobody offered this.
    assert!(run.ask(&peer, get("/upgrade")).starts_with("HTTP/1.1 500 "));
    assert_eq!(run.ask(&peer, get("/now")), ok("now"));
}

#[test]
fn connect_gives_the_connection_over_as_well() {
    let mut run = run();
    let peer = run.connect();
    let connect = "CONNECT b:1 HTTP/1.1\r\nHost: b:1\r\n\r\n";
    assert_eq!(run.ask(&peer, connect), "HTTP/1.1 200 OK\r\nserver: ringmill\r\n\r\n");
    assert_eq!(run.ask(&peer, "GET / HTTP/1.1\r\n\r\n"), "GET / HTTP/1.1\r\n\r\n");
}

#[test]
fn a_drain_answers_what_runs_and_closes() {
    let mut run = run();
    let (waits, tunnel, idle) = (run.connect(), run.connect(), run.connect());
    assert_eq!(run.ask(&waits, get("/wait/1")), "");
    assert!(run.ask(&tunnel, offer("/upgrade")).starts_with("HTTP/1.1 101 "));
    run.ask(&idle, get("/now"));
    run.simulation.drain(Duration::from_secs(5));
    run.simulation.run_for(Duration::from_secs(1));
    assert!(idle.is_at_end() && !waits.is_at_end() && !tunnel.is_at_end());
    run.desk.complete_all();
    run.rest();
    assert_eq!(undated(&waits.take()), ok("waited 1").replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n"));
    assert_eq!(run.ask(&tunnel, "still there"), "still there");
    run.simulation.run_for(Duration::from_secs(5));
    run.desk.poll_tasks();
    assert!(run.simulation.is_done());
}

#[test]
fn a_handler_that_takes_too_long_is_given_up() {
    let limits = Limits { handler_timeout: Duration::from_secs(2), ..Limits::default() };
    let mut run = run_with(0, Chaos::CALM, |server| server.with_limits(limits));
    let peer = run.connect();
    assert_eq!(run.ask(&peer, post("/count/1", &"x".repeat(70_000))), "");
    run.simulation.run_for(Duration::from_secs(3));
    assert!(undated(&peer.take()).starts_with("HTTP/1.1 503 "));
    assert!(peer.is_at_end());
}
