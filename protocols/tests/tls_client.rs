//! Connections that a protocol opens itself, over TLS, on the simulated kernel: against our own server in a second simulation, with the
//! bytes between them cut in every place, and against servers that are wrong.

use ringmill_engine::driver::sim::{Answer, Chaos, Peer, Rng, Simulation};
use ringmill_engine::event::{Errno, Socket};
use ringmill_engine::{Address, CloseReason, Config, Dialer, Io, Next, Protocol, Refusal, Secure, Step};
use ringmill_protocols::http::{self, Request};
use ringmill_protocols::{Echo, Tls, TlsClient, TlsClientConfig, TlsConfig, TlsPeer, TlsStore};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// In everything that is said here, and so never in what is on the wire.
const CANARY: &[u8] = b"CANARY in the coal mine";
const TAG: u64 = 7;

static STORE: LazyLock<Arc<TlsStore>> = LazyLock::new(|| {
    let config = TlsConfig::self_signed(["localhost", "127.0.0.1"]).expect("names of certificates");
    TlsStore::new(config).expect("a sound configuration")
});
/// Speaks TLS 1.2 alone.
static STORE_1_2: LazyLock<Arc<TlsStore>> = LazyLock::new(|| {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let server = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .expect("it is there")
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .expect("key and certificate belong together");
    TlsStore::new(TlsConfig::custom(Arc::new(server))).expect("a sound configuration")
});

/// Trusts the server.
fn trusting() -> TlsClientConfig {
    TlsClientConfig::default().with_root_certificate(STORE.certificate().expect("it is our own"))
}

fn client(config: TlsClientConfig) -> Arc<TlsClient> {
    TlsClient::new(config).expect("a sound configuration")
}

/// What the protocol that asked for a connection was told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Told {
    secure: Option<Secure>,
    connected: u32,
    refused: Option<Refusal>,
    heard: Vec<u8>,
    /// Whether it was the end of the stream, or a cut.
    end: Option<&'static str>,
    closed: Option<CloseReason>,
}

/// Connects at the start, says something, and closes when as much has come back.
struct Caller {
    told: Rc<RefCell<Told>>,
    to_say: Vec<u8>,
    expected_bytes: usize,
}

impl Protocol for Caller {
    type Session = ();

    fn open(&mut self, _: &mut Io<'_>) {
        unreachable!("nothing listens");
    }

    fn start(&mut self, dialer: Dialer) {
        dialer.connect(&address(), TAG);
    }

    fn connected(&mut self, tag: u64, io: &mut Io<'_>) {
        assert_eq!(tag, TAG);
        let mut told = self.told.borrow_mut();
        told.connected += 1;
        told.secure = io.facts().and_then(|facts| facts.secure.clone());
        io.write(&self.to_say);
    }

    fn refused(&mut self, tag: u64, refusal: Refusal) {
        assert_eq!(tag, TAG);
        let before = self.told.borrow_mut().refused.replace(refusal);
        assert_eq!(before, None, "told twice");
    }

    fn data(&mut self, (): &mut (), input: &mut [u8], _: &mut Io<'_>) -> Step {
        let mut told = self.told.borrow_mut();
        told.heard.extend_from_slice(input);
        let is_all = told.heard.len() >= self.expected_bytes;
        Step { next: if is_all { Next::Close } else { Next::Continue }, ..Step::consumed(input.len()) }
    }

    fn eof(&mut self, (): &mut (), _: &mut [u8], io: &mut Io<'_>) -> Next {
        let is_cut = io.facts().is_some_and(|facts| facts.is_truncated());
        self.told.borrow_mut().end = Some(if is_cut { "CUT" } else { "END" });
        Next::Close
    }

    fn closed(&mut self, (): (), reason: CloseReason) {
        self.told.borrow_mut().closed = Some(reason);
    }
}

fn address() -> Address {
    Address::Ip(SocketAddr::from(([192, 0, 2, 1], 443)))
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

/// The side that asks, and the other end of its connection.
struct Calling {
    simulation: Simulation,
    told: Rc<RefCell<Told>>,
    far: Option<Peer>,
    peer: TlsPeer,
}

impl Calling {
    fn new(
        seed: u64,
        chaos: Chaos,
        config: Config,
        client: &Arc<TlsClient>,
        name: &str,
        to_say: &[u8],
    ) -> Calling {
        let mut calling = Calling::prepare(seed, chaos, config, client, name, to_say);
        calling.simulation.start();
        calling
    }

    /// The same, before it starts.
    fn prepare(
        seed: u64,
        chaos: Chaos,
        config: Config,
        client: &Arc<TlsClient>,
        name: &str,
        to_say: &[u8],
    ) -> Calling {
        let peer = client.peer(name).expect("a name");
        let chosen = peer.clone();
        let told = Rc::new(RefCell::new(Told::default()));
        let caller = Caller { told: told.clone(), to_say: to_say.to_vec(), expected_bytes: to_say.len() };
        let mut simulation = Simulation::new(seed, chaos, config);
        simulation.outbound(Tls::client(caller, move |tag| (tag == TAG).then(|| chosen.clone())));
        simulation.net().set_remote(address(), Answer::Accept);
        Calling { simulation, told, far: None, peer }
    }

    fn run_for(&mut self, time: Duration) {
        self.simulation.run_for(time);
        if self.far.is_none() {
            self.far = self.simulation.net().take_connection(&address());
        }
    }

    /// The far end, once there is one.
    fn connected(&mut self) -> &Peer {
        while self.far.is_none() {
            self.run_for(Duration::from_micros(100));
        }
        self.far.as_ref().expect("just seen")
    }

    fn is_over(&self) -> bool {
        let told = self.told.borrow();
        told.closed.is_some() || told.refused.is_some()
    }

    /// Ends it, and says what was told.
    fn end(self) -> Told {
        let mut simulation = self.simulation;
        if let Some(far) = self.far {
            far.shutdown();
        }
        simulation.drain(Duration::ZERO);
        simulation.run_for(Duration::from_secs(3));
        simulation.check_ended();
        self.told.take()
    }
}

/// How one direction is cut.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Nowhere,
    At(usize),
    Every(usize),
}

/// One direction: bytes that one end wrote, and the other has not seen.
struct Wire {
    cut: Cut,
    waiting: Vec<u8>,
    sent: usize,
    is_shut: bool,
}

impl Wire {
    fn new(cut: Cut) -> Wire {
        Wire { cut, waiting: Vec::new(), sent: 0, is_shut: false }
    }

    /// Moves what is due, and the end behind it.
    fn carry(&mut self, from: &Peer, to: &Peer) {
        self.waiting.extend(from.take());
        let is_leaked = self.waiting.windows(CANARY.len()).any(|window| window == CANARY);
        assert!(!is_leaked, "plaintext is on the wire: {}", self.waiting.escape_ascii());
        let bytes = match self.cut {
            Cut::Nowhere => usize::MAX,
            Cut::At(at) if self.sent < at => at - self.sent,
            Cut::At(_) => usize::MAX,
            Cut::Every(bytes) => bytes,
        };
        let bytes = bytes.min(self.waiting.len());
        to.send(&self.waiting.drain(..bytes).collect::<Vec<u8>>());
        self.sent += bytes;
        if from.is_at_end() && self.waiting.is_empty() && !self.is_shut {
            self.is_shut = true;
            to.shutdown();
        }
    }
}

/// A conversation of our client with our server: what the client was told, and how many bytes went there and back.
fn hold(
    store: &Arc<TlsStore>,
    client: &Arc<TlsClient>,
    to_say: &[u8],
    there: Cut,
    back: Cut,
) -> (Told, [usize; 2]) {
    let mut calling = Calling::new(1, Chaos::CALM, narrow(), client, "localhost", to_say);
    let mut serving = Simulation::new(2, Chaos::CALM, narrow());
    let listener = serving.listen(Tls::new(Echo::default(), store.clone()));
    serving.start();
    let near = serving.net().connect(listener).expect("it listens");
    let (mut there, mut back) = (Wire::new(there), Wire::new(back));
    calling.connected();
    for _ in 0..200_000 {
        let far = calling.connected();
        there.carry(far, &near);
        serving.run_for(Duration::from_micros(100));
        back.carry(&near, far);
        calling.run_for(Duration::from_micros(100));
        if calling.is_over() && near.is_closed() {
            break;
        }
    }
    assert!(near.is_closed(), "it does not end: {:?} {}", calling.told, serving.describe());
    serving.drain(Duration::ZERO);
    serving.run_for(Duration::from_secs(3));
    serving.check_ended();
    (calling.end(), [there.sent, back.sent])
}

fn check(told: &Told, to_say: &[u8]) {
    assert_eq!(
        (told.connected, told.refused, told.closed),
        (1, None, Some(CloseReason::Finished)),
        "{told:?}"
    );
    assert_eq!(told.heard, to_say);
}

#[test]
fn a_conversation_does_not_depend_on_how_its_bytes_are_cut() {
    for (store, version) in [(&*STORE, "TLSv1.3"), (&*STORE_1_2, "TLSv1.2")] {
        // A full handshake in each: what is resumed is shorter.
        let client = client(TlsClientConfig::default().without_verification().with_tickets_max(0));
        let (expected, [there, back]) = hold(store, &client, CANARY, Cut::Nowhere, Cut::Nowhere);
        check(&expected, CANARY);
        let secure = expected.secure.as_ref().expect("it is encrypted");
        assert_eq!((secure.version, secure.server_name.as_deref()), (version, Some("localhost")));
        assert!(!secure.is_resumed && secure.client_certificates.is_empty(), "{secure:?}");
        // Signatures differ in length by a few bytes: none is left out.
        for at in 0..there + 8 {
            let (told, _) = hold(store, &client, CANARY, Cut::At(at), Cut::Nowhere);
            assert_eq!(told, expected, "{version}, cut at {at} of {there} there");
        }
        for at in 0..back + 8 {
            let (told, _) = hold(store, &client, CANARY, Cut::Nowhere, Cut::At(at));
            assert_eq!(told, expected, "{version}, cut at {at} of {back} back");
        }
        let (told, _) = hold(store, &client, CANARY, Cut::Every(1), Cut::Every(1));
        assert_eq!(told, expected, "{version}, byte by byte");
    }
}

#[test]
fn much_goes_both_ways_past_the_water_marks() {
    let much = CANARY.repeat(3000);
    let client = client(trusting());
    for cut in [Cut::Nowhere, Cut::Every(100), Cut::Every(5000)] {
        let (told, _) = hold(&STORE, &client, &much, cut, cut);
        check(&told, &much);
    }
}

#[test]
fn handshakes_are_resumed_unless_that_is_off() {
    for (store, version) in [(&*STORE, "TLSv1.3"), (&*STORE_1_2, "TLSv1.2")] {
        for (tickets_max, expected) in [(64, [false, true, true]), (0, [false; 3])] {
            let client =
                client(TlsClientConfig::default().without_verification().with_tickets_max(tickets_max));
            let resumed = expected.map(|_| {
                let (told, _) = hold(store, &client, CANARY, Cut::Nowhere, Cut::Nowhere);
                check(&told, CANARY);
                told.secure.expect("it is encrypted").is_resumed
            });
            assert_eq!(resumed, expected, "{version} with {tickets_max} tickets");
        }
    }
}

/// rustls's own store keeps eight of them.
#[test]
fn as_many_tickets_are_kept_as_the_configuration_says() {
    for tickets_max in [1, 40] {
        let client = client(trusting().with_tickets_max(tickets_max));
        let peer = client.peer("localhost").unwrap();
        let connect = || {
            let mut simulation = Simulation::new(1, Chaos::CALM, Config::default());
            let listener = simulation.listen(Tls::new(Echo::default(), STORE.clone()));
            simulation.start();
            let far = simulation.net().connect(listener).expect("it listens");
            peer.try_handshake(&mut Blocking { simulation, far }).expect("a handshake").is_resumed
        };
        // Each conversation brings two tickets, and takes one if there is one.
        for _ in 0..50 {
            check(&hold(&STORE, &client, CANARY, Cut::Nowhere, Cut::Nowhere).0, CANARY);
        }
        // These end before tickets come.
        let resumed = (0..60).filter(|_| connect()).count();
        assert_eq!(resumed, tickets_max);
    }
}

/// A simulated server as a stream that blocks.
struct Blocking {
    simulation: Simulation,
    far: Peer,
}

impl std::io::Read for Blocking {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.simulation.run_for(Duration::from_millis(1));
        // More than there is room for does not come here.
        let bytes = self.far.take();
        buffer[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }
}

impl std::io::Write for Blocking {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.far.send(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Lets a client talk with a server for longer than a handshake takes.
fn talk(calling: &mut Calling, serving: &mut Simulation, listener: Socket) {
    let near = serving.net().connect(listener).expect("it listens");
    let (mut there, mut back) = (Wire::new(Cut::Nowhere), Wire::new(Cut::Nowhere));
    for _ in 0..1000 {
        let far = calling.connected();
        there.carry(far, &near);
        serving.run_for(Duration::from_micros(100));
        back.carry(&near, far);
        calling.run_for(Duration::from_micros(100));
    }
}

/// A server of this protocol, asked by a client of this configuration for this name: with what words it is refused.
fn refusal(
    client: &Arc<TlsClient>,
    name: &str,
    listen: impl FnOnce(&mut Simulation) -> Socket,
) -> (Refusal, String) {
    let mut calling = Calling::new(1, Chaos::CALM, Config::default(), client, name, CANARY);
    let mut serving = Simulation::new(2, Chaos::CALM, Config::default());
    let listener = listen(&mut serving);
    serving.start();
    talk(&mut calling, &mut serving, listener);
    let peer = calling.peer.clone();
    let told = calling.end();
    assert_eq!((told.connected, told.closed), (0, None), "no session was opened: {told:?}");
    (told.refused.expect("it is told"), peer.last_failure().unwrap_or_default())
}

#[test]
fn a_server_that_is_not_trusted_is_refused_and_hears_why() {
    let trusting_other = |name: &str| {
        let other = TlsStore::new(TlsConfig::self_signed([name]).unwrap()).unwrap();
        TlsClientConfig::default().with_root_certificate(other.certificate().unwrap())
    };
    let check = |config: TlsClientConfig, name: &str, words: &[&str]| {
        let client = client(config);
        let (refusal, failure) =
            refusal(&client, name, |serving| serving.listen(Tls::new(Echo::default(), STORE.clone())));
        assert_eq!(refusal, Refusal::Unsecured);
        for word in words {
            assert!(failure.contains(word), "{word:?} is not in {failure:?}");
        }
    };
    check(trusting_other("other.test"), "localhost", &["UnknownIssuer", "--cacert", "--insecure"]);
    // It calls itself the same, and has another key.
    check(trusting_other("localhost"), "localhost", &["BadSignature", "the right authority", "--insecure"]);
    check(trusting(), "else.test", &["not valid for name \"else.test\"", "localhost", "--insecure"]);
    check(trusting(), "127.0.0.2", &["127.0.0.2"]);
    check(trusting().with_alpn(["h9"]), "localhost", &["NoApplicationProtocol"]);
}

#[test]
fn a_server_that_does_not_speak_tls_is_refused() {
    let check = |words: &str, listen: fn(&mut Simulation) -> Socket| {
        let (refusal, failure) = refusal(&client(trusting()), "localhost", listen);
        assert_eq!(refusal, Refusal::Unsecured);
        assert!(failure.contains(words), "{words:?} is not in {failure:?}");
    };
    check("does the server speak TLS", |serving| {
        serving.listen(http::server(|_: &Request<'_>, reply| reply.text("hello")))
    });
    check("closed the connection in the middle of the handshake", |serving| serving.listen(Closing));
}

/// Closes with the first bytes.
struct Closing;

impl Protocol for Closing {
    type Session = ();

    fn open(&mut self, _: &mut Io<'_>) {}

    fn data(&mut self, (): &mut (), _: &mut [u8], _: &mut Io<'_>) -> Step {
        Step::close()
    }
}

#[test]
fn a_silent_server_is_given_up_in_time_and_a_reset_is_told_as_one() {
    let second = Duration::from_secs(1);
    let client = client(trusting().with_handshake_timeout(3 * second));
    let mut calling = Calling::new(1, Chaos::CALM, Config::default(), &client, "localhost", CANARY);
    calling.connected();
    calling.run_for(2 * second);
    assert!(!calling.is_over());
    calling.run_for(2 * second);
    assert!(calling.is_over());
    assert_eq!(calling.end(), Told { refused: Some(Refusal::TimedOut), ..Told::default() });

    let mut calling = Calling::new(1, Chaos::CALM, Config::default(), &client, "localhost", CANARY);
    calling.connected().reset();
    calling.run_for(second);
    let refused = Some(Refusal::Failed(Errno::ECONNRESET));
    assert_eq!(calling.end(), Told { refused, ..Told::default() });
}

#[test]
fn a_stop_in_a_handshake_is_told() {
    let mut calling =
        Calling::new(1, Chaos::CALM, Config::default(), &client(trusting()), "localhost", CANARY);
    calling.connected();
    calling.run_for(Duration::from_millis(1));
    // It does not go away by itself.
    calling.far = None;
    assert_eq!(calling.end().refused, Some(Refusal::Stopped));
}

/// Idle connections are asked to go where memory is short, and this one is not: whoever asked for it waits.
#[test]
fn a_handshake_goes_on_where_memory_is_short() {
    const BYTES_MAX: usize = 4 << 20;
    let config = Config { memory_bytes_max: BYTES_MAX, ..narrow() };
    let mut calling = Calling::prepare(1, Chaos::CALM, config, &client(trusting()), "localhost", CANARY);
    let listener = calling.simulation.listen(Holding(BYTES_MAX / 16 * 15));
    calling.simulation.start();
    let mut serving = Simulation::new(2, Chaos::CALM, narrow());
    let serves = serving.listen(Tls::new(Echo::default(), STORE.clone()));
    serving.start();
    calling.connected();
    let holding = calling.simulation.net().connect(listener).expect("it listens");
    holding.send(b"x");
    let idle = calling.simulation.net().connect(listener).expect("it listens");
    calling.run_for(Duration::from_millis(500));
    assert!(idle.is_at_end(), "memory was not short");
    assert!(!calling.is_over(), "{:?}", calling.told);
    talk(&mut calling, &mut serving, serves);
    holding.shutdown();
    check(&calling.end(), CANARY);
}

/// Holds so much with the first byte that comes; without one it is idle.
struct Holding(usize);

impl Protocol for Holding {
    type Session = ();

    fn open(&mut self, _: &mut Io<'_>) {}

    fn data(&mut self, (): &mut (), input: &mut [u8], io: &mut Io<'_>) -> Step {
        assert!(io.hold(self.0), "there is room for it");
        Step::consumed(input.len())
    }

    fn shed(&mut self, (): &mut (), _: &mut Io<'_>) -> Next {
        Next::Close
    }
}

/// As with a connection without TLS that is accepted while the engine drains.
#[test]
fn a_session_that_opens_while_the_engine_drains_is_told_so() {
    let mut calling =
        Calling::new(1, Chaos::CALM, Config::default(), &client(trusting()), "localhost", CANARY);
    let mut serving = Simulation::new(2, Chaos::CALM, Config::default());
    let listener = serving.listen(Tls::new(Draining, STORE.clone()));
    serving.start();
    let near = serving.net().connect(listener).expect("it listens");
    let (mut there, mut back) = (Wire::new(Cut::Nowhere), Wire::new(Cut::Nowhere));
    for round in 0..20 {
        let far = calling.connected();
        there.carry(far, &near);
        serving.run_for(Duration::from_micros(100));
        if round == 0 {
            serving.drain(Duration::from_secs(10));
        }
        back.carry(&near, far);
        calling.run_for(Duration::from_micros(100));
    }
    assert_eq!(calling.end().heard, b"draining");
}

struct Draining;

impl Protocol for Draining {
    type Session = ();

    fn open(&mut self, _: &mut Io<'_>) {}

    fn data(&mut self, (): &mut (), input: &mut [u8], _: &mut Io<'_>) -> Step {
        Step::consumed(input.len())
    }

    fn drain(&mut self, (): &mut (), io: &mut Io<'_>) -> Next {
        io.write(b"draining");
        Next::Close
    }
}

/// The end of the transport in every place: never taken for the server's own end.
#[test]
fn a_stream_that_is_cut_is_told_from_one_that_ends() {
    let client = client(trusting().with_tickets_max(0));
    let (_, [_, all]) = hold(&STORE, &client, CANARY, Cut::Nowhere, Cut::Nowhere);
    let mut seen = [0; 3];
    for at in 0..all + 100 {
        let mut calling = Calling::new(1, Chaos::CALM, Config::default(), &client, "localhost", CANARY);
        let mut serving = Simulation::new(2, Chaos::CALM, Config::default());
        let listener = serving.listen(Tls::new(Greeter, STORE.clone()));
        serving.start();
        let near = serving.net().connect(listener).expect("it listens");
        let (mut there, mut wire, mut sent) = (Wire::new(Cut::Nowhere), Vec::new(), 0);
        for _ in 0..40 {
            let far = calling.connected();
            there.carry(far, &near);
            serving.run_for(Duration::from_micros(100));
            wire.extend(near.take());
            let bytes = wire.len().min(at - sent);
            far.send(&wire.drain(..bytes).collect::<Vec<u8>>());
            sent += bytes;
            if sent == at || near.is_at_end() {
                far.shutdown();
            }
            calling.run_for(Duration::from_micros(100));
        }
        let told = calling.end();
        match (told.connected, told.end) {
            (0, None) => assert_eq!(told.refused, Some(Refusal::Unsecured), "at {at}: {told:?}"),
            (1, Some("CUT")) => assert!(GREETING.starts_with(&told.heard), "at {at}: {told:?}"),
            (1, Some("END")) => assert_eq!(told.heard, GREETING, "at {at}"),
            _ => panic!("at {at}: {told:?}"),
        }
        seen[told.connected as usize + usize::from(told.end == Some("END"))] += 1;
    }
    assert!(seen.iter().all(|count| *count > 20), "refused, cut, whole: {seen:?}");
}

const GREETING: &[u8] = b"hello, CANARY";

/// Says hello and closes.
struct Greeter;

impl Protocol for Greeter {
    type Session = ();

    fn open(&mut self, io: &mut Io<'_>) {
        io.write(GREETING);
        io.notify_drained();
    }

    fn data(&mut self, (): &mut (), input: &mut [u8], _: &mut Io<'_>) -> Step {
        Step::consumed(input.len())
    }

    fn drained(&mut self, (): &mut (), _: &mut Io<'_>) -> Next {
        Next::Close
    }
}

#[test]
fn without_an_answer_a_connection_stays_plain_and_without_peers_there_is_none() {
    let told = Rc::new(RefCell::new(Told::default()));
    let caller = || Caller { told: told.clone(), to_say: b"plain".to_vec(), expected_bytes: 5 };
    let mut simulation = Simulation::new(1, Chaos::CALM, Config::default());
    simulation.outbound(Tls::client(caller(), |_| None));
    simulation.net().set_remote(address(), Answer::Accept);
    simulation.start();
    simulation.run_for(Duration::from_millis(1));
    let far = simulation.net().take_connection(&address()).expect("it connected");
    assert_eq!(far.take(), b"plain");
    far.send(b"nialp");
    simulation.run_for(Duration::from_millis(1));
    let closed = Some(CloseReason::Finished);
    assert_eq!(told.take(), Told { connected: 1, heard: b"nialp".to_vec(), closed, ..Told::default() });
    // Accepted ones stay plain too.
    let mut simulation = Simulation::new(1, Chaos::CALM, Config::default());
    let listener = simulation.listen(Tls::client(Echo::default(), |_| None));
    simulation.start();
    let peer = simulation.net().connect(listener).expect("it listens");
    peer.send(b"plain");
    simulation.run_for(Duration::from_millis(1));
    assert_eq!(peer.take(), b"plain");

    let mut simulation = Simulation::new(1, Chaos::CALM, Config::default());
    simulation.outbound(Tls::new(caller(), STORE.clone()));
    simulation.net().set_remote(address(), Answer::Accept);
    simulation.start();
    simulation.run_for(Duration::from_secs(1));
    let far = simulation.net().take_connection(&address()).expect("it connected");
    assert!(far.take().is_empty(), "nothing was said");
    assert_eq!(told.take(), Told { refused: Some(Refusal::Unsecured), ..Told::default() });
}

/// Faults of the kernel: each attempt comes to one end, and what is heard is right.
#[test]
fn under_faults_each_attempt_ends_and_plaintext_stays_inside() {
    let client = client(trusting());
    let (mut whole, mut hurt) = (0, 0);
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let chaos = Chaos::random(&mut rng);
        let mut calling = Calling::new(seed, chaos, narrow(), &client, "localhost", CANARY);
        let mut serving = Simulation::new(seed, Chaos::CALM, narrow());
        let listener = serving.listen(Tls::new(Echo::default(), STORE.clone()));
        serving.start();
        let near = serving.net().connect(listener).expect("it listens");
        let (mut there, mut back) = (Wire::new(Cut::Nowhere), Wire::new(Cut::Nowhere));
        for round in 0..3000 {
            if round == 300 {
                calling.simulation.set_chaos(Chaos::CALM);
            }
            let cut = |rng: &mut Rng| Cut::Every(1 + rng.below(500));
            (there.cut, back.cut) = (cut(&mut rng), cut(&mut rng));
            if let Some(far) = &calling.far {
                there.carry(far, &near);
                back.carry(&near, far);
            }
            serving.run_for(Duration::from_micros(100));
            calling.run_for(Duration::from_micros(rng.up_to(20_000)));
            if calling.is_over() {
                break;
            }
        }
        assert!(calling.is_over(), "seed {seed}: {}", calling.simulation.describe());
        let told = calling.end();
        assert!(told.connected == 0 || told.refused.is_none(), "seed {seed}: told both: {told:?}");
        assert!(CANARY.starts_with(&told.heard), "seed {seed}: {told:?}");
        if told.heard == CANARY { whole += 1 } else { hurt += 1 }
    }
    assert!(whole > 50, "{whole} whole, {hurt} hurt");
}
