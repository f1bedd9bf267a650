//! TLS between a simulated client and its peer, with rustls: records made of what is to be said, and what was heard out of records.
//! Plaintext must never be on the wire, not even when a session panics.

use ringmill_engine::Layer;
use ringmill_engine::driver::sim::Rng;
use ringmill_protocols::{Tls, TlsConfig, TlsStore};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore};
use std::io::{Read, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// How long a handshake may take.
const PATIENCE: Duration = Duration::from_secs(100_000);

/// So much of what is said must not be seen on the wire. Ciphertext is not like it by chance.
const CANARY_BYTES: usize = 16;

/// Handshakes that were made, in full and resumed, of TLS 1.2 and of 1.3.
static MET: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];

static STORE: LazyLock<Arc<TlsStore>> = LazyLock::new(|| {
    let config = TlsConfig::self_signed(["localhost"]).expect("a name of a host");
    // One handshake a turn: the others wait.
    let config = config.with_handshake_timeout(PATIENCE).with_handshake_turn(Duration::ZERO);
    TlsStore::new(config).expect("a sound configuration")
});
/// For each version one that resumes, and one that does not.
static CLIENTS: LazyLock<[[Arc<ClientConfig>; 2]; 2]> = LazyLock::new(|| {
    [&rustls::version::TLS12, &rustls::version::TLS13]
        .map(|version| [false, true].map(|resumes| client(version, resumes)))
});

/// Any worker takes another one's tickets: all have one store.
pub fn secured<L: Layer>(inner: L) -> Tls<L> {
    Tls::new(inner, STORE.clone())
}

/// Panics unless each kind of handshake was made.
pub fn check_met(seeds: u64) {
    let met = MET.each_ref().map(|count| count.load(Relaxed));
    println!("{met:?} handshakes: TLS 1.2 in full and resumed, TLS 1.3 in full and resumed");
    assert!(met.iter().all(|count| *count > 0), "in {seeds} seeds: {met:?}");
}

fn client(version: &'static rustls::SupportedProtocolVersion, resumes: bool) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(STORE.certificate().expect("it is our own").into()).expect("a certificate");
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .expect("both versions are there")
        .with_root_certificates(roots)
        .with_no_client_auth();
    if !resumes {
        config.resumption = Resumption::disabled();
    }
    Arc::new(config)
}

/// A client's side of a TLS connection.
pub struct Voice {
    tls: ClientConnection,
    is_1_3: bool,
    /// Said in records of so many bytes, once the handshake is made.
    plain: Option<(Vec<u8>, usize)>,
    unsent: Vec<u8>,
    /// The end of what came, in which a canary may have begun.
    wire_end: Vec<u8>,
    canaries: Vec<Vec<u8>>,
    was_ended: bool,
}

impl Voice {
    pub fn new(plain: &[u8], rng: &mut Rng) -> Voice {
        let (is_1_3, resumes) = (!rng.one_in(3), rng.one_in(2));
        let name = ServerName::try_from("localhost").expect("a name of a host");
        let config = &CLIENTS[usize::from(is_1_3)][usize::from(resumes)];
        let tls = ClientConnection::new(config.clone(), name).expect("a sound client");
        let plain = (plain.to_vec(), [1, 50, 5000][rng.below(3)]);
        // What an echo says, HTTP, and what is long in a framed reply.
        let mut canaries = vec![b"HTTP/1.1 ".to_vec(), vec![b's'; CANARY_BYTES], vec![b'm'; CANARY_BYTES]];
        canaries.extend(plain.0.first_chunk::<CANARY_BYTES>().map(|start| start.to_vec()));
        let mut voice = Voice {
            tls,
            is_1_3,
            plain: Some(plain),
            unsent: Vec::new(),
            wire_end: Vec::new(),
            canaries,
            was_ended: false,
        };
        voice.write();
        voice
    }

    /// What can be sent now.
    pub fn unsent(&self) -> &[u8] {
        &self.unsent
    }

    pub fn drop_sent(&mut self, bytes: usize) {
        self.unsent.drain(..bytes);
    }

    /// Whether something is to be sent, now or when the handshake is made.
    pub fn has_more(&self) -> bool {
        self.plain.is_some() || !self.unsent.is_empty()
    }

    /// Says no more.
    pub fn hush(&mut self) {
        self.plain = None;
        self.unsent.clear();
    }

    /// The server said that this was all.
    pub fn was_ended(&self) -> bool {
        self.was_ended
    }

    /// What is in the records that have come in full.
    pub fn listen(&mut self, wire: &[u8]) -> Vec<u8> {
        self.look_for_canaries(wire);
        let (mut left, mut heard) = (wire, Vec::new());
        while !left.is_empty() {
            self.tls.read_tls(&mut left).expect("memory is there");
            let state = self.tls.process_new_packets().expect("the server speaks TLS");
            self.was_ended |= state.peer_has_closed();
            let start = heard.len();
            heard.resize(start + state.plaintext_bytes_to_read(), 0);
            self.tls.reader().read_exact(&mut heard[start..]).expect("so much is there");
        }
        if !self.tls.is_handshaking()
            && let Some((plain, record_bytes)) = self.plain.take()
        {
            let is_resumed = self.tls.handshake_kind() == Some(HandshakeKind::Resumed);
            MET[2 * usize::from(self.is_1_3) + usize::from(is_resumed)].fetch_add(1, Relaxed);
            for record in plain.chunks(record_bytes) {
                self.tls.writer().write_all(record).expect("room is made behind each");
                self.write();
            }
            self.tls.send_close_notify();
        }
        self.write();
        heard
    }

    fn write(&mut self) {
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.unsent).expect("a vector takes it");
        }
    }

    fn look_for_canaries(&mut self, wire: &[u8]) {
        self.wire_end.extend_from_slice(wire);
        let seen = |canary: &&Vec<u8>| self.wire_end.windows(canary.len()).any(|part| part == *canary);
        if let Some(canary) = self.canaries.iter().find(seen) {
            panic!("plaintext is on the wire: {}", canary.escape_ascii());
        }
        let kept = self.wire_end.len().min(CANARY_BYTES - 1);
        self.wire_end.drain(..self.wire_end.len() - kept);
    }
}
