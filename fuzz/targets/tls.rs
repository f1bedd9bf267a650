//! Any bytes into `Tls<Echo>` and `Tls<http>` on a simulated worker: instead of a handshake, into a handshake, and behind it as records
//! of any type under the connection's own keys. No panic, nothing left behind, no plaintext on the wire; and what comes behind a
//! handshake is answered alike however it is cut.
#![no_main]

#[allow(dead_code, reason = "the tests name more types of records")]
#[path = "../../tests/common/records.rs"]
mod records;

use libfuzzer_sys::fuzz_target;
use records::{ALERT, CLOSE_NOTIFY, DATA, HANDSHAKE, Handshake, Records};
use ringmill_engine::Config;
use ringmill_engine::driver::sim::{Chaos, Peer, Simulation};
use ringmill_protocols::http::{self, Limits};
use ringmill_protocols::{Echo, Tls, TlsConfig, TlsStore};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// In every answer of the site, and so never on the wire.
const CANARY: &str = "CANARY in the coal mine";
const STEP: Duration = Duration::from_micros(100);

static STORE: LazyLock<Arc<TlsStore>> = LazyLock::new(|| {
    let config = TlsConfig::self_signed(["localhost"]).expect("a name of a host");
    TlsStore::new(config).expect("a sound configuration")
});
static CLIENTS: LazyLock<[Arc<ClientConfig>; 2]> =
    LazyLock::new(|| [&rustls::version::TLS13, &rustls::version::TLS12].map(client));

/// Takes anything for true: the server is the one that is tested.
#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

fn client(version: &'static rustls::SupportedProtocolVersion) -> Arc<ClientConfig> {
    let mut provider = records::provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[version])
        .expect("both versions are there")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous))
        .with_no_client_auth();
    config.enable_secret_extraction = true;
    // A session that is resumed would make one run depend on another.
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config)
}

/// What an input says of the conversation: its first byte.
#[derive(Clone, Copy)]
struct Manner(u8);

impl Manner {
    fn place(self) -> Place {
        match self.0 & 3 {
            0 => Place::Instead,
            1 => Place::Into,
            _ => Place::Behind,
        }
    }

    fn client(self) -> &'static Arc<ClientConfig> {
        &CLIENTS[usize::from(self.0 >> 2 & 1)]
    }

    fn is_http(self) -> bool {
        self.0 & 8 != 0
    }

    /// The client says that this was all.
    fn ends(self) -> bool {
        self.0 & 16 != 0
    }
}

/// Where the bytes go.
enum Place {
    Instead,
    Into,
    Behind,
}

struct Talk {
    simulation: Simulation,
    peer: Peer,
}

impl Talk {
    fn new(manner: Manner) -> Talk {
        let config = Config { recv_buffers: 8, recv_buffer_bytes: 512, ..Config::default() };
        let mut simulation = Simulation::new(0, Chaos::CALM, config);
        let limits = Limits { requests_max: Some(20), ..Limits::default() };
        let site = http::server(|request, reply| reply.text(&format!("{CANARY} {}", request.path())));
        let listener = if manner.is_http() {
            simulation.listen(Tls::new(site.with_limits(limits), STORE.clone()))
        } else {
            simulation.listen(Tls::new(Echo::default(), STORE.clone()))
        };
        simulation.start();
        let peer = simulation.net().connect(listener).expect("the listener is open");
        Talk { simulation, peer }
    }

    /// What comes while time goes on.
    fn listen(&mut self, time: Duration) -> Vec<u8> {
        self.simulation.run_for(time);
        let heard = self.peer.take();
        let has_canary = heard.windows(CANARY.len()).any(|part| part == CANARY.as_bytes());
        assert!(!has_canary, "plaintext is on the wire");
        heard
    }

    fn send(&mut self, bytes: &[u8], piece: usize) -> Vec<u8> {
        let mut heard = Vec::new();
        for bytes in bytes.chunks(piece.max(1)) {
            self.peer.send(bytes);
            heard.extend(self.listen(STEP));
        }
        heard
    }

    /// Ends the client's side, and then the server. What is heard, and whether a reset ended it.
    fn end(mut self) -> (Vec<u8>, bool) {
        self.peer.shutdown();
        let mut heard = self.listen(Duration::from_millis(50));
        self.simulation.drain(Duration::ZERO);
        heard.extend(self.listen(Duration::from_secs(5)));
        self.simulation.check_ended();
        assert_eq!(self.simulation.counters().panics, 0);
        (heard, self.peer.was_reset())
    }

    /// Makes a handshake up to the client's last flight, which is returned with its keys.
    fn shake_hands(&mut self, manner: Manner) -> (Vec<u8>, Records) {
        let mut handshake = Handshake::new(new_client(manner));
        let mut flight = handshake.take_output();
        loop {
            let heard = self.send(&flight, usize::MAX);
            let is_made = handshake.take_input(&heard).expect("the server speaks TLS");
            flight = handshake.take_output();
            if is_made {
                return (flight, handshake.into_records());
            }
        }
    }
}

fn new_client(manner: Manner) -> ClientConnection {
    let name = ServerName::try_from("localhost").expect("a name of a host");
    ClientConnection::new(manner.client().clone(), name).expect("a sound client")
}

/// A handshake some bytes of which are changed on the way: each change is the distance from the last one, and what is changed.
fn into_handshake(manner: Manner, piece: usize, changes: &[u8]) {
    let mut talk = Talk::new(manner);
    let mut tls = new_client(manner);
    let mut changes = changes
        .chunks_exact(3)
        .map(|change| (usize::from(change[0]) << 8 | usize::from(change[1]), change[2]));
    let mut next = changes.next();
    loop {
        let mut flight = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut flight).expect("a vector takes it");
        }
        let mut at = 0;
        while let Some((distance, bits)) = &mut next {
            if at + *distance >= flight.len() {
                *distance -= flight.len() - at;
                break;
            }
            at += *distance;
            flight[at] ^= *bits;
            next = changes.next();
        }
        let heard = talk.send(&flight, piece);
        let mut left = &heard[..];
        while !left.is_empty() {
            // What a changed handshake comes to is not this client's to complain about.
            if tls.read_tls(&mut left).is_err() || tls.process_new_packets().is_err() {
                talk.end();
                return;
            }
        }
        if heard.is_empty() {
            talk.end();
            return;
        }
    }
}

/// Turns what follows the first two bytes into records, and bytes that are none.
fn say(mut input: &[u8], records: &mut Records, wire: &mut Vec<u8>) {
    while let [kind, length, rest @ ..] = input {
        let (payload, rest) = rest.split_at(rest.len().min(usize::from(*length)));
        input = rest;
        match kind {
            0 => wire.extend_from_slice(payload),
            1..20 => wire.extend(records.seal(DATA, payload)),
            // Long ones, up to more than a record may have.
            20 => wire.extend(records.seal(DATA, &payload.repeat(80))),
            kind => wire.extend(records.seal(*kind, payload)),
        }
    }
}

/// What a client hears behind the handshake: types with their contents joined, and whether a reset ended it.
fn behind_handshake(manner: Manner, piece: usize, input: &[u8]) -> (Vec<(u8, Vec<u8>)>, bool) {
    let mut talk = Talk::new(manner);
    let (mut wire, mut records) = talk.shake_hands(manner);
    say(input, &mut records, &mut wire);
    if manner.ends() {
        wire.extend(records.seal(ALERT, &CLOSE_NOTIFY));
    }
    let mut heard = talk.send(&wire, piece);
    let (rest, was_reset) = talk.end();
    heard.extend(rest);
    let mut said: Vec<(u8, Vec<u8>)> = Vec::new();
    for (content_type, payload) in records.open(&heard) {
        match said.last_mut() {
            // Tickets are new ones each time.
            _ if content_type == HANDSHAKE => {}
            Some((last, joined)) if *last == content_type => joined.extend(payload),
            _ => said.push((content_type, payload)),
        }
    }
    if manner.is_http() {
        said.iter_mut().for_each(|(_, payload)| *payload = undated(payload));
    }
    (said, was_reset)
}

/// The replies without what depends on time: dates, and whether the client had to be told to go on.
fn undated(payload: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(payload).replace("HTTP/1.1 100 Continue\r\n\r\n", "");
    text.split_inclusive("\r\n").filter(|line| !line.starts_with("date: ")).collect::<String>().into_bytes()
}

fuzz_target!(|data: &[u8]| {
    let [manner, piece, input @ ..] = data else { return };
    if input.len() > 2048 {
        return;
    }
    let (manner, piece) = (Manner(*manner), usize::from(*piece));
    match manner.place() {
        Place::Instead => {
            let mut talk = Talk::new(manner);
            talk.send(input, piece);
            talk.end();
        }
        Place::Into => into_handshake(manner, piece, input),
        Place::Behind => {
            let whole = behind_handshake(manner, usize::MAX, input);
            let pieces = behind_handshake(manner, piece, input);
            assert_eq!(pieces.1, whole.1, "whether a reset ended it, in pieces of {piece}");
            // A reset overtakes what was written: how much came before it is a matter of time.
            if !whole.1 {
                assert_eq!(pieces.0, whole.0, "in pieces of {piece}");
            }
        }
    }
});
