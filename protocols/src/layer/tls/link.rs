//! One TLS connection as bytes in, bytes out, on either side. The only file that names rustls's connection types.
//!
//! rustls 0.23's *unbuffered* connection works in the caller's buffer, and has four rules that its types do not show:
//!
//! 1. A handshake message that came in parts is joined in the buffer, and an empty part leaves bytes there for good. So what
//!    [`Link::advance`] leaves must come again, as it was left, with whatever follows behind it; a shorter buffer makes rustls
//!    index out of range. How much of it rustls has taken is [`Link::held_bytes`].
//! 2. Only a connection that has nothing to read can write. So [`Link::seal`] needs what the last `advance` left, and shows
//!    rustls no more of it than what it has taken: for that, rustls sees one record at a time.
//! 3. An alert about an error has to be asked for after the error, with the same buffer; and no more than that, for what
//!    is asked next would read the same error again.
//! 4. Sealing can need more room than the payload suggests: an answer to a key update goes first.

use super::failures::{Failures, explain};
use super::stats::Handshake;
use ringmill_engine::Secure;
use rustls::client::{ClientConfig, ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::server::{ServerConfig, ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus, WriteTraffic,
};
use rustls::{CommonState, Error, HandshakeKind, ProtocolVersion};
use std::sync::Arc;

/// Bytes that a record adds: its header, a nonce or a content type, a tag. Only a first guess, see rule 4.
const RECORD_OVERHEAD_BYTES: usize = 5 + 8 + 1 + 16;
/// Bytes of plaintext in a record at most (RFC 8446, 5.1).
const RECORD_BYTES_MAX: usize = 16 * 1024;

/// Bytes that rustls may keep in the buffer behind the handshake: a peer can make it keep the lengths of empty parts of messages,
/// and each call sees all of them again.
const HELD_BYTES_MAX: usize = 32 * 1024;
const HEADER_BYTES: usize = 5;

/// A TLS connection.
pub(super) struct Link {
    end: End,
    held_bytes: usize,
}

enum End {
    Server(UnbufferedServerConnection),
    /// With where it is told why it failed.
    Client(UnbufferedClientConnection, Arc<Failures>),
}

/// One side of rustls: both have these calls, and share no trait.
trait Side {
    type Data;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;

    fn wants_write(&self) -> bool;
}

impl Side for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, ServerConnectionData> {
        self.process_tls_records(input)
    }

    fn wants_write(&self) -> bool {
        CommonState::wants_write(self)
    }
}

impl Side for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, ClientConnectionData> {
        self.process_tls_records(input)
    }

    fn wants_write(&self) -> bool {
        CommonState::wants_write(self)
    }
}

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
        UnbufferedServerConnection::new(config).map(|link| Link { end: End::Server(link), held_bytes: 0 })
    }

    /// The side that asks. It speaks first: [`Link::advance`] without input gives what it says.
    pub(super) fn connect(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        failures: Arc<Failures>,
    ) -> Result<Link, Error> {
        UnbufferedClientConnection::new(config, name)
            .map(|link| Link { end: End::Client(link, failures), held_bytes: 0 })
    }

    fn common(&self) -> &CommonState {
        match &self.end {
            End::Server(link) => link,
            End::Client(link, _) => link,
        }
    }

    pub(super) fn is_server(&self) -> bool {
        matches!(self.end, End::Server(_))
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.common().is_handshaking()
    }

    /// Bytes at the front of what was left that rustls has taken, and will want to see again.
    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Takes records from the front of `input` until there is something to tell, and says how many bytes that were. What is
    /// to be sent for the handshake's sake is appended to `wire`; `plain` is replaced by what [`Event::Plain`] means.
    pub(super) fn advance(
        &mut self,
        input: &mut [u8],
        plain: &mut Vec<u8>,
        wire: &mut Vec<u8>,
    ) -> (usize, Event) {
        let mut held = self.held_bytes;
        let (taken, mut event) = match &mut self.end {
            End::Server(link) => advance(link, &mut held, input, plain, wire),
            End::Client(link, _) => advance(link, &mut held, input, plain, wire),
        };
        self.held_bytes = held;
        if held > HELD_BYTES_MAX && !self.is_handshaking() {
            event = Event::Failed(general("too many parts of messages"));
        }
        if let (Event::Failed(error), End::Client(_, failures)) = (&event, &self.end) {
            failures.tell(&error.to_string(), explain(error));
        }
        (taken, event)
    }

    /// Remembers why a connection of ours failed, where it was not rustls that said so.
    pub(super) fn tell_failure(&self, reason: &str) {
        if let End::Client(_, failures) = &self.end {
            failures.tell(reason, reason.to_owned());
        }
    }

    /// Appends `pieces` to `wire`, encrypted. `rest` is what the last [`Link::advance`] left, see rule 2.
    pub(super) fn seal<'p>(
        &mut self,
        pieces: impl Iterator<Item = &'p [u8]>,
        rest: &mut [u8],
        wire: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let held = &mut rest[..self.held_bytes];
        match &mut self.end {
            End::Server(link) => {
                with_traffic(link, held, wire, |traffic, wire| encrypt(traffic, pieces, wire))
            }
            End::Client(link, _) => {
                with_traffic(link, held, wire, |traffic, wire| encrypt(traffic, pieces, wire))
            }
        }
    }

    /// What the peer's certificates take, for as long as the connection lasts.
    pub(super) fn chain_bytes(&self) -> usize {
        self.common().peer_certificates().map_or(0, |chain| chain.iter().map(|one| one.len()).sum())
    }

    /// What is counted of the handshake.
    pub(super) fn handshake(&self) -> Handshake {
        let link = self.common();
        let group = link.negotiated_key_exchange_group();
        Handshake {
            version: self.version(),
            group: group.and_then(|group| group.name().as_str()),
            is_resumed: link.handshake_kind() == Some(HandshakeKind::Resumed),
            has_certificate: link.peer_certificates().is_some(),
        }
    }

    fn version(&self) -> &'static str {
        match self.common().protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "",
        }
    }

    /// Appends our close_notify to `wire`: nothing can be sealed behind it.
    pub(super) fn close(&mut self, rest: &mut [u8], wire: &mut Vec<u8>) -> Result<(), Error> {
        let held = &mut rest[..self.held_bytes];
        match &mut self.end {
            End::Server(link) => with_traffic(link, held, wire, close_notify),
            End::Client(link, _) => with_traffic(link, held, wire, close_notify),
        }
    }

    /// What the handshake came to. `server_name` is the one that was asked for: the server's resolver or the client knows it.
    pub(super) fn facts(&self, server_name: Option<String>) -> Secure {
        let link = self.common();
        let certificates = match &self.end {
            End::Server(link) => link.peer_certificates().unwrap_or_default(),
            End::Client(..) => &[],
        };
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

/// `held` is what rustls has taken of what it left, before and behind.
fn advance<S: Side>(
    link: &mut S,
    held: &mut usize,
    input: &mut [u8],
    plain: &mut Vec<u8>,
    wire: &mut Vec<u8>,
) -> (usize, Event) {
    let (mut at, mut seen) = (0, *held);
    let mut end = record_end(input, seen);
    loop {
        let shown = end.unwrap_or(input.len());
        let UnbufferedStatus { discard, state, .. } = link.process(&mut input[at..shown]);
        let event = match state {
            Ok(ConnectionState::EncodeTlsData(mut data)) => match write(wire, 0, |room| data.encode(room)) {
                Ok(()) => None,
                Err(error) => Some(Event::Failed(general(error))),
            },
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
                alert(link, &mut input[at..shown], wire);
                *held = 0;
                return (at, Event::Failed(error));
            }
        };
        at += discard;
        let Some(event) = event else { continue };
        seen = end.unwrap_or(seen);
        if matches!(event, Event::Starved) && end.is_some() && seen < input.len() {
            end = record_end(input, seen);
            continue;
        }
        // Behind the peer's end nothing is looked at.
        *held = if matches!(event, Event::Ended) { 0 } else { seen.saturating_sub(at) };
        return (at, event);
    }
}

/// Where the record that begins there ends, if all of it is there.
fn record_end(input: &[u8], start: usize) -> Option<usize> {
    let [_, _, _, high, low] = *input.get(start..)?.first_chunk::<HEADER_BYTES>()?;
    let end = start + HEADER_BYTES + usize::from(u16::from_be_bytes([high, low]));
    (end <= input.len()).then_some(end)
}

/// Appends the alert that rustls made for an error. With the buffer that the error left, and only while something is queued: see
/// rule 3.
fn alert<S: Side>(link: &mut S, input: &mut [u8], wire: &mut Vec<u8>) {
    while link.wants_write() {
        let UnbufferedStatus { state, .. } = link.process(input);
        let Ok(ConnectionState::EncodeTlsData(mut data)) = state else { return };
        if write(wire, 0, |room| data.encode(room)).is_err() {
            return;
        }
    }
}

/// Ends because each turn of the loop takes something out of rustls's queue.
fn with_traffic<S: Side>(
    link: &mut S,
    rest: &mut [u8],
    wire: &mut Vec<u8>,
    act: impl FnOnce(&mut WriteTraffic<'_, S::Data>, &mut Vec<u8>) -> Result<(), Error>,
) -> Result<(), Error> {
    loop {
        let UnbufferedStatus { discard, state, .. } = link.process(rest);
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

fn encrypt<'p, D>(
    traffic: &mut WriteTraffic<'_, D>,
    pieces: impl Iterator<Item = &'p [u8]>,
    wire: &mut Vec<u8>,
) -> Result<(), Error> {
    for piece in pieces {
        let records = piece.len().div_ceil(RECORD_BYTES_MAX);
        let guess = piece.len() + records * RECORD_OVERHEAD_BYTES;
        write(wire, guess, |room| traffic.encrypt(piece, room)).map_err(general)?;
    }
    Ok(())
}

fn close_notify<D>(traffic: &mut WriteTraffic<'_, D>, wire: &mut Vec<u8>) -> Result<(), Error> {
    write(wire, 2 + RECORD_OVERHEAD_BYTES, |room| traffic.queue_close_notify(room)).map_err(general)
}

/// Whether this is a HelloRetryRequest: a ServerHello with this random value (RFC 8446, 4.1.3). It costs next to nothing, and the
/// client begins once more.
pub(super) fn asks_again(wire: &[u8]) -> bool {
    const RANDOM: [u8; 32] = [
        0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2,
        0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
    ];
    // Behind the header of the record, that of the message, and the version.
    wire.get(HEADER_BYTES + 4 + 2..).is_some_and(|rest| rest.starts_with(&RANDOM))
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
