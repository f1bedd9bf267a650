//! Two servers with a broker between them, which is killed and started again while everybody talks. Debian: nats-server, redis-server.

#[path = "../protocols/tests/broker/server.rs"]
mod broker;
mod common;

use broker::{BROKERS, Server as Broker};
use common::http::{get, post, receive, receive_chunk, receive_event, receive_head};
use common::ws::{self, Frame};
use common::*;
use ringmill::DriverChoice;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

/// A server with two workers.
struct Node {
    program: Program,
}

impl Node {
    fn start(driver: DriverChoice, broker: &Broker) -> Node {
        Node { program: Program::serve(driver, &["--workers", "2", "--broker", &broker.url()]) }
    }

    fn address(&self) -> SocketAddr {
        self.program.http()
    }

    fn stats(&self) -> Value {
        let mut client = connect_to(self.address());
        client.send(get("/stats"));
        serde_json::from_slice(&receive(&mut client).body).expect("JSON")
    }

    fn until_up(&self, connections: u64) {
        eventually((1, connections), || {
            let broker = &self.stats()["broker"];
            (broker["is_up"].as_u64().unwrap(), broker["connections"].as_u64().unwrap())
        });
    }

    fn until_subscribers(&self, count: u64) {
        eventually(count, || self.stats()["topics"]["subscribers"].as_u64().unwrap());
    }

    /// How many messages its topics have got.
    fn published(&self) -> u64 {
        self.stats()["topics"]["published"].as_u64().unwrap()
    }

    fn until_published(&self, count: u64) {
        eventually(true, || self.published() >= count);
    }

    /// Subscribes to events, from where it was.
    fn events(&self, topic: &str, last: Option<&str>) -> TcpStream {
        let mut client = connect_to(self.address());
        let field = last.map_or(String::new(), |last| format!("Last-Event-ID: {last}\r\n"));
        client.send(format!("GET /events/{topic} HTTP/1.1\r\nHost: test\r\n{field}\r\n"));
        assert_eq!(receive_head(&mut client).status, 200);
        assert!(receive_chunk(&mut client).unwrap().starts_with(b"retry: "));
        client
    }

    fn publish(&self, topic: &str, text: &str) -> u16 {
        let mut client = connect_to(self.address());
        client.send(post(&format!("/publish/{topic}"), text));
        receive(&mut client).status
    }
}

/// What a subscriber reads.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Heard {
    Message {
        /// Epoch and offset, where it is told.
        place: Option<(String, u64)>,
        text: String,
    },
    /// Something may be missing here.
    Reset,
}

/// The events of a chunk.
fn heard(text: &str) -> Vec<Heard> {
    let events = text.split("\n\n").filter(|event| event.contains("data: "));
    let one = |event: &str| {
        let mut fields: BTreeMap<_, _> = event.lines().filter_map(|line| line.split_once(": ")).collect();
        if fields.get("event") == Some(&"reset") {
            return Heard::Reset;
        }
        let (epoch, offset) = fields.remove("id").and_then(|id| id.split_once('-')).expect("a place");
        let place = Some((epoch.to_owned(), offset.parse().unwrap()));
        Heard::Message { place, text: fields["data"].to_owned() }
    };
    events.map(one).collect()
}

/// Reads until the last message.
fn page(node: &Node) -> JoinHandle<Vec<Heard>> {
    let mut client = node.events("room", None);
    spawn(move || {
        let mut all = Vec::new();
        while !all.last().is_some_and(is_end) {
            all.extend(heard(&receive_event(&mut client).expect("events go on")));
        }
        all
    })
}

fn is_end(heard: &Heard) -> bool {
    matches!(heard, Heard::Message { text, .. } if text == "end")
}

/// A WebSocket that is opened again whenever it is closed.
struct Socket {
    current: Arc<Mutex<TcpStream>>,
    reading: JoinHandle<Vec<Heard>>,
    /// How often it was told that nothing can be published.
    refused: Arc<AtomicUsize>,
}

fn socket(node: &Node) -> Socket {
    let address = node.address();
    let mut client = ws::open(address, "/ws/room");
    let current = Arc::new(Mutex::new(client.try_clone().unwrap()));
    let refused = Arc::new(AtomicUsize::new(0));
    let (mut shared, told) = (current.clone(), refused.clone());
    let reading = spawn(move || {
        let mut all = Vec::new();
        while !all.last().is_some_and(is_end) {
            match ws::receive(&mut client) {
                Frame(0x81, text) => {
                    all.push(Heard::Message { place: None, text: String::from_utf8(text).unwrap() });
                }
                Frame(0x88, payload) => {
                    match u16::from_be_bytes([payload[0], payload[1]]) {
                        4009 => assert_eq!(&payload[2..], b"messages were missed"),
                        1013 => {
                            let is_lost = &payload[2..] == b"there is no connection to the broker";
                            told.fetch_add(usize::from(is_lost), Relaxed);
                        }
                        code => panic!("closed with {code}"),
                    }
                    all.push(Heard::Reset);
                    client = ws::open(address, "/ws/room");
                    *shared.lock().unwrap() = client.try_clone().unwrap();
                }
                other => panic!("{other:?}"),
            }
        }
        drop(std::mem::replace(&mut shared, Arc::new(Mutex::new(client))));
        all
    });
    Socket { current, reading, refused }
}

/// Publishes by requests until it is told to end: what was taken, and how often it was refused.
fn requests(node: &Node, name: &'static str, is_over: &Arc<AtomicBool>) -> JoinHandle<(Vec<String>, usize)> {
    let (mut client, is_over) = (connect_to(node.address()), is_over.clone());
    spawn(move || {
        let (mut taken, mut refused) = (Vec::new(), 0);
        for number in 0.. {
            if is_over.load(Relaxed) {
                break;
            }
            let text = format!("{name} {number}");
            client.send(post("/publish/room", &text));
            let reply = receive(&mut client);
            match reply.status {
                202 => taken.push(text),
                503 => {
                    assert_eq!(reply.field("retry-after"), Some("1"));
                    refused += usize::from(reply.text().contains("no connection to the broker"));
                }
                status => panic!("{status}: {}", reply.text()),
            }
            sleep(Duration::from_millis(1));
        }
        (taken, refused)
    })
}

/// Publishes by a WebSocket until it is told to end.
fn messages(socket: &Socket, name: &'static str, is_over: &Arc<AtomicBool>) -> JoinHandle<()> {
    let (current, is_over) = (socket.current.clone(), is_over.clone());
    spawn(move || {
        for number in 0.. {
            if is_over.load(Relaxed) {
                break;
            }
            let frame = ws::text(&format!("{name} {number}"));
            // The server may be about to close it.
            let _ = std::io::Write::write_all(&mut *current.lock().unwrap(), &frame);
            sleep(Duration::from_millis(2));
        }
    })
}

impl Heard {
    fn text(&self) -> &str {
        match self {
            Heard::Message { text, .. } => text,
            Heard::Reset => panic!("it has no text"),
        }
    }
}

/// What was heard without a break.
fn pieces(all: &[Heard]) -> Vec<Vec<&str>> {
    let pieces = all.split(|heard| *heard == Heard::Reset).filter(|piece| !piece.is_empty());
    pieces.map(|piece| piece.iter().map(Heard::text).collect()).collect()
}

/// Of two subscribers that have heard the same life of the broker, one may have begun later, and one may have ended earlier.
#[track_caller]
fn check_same_order(one: &[&str], other: &[&str]) {
    let (Some(a), Some(b)) = (one.first(), other.first()) else { return };
    let (one, other) = match (one.iter().position(|text| text == b), other.iter().position(|text| text == a))
    {
        (Some(at), _) => (&one[at..], other),
        (_, Some(at)) => (one, &other[at..]),
        _ => return,
    };
    let length = one.len().min(other.len());
    assert_eq!(one[..length], other[..length], "one order");
}

/// The messages of one publisher.
fn of<'a>(piece: &[&'a str], publisher: &str) -> Vec<&'a str> {
    piece.iter().copied().filter(|text| text.split(' ').next() == Some(publisher)).collect()
}

fn numbers(messages: &[&str]) -> Vec<u64> {
    messages.iter().map(|text| text.split(' ').nth(1).unwrap().parse().unwrap()).collect()
}

const PUBLISHERS: [&str; 4] = ["request-0", "request-1", "socket-0", "socket-1"];

fn two_nodes_and_a_broker_that_is_killed(driver: DriverChoice, program: &'static str) {
    let mut broker = Broker::start(program);
    let nodes = [Node::start(driver, &broker), Node::start(driver, &broker)];
    nodes.iter().for_each(|node| node.until_up(1));
    let pages: Vec<_> = nodes.iter().flat_map(|node| [page(node), page(node)]).collect();
    let sockets: Vec<_> = nodes.iter().flat_map(|node| [socket(node), socket(node)]).collect();
    nodes.iter().for_each(|node| node.until_subscribers(4));
    let is_over = Arc::new(AtomicBool::new(false));
    let requests: Vec<_> =
        nodes.iter().zip(PUBLISHERS).map(|(node, name)| requests(node, name, &is_over)).collect();
    let messages: Vec<_> = [(&sockets[0], PUBLISHERS[2]), (&sockets[2], PUBLISHERS[3])]
        .map(|(socket, name)| messages(socket, name, &is_over))
        .into();
    nodes.iter().for_each(|node| node.until_published(500));
    broker.kill();
    nodes.iter().for_each(|node| eventually(0, || node.stats()["broker"]["is_up"].as_u64().unwrap()));
    sleep(Duration::from_millis(200));
    broker.start_again();
    nodes.iter().for_each(|node| node.until_up(2));
    nodes.iter().for_each(|node| node.until_published(node.published() + 500));
    is_over.store(true, Relaxed);
    messages.into_iter().for_each(|thread| thread.join().unwrap());
    let requests: Vec<_> = requests.into_iter().map(|thread| thread.join().unwrap()).collect();
    // Who was closed has opened another one by now.
    nodes.iter().for_each(|node| node.until_subscribers(4));
    assert_eq!(nodes[0].publish("room", "end"), 202);
    let pages: Vec<_> = pages.into_iter().map(|thread| thread.join().unwrap()).collect();
    let refused: Vec<_> = sockets.iter().map(|socket| socket.refused.load(Relaxed)).collect();
    let sockets: Vec<_> = sockets.into_iter().map(|socket| socket.reading.join().unwrap()).collect();

    // Publishers were told.
    assert!(requests.iter().all(|(taken, refused)| taken.len() > 20 && *refused > 0), "{requests:?}");
    assert!(refused[0] > 0 && refused[2] > 0, "{refused:?}");
    for node in &nodes {
        let stats = node.stats();
        assert!(stats["broker"]["refused"].as_u64().unwrap() > 0, "{stats}");
        assert!(stats["topics"]["cuts"].as_u64().unwrap() > 0, "{stats}");
        assert_eq!((&stats["topics"]["unreadable"], &stats["topics"]["slow_closed"]), (&0.into(), &0.into()));
    }
    for all in &pages {
        // The epoch changes where it is said that something may be missing, and nowhere else; in one there is no gap.
        assert_eq!(all.iter().filter(|heard| **heard == Heard::Reset).count(), 1);
        let mut epochs = Vec::new();
        for piece in all.split(|heard| *heard == Heard::Reset) {
            let places: Vec<_> = piece
                .iter()
                .map(|heard| match heard {
                    Heard::Message { place: Some((epoch, offset)), .. } => (epoch, *offset),
                    other => panic!("{other:?} has no place"),
                })
                .collect();
            let (epoch, first) = places[0];
            let expected: Vec<_> = (first..).take(places.len()).map(|offset| (epoch, offset)).collect();
            assert_eq!(places, expected);
            epochs.push(epoch);
        }
        assert_ne!(epochs[0], epochs[1]);
    }
    // On one node a place has one message, whatever worker tells of it.
    for pages in pages.chunks(2) {
        let places = |all: &[Heard]| -> BTreeSet<_> {
            let places = all.iter().filter_map(|heard| match heard {
                Heard::Message { place: Some((epoch, offset)), text } => {
                    Some((epoch.clone(), *offset, text.clone()))
                }
                _ => None,
            });
            places.collect()
        };
        assert_eq!(places(&pages[0]), places(&pages[1]));
    }
    let all: Vec<Vec<Vec<&str>>> = pages.iter().chain(&sockets).map(|all| pieces(all)).collect();
    for pieces in &all {
        let (first, last) = (&pieces[0], pieces.last().unwrap());
        assert!(first.len() > 20 && last.len() > 20, "{} and {}", first.len(), last.len());
        for piece in pieces {
            for (publisher, (taken, _)) in PUBLISHERS.iter().zip(&requests) {
                // An unbroken piece of what was taken.
                let heard = of(piece, publisher);
                let Some(first) = heard.first() else { continue };
                let from = taken.iter().position(|text| text == first).expect("it was taken");
                let until = (from + heard.len()).min(taken.len());
                assert_eq!(heard, taken[from..until], "no gap");
            }
            for publisher in &PUBLISHERS[2..] {
                assert!(numbers(&of(piece, publisher)).is_sorted_by(|a, b| a < b));
            }
        }
        for (pick, other) in [(0, 0), (pieces.len() - 1, all[0].len() - 1)] {
            let (piece, other) = (&pieces[pick], &all[0][other]);
            if program == "redis-server" {
                check_same_order(piece, other);
            }
            // NATS gives those of different publishers no one order.
            for publisher in PUBLISHERS {
                check_same_order(&of(piece, publisher), &of(other, publisher));
            }
        }
    }
    resume(&nodes, &pages);
}

/// Who comes back goes on where it was, or is told.
fn resume(nodes: &[Node; 2], pages: &[Vec<Heard>]) {
    let place = |heard: &Heard| match heard {
        Heard::Message { place: Some((epoch, offset)), .. } => format!("{epoch}-{offset}"),
        other => panic!("{other:?} has no place"),
    };
    let all = &pages[0];
    let old = place(&all[0]);
    let before_the_end = place(&all[all.len() - 2]);
    for (node, from, is_known) in
        [(&nodes[0], &old, false), (&nodes[1], &before_the_end, false), (&nodes[0], &before_the_end, true)]
    {
        let first = heard(&receive_event(&mut node.events("room", Some(from))).unwrap());
        let expected = if is_known { all.last().unwrap() } else { &Heard::Reset };
        assert_eq!(first[0], *expected);
    }
}

#[test]
fn two_nodes_with_nats_that_is_killed() {
    on_both_drivers(|driver| two_nodes_and_a_broker_that_is_killed(driver, "nats-server"));
}

#[test]
fn two_nodes_with_redis_that_is_killed() {
    on_both_drivers(|driver| two_nodes_and_a_broker_that_is_killed(driver, "redis-server"));
}

#[test]
fn a_broker_that_is_not_there_yet_keeps_nobody_from_starting() {
    on_both_drivers(|driver| {
        for program in BROKERS {
            let mut broker = Broker::start(program);
            broker.kill();
            let node = Node::start(driver, &broker);
            eventually(true, || node.program.line_with("no connection to the broker").is_some());
            let mut page = node.events("a", None);
            assert_eq!(node.publish("a", "lost"), 503);
            broker.start_again();
            node.until_up(1);
            assert_eq!(node.publish("a", "here"), 202);
            let said = [receive_event(&mut page).unwrap(), receive_event(&mut page).unwrap()].concat();
            let said = heard(&said);
            assert_eq!(said[0], Heard::Reset);
            assert!(matches!(&said[1], Heard::Message { text, .. } if text == "here"), "{said:?}");
        }
    });
}

#[test]
fn who_subscribes_and_publishes_hears_itself() {
    on_both_drivers(|driver| {
        for program in BROKERS {
            let broker = Broker::start(program);
            let node = Node::start(driver, &broker);
            node.until_up(1);
            for number in 0..50 {
                let mut client = ws::open(node.address(), &format!("/ws/room-{number}"));
                client.ask(ws::text("here"), ws::unmasked(0x81, b"here"));
            }
        }
    });
}

#[test]
fn messages_that_are_none_are_refused_and_told() {
    on_both_drivers(|driver| {
        let broker = Broker::start("redis-server");
        let node = Node::start(driver, &broker);
        node.until_up(1);
        let mut page = node.events("a", None);
        let mut redis = connect_to(([127, 0, 0, 1], broker.port).into());
        // It has subscribers once it is subscribed to.
        eventually(":1\r\n".to_owned(), || {
            redis.send("PUBLISH ringmill.a hello\r\n");
            let mut answer = [0; 4];
            std::io::Read::read_exact(&mut redis, &mut answer).unwrap();
            String::from_utf8(answer.into()).unwrap()
        });
        assert_eq!(heard(&receive_event(&mut page).unwrap()), [Heard::Reset]);
        eventually(true, || node.program.line_with("it was not published by a Ringmill").is_some());
        assert_eq!(node.stats()["topics"]["unreadable"], 1);
    });
}
