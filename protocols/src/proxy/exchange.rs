//! One request and its reply, between the client's connection and the upstream's: bytes for either side, and how far both are.
//! Pure data; who fills and empties it is `client.rs` and `upstream.rs`.

use super::accept::Form;
use super::fields::ToClient;
use super::groups::Place;
use super::observe::Seen;
use super::pool::Wanted;
use super::whom::Whom;
use crate::http::client::reader::{Asked, Reader};
use crate::http::message::HEAD_BYTES_MAX;
use crate::http::one::decoder::Decoder;
use ringmill_engine::{Io, Tick};

/// So much waits for one side before the other one is not read any more, in bytes; what one call brings is added to it.
pub(super) const HELD_BYTES: usize = 64 * 1024;

pub(super) struct Exchange {
    pub(super) client: Whom,
    /// Which server was chosen, of which upstream.
    pub(super) place: Place,
    /// Which server it is for.
    pub(super) wanted: Wanted,
    pub(super) way: Way,
    /// How often it was given a connection.
    pub(super) tries: u8,
    /// Attempts to connect that were refused: all servers may be tried, of which there may be many.
    pub(super) refusals: u32,

    /// For the upstream.
    pub(super) up: Pipe,
    /// The whole request is in `up`, also what was sent.
    pub(super) is_kept: bool,
    /// What the client wants answers of ours as, where its head is not kept.
    pub(super) form: Form,
    /// Something of it was sent, on the connection that it has now.
    pub(super) has_sent: bool,
    /// All of it has left the engine, as far as was looked (`awaiting.rs`).
    pub(super) has_left: bool,
    /// So much of it had not, when it was looked last.
    pub(super) unsent_bytes: usize,
    /// Something of a reply has come, on that connection.
    pub(super) has_heard: bool,
    /// It was lost with a kept connection: another one may have ended as well, so it waits for one that is new.
    pub(super) needs_new: bool,
    pub(super) repeats: Repeats,
    /// The rest of the request's body; `None` when it is complete.
    pub(super) decoder: Option<Decoder>,
    /// The body is passed on in chunks.
    pub(super) is_chunked: bool,
    /// Bytes of the body that may still come.
    pub(super) body_left: u64,
    /// Of the body, since `body_due` was set.
    pub(super) arrived_bytes: u64,
    /// When the next of the body must be there.
    pub(super) body_due: Tick,
    /// When it has waited too long for a connection.
    pub(super) wait_due: Tick,

    pub(super) asked: Asked,
    pub(super) is_http10: bool,
    /// Nobody between the client and this proxy can read along.
    pub(super) is_secured: bool,
    /// The client waits for a 100 before its body: none has come, and nothing of the body.
    pub(super) expects: bool,
    /// The client's connection goes on behind the reply.
    pub(super) keep_alive: bool,
    pub(super) reader: Reader,
    /// The upstream goes on with its connection behind the reply.
    pub(super) is_reusable: bool,
    /// The reply counts as a failure of its server, whatever becomes of it.
    pub(super) is_failure: bool,
    pub(super) stage: Stage,
    /// For the client.
    pub(super) down: Pipe,
    /// What is noted of it, where anything is.
    pub(super) seen: Option<Box<Seen>>,
}

/// When a request may be sent once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeats {
    /// Never: it may have had its effect.
    Never,
    /// Behind a kept connection that ended: twice does what once does (RFC 9110, 9.2.2), or it says so itself.
    BehindKept,
    /// Whenever no reply has begun: it asks for no effect (RFC 9110, 9.2.1).
    Always,
}

/// Where the request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Its body comes first (`buffering.rs`), until so many bytes are in `up`.
    Buffering { until_bytes: usize },
    /// It waits for a connection with its upstream.
    Waiting,
    /// It has this one.
    On(usize),
    /// It needs none any more.
    Off,
}

/// How far the reply is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its final head has not come.
    Unanswered,
    Body(ToClient),
    /// All of it is in `down`.
    Done,
    /// It was cut; the client can tell it only by a reset.
    Cut {
        by_reset: bool,
    },
    /// Both sides speak another protocol, as this pair, once the client has what is in `down`.
    Joined(usize),
}

/// Bytes from one side to the other, in order.
#[derive(Default)]
pub(super) struct Pipe {
    pub(super) bytes: Vec<u8>,
    /// So many of them were taken.
    pub(super) taken: usize,
    /// The side that fills it waits for room.
    pub(super) is_held: bool,
    /// Trailers come into it as well.
    pub(super) has_trailers: bool,
}

impl Pipe {
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.taken
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() >= HELD_BYTES
    }

    /// Gives the other side what there is, as far as that has room, and forgets it. Returns how many bytes it were.
    pub(super) fn pour(&mut self, io: &mut Io<'_>) -> usize {
        let bytes = self.len();
        if bytes > 0 && self.taken == 0 && bytes <= room_bytes(io) {
            io.write_vec(&mut self.bytes);
            return bytes;
        }
        let bytes = self.pour_copy(io);
        self.forget_taken();
        bytes
    }

    /// The same, and what was given stays here.
    pub(super) fn pour_copy(&mut self, io: &mut Io<'_>) -> usize {
        let bytes = self.len().min(room_bytes(io));
        if bytes > 0 {
            io.write(&self.bytes[self.taken..][..bytes]);
            self.taken += bytes;
        }
        bytes
    }

    /// Forgets what was taken, where that is cheap.
    pub(super) fn forget_taken(&mut self) {
        if self.len() == 0 {
            self.bytes.clear();
            self.taken = 0;
        } else if self.taken >= HELD_BYTES {
            self.bytes.drain(..self.taken);
            self.taken = 0;
        }
    }
}

/// So much of what has come is looked at before it is asked again whether there is room: of a connection that was paused there may be a
/// megabyte at once. Where a piece ends with something that is not whole, the next one begins with that.
pub(super) fn piece(input: &[u8]) -> &[u8] {
    &input[..input.len().min(HELD_BYTES)]
}

/// What waits until it is whole, a head or a trailer section, fits into a piece.
const _: () = assert!(HELD_BYTES >= HEAD_BYTES_MAX);

/// Below high water: above it the engine would not read what the other side sends, and both would wait.
fn room_bytes(io: &Io<'_>) -> usize {
    io.room_bytes().saturating_sub(1)
}

impl Exchange {
    /// Whether all of the request was sent.
    pub(super) fn is_sent(&self) -> bool {
        self.decoder.is_none() && self.up.len() == 0 && self.has_sent
    }

    /// Whether the client's input is read.
    pub(super) fn reads_client(&self) -> bool {
        match self.stage {
            Stage::Joined(_) => false,
            _ => self.decoder.is_some() && !self.up.is_held,
        }
    }

    /// Whether the client's input has to come in time. While the client waits for a 100 it is the server that has to say something (RFC 9110,
    /// 10.1.1). Once the server has answered, when the client goes on is between the two of them: then the exchange may not be silent as a
    /// whole, for which the connection with the server has a deadline.
    pub(super) fn waits_for_body(&self) -> bool {
        self.reads_client() && self.stage == Stage::Unanswered && !self.expects
    }
}
