//! A peer that makes an ordinary handshake with rustls, and then says what no peer says: records of any type, with any content, under
//! the connection's own keys. For tests of servers and clients, and for the fuzz target `tls`.

use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, Iv, MessageDecrypter, MessageEncrypter, OutboundChunks,
    OutboundPlainMessage,
};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{Connection, ConnectionTrafficSecrets, ContentType, ProtocolVersion, SupportedCipherSuite};

pub const ALERT: u8 = 21;
pub const HANDSHAKE: u8 = 22;
pub const DATA: u8 = 23;
/// The alert that ends a stream: warning, close_notify.
pub const CLOSE_NOTIFY: [u8; 2] = [1, 0];

/// The type of a message of TLS 1.3 that changes the sender's key.
const KEY_UPDATE: u8 = 24;
const HEADER_BYTES: usize = 5;

/// For such a peer: with suites of ChaCha20 only, because aws-lc goes on with AES-GCM of TLS 1.2 from its first record alone.
pub fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![
        aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        aws_lc_rs::cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ];
    provider
}

/// A handshake that is under way.
pub struct Handshake {
    tls: Connection,
    /// Received, and no complete record yet.
    inbound: Vec<u8>,
}

/// A connection behind its handshake.
pub struct Records {
    sealer: Box<dyn MessageEncrypter>,
    opener: Box<dyn MessageDecrypter>,
    sealed: u64,
    opened: u64,
    inbound: Vec<u8>,
    /// The other side has changed its key, to one that is not known here.
    is_blind: bool,
}

impl Handshake {
    /// Of a side whose configuration has this [`provider`] and `enable_secret_extraction`.
    pub fn new(tls: impl Into<Connection>) -> Handshake {
        Handshake { tls: tls.into(), inbound: Vec::new() }
    }

    /// What there is to send.
    pub fn take_output(&mut self) -> Vec<u8> {
        let mut output = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut output).expect("a vector takes it");
        }
        output
    }

    /// Takes what was received; no more than the handshake needs. Says whether it is made: then the last output is still to be sent.
    pub fn take_input(&mut self, bytes: &[u8]) -> Result<bool, rustls::Error> {
        self.inbound.extend_from_slice(bytes);
        while self.tls.is_handshaking()
            && let Some(mut record) = next_record(&mut self.inbound).as_deref()
        {
            self.tls.read_tls(&mut record).expect("a record is not too much");
            self.tls.process_new_packets()?;
        }
        Ok(!self.tls.is_handshaking())
    }

    /// Goes on with records. The handshake is made, and its output was taken.
    pub fn into_records(self) -> Records {
        let suite = self.tls.negotiated_cipher_suite().expect("the handshake is made");
        let secrets = self.tls.dangerous_extract_secrets().expect("they may be extracted");
        Records {
            sealer: sealer(suite, secrets.tx.1),
            opener: opener(suite, secrets.rx.1),
            sealed: secrets.tx.0,
            opened: secrets.rx.0,
            inbound: self.inbound,
            is_blind: false,
        }
    }
}

impl Records {
    /// A record as it goes on the wire.
    pub fn seal(&mut self, content_type: u8, payload: &[u8]) -> Vec<u8> {
        let message = OutboundPlainMessage {
            typ: ContentType::from(content_type),
            version: ProtocolVersion::TLSv1_2,
            payload: OutboundChunks::Single(payload),
        };
        let sealed = self.sealer.encrypt(message, self.sealed).expect("the keys last");
        self.sealed += 1;
        sealed.encode()
    }

    /// What is in the records that have come with these bytes: type and content. Nothing more once the other side has changed its key.
    pub fn open(&mut self, bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
        self.inbound.extend_from_slice(bytes);
        let mut opened = Vec::new();
        while !self.is_blind
            && let Some(mut record) = next_record(&mut self.inbound)
        {
            let typ = ContentType::from(record[0]);
            let message =
                InboundOpaqueMessage::new(typ, ProtocolVersion::TLSv1_2, &mut record[HEADER_BYTES..]);
            let plain = self.opener.decrypt(message, self.opened).expect("the other side seals with its key");
            self.opened += 1;
            self.is_blind = plain.typ == ContentType::Handshake && plain.payload.first() == Some(&KEY_UPDATE);
            opened.push((u8::from(plain.typ), plain.payload.to_vec()));
        }
        opened
    }
}

/// Takes the complete record at the front.
fn next_record(inbound: &mut Vec<u8>) -> Option<Vec<u8>> {
    let [_, _, _, high, low] = *inbound.first_chunk::<HEADER_BYTES>()?;
    let bytes = HEADER_BYTES + usize::from(u16::from_be_bytes([high, low]));
    (bytes <= inbound.len()).then(|| inbound.drain(..bytes).collect())
}

fn sealer(suite: SupportedCipherSuite, secrets: ConnectionTrafficSecrets) -> Box<dyn MessageEncrypter> {
    let (key, iv) = parts(secrets);
    match suite {
        SupportedCipherSuite::Tls13(suite) => suite.aead_alg.encrypter(key, iv),
        SupportedCipherSuite::Tls12(suite) => suite.aead_alg.encrypter(key, iv.as_ref(), &[]),
    }
}

fn opener(suite: SupportedCipherSuite, secrets: ConnectionTrafficSecrets) -> Box<dyn MessageDecrypter> {
    let (key, iv) = parts(secrets);
    match suite {
        SupportedCipherSuite::Tls13(suite) => suite.aead_alg.decrypter(key, iv),
        SupportedCipherSuite::Tls12(suite) => suite.aead_alg.decrypter(key, iv.as_ref()),
    }
}

fn parts(secrets: ConnectionTrafficSecrets) -> (AeadKey, Iv) {
    match secrets {
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (key, iv),
        _ => unreachable!("no other was offered"),
    }
}
