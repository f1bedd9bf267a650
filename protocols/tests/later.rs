//! Handlers that wait, on the simulated driver: futures that the test completes when it likes.

mod desk;

use desk::{Desk, Guard, Run, get, undated};
use ringmill_engine::driver::sim::Chaos;
use ringmill_protocols::http::{
    self, Async, Handler, Limits, OwnedReply, OwnedRequest, Plan, Reply, Request, Server, Upload, WhenGone,
};
use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

async fn serve(desk: &Desk, request: OwnedRequest, reply: OwnedReply) -> OwnedReply {
    let (route, number) = request.path()[1..].split_once('/').unwrap_or((&request.path()[1..], "0"));
    match route {
        "now" => reply.text("now"),
        "yield" => {
            for _ in 0..number.parse().unwrap_or(0) {
                yield_once().await;
            }
            reply.text(format!("after {number}"))
        }
        "wait" => {
            let _guard = Guard(desk.clone());
            for _ in 0..number.parse().unwrap_or(1).max(1) {
                desk.wait().await;
            }
            desk.say(if request.peer().is_gone() { "over, and gone" } else { "over" });
            reply.field("x-waited", number).text(format!("waited {number}"))
        }
        "body" => {
            desk.wait().await;
            reply.body(request.into_body())
        }
        "trailers" => {
            desk.wait().await;
            reply.body([request.trailers(), request.field("host").unwrap_or_default()].concat())
        }
        "large" => {
            desk.wait().await;
            reply.body(vec![b'x'; 1_000_000])
        }
        "empty" => {
            desk.wait().await;
            reply.status(204)
        }
        "close" => {
            desk.wait().await;
            reply.close().status(418).json("{}")
        }
        "gone" => {
            let _guard = Guard(desk.clone());
            request.peer().gone().await;
            desk.say("heard of it");
            reply.text("never read")
        }
        "panic" => {
            desk.wait().await;
            panic!("on purpose")
        }
        _ => reply.status(404).text("404"),
    }
}

fn yield_once() -> impl Future<Output = ()> {
    let mut is_over = false;
    poll_fn(move |context| {
        if std::mem::replace(&mut is_over, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
}

fn run(when_gone: WhenGone) -> Run {
    run_with(0, Chaos::CALM, when_gone, Limits::default())
}

fn run_with(seed: u64, chaos: Chaos, when_gone: WhenGone, limits: Limits) -> Run {
    let desk = Desk::default();
    let served = desk.clone();
    let handler = async move |request: OwnedRequest, reply: OwnedReply| serve(&served, request, reply).await;
    let server = http::server_async(handler).when_gone(when_gone).with_limits(limits);
    Run::of(server, seed, chaos, desk)
}

fn ok(fields: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\nserver: ringmill\r\n{fields}content-type: text/plain\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

#[test]
fn what_is_ready_is_answered_in_place_and_what_is_not_when_it_is() {
    let mut run = run(WhenGone::Drop);
    let peer = run.connect();
    peer.send(get("/now").as_bytes());
    run.simulation.run_for(Duration::from_millis(1));
    assert_eq!(undated(&peer.take()), ok("", "now"));
    peer.send(get("/wait/2").as_bytes());
    run.rest();
    assert_eq!((undated(&peer.take()), run.desk.waiting()), (String::new(), 1));
    run.desk.complete(0);
    run.rest();
    assert_eq!((undated(&peer.take()), run.desk.waiting()), (String::new(), 1));
    run.desk.complete(0);
    run.rest();
    assert_eq!(undated(&peer.take()), ok("x-waited: 2\r\n", "waited 2"));
    assert_eq!(run.desk.said(), ["over", "dropped"]);
    assert_eq!((run.counters().requests, run.counters().panics), (2, 0));
}

#[test]
fn the_first_poll_has_no_waker_and_the_next_follows_at_once() {
    let wakers = Rc::new(RefCell::new(Vec::new()));
    let seen = wakers.clone();
    let handler = async move |_: OwnedRequest, reply: OwnedReply| {
        let poll = |context: &mut Context<'_>| {
            seen.borrow_mut().push(context.waker().clone());
            Poll::<()>::Pending
        };
        poll_fn(poll).await;
        reply
    };
    let mut run = Run::of(http::server_async(handler), 0, Chaos::CALM, Desk::default());
    let peer = run.connect();
    peer.send(get("/").as_bytes());
    run.rest();
    for (waker, polls) in [(0, 2), (1, 3), (2, 4)] {
        let waker = wakers.borrow()[waker].clone();
        waker.wake();
        run.rest();
        assert_eq!(wakers.borrow().len(), polls);
    }
}

#[test]
fn requests_are_answered_in_their_order() {
    let mut run = run(WhenGone::Drop);
    let peer = run.connect();
    let targets = ["/wait/1", "/now", "/yield/3", "/wait/2", "/now"];
    peer.send(targets.map(get).concat().as_bytes());
    run.rest();
    assert_eq!((run.desk.waiting(), peer.take().len()), (1, 0));
    let expected = [
        ok("x-waited: 1\r\n", "waited 1"),
        ok("", "now"),
        ok("", "after 3"),
        ok("x-waited: 2\r\n", "waited 2"),
        ok("", "now"),
    ];
    assert_eq!(run.hear_all(&peer), expected.concat());
    // What came behind a request that waits was kept, and no receive had to end for it.
    assert_eq!(run.counters().receives_cancelled, 0);
}

/// Each a conversation, and its replies without the date.
fn conversations() -> Vec<(String, String)> {
    let chunked = |target: &str| {
        format!(
            "POST {target} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\nx: y\r\n\r\n"
        )
    };
    let plain = |body: &str| {
        format!("HTTP/1.1 200 OK\r\nserver: ringmill\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    };
    vec![
        (get("/wait/3") + &get("/now"), ok("x-waited: 3\r\n", "waited 3") + &ok("", "now")),
        (chunked("/body") + &get("/yield/2"), plain("hello!") + &ok("", "after 2")),
        (chunked("/trailers"), plain("x: y\r\na")),
        (
            "POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello".to_owned() + &get("/empty"),
            plain("hello") + "HTTP/1.1 204 No Content\r\nserver: ringmill\r\n\r\n",
        ),
        (
            "HEAD /wait/1 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned() + &get("/nothing"),
            ok("x-waited: 1\r\n", "waited 1").replace("\r\n\r\nwaited 1", "\r\n\r\n")
                + "HTTP/1.1 404 Not Found\r\nserver: ringmill\r\ncontent-type: text/plain\r\ncontent-length: 3\r\n\r\n404",
        ),
        (
            get("/close") + &get("/now"),
            "HTTP/1.1 418 \r\nserver: ringmill\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\
             connection: close\r\n\r\n{}"
                .to_owned(),
        ),
        (
            "GET http://b?q HTTP/1.0\r\n\r\n".to_owned(),
            "HTTP/1.1 404 Not Found\r\nserver: ringmill\r\ncontent-type: text/plain\r\ncontent-length: 3\r\n\
             connection: close\r\n\r\n404"
                .to_owned(),
        ),
    ]
}

#[test]
fn replies_do_not_depend_on_how_the_input_was_cut() {
    for (said, expected) in conversations() {
        for cut in 0..said.len() {
            let mut run = run(WhenGone::HalfClose);
            let peer = run.connect();
            peer.send(&said.as_bytes()[..cut]);
            run.simulation.run_for(Duration::from_millis(3));
            peer.send(&said.as_bytes()[cut..]);
            peer.shutdown();
            assert_eq!(run.hear_all(&peer), expected, "cut at {cut}: {said}");
            assert!(peer.is_closed());
        }
    }
}

#[test]
fn nor_on_what_the_kernel_does() {
    for (said, expected) in conversations() {
        for seed in 0..200 {
            let mut run = run_with(seed, Chaos::WILD, WhenGone::HalfClose, Limits::default());
            let peer = run.connect();
            peer.send(said.as_bytes());
            peer.shutdown();
            let heard = run.hear_all(&peer);
            assert_eq!(
                heard,
                expected,
                "seed {seed}: {said} {:?} {}",
                run.counters(),
                run.simulation.describe()
            );
        }
    }
}

#[test]
fn a_large_answer_goes_out_as_the_client_reads_it() {
    let mut run = run(WhenGone::HalfClose);
    let peer = run.connect();
    peer.set_window(10_000);
    peer.send((get("/large") + &get("/now")).as_bytes());
    run.rest();
    run.desk.complete_all();
    let mut heard = Vec::new();
    for _ in 0..2000 {
        run.simulation.run_for(Duration::from_millis(5));
        heard.extend(peer.take());
    }
    let text = undated(&heard);
    assert!(text.ends_with(&("x".repeat(1_000_000) + &ok("", "now"))), "{} bytes", text.len());
}

#[test]
fn a_handler_is_dropped_as_soon_as_its_client_leaves() {
    for is_reset in [false, true] {
        let mut run = run(WhenGone::Drop);
        let peer = run.connect();
        peer.send((get("/wait/1") + &get("/now")).as_bytes());
        run.rest();
        assert_eq!(run.desk.said(), [] as [&str; 0]);
        if is_reset {
            peer.reset()
        } else {
            peer.shutdown()
        }
        run.simulation.run_for(Duration::from_millis(5));
        assert_eq!(run.desk.said(), ["dropped"], "reset: {is_reset}");
        run.rest();
        assert_eq!(peer.take(), b"", "nobody waits for an answer");
        assert_eq!(run.counters().receives_cancelled, 0);
        // Its waker rings for nobody.
        run.desk.complete(0);
        run.rest();
    }
}

#[test]
fn with_half_close_only_a_reset_drops_it() {
    let mut run = run(WhenGone::HalfClose);
    let (ends, resets) = (run.connect(), run.connect());
    for peer in [&ends, &resets] {
        peer.send((get("/wait/1") + &get("/now")).as_bytes());
    }
    run.rest();
    ends.shutdown();
    resets.reset();
    run.rest();
    assert_eq!(run.desk.said(), ["dropped"]);
    run.desk.complete_all();
    run.rest();
    assert_eq!(run.desk.said(), ["over, and gone", "dropped"]);
    assert_eq!(undated(&ends.take()), ok("x-waited: 1\r\n", "waited 1") + &ok("", "now"));
    assert!(ends.is_closed());
}

#[test]
fn a_handler_that_runs_on_ends_without_its_client() {
    for is_reset in [false, true] {
        let mut run = run(WhenGone::RunOn);
        let peer = run.connect();
        peer.send(get("/wait/2").as_bytes());
        run.rest();
        if is_reset {
            peer.reset()
        } else {
            peer.shutdown()
        }
        run.rest();
        assert_eq!(run.counters().connections, 0, "the connection is not kept for it");
        run.desk.complete(0);
        run.rest();
        assert_eq!(run.desk.said(), [] as [&str; 0]);
        run.desk.complete(0);
        run.rest();
        assert_eq!(run.desk.said(), ["over, and gone", "dropped"]);
    }
}

#[test]
fn who_runs_on_may_wait_for_the_client_to_leave_and_may_panic() {
    let mut run = run(WhenGone::RunOn);
    for target in ["/gone", "/panic", "/wait/1"] {
        let peer = run.connect();
        peer.send(get(target).as_bytes());
        run.rest();
        peer.shutdown();
        run.rest();
    }
    assert_eq!(run.desk.said(), ["heard of it", "dropped"]);
    run.desk.complete_all();
    run.rest();
    assert_eq!(run.desk.said(), ["over, and gone", "dropped"]);
    assert_eq!(run.counters().panics, 1);
}

#[test]
fn no_more_run_on_than_may() {
    no_more_than(2, Limits { run_on_max: 2, ..Limits::default() });
    no_more_than(0, Limits { run_on_bytes_max: 1, ..Limits::default() });
}

#[test]
fn none_runs_on_for_ever() {
    let limits = Limits { run_on_timeout: Duration::from_secs(60), ..Limits::default() };
    let mut run = run_with(0, Chaos::CALM, WhenGone::RunOn, limits);
    for _ in 0..2 {
        let peer = run.connect();
        peer.send(get("/wait/1").as_bytes());
        run.rest();
        peer.shutdown();
        run.rest();
        run.simulation.run_for(Duration::from_secs(40));
    }
    assert_eq!(run.desk.said(), ["dropped"], "the first, behind its own minute");
    run.simulation.run_for(Duration::from_secs(15));
    assert_eq!(run.desk.said(), [] as [&str; 0]);
    run.simulation.run_for(Duration::from_secs(15));
    assert_eq!(run.desk.said(), ["dropped"]);
}

fn no_more_than(expected: usize, limits: Limits) {
    let mut run = run_with(0, Chaos::CALM, WhenGone::RunOn, limits);
    for _ in 0..3 {
        let peer = run.connect();
        peer.send(get("/wait/1").as_bytes());
        run.rest();
        peer.shutdown();
        run.rest();
    }
    assert_eq!(run.desk.said(), vec!["dropped"; 3 - expected]);
    run.desk.complete_all();
    run.rest();
    // Each that has run on says two things.
    assert_eq!(run.desk.said().len(), 2 * expected);
}

#[test]
fn a_panic_of_a_future_is_answered_as_that_of_a_handler() {
    let mut run = run(WhenGone::Drop);
    let (peer, other) = (run.connect(), run.connect());
    other.send(get("/wait/1").as_bytes());
    peer.send((get("/now") + &get("/panic") + &get("/now")).as_bytes());
    run.rest();
    run.desk.complete_all();
    run.rest();
    let text = undated(&peer.take());
    assert!(text.starts_with(&(ok("", "now") + "HTTP/1.1 500 ")), "{text}");
    assert!(text.ends_with("500 Internal Server Error: the handler failed (RFC 9110, 15.6.1)\n"), "{text}");
    assert_eq!((run.counters().panics, undated(&other.take())), (1, ok("x-waited: 1\r\n", "waited 1")));
}

#[test]
fn a_handler_has_its_time() {
    let limits = Limits { handler_timeout: Duration::from_secs(1), ..Limits::default() };
    let mut run = run_with(0, Chaos::CALM, WhenGone::Drop, limits);
    let peer = run.connect();
    peer.send((get("/wait/1") + &get("/now")).as_bytes());
    run.simulation.run_for(Duration::from_millis(900));
    assert_eq!(run.desk.said(), [] as [&str; 0]);
    run.simulation.run_for(Duration::from_millis(300));
    assert_eq!(run.desk.said(), ["dropped"]);
    let text = undated(&peer.take());
    assert!(text.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{text}");
    assert!(
        text.ends_with("503 Service Unavailable: the handler took too long (RFC 9110, 15.6.4)\n"),
        "{text}"
    );
}

#[test]
fn a_draining_server_waits_for_its_handlers_and_says_that_it_closes() {
    let mut run = run(WhenGone::Drop);
    let peer = run.connect();
    peer.send(get("/wait/1").as_bytes());
    run.rest();
    run.simulation.drain(Duration::from_secs(60));
    run.rest();
    assert!(!run.simulation.is_done());
    run.desk.complete_all();
    run.rest();
    let closing = ok("x-waited: 1\r\n", "waited 1").replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
    assert_eq!(undated(&peer.take()), closing);
    peer.shutdown();
    run.rest();
    assert!(run.simulation.is_done());
}

#[test]
fn a_stopping_server_drops_its_handlers() {
    for when_gone in [WhenGone::Drop, WhenGone::RunOn] {
        let mut run = run(when_gone);
        let peer = run.connect();
        peer.send(get("/wait/1").as_bytes());
        run.rest();
        run.simulation.drain(Duration::ZERO);
        run.rest();
        assert!(run.simulation.is_done() && peer.was_reset());
        assert_eq!(run.desk.said(), ["dropped"]);
    }
}

#[test]
fn what_a_handler_holds_is_counted_until_it_has_answered() {
    let mut run = run(WhenGone::Drop);
    let peer = run.connect();
    peer.send(get("/now").as_bytes());
    run.rest();
    let before = run.counters().memory_bytes;
    let body = "b".repeat(500_000);
    peer.send(format!("POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n{body}").as_bytes());
    run.rest();
    assert_eq!(run.desk.waiting(), 1);
    assert!(run.counters().memory_bytes >= before + 500_000, "{}", run.counters().memory_bytes - before);
    run.desk.complete_all();
    run.rest();
    assert!(peer.take().ends_with(body.as_bytes()));
    assert!(run.counters().memory_bytes < before + 500_000);
}

#[test]
fn a_body_that_is_too_large_is_refused_before_the_handler() {
    let limits = Limits { body_bytes_max: 4, ..Limits::default() };
    let mut run = run_with(0, Chaos::CALM, WhenGone::Drop, limits);
    for body in
        ["Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"]
    {
        let peer = run.connect();
        peer.send(format!("POST /body HTTP/1.1\r\nHost: a\r\n{body}").as_bytes());
        run.rest();
        assert!(undated(&peer.take()).starts_with("HTTP/1.1 413 "));
    }
    assert_eq!(run.desk.waiting(), 0);
}

/// Counts a body as it comes, and answers later; puts its answer off too soon as well, which counts for nothing.
struct Counted {
    desk: Desk,
    bytes: usize,
}

impl Upload for Counted {
    fn chunk(&mut self, bytes: &[u8], reply: &mut Reply<'_>) {
        reply.later(async { OwnedReply::new().text("too soon") });
        self.bytes += bytes.len();
    }

    fn end(self: Box<Self>, reply: &mut Reply<'_>) {
        reply.later(async move {
            self.desk.wait().await;
            OwnedReply::new().text(self.bytes.to_string())
        });
    }
}

struct Uploads(Desk);

impl Handler for Uploads {
    fn handle(&mut self, _: &Request<'_>, reply: &mut Reply<'_>) {
        reply.text("no body");
    }

    fn plan(&mut self, _: &Request<'_>) -> Plan {
        Plan::Stream(Box::new(Counted { desk: self.0.clone(), bytes: 0 }))
    }
}

#[test]
fn an_upload_may_be_answered_later() {
    let desk = Desk::default();
    let mut run = Run::of(Server::new(Uploads(desk.clone())), 0, Chaos::CALM, desk);
    let peer = run.connect();
    for piece in ["POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n", "1234", "5678", &get("/")] {
        peer.send(piece.as_bytes());
        run.rest();
    }
    assert_eq!(run.desk.waiting(), 1);
    assert_eq!(run.hear_all(&peer), ok("", "8") + &ok("", "no body"));
}

/// Some requests are answered at once, some later, some by an async closure.
struct Mixed {
    desk: Desk,
    closure: Async,
}

impl Handler for Mixed {
    fn handle(&mut self, request: &Request<'_>, reply: &mut Reply<'_>) {
        match request.path() {
            "/sync" => reply.text("sync"),
            "/later" => {
                let (desk, request) = (self.desk.clone(), reply.own(request));
                reply.status(201).later(async move {
                    desk.wait().await;
                    OwnedReply::new().text(format!("later {}", request.query().unwrap_or_default()))
                });
            }
            "/both" => {
                reply.later(async { OwnedReply::new().text("first") });
                reply.text("second");
            }
            _ => self.closure.handle(request, reply),
        }
    }
}

#[test]
fn sync_and_async_stand_side_by_side() {
    let desk = Desk::default();
    let served = desk.clone();
    let closure = Async::new(async move |request: OwnedRequest, reply: OwnedReply| {
        serve(&served, request, reply).await
    });
    let server = Server::new(Mixed { desk: desk.clone(), closure });
    let mut run = Run::of(server, 0, Chaos::CALM, desk);
    let peer = run.connect();
    peer.send(["/sync", "/later?a=b", "/wait/1", "/both", "/sync"].map(get).concat().as_bytes());
    let expected = [
        ok("", "sync"),
        ok("", "later a=b").replace("200 OK", "201 Created"),
        ok("x-waited: 1\r\n", "waited 1"),
        ok("", "first"),
        ok("", "sync"),
    ];
    assert_eq!(run.hear_all(&peer), expected.concat());
}

/// A request that was taken out of the input is what it was.
#[test]
fn an_owned_request_has_all_of_the_request() {
    let check = |head: &str, expected: &str| {
        let handler = async |request: OwnedRequest, reply: OwnedReply| {
            let fields: Vec<String> = request
                .fields()
                .iter()
                .map(|field| format!("{}={}", field.name.escape_ascii(), field.value.escape_ascii()))
                .collect();
            reply.text(format!(
                "{} {} {} {:?} {:?} {:?} {} {:?} {:?}",
                request.method().as_str(),
                request.target(),
                request.path(),
                request.query_value("k"),
                request.host(),
                request.version(),
                request.offers_upgrade(),
                request.body_length(),
                fields,
            ))
        };
        let mut run = Run::of(http::server_async(handler), 0, Chaos::CALM, Desk::default());
        let peer = run.connect();
        // Twice: the second one has the memory of the first.
        for _ in 0..2 {
            peer.send(head.as_bytes());
            run.rest();
            let text = undated(&peer.take());
            let (_, body) = text.split_once("\r\n\r\n").expect("a head");
            assert_eq!(body, expected);
        }
    };
    check(
        "\r\nGET /a/b?k=v&k=w HTTP/1.1\r\nHost: h:1\r\nX-A: b\r\nConnection: upgrade\r\nUpgrade: z\r\n\r\n",
        "GET /a/b?k=v&k=w /a/b Some(\"v\") Some(\"h:1\") Http11 true None [\"Host=h:1\", \"X-A=b\", \
         \"Connection=upgrade\", \"Upgrade=z\"]",
    );
    check(
        "BREW http://h HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
        "BREW http://h / None Some(\"h\") Http11 false Some(0) [\"Host=h\", \"Content-Length=0\"]",
    );
    check(
        "OPTIONS * HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        "OPTIONS * * None None Http10 false None [\"Connection=keep-alive\"]",
    );
}

/// A future is polled by nobody once it is over: this one would say so.
struct Once(bool);

impl Future for Once {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        assert!(!std::mem::replace(&mut self.0, true), "polled again");
        Poll::Ready(())
    }
}

#[test]
fn a_wake_after_the_answer_polls_nothing() {
    let desk = Desk::default();
    let wakers = desk.clone();
    let handler = async move |_: OwnedRequest, reply: OwnedReply| {
        wakers.wait().await;
        Once(false).await;
        reply
    };
    let mut run = Run::of(http::server_async(handler), 0, Chaos::CALM, desk);
    let peer = run.connect();
    for _ in 0..3 {
        peer.send(get("/").as_bytes());
        run.rest();
        let waker = run.desk.waker(0);
        run.desk.complete(0);
        run.rest();
        waker.wake();
        run.rest();
    }
    assert_eq!((run.counters().requests, run.counters().panics), (3, 0));
}
