//! The reverse proxy on the simulated kernel: clients, a proxy and three upstreams that say, delay, cut and end what they like, under
//! all faults. The oracle: each request is answered once, by its own reply; one that must not be repeated reaches upstreams
//! once; what nobody breaks is answered with 200; and everybody comes to an end. A client's last request may ask for another protocol: where
//! its upstream answers 101, it is greeted, and hears what it says from there on again, in order and to the end. In half of the runs the proxy follows plans, on one
//! worker or two, and others are published meanwhile: servers, limits and routes come and go, and no connection is left with who went.

use ringmill_engine::driver::sim::{Answer, Chaos, Peer, Rng, Simulation};
use ringmill_engine::event::Socket;
use ringmill_engine::{Address, Config, WorkerContext};
use ringmill_protocols::http::client::reader::{Asked, Event, Reader};
use ringmill_protocols::http::message::Slots;
use ringmill_protocols::http::one::decoder::{BodyLimits, Decoded, Decoder};
use ringmill_protocols::http::one::head::{HeadLimits, Outcome, parse_head};
use ringmill_protocols::proxy::{
    Balance, Check, Ejection, Fleet, Front, HashBy, HostPattern, PathPattern, Plan, PlannedUpstream, Plans,
    Proxy, ProxyConfig, Route, Target,
};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

const SEEDS: u64 = 400;
/// Replies to nothing that were taken for one to something are counted as this.
const UNASKED_STATUS: u16 = 0;
const LIMITS: BodyLimits = BodyLimits { framing_bytes_max: 1024 };

/// What a seed may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    /// Faults lose nothing and everybody is honest: every request is answered with 200.
    Sound,
    /// Upstreams end kept connections without a word: what may be repeated is answered with 200.
    Stale,
    /// Anything.
    Wild,
}

fn addresses() -> Vec<Address> {
    (1..=3).map(|port| Address::Ip(SocketAddr::from(([192, 0, 2, 1], port)))).collect()
}

/// Bytes that no other id has, of a length that follows from it.
fn bytes_of(id: u64, salt: u64) -> Vec<u8> {
    let mut rng = Rng::new(id * 2 + salt);
    let bytes = match rng.below(4) {
        0 => 0,
        1 => rng.below(100),
        2 => rng.below(5_000),
        _ => rng.below(90_000),
    };
    let start = format!("{id}/{salt}:");
    start.bytes().chain((0..bytes).map(|at| (at as u64 * 31 + id * 7 + salt) as u8)).collect()
}

fn method_of(id: u64) -> &'static str {
    ["GET", "POST", "PUT", "HEAD"][(id % 4) as usize]
}

/// Whether this request asks for another protocol, which is an echo.
fn is_upgrade(id: u64) -> bool {
    id.is_multiple_of(12) && id > 0
}

/// What an upstream says behind its 101, before it has heard anything.
fn greeting(id: u64) -> String {
    format!("{id}!")
}

/// Whether who has switched ends its side before it has heard all.
fn ends_early(id: u64) -> bool {
    id.is_multiple_of(24)
}

/// A body of such bytes, in chunks where `is_chunked` says so.
fn framed(bytes: &[u8], is_chunked: bool, rng: &mut Rng) -> Vec<u8> {
    if !is_chunked {
        return [format!("Content-Length: {}\r\n\r\n", bytes.len()).as_bytes(), bytes].concat();
    }
    let mut out = b"Transfer-Encoding: chunked\r\n\r\n".to_vec();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (chunk, more) = rest.split_at((1 + rng.below(20_000)).min(rest.len()));
        out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
        rest = more;
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

fn request(id: u64, rng: &mut Rng) -> Vec<u8> {
    let method = method_of(id);
    let head = format!("{method} /{id} HTTP/1.1\r\nHost: a\r\n");
    if is_upgrade(id) {
        return (head + "Connection: upgrade\r\nUpgrade: websocket\r\n\r\n").into_bytes();
    }
    if matches!(method, "GET" | "HEAD") {
        return (head + "\r\n").into_bytes();
    }
    let is_chunked = rng.one_in(2);
    [head.into_bytes(), framed(&bytes_of(id, 0), is_chunked, rng)].concat()
}

/// One client, with the requests it makes in order.
struct Client {
    peer: Peer,
    ids: Vec<u64>,
    /// Requests that were begun, and bytes of theirs that are still to be sent.
    begun: usize,
    to_send: Vec<u8>,
    /// Whether requests are sent without waiting for replies.
    is_pipelining: bool,
    answered: usize,
    reader: Reader,
    input: Vec<u8>,
    body: Vec<u8>,
    status: u16,
    /// Only the end of the upstream's connection ended the reply: a cut is not to be told from it.
    may_be_cut: bool,
    /// It is what an upstream said unasked.
    is_unasked: bool,
    /// Both sides speak another protocol: what is heard is in `body`.
    is_joined: bool,
    has_ended: bool,
    leaves: bool,
    is_over: bool,
}

/// One connection of an upstream.
struct Line {
    peer: Peer,
    address: Address,
    input: Vec<u8>,
    /// The request that is read: its id, the rest of its body, what came of it.
    reading: Option<(u64, Decoder, Vec<u8>)>,
    to_send: Vec<u8>,
    /// So many bytes at the end of that are an answer to nothing. They go out with the end of the reply before them: what came later, when
    /// something had been asked, would be its answer, wrong as it is.
    unasked_bytes: usize,
    /// It has answered the request that it reads.
    is_early: bool,
    /// It says what it hears, until that ends.
    is_joined: bool,
    /// Requests that were read in full.
    count: usize,
    /// After so many it ends without a word.
    ends_after: usize,
    ends_now: bool,
    is_over: bool,
}

/// Plans, one after the other.
struct Planner {
    plans: Plans,
    base: ProxyConfig,
    /// The servers of the plan that holds.
    servers: Vec<Address>,
    published: usize,
}

impl Planner {
    fn new(base: ProxyConfig, rng: &mut Rng) -> Planner {
        let (plan, servers) = Planner::plan(&base, rng);
        Planner { plans: Plans::new(plan), base, servers, published: 0 }
    }

    /// Two upstreams with some of the servers, one for reading and one for writing, or the other way round.
    fn plan(base: &ProxyConfig, rng: &mut Rng) -> (Plan, Vec<Address>) {
        let mut all = Vec::new();
        let mut upstream = |name: &str| {
            let mut servers = addresses();
            // None to two are left out.
            for _ in 0..rng.below(3) {
                servers.remove(rng.below(servers.len()));
            }
            all.extend(servers.iter().cloned());
            // A limit of its own makes it another upstream, and many are the same as before.
            let connections_max = base.connections_max + rng.below(2);
            let upstreams = servers.into_iter().map(Into::into).collect();
            let config = ProxyConfig { upstreams, connections_max, fleet: Fleet::default(), ..base.clone() };
            PlannedUpstream { name: name.to_owned(), config: Arc::new(config) }
        };
        let upstreams = vec![upstream("one"), upstream("other")];
        let reads = rng.below(2);
        let route = |methods: &[&str], target| Route {
            host: HostPattern::Any,
            path: PathPattern::prefix("/").expect("a path"),
            methods: methods.iter().map(|method| (*method).to_owned()).collect(),
            target: Target::Upstream(target),
            limit: None,
            body_bytes_max: None,
            buffer_bytes: base.buffer_bytes,
        };
        let routes = vec![route(&["GET", "HEAD"], reads), route(&[], 1 - reads)];
        (Plan::new(Front::from(base), upstreams, routes), all)
    }

    fn publish_another(&mut self, rng: &mut Rng) {
        let (plan, servers) = Planner::plan(&self.base, rng);
        self.plans.publish(plan);
        self.servers = servers;
        self.published += 1;
    }
}

struct Run {
    seed: u64,
    mood: Mood,
    rng: Rng,
    lines: Vec<Line>,
    clients: Vec<Client>,
    /// How often the head of a request has reached an upstream.
    reached: HashMap<u64, u32>,
    statuses: HashMap<u16, u32>,
    is_calm: bool,
    planner: Option<Planner>,
}

impl Run {
    fn pump_lines(&mut self, simulation: &Simulation) {
        for address in addresses() {
            while let Some(peer) = simulation.net().take_connection(&address) {
                let (rng, mood) = (&mut self.rng, self.mood);
                // In the end nobody is slow: who takes a byte at a time would need hours.
                peer.set_window(if self.is_calm { 1 << 20 } else { 1 + rng.below(100_000) });
                let ends_after = if mood == Mood::Sound { usize::MAX } else { 1 + rng.below(6) };
                self.lines.push(Line {
                    peer,
                    address: address.clone(),
                    input: Vec::new(),
                    reading: None,
                    to_send: Vec::new(),
                    unasked_bytes: 0,
                    is_early: false,
                    is_joined: false,
                    count: 0,
                    ends_after,
                    ends_now: false,
                    is_over: false,
                });
            }
        }
        for line in &mut self.lines {
            line.input.extend(line.peer.take());
            let is_idle = line.input.is_empty() && line.reading.is_none() && !line.is_joined;
            if line.peer.is_at_end() && is_idle {
                line.peer.shutdown();
                line.is_over = true;
            }
            if line.is_over {
                continue;
            }
            let is_wild = self.mood == Mood::Wild && !self.is_calm;
            line.read(self.seed, &mut self.reached, &mut self.rng, is_wild);
            // As much as it likes at a time.
            let bytes = match self.rng.below(4) {
                0 => 0,
                1 => self.rng.below(50),
                _ => self.rng.below(30_000),
            };
            let honest_bytes = line.to_send.len() - line.unasked_bytes;
            let bytes = if bytes < honest_bytes { bytes } else { line.to_send.len() };
            if bytes == line.to_send.len() {
                line.unasked_bytes = 0;
            }
            line.peer.send(&line.to_send.drain(..bytes).collect::<Vec<u8>>());
            let is_cut = is_wild && self.rng.one_in(40);
            if is_cut && self.rng.one_in(2) {
                line.peer.reset();
                line.is_over = true;
            } else if line.to_send.is_empty() && line.ends_now || is_cut {
                line.peer.shutdown();
                line.is_over = true;
            }
        }
    }

    fn pump_clients(&mut self) {
        let is_wild = self.mood == Mood::Wild && !self.is_calm;
        for client in &mut self.clients {
            if client.is_over {
                continue;
            }
            let may_begin = client.begun == client.answered || client.is_pipelining;
            if client.begun < client.ids.len() && may_begin {
                let id = client.ids[client.begun];
                client.to_send.extend(request(id, &mut self.rng));
                client.begun += 1;
            }
            let bytes = self.rng.below(40_000).min(client.to_send.len());
            client.peer.send(&client.to_send.drain(..bytes).collect::<Vec<u8>>());
            if !self.rng.one_in(3) {
                client.input.extend(client.peer.take());
            }
            client.read(self.seed, self.mood, &mut self.statuses);
            if client.is_joined {
                client.go_on_joined(self.seed, self.mood, &mut self.statuses);
            }
            if is_wild && client.leaves && self.rng.one_in(20) {
                if self.rng.one_in(2) {
                    client.peer.reset()
                } else {
                    client.peer.shutdown()
                }
                client.is_over = true;
            }
            if client.answered == client.ids.len() {
                client.peer.shutdown();
                client.is_over = true;
            } else if client.peer.is_at_end() || client.peer.was_broken() {
                assert!(
                    self.mood != Mood::Sound,
                    "seed {}: it ended before {:?}",
                    self.seed,
                    client.next_id()
                );
                client.peer.shutdown();
                client.is_over = true;
            }
        }
    }
}

impl Run {
    /// Servers that are in the plan no longer have no connection left, long before one that is idle would be too old.
    fn check_kept(&mut self, simulation: &mut Simulation) {
        if self.planner.is_none() {
            return;
        }
        for _ in 0..60 {
            simulation.run_for(Duration::from_millis(100));
            self.pump_lines(simulation);
            // Who has ended and reads nothing more, or little at a time, is waited for.
            for Line { peer, .. } in &self.lines {
                peer.set_window(1 << 20);
                peer.take();
            }
        }
        let servers = &self.planner.as_ref().expect("it was there").servers;
        let is_left = |line: &&Line| !line.peer.is_at_end() && !line.peer.was_broken();
        let gone = self.lines.iter().filter(|line| !servers.contains(&line.address));
        let left: Vec<&Address> = gone.filter(is_left).map(|line| &line.address).collect();
        assert!(left.is_empty(), "seed {}: {:?}: still connected with {left:?}", self.seed, self.mood);
    }
}

impl Line {
    fn read(&mut self, seed: u64, reached: &mut HashMap<u64, u32>, rng: &mut Rng, is_wild: bool) {
        loop {
            if self.count == usize::MAX {
                // It has answered early, and listens no more.
                return self.input.clear();
            }
            if self.is_joined {
                self.to_send.append(&mut self.input);
                self.ends_now |= self.peer.is_at_end();
                return;
            }
            let Some((id, decoder, body)) = &mut self.reading else {
                // One request at a time: behind it nothing may have been sent.
                let mut slots = Slots::new();
                let (id, framing, len) = match parse_head(&self.input, &mut slots, &HeadLimits::default()) {
                    Outcome::Complete { head, len } => {
                        let id: u64 = head.path.as_str()[1..].parse().expect("an id");
                        assert_eq!(head.method.as_str(), method_of(id), "seed {seed}: {id}");
                        assert_eq!(head.upgrade, is_upgrade(id), "seed {seed}: {id}");
                        (id, head.framing, len)
                    }
                    Outcome::Partial => return,
                    Outcome::Malformed(reject) => panic!("seed {seed}: an upstream was sent {reject:?}"),
                };
                self.input.drain(..len);
                let times = reached.entry(id).or_default();
                *times += 1;
                // Who checks asks again and again.
                let times_max = if id == 0 {
                    u32::MAX
                } else if method_of(id) != "POST" {
                    2
                } else {
                    1
                };
                assert!(*times <= times_max, "seed {seed}: {id} was sent {times} times");
                self.reading = Some((id, Decoder::new(framing), Vec::new()));
                if is_wild && !is_upgrade(id) && rng.one_in(15) {
                    // It answers before it was asked everything, and goes on reading, or ends.
                    self.answer(id, rng, false);
                    if !self.ends_now && rng.one_in(2) {
                        self.is_early = true;
                        continue;
                    }
                    self.ends_now = true;
                    self.reading = None;
                    self.input.clear();
                    self.count = usize::MAX;
                    return;
                }
                continue;
            };
            match decoder.decode(&self.input, &LIMITS) {
                Decoded::Data { consumed, data } => {
                    body.extend_from_slice(data);
                    self.input.drain(..consumed);
                }
                Decoded::Partial { consumed } => {
                    self.input.drain(..consumed);
                    return;
                }
                Decoded::End { consumed, .. } => {
                    let expected =
                        if id.is_multiple_of(4) || *id % 4 == 3 { Vec::new() } else { bytes_of(*id, 0) };
                    assert!(*body == expected, "seed {seed}: the body of {id} is another one's");
                    let id = *id;
                    self.input.drain(..consumed);
                    self.reading = None;
                    self.count += 1;
                    // What was answered early may have been followed already, once its rest was sent.
                    if std::mem::take(&mut self.is_early) {
                        continue;
                    }
                    assert!(
                        self.input.is_empty() && !self.ends_now,
                        "seed {seed}: it is sent more than it answers"
                    );
                    if self.count > self.ends_after {
                        // A kept connection that ends when it is used again.
                        self.ends_now = true;
                        return;
                    }
                    self.answer(id, rng, is_wild);
                }
                Decoded::Malformed(reject) => panic!("seed {seed}: an upstream was sent {reject:?}"),
            }
        }
    }

    fn answer(&mut self, id: u64, rng: &mut Rng, is_wild: bool) {
        let id_field = format!("X-Id: {id}\r\n");
        for _ in 0..rng.below(3) {
            self.to_send.extend(format!("HTTP/1.1 103 Hints\r\n{id_field}\r\n").bytes());
        }
        if is_upgrade(id) && !rng.one_in(4) {
            let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n";
            self.to_send.extend(format!("{head}{id_field}\r\n{}", greeting(id)).bytes());
            self.is_joined = true;
            return;
        }
        // A 101 is none of these where it was asked for.
        if is_wild && !is_upgrade(id) && rng.one_in(15) {
            let evil = [
                "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
                "HTTP/1.1 101 No\r\nConnection: upgrade\r\n\r\n",
                "HTTP/1.1 200 OK\nX-Id: 0\n\n",
                "nothing of the kind\r\n\r\n",
            ];
            self.to_send.extend(evil[rng.below(evil.len())].bytes());
            return;
        }
        let body = bytes_of(id, 1);
        let start = format!("HTTP/1.1 200 OK\r\n{id_field}");
        if method_of(id) == "HEAD" {
            self.to_send.extend(format!("{start}Content-Length: {}\r\n\r\n", body.len()).bytes());
        } else if rng.one_in(6) {
            // Until the end of the connection.
            self.to_send.extend([start.as_bytes(), b"X-Until: end\r\n\r\n", &body].concat());
            self.ends_now = true;
        } else {
            let is_chunked = rng.one_in(2);
            self.to_send.extend([start.into_bytes(), framed(&body, is_chunked, rng)].concat());
        }
        if is_wild && !self.ends_now && rng.one_in(10) {
            const UNASKED: &[u8] = b"HTTP/1.1 200 OK\r\nX-Id: 0\r\nContent-Length: 4\r\n\r\nevil";
            self.to_send.extend(UNASKED);
            self.unasked_bytes = UNASKED.len();
        }
    }
}

impl Client {
    fn next_id(&self) -> Option<u64> {
        self.ids.get(self.answered).copied()
    }

    fn read(&mut self, seed: u64, mood: Mood, statuses: &mut HashMap<u16, u32>) {
        let mut slots = Slots::new();
        while let Some(id) = self.next_id() {
            if self.is_joined {
                self.body.append(&mut self.input);
                return;
            }
            if self.begun == self.answered {
                return assert!(self.input.is_empty(), "seed {seed}: an answer that nobody has asked for");
            }
            let is_head = method_of(id) == "HEAD";
            let consumed = match self.reader.read(&self.input, &mut slots, &LIMITS) {
                Event::Interim(response) => {
                    let own = response.fields.value("x-id").expect("an id");
                    assert_eq!(
                        own,
                        id.to_string().as_bytes(),
                        "seed {seed}: an interim reply of another one"
                    );
                    response.bytes
                }
                Event::Head(response) => {
                    self.status = response.status;
                    self.may_be_cut = mood == Mood::Wild && response.fields.value("x-until").is_some();
                    let own = response.fields.value("x-id");
                    // A kernel that hands over the end of a reply and what follows it apart, and between the two the connection was
                    // used again: nobody can tell. How seldom that is, is looked at in the end.
                    self.is_unasked = mood == Mood::Wild && own == Some(b"0");
                    match (response.status, own) {
                        (200, _) if self.is_unasked => {}
                        (200, own) => {
                            assert_eq!(
                                own,
                                Some(id.to_string().as_bytes()),
                                "seed {seed}: another one's reply"
                            );
                        }
                        (101, own) => {
                            let is_own = own == Some(id.to_string().as_bytes()) && is_upgrade(id);
                            assert!(is_own, "seed {seed}: {id} is switched");
                            self.is_joined = true;
                            self.to_send = bytes_of(id, 2);
                        }
                        // A leap of time may end any wait.
                        (408 | 502..=504, None) => {
                            // What is larger is not kept.
                            let may_repeat = method_of(id) != "POST" && bytes_of(id, 0).len() < 60_000;
                            let is_lost = mood == Mood::Wild || mood == Mood::Stale && !may_repeat;
                            assert!(is_lost, "seed {seed}: {mood:?}: {} for {id}", response.status);
                        }
                        (status, own) => panic!("seed {seed}: {status} {own:?}"),
                    }
                    response.bytes
                }
                Event::Data { consumed, data } => {
                    self.body.extend_from_slice(data);
                    consumed
                }
                Event::Partial { consumed } => {
                    self.input.drain(..consumed);
                    return;
                }
                Event::End { consumed, .. } => {
                    if self.status == 200 && !self.is_unasked {
                        let expected = if is_head { Vec::new() } else { bytes_of(id, 1) };
                        let is_own =
                            self.body == expected || self.may_be_cut && expected.starts_with(&self.body);
                        let lens = (self.body.len(), expected.len());
                        assert!(
                            is_own,
                            "seed {seed}: {mood:?}: the reply to {id} is another one's: {lens:?}"
                        );
                    }
                    *statuses
                        .entry(if self.is_unasked { UNASKED_STATUS } else { self.status })
                        .or_default() += 1;
                    self.body.clear();
                    self.answered += 1;
                    self.begin_reply();
                    consumed
                }
                Event::Bad(defect) => panic!("seed {seed}: the proxy said: {}", defect.0),
            };
            self.input.drain(..consumed);
        }
        assert!(self.input.is_empty(), "seed {seed}: more answers than requests");
    }

    /// Ends its side when all is said, or all of that is heard again. Whoever sees the end in peace has heard all.
    fn go_on_joined(&mut self, seed: u64, mood: Mood, statuses: &mut HashMap<u16, u32>) {
        let Some(id) = self.next_id() else { return };
        let expected = [greeting(id).into_bytes(), bytes_of(id, 2)].concat();
        assert!(expected.starts_with(&self.body), "seed {seed}: {id} hears something else");
        let is_whole = self.body == expected;
        if self.to_send.is_empty() && (is_whole || ends_early(id)) && !self.has_ended {
            self.peer.shutdown();
            self.has_ended = true;
        }
        if self.peer.is_at_end() || self.peer.was_broken() {
            let said = self.body.len();
            assert!(
                is_whole || mood == Mood::Wild,
                "seed {seed}: {id} ended with {said} of {}",
                expected.len()
            );
            *statuses.entry(101).or_default() += u32::from(is_whole);
            self.answered += 1;
        }
    }

    fn begin_reply(&mut self) {
        let id = self.next_id();
        let is_head = id.is_some_and(|id| method_of(id) == "HEAD");
        self.reader = Reader::new(Asked { is_head, is_connect: false, upgrades: id.is_some_and(is_upgrade) });
    }
}

fn clients(rng: &mut Rng, simulation: &Simulation, listeners: &[Socket]) -> Vec<Client> {
    let (mut next_id, count) = (1, 1 + rng.below(6));
    let mut client = || {
        let listener = listeners[rng.below(listeners.len())];
        let peer = simulation.net().connect(listener).expect("it listens");
        // Not less: who takes a few bytes at a time is too slow for the limits.
        peer.set_window(64 + rng.below(60_000));
        let count = 1 + rng.below(6) as u64;
        let skip = rng.up_to(3);
        let mut ids: Vec<u64> = (0..count).map(|n| next_id + skip + n).collect();
        // Behind another protocol nothing is asked.
        let last = ids.iter().position(|id| is_upgrade(*id));
        ids.truncate(last.map_or(ids.len(), |last| last + 1));
        next_id += skip + count;
        let mut client = Client {
            peer,
            ids,
            begun: 0,
            to_send: Vec::new(),
            is_pipelining: rng.one_in(2),
            answered: 0,
            reader: Reader::new(Asked::default()),
            input: Vec::new(),
            body: Vec::new(),
            status: 0,
            may_be_cut: false,
            is_unasked: false,
            is_joined: false,
            has_ended: false,
            leaves: rng.one_in(4),
            is_over: false,
        };
        client.begin_reply();
        client
    };
    (0..count).map(|_| client()).collect()
}

fn run(seed: u64) -> HashMap<u16, u32> {
    let mut rng = Rng::new(seed);
    let mood = [Mood::Sound, Mood::Stale, Mood::Wild, Mood::Wild][rng.below(4)];
    let chaos = match mood {
        Mood::Sound | Mood::Stale => [Chaos::CALM, Chaos::SHORT, Chaos::WILD][rng.below(3)],
        Mood::Wild => Chaos::random(&mut rng),
    };
    let config = match rng.one_in(2) {
        true => Config::default(),
        false => Config {
            output_high_water_bytes: 4000,
            output_low_water_bytes: 1000,
            recv_buffers: 8,
            recv_buffer_bytes: 4096,
            ..Config::default()
        },
    };
    let proxy = ProxyConfig {
        balance: [Balance::TwoChoices, Balance::RoundRobin, Balance::Least, Balance::Hash(HashBy::Path)]
            [rng.below(4)]
        .clone(),
        // No client asks for 0, so that upstreams answer it as they answer others.
        check: rng.one_in(2).then(|| Check {
            every: Duration::from_millis(300),
            ..Check::new("/0".parse().expect("a path"))
        }),
        ejection: Ejection { after: rng.up_to(5) as u32, on_server_errors: true, ..Ejection::default() },
        connections_max: if mood == Mood::Wild { 1 + rng.below(3) } else { 500 },
        // Longer than it is looked who is still connected.
        keep_timeout: Duration::from_secs(10),
        buffer_bytes: [0, 0, rng.below(2000), rng.below(100_000)][rng.below(4)],
        queue_max: if mood == Mood::Wild { rng.below(4) } else { 1000 },
        ..ProxyConfig::new(addresses())
    };
    let planner = rng.one_in(2).then(|| Planner::new(proxy.clone(), &mut rng));
    let workers = if planner.is_some() { 1 + rng.below(2) } else { 1 };
    let mut simulation = Simulation::with_workers(workers, seed, chaos, config);
    let listen = |worker| {
        let Some(Planner { plans, .. }) = &planner else {
            return simulation.listen(Proxy::new(proxy.clone(), seed));
        };
        let context = WorkerContext::simulated(worker, workers);
        simulation.outbound_on(worker, Proxy::outbound(plans, &context));
        simulation.listen_on(worker, Proxy::listening(plans, &context))
    };
    let listeners: Vec<Socket> = (0..workers).map(listen).collect();
    for (n, address) in addresses().into_iter().enumerate() {
        let is_deaf = mood == Mood::Wild && n > 0 && rng.one_in(4);
        let deaf = [Answer::Silence, Answer::Fail(ringmill_engine::Errno(111))][rng.below(2)];
        simulation.net().set_remote(address, if is_deaf { deaf } else { Answer::Accept });
    }
    simulation.start();
    let clients = clients(&mut rng, &simulation, &listeners);
    let mut run = Run {
        seed,
        mood,
        rng,
        lines: Vec::new(),
        clients,
        reached: HashMap::new(),
        statuses: HashMap::new(),
        is_calm: false,
        planner,
    };
    let mut steps = 0;
    while run.clients.iter().any(|client| !client.is_over) {
        let time = Duration::from_micros(run.rng.up_to(3000));
        simulation.run_for(time);
        run.pump_lines(&simulation);
        run.pump_clients();
        if let Some(planner) = &mut run.planner
            && !run.is_calm
            && run.rng.one_in(25)
        {
            planner.publish_another(&mut run.rng);
        }
        steps += 1;
        if steps == 3000 {
            // No more faults: from here on nobody may be left waiting.
            simulation.set_chaos(Chaos::CALM);
            run.is_calm = true;
            run.lines.iter().for_each(|line| line.peer.set_window(1 << 20));
        }
        if steps > 3000 {
            simulation.run_for(Duration::from_millis(50));
        }
        let waiting: Vec<_> =
            run.clients.iter().filter(|client| !client.is_over).map(Client::next_id).collect();
        assert!(steps < 8000, "seed {seed}: {mood:?}: {waiting:?} wait for ever\n{}", simulation.describe());
    }
    simulation.set_chaos(Chaos::CALM);
    run.is_calm = true;
    run.check_kept(&mut simulation);
    for line in &run.lines {
        line.peer.shutdown();
    }
    simulation.drain(Duration::from_secs(5));
    for _ in 0..20 {
        simulation.run_for(Duration::from_secs(1));
        run.lines.iter().for_each(|line| drop(line.peer.take()));
        run.clients.iter().for_each(|client| drop(client.peer.take()));
    }
    simulation.check_ended();
    run.statuses
}

#[test]
fn each_request_is_answered_once_by_its_own_reply() {
    if let Ok(seed) = std::env::var("RINGMILL_SEED") {
        run(seed.parse().expect("a number"));
        return;
    }
    let number =
        |name, otherwise| std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"));
    let (first, seeds) = (number("RINGMILL_FIRST_SEED", 0), number("RINGMILL_SEEDS", SEEDS));
    let mut all = HashMap::<u16, u32>::new();
    for seed in first..first + seeds {
        for (status, count) in run(seed) {
            *all.entry(status).or_default() += count;
        }
    }
    let unasked = all.get(&UNASKED_STATUS).copied().unwrap_or(0);
    assert!(u64::from(unasked) <= 1 + seeds / 2000, "{unasked} replies to nothing were passed on");
    for status in [101, 200, 502, 503] {
        assert!(all.get(&status).is_some_and(|count| *count > 10), "hardly any {status}: {all:?}");
    }
}

/// Not from when it was written: who takes a request slowly has all the time for its answer, and no more than that.
#[test]
fn the_first_byte_is_waited_for_from_when_all_was_sent() {
    const ASK: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: 0\r\n\r\n";
    for (is_answered, expect) in
        [(true, ""), (false, ""), (true, "Expect: 100-continue\r\n"), (false, "Expect: 100-continue\r\n")]
    {
        let address = addresses().remove(0);
        let first_byte_timeout = Duration::from_secs(5);
        let config = ProxyConfig { first_byte_timeout, ..ProxyConfig::new(vec![address.clone()]) };
        let mut simulation = Simulation::with_workers(1, 1, Chaos::CALM, Config::default());
        let listener = simulation.listen(Proxy::new(config, 1));
        simulation.net().set_remote(address.clone(), Answer::Accept);
        simulation.start();
        let client = simulation.net().connect(listener).expect("it listens");
        client.send(ASK);
        simulation.run_for(Duration::from_millis(10));
        let line = simulation.net().take_connection(&address).expect("a connection");
        line.take();
        line.send(ANSWER);
        simulation.run_for(Duration::from_millis(10));
        let status_of = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).get(9..12).map(str::to_owned);
        assert_eq!(status_of(client.take()).as_deref(), Some("200"));
        // Twice as long on its way as its answer may take.
        line.set_window(512);
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{expect}Content-Length: 5000\r\n\r\n").as_bytes());
        if !expect.is_empty() {
            // For a while it waits for a 100, with its head sent.
            simulation.run_for(Duration::from_secs(1));
        }
        client.send(&[b'x'; 5000]);
        let mut taken = 0;
        for _ in 0..11 {
            simulation.run_for(Duration::from_secs(1));
            taken += line.take().len();
            assert_eq!(status_of(client.take()), None, "{taken} bytes were sent");
        }
        assert!(taken > 5000);
        simulation.run_for(Duration::from_secs(4));
        assert_eq!(status_of(client.take()), None);
        if is_answered {
            line.send(ANSWER);
        }
        simulation.run_for(Duration::from_secs(2));
        let expected = if is_answered { "200" } else { "504" };
        assert_eq!(status_of(client.take()).as_deref(), Some(expected));
    }
}
