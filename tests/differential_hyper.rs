//! Ringmill and hyper on the same generated requests: what one accepts, the other accepts, sees the same in it and goes
//! on alike; or `tests/data/differential/hyper.rules` says why not.
//!
//! Both run in memory, Ringmill on the simulator and hyper polled by hand: no socket, no runtime, no time.

mod common;
mod differential;

use bytes::Bytes;
use differential::generate::{Conversation, conversation};
use differential::outcome::{Outcome, difference, seen};
use differential::rules::Judge;
use differential::{rules_of, seeds};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use ringmill::{Config, http};
use ringmill_engine::driver::sim::{Chaos, Simulation};
use std::cell::RefCell;
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

const CONVERSATIONS: u64 = 12_000;

#[test]
fn ringmill_and_hyper_agree_or_it_is_said_why() {
    let mut judge = Judge::new(&rules_of("hyper"));
    let (seeds, is_fixed_run) = seeds(CONVERSATIONS);
    let conversations: Vec<Conversation> = seeds.map(conversation).collect();
    for batch in conversations.chunks(100) {
        for (conversation, ringmill) in batch.iter().zip(ringmill(batch)) {
            let hyper = hyper(&conversation.pieces);
            judge.see(conversation.seed, &conversation.bytes(), difference(&ringmill, &hyper));
        }
    }
    common::say_past_capture(&format!("hyper: {}", judge.end(is_fixed_run)));
}

#[test]
fn what_no_rule_explains_fails_and_so_does_a_rule_that_explains_nothing() {
    let answer = |seen: &str| format!("HTTP/1.1 200 OK\r\nx-seen: {seen}\r\ncontent-length: 0\r\n\r\n");
    let refusal = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 9\r\n\r\n400: why\n";
    let outcome = |bytes: &[u8]| Outcome::read(bytes, String::new());
    let (one, two) = (outcome(answer("one").as_bytes()), outcome(answer("two").as_bytes()));
    let refused = outcome(refusal);
    let rule = "rule a\nringmill rejects 400 why\npeer accepts\nrfc 9112 2.2\nwhy so\n";
    let check = |rules: &str, ours: &Outcome, theirs: &Outcome, passes: bool| {
        let mut judge = Judge::of("test.rules", rules);
        judge.see(1, b"", difference(ours, theirs));
        assert_eq!(std::panic::catch_unwind(|| judge.end(true)).is_ok(), passes, "{rules}");
    };
    check("", &one, &one, true);
    check("", &refused, &refused, true);
    check("", &one, &two, false);
    check("", &refused, &one, false);
    check(rule, &refused, &one, true);
    check(rule, &one, &refused, false);
    check(rule, &one, &one, false);
    assert!(std::panic::catch_unwind(|| Judge::of("test.rules", &rule.replace("why so\n", ""))).is_err());
    assert!(
        std::panic::catch_unwind(|| Judge::of("test.rules", &rule.replace("accepts", "shrugs"))).is_err()
    );
}

/// Ringmill's answers, each conversation on a connection of its own.
fn ringmill(batch: &[Conversation]) -> Vec<Outcome> {
    let mut simulation = Simulation::new(1, Chaos::CALM, Config::default());
    let listener = simulation.listen(http::server(|request, reply| {
        let path = request.path();
        let target = request.query().map_or(path.to_owned(), |query| format!("{path}?{query}"));
        reply.field("x-seen", &seen(request.method().as_str(), &target, request.body())).empty();
    }));
    simulation.start();
    let net = simulation.net();
    let peers: Vec<_> = batch.iter().map(|_| net.connect(listener).expect("a listener")).collect();
    let turns = batch.iter().map(|conversation| conversation.pieces.len()).max().unwrap_or(0);
    for turn in 0..turns {
        for (conversation, peer) in batch.iter().zip(&peers) {
            conversation.pieces.get(turn).inspect(|piece| peer.send(piece));
        }
        simulation.run_for(Duration::from_millis(5));
    }
    simulation.run_for(Duration::from_millis(100));
    peers.iter().map(|peer| Outcome::read(&peer.take(), String::new())).collect()
}

/// hyper's answers.
fn hyper(pieces: &[Vec<u8>]) -> Outcome {
    let wire = Rc::new(RefCell::new(Wire::default()));
    let service = service_fn(answer);
    let connection =
        http1::Builder::new().header_read_timeout(None).serve_connection(End(wire.clone()), service);
    let mut connection = pin!(connection);
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut context = Context::from_waker(&waker);
    let mut reason = None;
    for piece in pieces {
        wire.borrow_mut().input.extend_from_slice(piece);
        // Nothing wakes it for input, so it is polled once for that; then as long as it wakes itself.
        woken.0.store(true, Ordering::Relaxed);
        while reason.is_none() && woken.0.swap(false, Ordering::Relaxed) {
            if let Poll::Ready(end) = connection.as_mut().poll(&mut context) {
                reason = Some(end.err().map_or(String::new(), |error| tell(&error)));
            }
        }
    }
    Outcome::read(&wire.borrow().output, reason.unwrap_or_default())
}

/// Collects the body and says what it saw. A body that cannot be read is the request's fault: 400, as Ringmill does.
async fn answer(request: hyper::Request<Incoming>) -> Result<hyper::Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let response = match body.collect().await {
        Ok(body) => {
            let target = head.uri.path_and_query().map_or("", |target| target.as_str());
            let seen = seen(head.method.as_str(), target, &body.to_bytes());
            hyper::Response::builder().header("x-seen", seen).body(Full::default())
        }
        Err(error) => {
            let text = tell(&error);
            hyper::Response::builder().status(400).header("connection", "close").body(Full::from(text))
        }
    };
    Ok(response.expect("a response of visible ASCII"))
}

fn tell(error: &hyper::Error) -> String {
    let source = std::error::Error::source(error);
    source.map_or(error.to_string(), |source| format!("{error}: {source}"))
}

/// Both directions of a connection.
#[derive(Default)]
struct Wire {
    input: Vec<u8>,
    taken: usize,
    output: Vec<u8>,
}

/// Whether hyper wants to be polled again.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The server's end of it.
struct End(Rc<RefCell<Wire>>);

impl Read for End {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        let mut wire = self.0.borrow_mut();
        let bytes = buffer.remaining().min(wire.input.len() - wire.taken);
        if bytes == 0 {
            return Poll::Pending;
        }
        buffer.put_slice(&wire.input[wire.taken..wire.taken + bytes]);
        wire.taken += bytes;
        Poll::Ready(Ok(()))
    }
}

impl Write for End {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.0.borrow_mut().output.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
