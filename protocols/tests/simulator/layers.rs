//! Two layers: a prefix before the first byte, which is the PROXY layer, and one in the shape of TLS, with records, a handshake and
//! an end of its own. They carry any protocol, and each other.

use ringmill_engine::{Call, CloseReason, Io, Layer, Next, Notice, Origin, Reclaim, Step, Upper};
use ringmill_protocols::layer::proxy::Prefixed;
use std::time::Duration;

/// How long a prefix or a handshake may take.
const PATIENCE: Duration = Duration::from_secs(100_000);

/// The PROXY layer behind a proxy that everybody here is.
pub fn prefixed<L: Layer>(inner: L) -> Prefixed<L> {
    let everybody = ["127.0.0.0/8".parse().expect("a network")];
    Prefixed::new(inner, everybody.to_vec()).with_header_timeout(PATIENCE)
}

/// A header of version 2: PROXY, TCP over IPv4, from 192.0.2.1, port 256, to 192.0.2.2, port 2, with a NOOP of one byte.
pub const PREFIX: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10\xc0\0\x02\x01\xc0\0\x02\x02\x01\0\0\x02\x04\0\x01\n";

/// The session of a layer, below another one.
pub enum Below<L: Layer> {
    /// Nothing is above yet.
    Waiting(Origin),
    Open(Upper<L>),
}

/// Answers `HELLO` with `WELCOME`; then everything travels in records: a length of two bytes, and so many bytes, each changed by the
/// number of its record. A record of length zero is the end of the stream.
pub struct Sealed<L>(pub L);

pub const HELLO: &[u8] = b"HELLO\n";
pub const WELCOME: &[u8] = b"WELCOME\n";
const RECORD_BYTES_MAX: usize = 1000;

pub struct SealedSession<L: Layer> {
    below: Below<L>,
    opened: u8,
    sealed: u8,
    /// The peer's end came as a record: what follows is not looked at.
    is_ended: bool,
}

impl<L: Layer> Layer for Sealed<L> {
    type Session = SealedSession<L>;

    fn open(&mut self, origin: Origin, io: &mut Io<'_>) -> SealedSession<L> {
        io.set_timeout(PATIENCE);
        SealedSession { below: Below::Waiting(origin), opened: 0, sealed: 0, is_ended: false }
    }

    fn call(&mut self, session: &mut SealedSession<L>, call: Call<'_>, io: &mut Io<'_>) -> Step {
        match (&mut session.below, call) {
            (Below::Waiting(origin), Call::Data(input)) => {
                if !input.starts_with(HELLO) {
                    let may_be = HELLO.starts_with(input);
                    return if may_be { Step::need(0, HELLO.len()) } else { Step::close() };
                }
                io.write(WELCOME);
                session.below = Below::Open(Upper::open(&mut self.0, *origin, io));
                self.records(session, input, HELLO.len(), io)
            }
            (Below::Waiting(_), Call::Gone | Call::Drained | Call::Wake) => Step::next(Next::Continue),
            (Below::Waiting(_), _) => Step::next(Next::Close),
            (Below::Open(_), Call::Data(input)) => self.records(session, input, 0, io),
            // The stream ended without its last record: it is cut, and the session above must not take it for an end.
            (Below::Open(_), Call::End(_)) if !session.is_ended => Step::next(Next::Close),
            (Below::Open(upper), call) => {
                upper.call(&mut self.0, call, io);
                seal(upper, &mut session.sealed, io);
                upper.step(0, io)
            }
        }
    }

    fn closed(&mut self, session: SealedSession<L>, reason: CloseReason, reclaim: &mut Reclaim<'_>) {
        if let Below::Open(upper) = session.below {
            upper.close(&mut self.0, reason, reclaim);
        }
    }

    fn notice(&mut self, notice: Notice) {
        self.0.notice(notice);
    }
}

impl<L: Layer> Sealed<L> {
    /// Opens the records that are there in full, where they are.
    fn records(
        &mut self,
        session: &mut SealedSession<L>,
        input: &mut [u8],
        mut at: usize,
        io: &mut Io<'_>,
    ) -> Step {
        let Below::Open(upper) = &mut session.below else { unreachable!("it was opened before") };
        let mut need = 0;
        while at < input.len() && upper.is_open() {
            if session.is_ended {
                at = input.len();
                break;
            }
            let Some(length) = input[at..].first_chunk() else {
                need = 2;
                break;
            };
            let length = usize::from(u16::from_be_bytes(*length));
            let Some(payload) = input[at + 2..].get_mut(..length) else {
                need = 2 + length;
                break;
            };
            at += 2 + length;
            if length == 0 {
                session.is_ended = true;
                upper.call(&mut self.0, Call::End(&mut []), io);
            } else {
                change(payload, session.opened);
                session.opened = session.opened.wrapping_add(1);
                upper.call(&mut self.0, Call::Data(payload), io);
            }
            seal(upper, &mut session.sealed, io);
        }
        // What the session wrote when it was opened.
        seal(upper, &mut session.sealed, io);
        let step = upper.step(at, io);
        if step.next == Next::Continue { Step { need, ..step } } else { step }
    }
}

/// Seals what the session above wrote, and the end behind its last.
fn seal<L: Layer>(upper: &mut Upper<L>, sealed: &mut u8, io: &mut Io<'_>) {
    if let Some(output) = upper.take_output() {
        for piece in output.pieces() {
            for payload in piece.chunks(RECORD_BYTES_MAX) {
                record(io.buffer(), payload, sealed);
            }
        }
        io.recycle(output);
    }
    if upper.take_end() {
        io.write(&[0, 0]);
    }
}

fn record(into: &mut Vec<u8>, payload: &[u8], number: &mut u8) {
    into.extend_from_slice(&(payload.len() as u16).to_be_bytes());
    let start = into.len();
    into.extend_from_slice(payload);
    change(&mut into[start..], *number);
    *number = number.wrapping_add(1);
}

fn change(bytes: &mut [u8], number: u8) {
    bytes.iter_mut().for_each(|byte| *byte ^= number ^ 0xa5);
}

/// How a client speaks through layers, the lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speech {
    Plain,
    Prefixed,
    Sealed,
    PrefixedSealed,
    SealedPrefixed,
    /// TLS, of which `voice.rs` makes and reads the records: here what is said is as it is.
    Secured,
}

/// Those in which a client may say all at once, without an answer.
pub const SPEECHES: [Speech; 5] =
    [Speech::Plain, Speech::Prefixed, Speech::Sealed, Speech::PrefixedSealed, Speech::SealedPrefixed];

impl Speech {
    /// What a client sends that has `plain` to say, in records of so many bytes, and whether it says that this was all.
    pub fn encode(self, plain: &[u8], record_bytes: usize, ends: bool) -> Vec<u8> {
        match self {
            Speech::Plain | Speech::Secured => plain.to_vec(),
            Speech::Prefixed => [PREFIX, plain].concat(),
            Speech::Sealed => sealed(plain, record_bytes, ends),
            Speech::PrefixedSealed => [PREFIX, &sealed(plain, record_bytes, ends)].concat(),
            Speech::SealedPrefixed => sealed(&[PREFIX, plain].concat(), record_bytes, ends),
        }
    }

    /// What a client heard, and whether the server said that this was all. Part of a record is no part of what it says.
    pub fn decode(self, heard: &[u8]) -> (Vec<u8>, bool) {
        match self {
            Speech::Plain | Speech::Prefixed | Speech::Secured => (heard.to_vec(), false),
            Speech::Sealed | Speech::PrefixedSealed | Speech::SealedPrefixed => unsealed(heard),
        }
    }
}

fn sealed(plain: &[u8], record_bytes: usize, ends: bool) -> Vec<u8> {
    let (mut bytes, mut number) = (HELLO.to_vec(), 0);
    plain.chunks(record_bytes.max(1)).for_each(|payload| record(&mut bytes, payload, &mut number));
    if ends {
        bytes.extend([0, 0]);
    }
    bytes
}

fn unsealed(heard: &[u8]) -> (Vec<u8>, bool) {
    let (mut plain, mut number) = (Vec::new(), 0u8);
    let Some(mut rest) = heard.strip_prefix(WELCOME) else {
        assert!(
            WELCOME.starts_with(heard),
            "not the end of a handshake: {:?}",
            heard.escape_ascii().to_string()
        );
        return (plain, false);
    };
    while let Some((length, behind)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes(*length));
        let Some(payload) = behind.get(..length) else { break };
        if length == 0 {
            assert!(behind.is_empty(), "something follows the end of the stream");
            return (plain, true);
        }
        let start = plain.len();
        plain.extend_from_slice(payload);
        change(&mut plain[start..], number);
        number = number.wrapping_add(1);
        rest = &behind[length..];
    }
    (plain, false)
}
