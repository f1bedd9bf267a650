//! One TLS connection as bytes in, bytes out. The only file that names rustls's connection types.
//!
//! rustls 0.23's *unbuffered* connection works in the caller's buffer, and has four rules that its types do not show:
//!
//! 1. A handshake message that came in parts is joined in the buffer. So what [`Link::advance`] leaves must come again, as
//!    it was left, with whatever follows behind it; a shorter buffer makes rustls index out of range.
//! 2. Only a connection that has nothing to read can write. So [`Link::seal`] needs what the last `advance` left, without
//!    what came since; and nothing at all if that ended with [`Event::Plain`], for no message can be in parts then.
//! 3. An alert about an error has to be asked for after the error, with the same buffer; and no more than that, for what
//!    is asked next would read the same error again.
//! 4. Sealing can need more room than the payload suggests: an answer to a key update goes first.

use super::stats::{Fault, Handshake};
use ringmill_engine::Secure;
use rustls::server::{ServerConfig, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus, WriteTraffic,
};
use rustls::{AlertDescription, Error, HandshakeKind, PeerIncompatible, ProtocolVersion};
use std::sync::Arc;

/// Bytes that a record adds: its header, a nonce or a content type, a tag. Only a first guess, see rule 4.
const RECORD_OVERHEAD_BYTES: usize = 5 + 8 + 1 + 16;
/// Bytes of plaintext in a record at most (RFC 8446, 5.1).
const RECORD_BYTES_MAX: usize = 16 * 1024;

/// A TLS connection, server side.
pub(super) struct Link(UnbufferedServerConnection);

/// What came of input.
#[derive(Debug)]
pub(super) enum Event {
    /// The plaintext of one record.
    Plain,
    /// The peer said that this was all (close_notify).
    Ended,
    /// No complete record is left.
    Starved,
    /// The connection is over. If there is an alert to send, it was appended to the output.
    Failed(Error),
}

impl Link {
    pub(super) fn new(config: Arc<ServerConfig>) -> Result<Link, Error> {
        UnbufferedServerConnection::new(config).map(Link)
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.0.is_handshaking()
    }

    /// Takes records from the front of `input` until there is something to tell, and says how many bytes that were. What is
    /// to be sent for the handshake's sake is appended to `wire`; `plain` is replaced by what [`Event::Plain`] means.
    pub(super) fn advance(
        &mut self,
        input: &mut [u8],
        plain: &mut Vec<u8>,
        wire: &mut Vec<u8>,
    ) -> (usize, Event) {
        let mut at = 0;
        loop {
            let UnbufferedStatus { discard, state, .. } = self.0.process_tls_records(&mut input[at..]);
            let event = match state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    match write(wire, 0, |room| data.encode(room)) {
                        Ok(()) => None,
                        Err(error) => Some(Event::Failed(general(error))),
                    }
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    None
                }
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    plain.clear();
                    while let Some(Ok(record)) = traffic.next_record() {
                        plain.extend_from_slice(record.payload);
                    }
                    Some(Event::Plain)
                }
                Ok(ConnectionState::PeerClosed) => Some(Event::Ended),
                Ok(
                    ConnectionState::WriteTraffic(_)
                    | ConnectionState::BlockedHandshake
                    | ConnectionState::Closed,
                ) => Some(Event::Starved),
                Ok(state) => Some(Event::Failed(general(format!("unexpected {state:?}")))),
                Err(error) => {
                    at += discard;
                    self.alert(&mut input[at..], wire);
                    return (at, Event::Failed(error));
                }
            };
            at += discard;
            if let Some(event) = event {
                return (at, event);
            }
        }
    }

    /// Appends the alert that rustls made for an error. With the buffer that the error left, and only while something is queued: see
    /// rule 3.
    fn alert(&mut self, input: &mut [u8], wire: &mut Vec<u8>) {
        while self.0.wants_write() {
            let UnbufferedStatus { state, .. } = self.0.process_tls_records(input);
            let Ok(ConnectionState::EncodeTlsData(mut data)) = state else { return };
            if write(wire, 0, |room| data.encode(room)).is_err() {
                return;
            }
        }
    }

    /// Appends `pieces` to `wire`, encrypted. `rest` is what the last [`Link::advance`] left, see rule 2.
    pub(super) fn seal<'p>(
        &mut self,
        pieces: impl Iterator<Item = &'p [u8]>,
        rest: &mut [u8],
        wire: &mut Vec<u8>,
    ) -> Result<(), Error> {
        self.with_traffic(rest, wire, |traffic, wire| {
            for piece in pieces {
                let records = piece.len().div_ceil(RECORD_BYTES_MAX);
                let guess = piece.len() + records * RECORD_OVERHEAD_BYTES;
                write(wire, guess, |room| traffic.encrypt(piece, room)).map_err(general)?;
            }
            Ok(())
        })
    }

    /// Appends our close_notify to `wire`: nothing can be sealed behind it.
    pub(super) fn close(&mut self, rest: &mut [u8], wire: &mut Vec<u8>) -> Result<(), Error> {
        self.with_traffic(rest, wire, |traffic, wire| {
            write(wire, 2 + RECORD_OVERHEAD_BYTES, |room| traffic.queue_close_notify(room)).map_err(general)
        })
    }

    /// Ends because each turn of the loop takes something out of rustls's queue.
    fn with_traffic(
        &mut self,
        rest: &mut [u8],
        wire: &mut Vec<u8>,
        act: impl FnOnce(
            &mut WriteTraffic<'_, rustls::server::ServerConnectionData>,
            &mut Vec<u8>,
        ) -> Result<(), Error>,
    ) -> Result<(), Error> {
        loop {
            let UnbufferedStatus { discard, state, .. } = self.0.process_tls_records(rest);
            if discard > 0 {
                return Err(general("a record was taken where none can be"));
            }
            match state? {
                ConnectionState::EncodeTlsData(mut data) => {
                    write(wire, 0, |room| data.encode(room)).map_err(general)?;
                }
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::WriteTraffic(mut traffic) => return act(&mut traffic, wire),
                state => return Err(general(format!("cannot write: {state:?}"))),
            }
        }
    }

    /// What is counted of the handshake.
    pub(super) fn handshake(&self) -> Handshake {
        let group = self.0.negotiated_key_exchange_group();
        Handshake {
            version: self.version(),
            group: group.and_then(|group| group.name().as_str()),
            is_resumed: self.0.handshake_kind() == Some(HandshakeKind::Resumed),
            has_certificate: self.0.peer_certificates().is_some(),
        }
    }

    fn version(&self) -> &'static str {
        match self.0.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "",
        }
    }

    /// What the handshake came to; the name that was asked for is the resolver's to know.
    pub(super) fn facts(&self, server_name: Option<String>) -> Secure {
        let link = &self.0;
        let certificates = link.peer_certificates().unwrap_or_default();
        Secure {
            version: self.version(),
            cipher_suite: link
                .negotiated_cipher_suite()
                .and_then(|suite| suite.suite().as_str())
                .unwrap_or_default(),
            alpn: link.alpn_protocol().map(<[u8]>::to_vec),
            server_name,
            is_resumed: link.handshake_kind() == Some(HandshakeKind::Resumed),
            client_certificates: certificates.iter().map(|certificate| certificate.to_vec()).collect(),
            is_truncated: false,
        }
    }
}

/// Who ended the connection with an error, and with which alert. rustls keeps ours to itself; this is how it chooses them.
pub(super) fn fault(error: &Error) -> Fault {
    let alert = match error {
        Error::AlertReceived(alert) => return Fault::Received(alert.as_str().unwrap_or("unknown")),
        Error::InvalidMessage(error) => AlertDescription::from(*error),
        Error::InvalidCertificate(error) => AlertDescription::from(error.clone()),
        Error::NoCertificatesPresented => AlertDescription::CertificateRequired,
        Error::NoApplicationProtocol => AlertDescription::NoApplicationProtocol,
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            AlertDescription::UnexpectedMessage
        }
        Error::PeerSentOversizedRecord => AlertDescription::RecordOverflow,
        Error::DecryptError => AlertDescription::BadRecordMac,
        Error::PeerMisbehaved(_) => AlertDescription::IllegalParameter,
        Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::SupportedVersionsExtensionRequired,
        ) => AlertDescription::ProtocolVersion,
        Error::PeerIncompatible(_) => AlertDescription::HandshakeFailure,
        _ => AlertDescription::InternalError,
    };
    Fault::Sent(alert.as_str().unwrap_or("unknown"))
}

/// Makes room behind `wire` for what `act` appends there: as much as is guessed, and as it then says that it needs.
fn write<E: Into<Refusal>>(
    wire: &mut Vec<u8>,
    guess: usize,
    mut act: impl FnMut(&mut [u8]) -> Result<usize, E>,
) -> Result<(), &'static str> {
    let start = wire.len();
    let mut room = guess;
    for _ in 0..2 {
        wire.resize(start + room, 0);
        match act(&mut wire[start..]).map_err(E::into) {
            Ok(bytes) => {
                wire.truncate(start + bytes);
                return Ok(());
            }
            Err(Refusal::Needs(bytes)) => room = bytes,
            Err(Refusal::Never(reason)) => {
                wire.truncate(start);
                return Err(reason);
            }
        }
    }
    wire.truncate(start);
    Err("rustls asked for more room twice")
}

/// Why rustls did not write.
enum Refusal {
    Needs(usize),
    Never(&'static str),
}

impl From<EncodeError> for Refusal {
    fn from(error: EncodeError) -> Refusal {
        match error {
            EncodeError::InsufficientSize(InsufficientSizeError { required_size }) => {
                Refusal::Needs(required_size)
            }
            EncodeError::AlreadyEncoded => Refusal::Never("already encoded"),
        }
    }
}

impl From<EncryptError> for Refusal {
    fn from(error: EncryptError) -> Refusal {
        match error {
            EncryptError::InsufficientSize(InsufficientSizeError { required_size }) => {
                Refusal::Needs(required_size)
            }
            EncryptError::EncryptExhausted => Refusal::Never("the keys have encrypted all they may"),
        }
    }
}

fn general(reason: impl Into<String>) -> Error {
    Error::General(reason.into())
}
