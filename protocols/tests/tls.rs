//! Protocols over TLS on the simulated kernel, with rustls as the client: a conversation does not depend on how its bytes are cut,
//! and plaintext is never on the wire.

use ringmill_engine::driver::sim::{Chaos, Peer, Rng, Simulation};
use ringmill_engine::event::Socket;
use ringmill_engine::{Config, Io, Layer, Next, Protocol, Step};
use ringmill_protocols::http::{self, Request};
use ringmill_protocols::{Echo, Tls, TlsConfig, TlsStore};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use std::io::{Read, Write};
use std::sync::{Arc, LazyLock, Once};
use std::time::Duration;

/// In everything that servers here say, and so never in what is on the wire.
const CANARY: &str = "CANARY in the coal mine";

static STORE: LazyLock<Arc<TlsStore>> =
    LazyLock::new(|| TlsStore::new(config()).expect("a sound configuration"));
static CLIENT: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| client_config(&rustls::version::TLS13));
static CLIENT_1_2: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| client_config(&rustls::version::TLS12));

/// All servers here have one certificate, which clients trust.
fn config() -> TlsConfig {
    static CONFIG: LazyLock<TlsConfig> = LazyLock::new(|| {
        TlsConfig::self_signed(["localhost", "*.example.org", "127.0.0.1"]).expect("names of certificates")
    });
    CONFIG.clone()
}

/// One group alone: the shorter its first message, the fewer cuts.
fn client_config(version: &'static rustls::SupportedProtocolVersion) -> Arc<ClientConfig> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    let mut roots = RootCertStore::empty();
    roots.add(STORE.certificate().expect("it is our own").into()).expect("a certificate");
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[version])
        .expect("both versions are there")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// Greets, answers each line with the canary and the line; `much` with much, `break` aborts, `panic` panics, `bye` closes. Says
/// in the end whether that was one.
struct Lines;

impl Protocol for Lines {
    type Session = usize;

    fn open(&mut self, io: &mut Io<'_>) -> usize {
        io.write(format!("{CANARY}: hello\n").as_bytes());
        0
    }

    fn data(&mut self, left: &mut usize, input: &mut [u8], io: &mut Io<'_>) -> Step {
        let mut at = 0;
        while let Some(end) = input[at..].iter().position(|byte| *byte == b'\n') {
            let line = &input[at..at + end];
            at += end + 1;
            io.write(format!("{CANARY}: ").as_bytes());
            io.write(line);
            io.write(b"\n");
            match line {
                b"much" => {
                    *left = 300;
                    if pour(left, io) == Next::Pause {
                        return Step::pause(at);
                    }
                }
                b"bye" => return Step { consumed: at, ..Step::close() },
                b"break" => return Step::abort(),
                b"panic" => panic!("on purpose"),
                _ => {}
            }
        }
        Step::consumed(at)
    }

    fn drained(&mut self, left: &mut usize, io: &mut Io<'_>) -> Next {
        pour(left, io)
    }

    fn eof(&mut self, _: &mut usize, rest: &mut [u8], io: &mut Io<'_>) -> Next {
        io.write(rest);
        let is_cut = io.facts().is_some_and(|facts| facts.is_truncated());
        io.write(if is_cut { b"CUT\n" } else { b"END\n" });
        if is_cut { Next::Abort } else { Next::Close }
    }
}

fn pour(left: &mut usize, io: &mut Io<'_>) -> Next {
    while *left > 0 {
        if io.is_full() {
            io.notify_drained();
            return Next::Pause;
        }
        *left -= 1;
        io.write(CANARY.as_bytes());
        io.write(&[b'0' + (*left % 10) as u8; 100]);
    }
    Next::Continue
}

/// Answers with the canary and what the session knows of its connection.
fn site() -> impl Layer {
    http::server(|request: &Request<'_>, reply| match request.path() {
        "/shared" => reply.body_shared(CANARY.repeat(3000).into()),
        "/panic" => panic!("on purpose"),
        path => reply.text(&format!("{CANARY} {path}")),
    })
}

fn narrow() -> Config {
    Config {
        output_high_water_bytes: 4000,
        output_low_water_bytes: 1000,
        recv_buffers: 8,
        recv_buffer_bytes: 4096,
        ..Config::default()
    }
}

/// How a conversation ended for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Heard {
    plain: String,
    /// close_notify came.
    was_ended: bool,
    was_reset: bool,
}

/// How the client ends its side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    /// close_notify with the last bytes, and then the end of the stream.
    Properly,
    /// The end of the stream alone.
    Cut,
    Never,
}

struct Client {
    tls: ClientConnection,
    peer: Peer,
    /// What is said once the handshake is complete.
    to_say: Option<Vec<u8>>,
    ends: Ends,
    /// Bytes that are not sent yet, of how many.
    unsent: Vec<u8>,
    sent: usize,
    plain: Vec<u8>,
    was_ended: bool,
    is_shut: bool,
}

impl Client {
    fn new(config: &Arc<ClientConfig>, peer: Peer, plain: &[u8], ends: Ends) -> Client {
        Client::named("localhost", config, peer, plain, ends)
    }

    fn named(name: &'static str, config: &Arc<ClientConfig>, peer: Peer, plain: &[u8], ends: Ends) -> Client {
        let name = ServerName::try_from(name).expect("a name");
        let tls = ClientConnection::new(config.clone(), name).expect("a sound client");
        Client {
            tls,
            peer,
            to_say: Some(plain.to_vec()),
            ends,
            unsent: Vec::new(),
            sent: 0,
            plain: Vec::new(),
            was_ended: false,
            is_shut: false,
        }
    }

    /// Takes what came, and prepares what is to be said then. Says whether anything moved.
    fn listen(&mut self) -> bool {
        let wire = self.peer.take();
        let is_leaked = wire.windows(CANARY.len()).any(|window| window == CANARY.as_bytes());
        assert!(!is_leaked, "plaintext is on the wire: {}", wire.escape_ascii());
        let mut left = &wire[..];
        while !left.is_empty() {
            self.tls.read_tls(&mut left).expect("memory is there");
            let state = self.tls.process_new_packets().expect("the server speaks TLS");
            self.was_ended |= state.peer_has_closed();
            let mut plain = vec![0; state.plaintext_bytes_to_read()];
            self.tls.reader().read_exact(&mut plain).expect("so much is there");
            self.plain.extend(plain);
        }
        if !self.tls.is_handshaking()
            && let Some(plain) = self.to_say.take()
        {
            self.tls.writer().write_all(&plain).expect("it is not much");
            if self.ends == Ends::Properly {
                self.tls.send_close_notify();
            }
        }
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.unsent).expect("a vector takes it");
        }
        !wire.is_empty() || !self.unsent.is_empty()
    }

    /// Sends up to so many bytes of what is to be said.
    fn speak(&mut self, bytes: usize) {
        let bytes = bytes.min(self.unsent.len());
        self.peer.send(&self.unsent.drain(..bytes).collect::<Vec<u8>>());
        self.sent += bytes;
        if self.to_say.is_none() && self.unsent.is_empty() && self.ends != Ends::Never && !self.is_shut {
            self.is_shut = true;
            self.peer.shutdown();
        }
    }

    fn heard(&self) -> Heard {
        let was_reset = self.peer.was_reset();
        Heard { plain: undated(&self.plain), was_ended: self.was_ended, was_reset }
    }
}

fn undated(plain: &[u8]) -> String {
    let text = String::from_utf8_lossy(plain);
    text.split("\r\n").filter(|line| !line.starts_with("date: ")).collect::<Vec<_>>().join("\r\n")
}

/// One conversation, and how it is held.
#[derive(Clone, Copy, Debug)]
struct Talk<'a> {
    protocol: &'a str,
    plain: &'a str,
    ends: Ends,
    is_1_2: bool,
    /// The client has room for so much.
    window: usize,
}

/// How the client's bytes are cut.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Nowhere,
    At(usize),
    Every(usize),
}

fn listen(simulation: &mut Simulation, protocol: &str) -> Socket {
    let store = STORE.clone();
    match protocol {
        "echo" => simulation.listen(Tls::new(Echo::default(), store)),
        "lines" => simulation.listen(Tls::new(Lines, store)),
        _ => simulation.listen(Tls::new(site(), store)),
    }
}

impl Talk<'_> {
    /// Says what was heard, and how many bytes were sent for it.
    fn hold(&self, cut: Cut) -> (Heard, usize) {
        let mut simulation = Simulation::new(1, Chaos::CALM, narrow());
        let listener = listen(&mut simulation, self.protocol);
        simulation.start();
        let peer = simulation.net().connect(listener).expect("it listens");
        peer.set_window(self.window);
        let config = if self.is_1_2 { &CLIENT_1_2 } else { &CLIENT };
        let mut client = Client::new(config, peer, self.plain.as_bytes(), self.ends);
        for _ in 0..100_000 {
            client.listen();
            let bytes = match cut {
                Cut::Nowhere => usize::MAX,
                Cut::At(at) if client.sent < at => at - client.sent,
                Cut::At(_) => usize::MAX,
                Cut::Every(bytes) => bytes,
            };
            client.speak(bytes);
            simulation.run_for(Duration::from_micros(200));
            if client.peer.is_at_end() {
                client.peer.shutdown();
            }
            if client.peer.is_closed() {
                client.listen();
                break;
            }
        }
        assert!(client.peer.is_closed(), "{self:?} {cut:?} does not end: {}", simulation.describe());
        simulation.drain(Duration::ZERO);
        simulation.run_for(Duration::from_secs(3));
        simulation.check_ended();
        (client.heard(), client.sent)
    }

    fn check(&self, expected: &Heard) {
        let same = |cut: Cut| {
            let (heard, sent) = self.hold(cut);
            assert_eq!(heard, *expected, "{self:?} {cut:?}");
            sent
        };
        let bytes = same(Cut::Nowhere);
        same(Cut::Every(1));
        (1..bytes).for_each(|at| {
            same(Cut::At(at));
        });
    }
}

fn silence_what_is_on_purpose() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info.payload_as_str() != Some("on purpose") {
                hook(info);
            }
        }));
    });
}

/// Conversations with what is heard of them: the end of what is said, and how it ends.
const CONVERSATIONS: [(&str, &str, Ends, &str, bool); 8] = [
    ("echo", "some bytes, and some more", Ends::Properly, "some bytes, and some more", true),
    // What may be cut is not answered as a whole.
    ("echo", "some bytes", Ends::Cut, "some bytes", false),
    ("lines", "one\nmuch\ntwo\nthe rest", Ends::Properly, ": two\nthe restEND\n", true),
    ("lines", "one\nthe rest", Ends::Cut, ": one\nthe restCUT\n", false),
    ("lines", "one\nbye\n", Ends::Never, ": bye\n", true),
    ("lines", "one\nmuch\nbreak\nnever\n", Ends::Never, ": break\n", false),
    ("lines", "one\npanic\nnever\n", Ends::Never, ": panic\n", false),
    (
        "http",
        "GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET /panic HTTP/1.1\r\nHost: a\r\n\r\n",
        Ends::Properly,
        "(RFC 9110, 15.6.1)\n",
        true,
    ),
];

fn talks() -> impl Iterator<Item = (Talk<'static>, &'static str, bool)> {
    CONVERSATIONS.iter().flat_map(|(protocol, plain, ends, end, was_ended)| {
        [false, true].map(|is_1_2| {
            let talk = Talk { protocol, plain, ends: *ends, is_1_2, window: 1 << 20 };
            (talk, *end, *was_ended)
        })
    })
}

fn check_every_cut(is_1_2: bool) {
    silence_what_is_on_purpose();
    for (talk, end, was_ended) in talks().filter(|(talk, ..)| talk.is_1_2 == is_1_2) {
        let (heard, _) = talk.hold(Cut::Nowhere);
        assert!(heard.plain.ends_with(end), "{talk:?}: {heard:?}");
        assert_eq!((heard.was_ended, heard.was_reset), (was_ended, !was_ended), "{talk:?}: {heard:?}");
        talk.check(&heard);
    }
}

#[test]
fn a_conversation_over_tls_1_3_does_not_depend_on_how_its_bytes_are_cut() {
    check_every_cut(false);
}

#[test]
fn a_conversation_over_tls_1_2_does_not_depend_on_how_its_bytes_are_cut() {
    check_every_cut(true);
}

#[test]
fn a_conversation_does_not_depend_on_how_slow_its_client_is() {
    silence_what_is_on_purpose();
    for (talk, _, _) in talks() {
        let (expected, _) = talk.hold(Cut::Nowhere);
        for window in [1, 100, 5000] {
            for cut in [Cut::Every(100), Cut::Nowhere] {
                let talk = Talk { window, ..talk };
                assert_eq!(talk.hold(cut).0, expected, "{talk:?} {cut:?}");
            }
        }
    }
}

/// Something a client does, byte by byte: what it gets, and after how long it is closed.
fn say(config: TlsConfig, pieces: &[&[u8]], every: Duration) -> (Vec<u8>, Duration) {
    let store = TlsStore::new(config).expect("a sound configuration");
    let mut simulation = Simulation::new(1, Chaos::CALM, Config::default());
    let listener = simulation.listen(Tls::new(Echo::default(), store));
    simulation.start();
    let peer = simulation.net().connect(listener).expect("it listens");
    let (start, mut heard) = (simulation.now_of(0), Vec::new());
    for piece in pieces {
        peer.send(piece);
        simulation.run_for(every);
        if peer.is_at_end() {
            break;
        }
    }
    while !peer.is_at_end() && simulation.now_of(0).0 - start.0 < Duration::from_secs(100).as_nanos() as u64 {
        heard.extend(peer.take());
        simulation.run_for(Duration::from_millis(10));
    }
    heard.extend(peer.take());
    (heard, Duration::from_nanos(simulation.now_of(0).0 - start.0))
}

fn hello() -> Vec<u8> {
    let name = ServerName::try_from("localhost").expect("a name");
    let mut tls = ClientConnection::new(CLIENT.clone(), name).expect("a sound client");
    let mut hello = Vec::new();
    tls.write_tls(&mut hello).expect("a vector takes it");
    hello
}

const SECOND: Duration = Duration::from_secs(1);

/// About 10 s: from the connection, whatever came.
fn is_deadline(after: Duration) -> bool {
    (10 * SECOND..12 * SECOND).contains(&after)
}

#[test]
fn a_handshake_has_a_deadline() {
    let hello = hello();
    let (heard, after) = say(config(), &[], SECOND);
    assert!(heard.is_empty() && is_deadline(after), "silent: {after:?}");
    let drops: Vec<&[u8]> = hello.chunks(1).collect();
    let (heard, after) = say(config(), &drops, SECOND);
    assert!(heard.is_empty() && is_deadline(after), "dripping: {after:?}");
    let (heard, after) = say(config(), &[&hello], SECOND);
    assert!(!heard.is_empty() && is_deadline(after), "silent behind our answer: {after:?}");
    let short = config().with_handshake_timeout(3 * SECOND);
    let (_, after) = say(short, &[], SECOND);
    assert!((3 * SECOND..5 * SECOND).contains(&after), "{after:?}");
}

#[test]
fn what_is_no_tls_is_told_so() {
    let check = |config: TlsConfig, said: &[u8], expected: &[u8]| {
        let drops: Vec<&[u8]> = said.chunks(1).collect();
        for pieces in [&[said][..], &drops] {
            let (heard, after) = say(config.clone(), pieces, Duration::from_millis(1));
            let is_right = heard.starts_with(expected) && heard.is_empty() == expected.is_empty();
            assert!(is_right, "{}: {}", said.escape_ascii(), heard.escape_ascii());
            assert!(after < SECOND, "{}: {after:?}", said.escape_ascii());
        }
    };
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    check(config(), request, b"HTTP/1.1 400 Bad Request\r\n");
    // An alert: record type 21, level fatal.
    check(config().with_plain_reply(None), request, &[21, 3, 3, 0, 2, 2]);
    check(config(), b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\xff", &[21, 3, 3, 0, 2, 2]);
    check(config(), b"\0\0\0\0\0\0\0\0\0\0\0\0", &[21, 3, 3, 0, 2, 2]);
    check(config(), b"SSH-2.0-OpenSSH_9.0\r\n", &[21, 3, 3, 0, 2, 2]);
    // The length of a message of 200,000 bytes: rustls makes no alert for it.
    check(config(), b"\x16\x03\x01\x00\x04\x01\x03\x0d\x40", b"");
}

#[test]
fn a_handshake_has_a_length() {
    // A ClientHello of 60,000 bytes in records of 100, of which only so many may come.
    let mut message = b"\x01\x00\xea\x60".to_vec();
    message.resize(60_004, 0);
    let record = |piece: &[u8]| [&[0x16, 3, 1, 0, piece.len() as u8][..], piece].concat();
    let records: Vec<u8> = message.chunks(100).flat_map(record).collect();
    let pieces: Vec<&[u8]> = records.chunks(1000).take(10).collect();
    let (_, after) = say(config().with_handshake_bytes_max(8000), &pieces, Duration::from_millis(1));
    assert!(after < SECOND, "{after:?}");
    let (_, after) = say(config(), &pieces, Duration::from_millis(1));
    assert!(is_deadline(after), "{after:?}");
}

#[test]
fn handshakes_of_many_take_turns_and_all_are_made() {
    let hold = |turn: Duration| {
        let store = TlsStore::new(config().with_handshake_turn(turn)).expect("a sound configuration");
        let mut simulation = Simulation::new(1, Chaos::CALM, Config::default());
        let listener = simulation.listen(Tls::new(Lines, store));
        simulation.start();
        let connect = |_| simulation.net().connect(listener).expect("it listens");
        let peers: Vec<Peer> = (0..40).map(connect).collect();
        let client = |peer| Client::new(&CLIENT, peer, b"one\nbye\n", Ends::Properly);
        let mut clients: Vec<Client> = peers.into_iter().map(client).collect();
        // Some of those that wait go away.
        let mut greeted = Vec::new();
        for round in 0..2000 {
            for (n, client) in clients.iter_mut().enumerate() {
                if n % 7 == 3 {
                    if round == 1 {
                        client.peer.reset();
                    }
                    continue;
                }
                if client.listen() && !client.plain.is_empty() && !greeted.contains(&n) {
                    greeted.push(n);
                }
                client.speak(usize::MAX);
            }
            simulation.run_for(Duration::from_micros(20));
        }
        for (n, client) in clients.iter().enumerate().filter(|(n, _)| n % 7 != 3) {
            assert!(client.was_ended, "client {n} of {turn:?}: {:?}", client.heard());
        }
        greeted
    };
    for turn in [Duration::ZERO, Duration::from_micros(300), SECOND] {
        let greeted = hold(turn);
        assert!(greeted.is_sorted(), "first come, first served: {greeted:?}");
    }
}

/// Faults of the kernel, clients that go away: whoever is not hurt hears all, and nobody hears plaintext on the wire.
#[test]
fn under_faults_nothing_is_lost_and_plaintext_stays_inside() {
    silence_what_is_on_purpose();
    let talks: Vec<Talk> = talks().map(|(talk, ..)| talk).collect();
    let expected: Vec<Heard> = talks.iter().map(|talk| talk.hold(Cut::Nowhere).0).collect();
    let mut heard_all = 0;
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let chaos = Chaos::random(&mut rng);
        let mut simulation = Simulation::new(seed, chaos, narrow());
        let listeners: Vec<Socket> =
            ["echo", "lines", "http"].iter().map(|protocol| listen(&mut simulation, protocol)).collect();
        simulation.start();
        let mut clients = Vec::new();
        for _ in 0..3 {
            let n = rng.below(talks.len());
            let listener = listeners[["echo", "lines", "http"]
                .iter()
                .position(|name| *name == talks[n].protocol)
                .expect("one of them")];
            let Some(peer) = simulation.net().connect(listener) else { continue };
            let config = if talks[n].is_1_2 { &CLIENT_1_2 } else { &CLIENT };
            clients.push((
                n,
                Client::new(config, peer, talks[n].plain.as_bytes(), talks[n].ends),
                rng.one_in(8),
            ));
        }
        for _ in 0..200 {
            let n = rng.below(clients.len());
            let (_, client, resets) = &mut clients[n];
            client.listen();
            client.speak(1 + rng.below(300));
            if *resets && rng.one_in(20) {
                client.peer.reset();
            }
            simulation.run_for(Duration::from_micros(rng.up_to(300)));
        }
        simulation.set_chaos(Chaos::CALM);
        for _ in 0..10_000 {
            for (_, client, _) in &mut clients {
                client.listen();
                client.speak(usize::MAX);
                if client.peer.is_at_end() {
                    client.peer.shutdown();
                }
            }
            simulation.run_for(Duration::from_millis(20));
            if clients.iter().all(|(_, client, _)| client.peer.is_closed()) {
                break;
            }
        }
        let is_hurt = simulation.leaps_of(0) > 0 || simulation.counters().memory_shortages > 0;
        for (n, client, resets) in &mut clients {
            assert!(client.peer.is_closed(), "seed {seed}: {:?} does not end", talks[*n]);
            client.listen();
            let (heard, expected) = (client.heard(), &expected[*n]);
            assert!(expected.plain.starts_with(&heard.plain), "seed {seed}: {:?}: {heard:?}", talks[*n]);
            if !is_hurt && !*resets && !client.peer.was_broken() {
                assert_eq!(heard, *expected, "seed {seed}: {:?}", talks[*n]);
                heard_all += 1;
            }
        }
        simulation.drain(Duration::ZERO);
        simulation.run_for(Duration::from_secs(3));
        simulation.check_ended();
    }
    assert!(heard_all > 300, "too few conversations came to their end: {heard_all}");
}

/// Says what is known of its connection, and ends.
struct Knowing;

impl Protocol for Knowing {
    type Session = ();

    fn open(&mut self, io: &mut Io<'_>) {
        let secure = io.facts().and_then(|facts| facts.secure.clone()).expect("it is encrypted");
        let alpn = secure.alpn.map(|alpn| String::from_utf8(alpn).expect("text"));
        let (version, suite, name) = (secure.version, secure.cipher_suite, secure.server_name);
        io.write(format!("{version} {suite} {alpn:?} {name:?} {}", secure.is_resumed).as_bytes());
    }

    fn data(&mut self, (): &mut (), _: &mut [u8], _: &mut Io<'_>) -> Step {
        Step::close()
    }
}

#[test]
fn a_session_knows_what_was_agreed_on_and_a_client_resumes_on_another_worker() {
    let check = |config: TlsConfig, client: &Arc<ClientConfig>, name: &'static str, expected: [&str; 2]| {
        let store = TlsStore::new(config).expect("a sound configuration");
        let mut simulation = Simulation::with_workers(2, 1, Chaos::CALM, Config::default());
        let listeners = [0, 1].map(|worker| simulation.listen_on(worker, Tls::new(Knowing, store.clone())));
        simulation.start();
        for (listener, expected) in listeners.into_iter().zip(expected) {
            let peer = simulation.net().connect(listener).expect("it listens");
            let mut client = Client::named(name, client, peer, b"end", Ends::Properly);
            for _ in 0..200 {
                client.listen();
                client.speak(usize::MAX);
                simulation.run_for(Duration::from_millis(1));
            }
            assert_eq!(client.heard().plain, expected);
        }
    };
    let (tls_1_3, tls_1_2) =
        (&client_config(&rustls::version::TLS13), &client_config(&rustls::version::TLS12));
    let known = r#"TLSv1.3 TLS13_AES_256_GCM_SHA384 Some("http/1.1") Some("localhost")"#;
    let (new, resumed) = (format!("{known} false"), format!("{known} true"));
    check(config(), tls_1_3, "localhost", [&new, &resumed]);
    let known = r#"TLSv1.2 TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 Some("http/1.1") Some("a.example.org")"#;
    let (new, resumed) = (format!("{known} false"), format!("{known} true"));
    check(config(), tls_1_2, "a.example.org", [&new, &resumed]);
    let known = "TLSv1.3 TLS13_AES_256_GCM_SHA384 None None false";
    let bare = config().with_alpn::<&str>([]).with_tickets(false);
    check(bare, &client_config(&rustls::version::TLS13), "127.0.0.1", [known, known]);
}

#[test]
fn keys_are_renewed_when_the_client_asks_for_it() {
    let mut simulation = Simulation::new(1, Chaos::CALM, Config::default());
    let listener = listen(&mut simulation, "lines");
    simulation.start();
    let peer = simulation.net().connect(listener).expect("it listens");
    let mut client = Client::new(&CLIENT, peer, b"", Ends::Never);
    let mut said = 0;
    for _ in 0..2000 {
        client.listen();
        if !client.tls.is_handshaking() && said < 5 {
            // An answer to it goes before the next line, byte by byte below.
            client.tls.refresh_traffic_keys().expect("TLS 1.3 can");
            client.tls.writer().write_all(b"one\n").expect("it is not much");
            said += 1;
        }
        client.speak(1);
        simulation.run_for(Duration::from_micros(100));
    }
    assert_eq!(client.heard().plain, format!("{CANARY}: hello\n{}", format!("{CANARY}: one\n").repeat(5)));
}

/// rustls joins the parts of a message in the buffer that it is handed: what is left of it must come again as it was left.
#[test]
fn a_first_message_in_many_records_is_joined() {
    let mut config = ClientConfig::clone(&CLIENT);
    config.max_fragment_size = Some(50);
    let config = Arc::new(config);
    for bytes in [1, 3, 50, 99, 1000] {
        let mut simulation = Simulation::new(1, Chaos::CALM, narrow());
        let listener = listen(&mut simulation, "lines");
        simulation.start();
        let peer = simulation.net().connect(listener).expect("it listens");
        let mut client = Client::new(&config, peer, b"one\nmuch\nbye\n", Ends::Properly);
        for _ in 0..3000 {
            client.listen();
            client.speak(bytes);
            simulation.run_for(Duration::from_micros(100));
        }
        let heard = client.heard();
        assert!(heard.was_ended && heard.plain.ends_with(": bye\n"), "pieces of {bytes}: {heard:?}");
    }
}
