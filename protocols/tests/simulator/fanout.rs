//! Topics on the simulator: whatever goes wrong, each subscriber sees an unbroken piece of what was published, or is told what it
//! misses, or is closed; and once nothing goes wrong any more, who is left has seen the last of it.

use crate::script::patient;
use crate::soak::silence_what_is_on_purpose;
use ringmill_engine::Config;
use ringmill_engine::driver::sim::{Chaos, Peer, Rng, Simulation};
use ringmill_protocols::http::{self, Request};
use ringmill_protocols::topic::{
    Hub, HubService, Published, SlowPolicy, Start, Subscribe, TopicOptions, Topics,
};
use ringmill_protocols::websocket::frame::{Opcode, Parsed, Rules, parse, write_masked};
use ringmill_protocols::websocket::{Accept, Endpoint, Handler, Message, Options, Ws};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

const WORKERS: usize = 2;
const SEEDS: u64 = 400;

/// Subscribes at once, and publishes the next number for each message.
struct Site {
    next: Rc<Cell<u64>>,
}

impl Handler for Site {
    type State = ();

    fn accept(&mut self, _: &Request<'_>, _: &mut Accept<'_>) -> Option<()> {
        Some(())
    }

    fn message(&mut self, (): &mut (), message: Message<'_>, ws: &mut Ws<'_>) {
        let when_slow = match message {
            Message::Text("close") => SlowPolicy::Close,
            Message::Text("skip") => SlowPolicy::Skip,
            Message::Text("latest") => SlowPolicy::Latest,
            message => {
                let text = format!("{}{}", self.next.get(), " ".repeat(message.as_bytes().len() * 40));
                if let Published::Done { .. } = ws.publish("room", &text) {
                    self.next.set(self.next.get() + 1);
                }
                return;
            }
        };
        ws.subscribe_with("room", Subscribe { start: Start::Now, when_slow });
    }

    fn skipped(&mut self, (): &mut (), _: &str, messages: Option<u64>, ws: &mut Ws<'_>) {
        ws.send(&format!("skipped {}", messages.expect("nobody asked for a place")));
    }
}

/// A client.
struct Client {
    peer: Peer,
    /// What came and was not understood yet.
    heard: Vec<u8>,
    is_open: bool,
    /// The number that it has to see next.
    next: Option<u64>,
    is_closed: bool,
}

impl Client {
    fn connect(peer: Option<Peer>, greeting: &str) -> Option<Client> {
        let peer = peer?;
        let head = "GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n\
                    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        peer.send(head.as_bytes());
        let client = Client { peer, heard: Vec::new(), is_open: false, next: None, is_closed: false };
        if !greeting.is_empty() {
            client.say(greeting);
        }
        Some(client)
    }

    fn say(&self, text: &str) {
        let mut frame = Vec::new();
        write_masked(&mut frame, Opcode::Text, true, false, [1, 2, 3, 4], text.as_bytes());
        self.peer.send(&frame);
    }

    fn is_over(&self) -> bool {
        self.is_closed || self.peer.is_at_end() || self.peer.was_broken() || self.peer.was_reset()
    }

    /// Checks what came.
    fn listen(&mut self, seed: u64) {
        self.heard.extend(self.peer.take());
        if !self.is_open {
            let Some(end) = self.heard.windows(4).position(|four| four == b"\r\n\r\n") else { return };
            assert!(self.heard.starts_with(b"HTTP/1.1 101 "), "seed {seed}: {:?}", self.heard);
            self.heard.drain(..end + 4);
            self.is_open = true;
        }
        let rules = Rules { from_client: false, may_deflate: false, in_message: false, bytes_max: 1 << 20 };
        loop {
            let header = match parse(&self.heard, &rules) {
                Parsed::Complete(header) => header,
                Parsed::Partial(_) => return,
                Parsed::Malformed(violation) => panic!("seed {seed}: {violation:?}"),
            };
            let end = header.bytes + header.payload_bytes as usize;
            if self.heard.len() < end {
                return;
            }
            let payload: Vec<u8> = self.heard.drain(..end).skip(header.bytes).collect();
            match header.opcode {
                Opcode::Close => {
                    self.is_closed = true;
                    self.peer.shutdown();
                }
                Opcode::Text => self.hear(std::str::from_utf8(&payload).expect("text"), seed),
                opcode => panic!("seed {seed}: nobody sends {opcode:?}"),
            }
        }
    }

    fn hear(&mut self, text: &str, seed: u64) {
        if let Some(count) = text.strip_prefix("skipped ") {
            self.next = self.next.map(|next| next + count.parse::<u64>().expect("a number"));
            return;
        }
        let number: u64 = text.trim_end().parse().expect("a number");
        assert!(
            self.next.is_none_or(|next| next == number),
            "seed {seed}: {number}, expected {:?}",
            self.next
        );
        self.next = Some(number + 1);
    }
}

/// How the runs went, so that it shows that they meet what they are for.
#[derive(Default)]
struct Met {
    published: u64,
    busy: u64,
    gaps: u64,
    skipped: u64,
    closed: u64,
}

fn run(seed: u64, met: &mut Met) {
    let rng = &mut Rng::new(seed);
    let limits = TopicOptions {
        messages_max: 2 + rng.below(20),
        inbox_messages_max: 1 + rng.below(8),
        ..TopicOptions::default()
    };
    let topics = Topics::with_seed(limits, seed);
    let config = Config {
        recv_buffers: 8,
        output_high_water_bytes: 4096,
        output_low_water_bytes: 1024,
        ..Config::default()
    };
    let mut simulation = Simulation::with_workers(WORKERS, seed, Chaos::CALM, config);
    let next = Rc::new(Cell::new(0));
    let long = Duration::from_secs(1_000_000);
    let options = Options { ping_after: long, pong_within: long, close_within: long, ..Options::default() };
    let listeners: Vec<_> = (0..WORKERS)
        .map(|worker| {
            let hub: Hub = topics.hub_of(worker, WORKERS);
            simulation.outbound_on(worker, HubService::new(hub.clone()));
            let endpoint = Endpoint::with_options(Site { next: next.clone() }, options.clone());
            let server = http::server(|_, reply| reply.text("http"))
                .with_limits(patient())
                .websocket("/ws", endpoint.with_topics(&hub));
            simulation.listen_waking_on(worker, server)
        })
        .collect();
    let connect = |simulation: &Simulation, worker: usize| simulation.net().connect(listeners[worker]);
    simulation.start();
    simulation.set_chaos(Chaos::random(rng));
    let mut clients: Vec<Client> = Vec::new();
    let publishing = rng.below(WORKERS);
    let mut publisher = None;
    for _ in 0..60 {
        match rng.below(8) {
            0 => {
                let greeting = ["close", "skip", "latest"][rng.below(3)];
                clients.extend(Client::connect(connect(&simulation, rng.below(WORKERS)), greeting));
            }
            1 if !clients.is_empty() => {
                let at = rng.below(clients.len());
                match rng.below(4) {
                    0 => clients.swap_remove(at).peer.reset(),
                    1 => clients.swap_remove(at).peer.shutdown(),
                    _ => clients[at].peer.set_window([0, 100, 1 << 20][rng.below(3)]),
                }
            }
            2 => simulation.set_chaos(Chaos::random(rng)),
            _ => {
                if publisher.as_ref().is_none_or(Client::is_over) {
                    publisher = Client::connect(connect(&simulation, publishing), "");
                }
                if let Some(publisher) = &mut publisher {
                    publisher.peer.set_window(1 << 20);
                    (0..1 + rng.below(12)).for_each(|_| publisher.say(&"x".repeat(rng.below(20))));
                }
            }
        }
        simulation.run_for(Duration::from_micros(200 * rng.below(20) as u64));
        clients.iter_mut().chain(&mut publisher).for_each(|client| client.listen(seed));
    }
    // Nothing goes wrong any more: who is left sees the last one.
    simulation.set_chaos(Chaos::CALM);
    for round in 0..4 {
        if round == 2 {
            publisher = Client::connect(connect(&simulation, publishing), "x");
            publisher.as_ref().expect("nothing goes wrong").say("x");
        }
        for _ in 0..20 {
            clients.iter_mut().for_each(|client| {
                client.peer.set_window(1 << 20);
                client.listen(seed);
            });
            simulation.run_for(Duration::from_millis(10));
        }
    }
    let total = next.get();
    for client in clients.iter().filter(|client| client.is_open && !client.is_over()) {
        assert_eq!(
            client.next,
            Some(total),
            "seed {seed}: it has not seen the last one\n{}",
            simulation.describe()
        );
    }
    let counters = topics.counters();
    assert_eq!(counters.published, total, "seed {seed}: what was taken was published");
    met.published += total;
    met.busy += counters.busy;
    met.gaps += counters.gaps;
    met.skipped += counters.skipped;
    met.closed += counters.slow_closed;
    clients.iter().chain(&publisher).for_each(|client| client.peer.shutdown());
    simulation.drain(Duration::ZERO);
    simulation.run_for(Duration::from_secs(5));
    simulation.check_ended();
    assert_eq!(topics.counters().subscribers, 0, "seed {seed}");
}

/// One with `RINGMILL_FANOUT_SEED=n`.
#[test]
fn each_subscriber_sees_an_unbroken_piece_or_is_told() {
    silence_what_is_on_purpose();
    let mut met = Met::default();
    if let Some(seed) = crate::number("RINGMILL_FANOUT_SEED") {
        return run(seed, &mut met);
    }
    (0..SEEDS).for_each(|seed| run(seed, &mut met));
    let Met { published, busy, gaps, skipped, closed } = met;
    println!("{published} published, {busy} refused, {gaps} gaps, {skipped} skipped, {closed} closed");
    assert!(busy > 0 && gaps > 0 && skipped > 0 && closed > 0 && published > 10_000);
}
