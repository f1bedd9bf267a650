//! Messages between processes by real brokers, which the tests start, kill and start again. Debian: nats-server, redis-server.

#[path = "broker/relay.rs"]
mod relay;
#[path = "broker/server.rs"]
mod server;

use bytes::Bytes;
use relay::Relay;
use ringmill_protocols::broker::{Broker, Event, Inbox, Link, Options, Refused};
use server::{BROKERS, Server};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

fn on_both_brokers(test: impl Fn(Server)) {
    for program in BROKERS {
        test(Server::start(program));
    }
}

/// Keeps what it is told, up to a limit.
struct Kept {
    events: Mutex<VecDeque<Event>>,
    events_max: AtomicUsize,
}

impl Inbox for Kept {
    fn offer(&self, event: Event) -> Result<(), Event> {
        let mut events = self.events.lock().unwrap();
        if events.len() >= self.events_max.load(Ordering::Relaxed) {
            return Err(event);
        }
        events.push_back(event);
        Ok(())
    }
}

/// A process, as far as a broker is concerned.
struct Node {
    broker: Broker,
    inbox: Arc<Kept>,
}

impl Node {
    fn start(server: &Server, options: Options) -> Node {
        Node::start_at(&server.url(), options)
    }

    fn start_at(url: &str, options: Options) -> Node {
        let inbox = Arc::new(Kept { events: Mutex::default(), events_max: AtomicUsize::new(usize::MAX) });
        let broker = Broker::start(url.parse().unwrap(), options, inbox.clone()).unwrap();
        Node { broker, inbox }
    }

    fn link(&self) -> Link {
        self.broker.link()
    }

    fn next(&self) -> Event {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(event) = self.inbox.events.lock().unwrap().pop_front() {
                return event;
            }
            assert!(Instant::now() < until, "nothing came: {:?}", self.link().counters());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The next event, which is a message.
    fn message(&self) -> (String, String) {
        match self.next() {
            Event::Message { topic, payload } => {
                (topic.to_string(), String::from_utf8(payload.to_vec()).unwrap())
            }
            other => panic!("no message but {other:?}"),
        }
    }

    /// Waits for a connection; what was lost before does not matter.
    fn until_up(&self) {
        while self.next() != Event::Up {}
    }

    fn until_lost(&self) -> String {
        loop {
            if let Event::Lost(reason) = self.next() {
                return reason;
            }
        }
    }

    /// Subscribes, and waits until it has come into force.
    fn subscribe(&self, topic: &str) {
        self.link().subscribe(topic);
        let until = Instant::now() + PATIENCE;
        loop {
            self.link().publish(topic, Bytes::from_static(b"probe")).unwrap();
            std::thread::sleep(Duration::from_millis(20));
            let mut events = self.inbox.events.lock().unwrap();
            if !events.is_empty() {
                events.clear();
                drop(events);
                // Another one may be on its way.
                std::thread::sleep(Duration::from_millis(50));
                self.inbox.events.lock().unwrap().clear();
                return;
            }
            assert!(Instant::now() < until, "no subscription: {:?}", self.link().counters());
        }
    }
}

fn publish(link: &Link, topic: &str, text: &str) {
    let until = Instant::now() + PATIENCE;
    while let Err(refused) = link.publish(topic, Bytes::copy_from_slice(text.as_bytes())) {
        assert_eq!(refused, Refused::Busy);
        assert!(Instant::now() < until, "busy for too long");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn quick() -> Options {
    Options { retry_after: Duration::from_millis(20), ..Options::default() }
}

#[test]
fn all_nodes_get_what_one_publishes_in_its_order_and_so_does_it() {
    const MESSAGES: usize = 5000;
    on_both_brokers(|server| {
        let nodes = [Node::start(&server, quick()), Node::start(&server, quick())];
        nodes.iter().for_each(Node::until_up);
        nodes.iter().for_each(|node| node.subscribe("news of *.> today"));
        std::thread::sleep(Duration::from_millis(100));
        nodes.iter().for_each(|node| node.inbox.events.lock().unwrap().clear());
        let link = nodes[0].link();
        for number in 0..MESSAGES {
            publish(&link, "news of *.> today", &number.to_string());
        }
        publish(&link, "another topic", "nobody has asked for it");
        for node in &nodes {
            for number in 0..MESSAGES {
                assert_eq!(node.message(), ("news of *.> today".to_owned(), number.to_string()));
            }
        }
        nodes[1].link().unsubscribe("news of *.> today");
        nodes[1].subscribe("second");
        publish(&link, "news of *.> today", "last");
        publish(&link, "second", "then");
        assert_eq!(nodes[0].message().1, "last");
        assert_eq!(nodes[1].message(), ("second".to_owned(), "then".to_owned()));
    });
}

#[test]
fn a_broker_that_is_killed_and_started_again_is_told_of_and_used_again() {
    on_both_brokers(|mut server| {
        let node = Node::start(&server, quick());
        node.until_up();
        node.subscribe("a");
        for round in 0..3 {
            server.kill();
            let reason = node.until_lost();
            assert!(!reason.is_empty());
            assert_eq!(node.link().publish("a", Bytes::new()), Err(Refused::Lost));
            // This one is asked for while there is nobody to ask.
            node.link().subscribe(&format!("b{round}"));
            server.start_again();
            node.until_up();
            publish(&node.link(), "a", "one");
            publish(&node.link(), &format!("b{round}"), "two");
            assert_eq!(node.message(), ("a".to_owned(), "one".to_owned()));
            assert_eq!(node.message(), (format!("b{round}"), "two".to_owned()));
        }
        assert_eq!(node.link().counters().connections, 4);
    });
}

#[test]
fn a_broker_that_is_not_there_yet_keeps_nobody_waiting() {
    on_both_brokers(|mut server| {
        server.kill();
        let node = Node::start(&server, quick());
        node.link().subscribe("a");
        node.until_lost();
        // Said once, however often it is tried.
        std::thread::sleep(Duration::from_millis(300));
        assert!(node.inbox.events.lock().unwrap().is_empty());
        server.start_again();
        assert_eq!(node.next(), Event::Up);
        publish(&node.link(), "a", "here");
        assert_eq!(node.message().1, "here");
        // Dropping one that is looking for its broker does not take long either.
        server.kill();
        node.until_lost();
        let began = Instant::now();
        drop(node);
        assert!(began.elapsed() < Duration::from_secs(5));
    });
}

#[test]
fn messages_that_are_not_taken_are_lost_with_notice_and_memory_is_bounded() {
    on_both_brokers(|server| {
        let options = Options { incoming_max: 100, message_bytes_max: 2000, ..quick() };
        let (slow, fast) = (Node::start(&server, options), Node::start(&server, quick()));
        slow.until_up();
        fast.until_up();
        slow.subscribe("a");
        slow.inbox.events_max.store(0, Ordering::Relaxed);
        for number in 0..2000 {
            publish(&fast.link(), "a", &format!("{number:1000}"));
        }
        let until = Instant::now() + PATIENCE;
        while fast.link().counters().published < 2000 {
            assert!(Instant::now() < until);
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(300));
        slow.inbox.events_max.store(usize::MAX, Ordering::Relaxed);
        let reason = slow.until_lost();
        assert!(reason.contains("not taken in time"), "{reason}");
        assert!(slow.link().counters().received < 500, "{:?}", slow.link().counters());
        slow.until_up();
        publish(&fast.link(), "a", &"x".repeat(2001));
        publish(&fast.link(), "a", "end");
        assert_eq!(slow.next(), Event::Missed { topic: "a".into() });
        while slow.next() != (Event::Message { topic: "a".into(), payload: Bytes::from_static(b"end") }) {}
        assert_eq!(slow.link().counters().too_large, 1);
    });
}

#[test]
fn more_than_the_broker_takes_is_refused() {
    on_both_brokers(|server| {
        let node = Node::start(&server, Options { outgoing_max: 4, ..quick() });
        node.until_up();
        let payload = Bytes::from(vec![b'x'; 100_000]);
        let refused = (0..10_000).any(|_| node.link().publish("a", payload.clone()) == Err(Refused::Busy));
        assert!(refused);
        assert!(node.link().counters().refused > 0);
    });
}

#[test]
fn what_comes_behind_a_subscription_has_no_gap_however_often_there_was_another() {
    const ROUNDS: u64 = 40;
    on_both_brokers(|server| {
        let (reader, writer) = (Node::start(&server, quick()), Node::start(&server, quick()));
        reader.until_up();
        writer.until_up();
        let link = writer.link();
        let is_over = Arc::new(AtomicUsize::new(0));
        let over = is_over.clone();
        let writing = std::thread::spawn(move || {
            let mut number = 0;
            while over.load(Ordering::Relaxed) == 0 {
                publish(&link, "a", &number.to_string());
                number += 1;
                if number % 16 == 0 {
                    std::thread::sleep(Duration::from_micros(200));
                }
            }
        });
        let mut next = None;
        for round in 0..ROUNDS {
            reader.link().subscribe("a");
            let mut messages = 0;
            while messages < 20 {
                match reader.next() {
                    // It is not told where it came before the end of the last one was looked at.
                    Event::Subscribed { .. } => (next, messages) = (None, 0),
                    Event::Message { payload, .. } => {
                        let number: u64 = std::str::from_utf8(&payload).unwrap().parse().unwrap();
                        assert!(next.is_none_or(|next| next == number), "{number} and not {next:?}");
                        next = Some(number + 1);
                        messages += 1;
                    }
                    other => panic!("{other:?}"),
                }
            }
            reader.link().unsubscribe("a");
            if round % 4 > 0 {
                std::thread::sleep(Duration::from_millis(round % 4));
            }
        }
        is_over.store(1, Ordering::Relaxed);
        writing.join().unwrap();
    });
}

#[test]
fn a_message_that_the_broker_does_not_take_is_refused_and_costs_nobody_the_connection() {
    on_both_brokers(|server| {
        let node = Node::start(&server, quick());
        node.until_up();
        node.subscribe("a");
        let payload = Bytes::from(vec![b'x'; (1 << 20) + 1]);
        let is_nats = server.program == "nats-server";
        assert_eq!(node.link().publish("a", payload) == Err(Refused::TooLarge), is_nats);
        publish(&node.link(), "a", "after");
        if !is_nats {
            assert!(matches!(node.next(), Event::Message { .. }));
        }
        assert_eq!(node.message().1, "after");
        assert_eq!(node.link().counters().connections, 1);
    });
}

/// Publishes a few thousand messages a second to the topic "a" of Redis, from the moment when it is there until `is_over`.
fn flood(server: &Server, is_over: &AtomicUsize) {
    let until = Instant::now() + PATIENCE;
    let mut stream = loop {
        match std::net::TcpStream::connect(("127.0.0.1", server.port)) {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
    };
    let mut answers = stream.try_clone().unwrap();
    std::thread::spawn(move || std::io::copy(&mut answers, &mut std::io::sink()));
    while is_over.load(Ordering::Relaxed) == 0 && Instant::now() < until {
        stream.write_all("PUBLISH ringmill.a again\r\n".repeat(30).as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(8));
    }
    stream.shutdown(std::net::Shutdown::Both).unwrap();
}

/// NATS is asked for all without waiting in between.
#[test]
fn what_comes_while_redis_is_asked_for_thousands_of_topics_costs_no_connection() {
    let mut server = Server::start("redis-server");
    let node = Node::start(&server, Options { incoming_max: 2000, ..quick() });
    node.until_up();
    // It is asked for first, and busy while the others are.
    node.subscribe("a");
    for number in 0..20_000 {
        node.link().subscribe(&format!("b{number}"));
    }
    let is_over = AtomicUsize::new(0);
    server.kill();
    node.until_lost();
    server.start_again();
    std::thread::scope(|scope| {
        scope.spawn(|| flood(&server, &is_over));
        node.until_up();
        is_over.store(1, Ordering::Relaxed);
    });
    publish(&node.link(), "b19999", "here");
    while node.message() != ("b19999".to_owned(), "here".to_owned()) {}
    let counters = node.link().counters();
    assert_eq!(counters.connections, 2, "{counters:?}");
}

/// A node whose way to the broker can be lost, and how many connections it has.
fn by_relay(server: &Server, options: Options) -> (Node, Relay, usize) {
    let relay = Relay::start(server.port);
    let url = server.url().replace(&server.port.to_string(), &relay.port.to_string());
    let node = Node::start_at(&url, options);
    node.until_up();
    (node, relay, if server.program == "nats-server" { 1 } else { 2 })
}

#[test]
fn a_connection_that_falls_silent_is_lost_whichever_it_is() {
    on_both_brokers(|server| {
        let mut silenced = 0;
        loop {
            let options = Options {
                answer_within: Duration::from_secs(1),
                ask_every: Duration::from_millis(200),
                ..quick()
            };
            let (node, relay, connections) = by_relay(&server, options);
            node.subscribe("a");
            relay.silence(silenced, connections);
            node.until_lost();
            node.until_up();
            publish(&node.link(), "a", "again");
            assert_eq!(node.message().1, "again");
            silenced += 1;
            if silenced == connections {
                return;
            }
        }
    });
}

#[test]
fn a_broker_that_takes_nothing_is_not_waited_for_at_the_end() {
    on_both_brokers(|server| {
        let hours = Duration::from_secs(7200);
        let (node, relay, _) =
            by_relay(&server, Options { answer_within: hours, ask_every: hours, ..quick() });
        relay.silence(0, 1);
        let payload = Bytes::from(vec![b'x'; 100_000]);
        let until = Instant::now() + PATIENCE;
        let (link, mut taken, mut refused) = (node.link(), 0, 0);
        while refused < 100 {
            assert!(Instant::now() < until, "{:?}", link.counters());
            match link.publish("a", payload.clone()) {
                Ok(()) => (taken, refused) = (taken + 1, 0),
                Err(Refused::Busy) => refused += 1,
                Err(other) => panic!("{other}"),
            }
            if refused > 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let began = Instant::now();
        drop(node);
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
        // What it could not hand on is counted.
        let counters = link.counters();
        assert_eq!(counters.published + counters.dropped, taken, "{counters:?}");
    });
}

#[test]
fn who_may_come_in_is_said_by_the_url_also_with_other_characters() {
    const PASSWORD: &str = "p@ss/w:rd? #%";
    let directory = std::env::temp_dir().join(format!("ringmill-broker-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    for (program, file, user) in [
        ("nats-server", format!("authorization {{ user: \"u r\", password: \"{PASSWORD}\" }}\n"), "u%20r:"),
        ("nats-server", format!("authorization {{ token: \"{PASSWORD}\" }}\n"), ""),
        ("redis-server", format!("requirepass \"{PASSWORD}\"\n"), ":"),
    ] {
        let path = directory.join("conf");
        std::fs::write(&path, file).unwrap();
        let server = Server::start_with(program, &path);
        let url = server.url().replace("://", &format!("://{user}p%40ss%2Fw%3Ard%3F%20%23%25@"));
        let node = Node::start_at(&url, quick());
        node.until_up();
        node.subscribe("a");
        let stranger = Node::start(&server, quick());
        let reason = stranger.until_lost();
        assert!(!reason.contains("p@ss"), "{reason}");
    }
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_broker_that_refuses_what_is_wanted_is_not_stormed() {
    let server = Server::start("redis-server");
    let node = Node::start(&server, quick());
    node.until_up();
    let mut admin = std::net::TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    let mut order = |order: &str| {
        admin.write_all(format!("{order}\r\n").as_bytes()).unwrap();
        let mut answer = [0; 5];
        admin.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"+OK\r\n");
    };
    order("ACL SETUSER default resetchannels &ringmill.fence.*");
    node.link().subscribe("a");
    let reason = node.until_lost();
    assert!(reason.contains("no permissions"), "{reason}");
    // Said once, however often it is tried, and that is ever more seldom: after 20, 40, 80, 160, 320 ms...
    std::thread::sleep(Duration::from_millis(500));
    assert!(node.inbox.events.lock().unwrap().is_empty());
    order("ACL SETUSER default allchannels");
    node.until_up();
    publish(&node.link(), "a", "here");
    assert_eq!(node.message().1, "here");
}
