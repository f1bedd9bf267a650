//! What is known of one connection of TLS between calls.

use super::link::Link;
use super::{LINK_BYTES, TlsSession};
use ringmill_engine::{Layer, Next, Refusal, Step, Upper};

/// How far a connection has come.
pub(super) enum State<L: Layer> {
    /// Nothing has come yet: a silent connection costs no more than its place.
    Greeting,
    Handshaking {
        link: Box<Link>,
        /// What was taken of the client's bytes.
        taken_bytes: usize,
        /// We have sent our part, which is the dear one; to ask for another ClientHello is not.
        is_answered: bool,
        server_name: Option<String>,
        /// Of a connection that the protocol asked for: it is still to be told whether there is one.
        tag: Option<u64>,
    },
    Open(Box<Link>, Upper<L>, Incoming),
    /// It is not secured, and needs not be.
    Plain(Upper<L>),
    /// With what the protocol is still to be told of the connection that it asked for.
    Over(Option<(u64, Refusal)>),
}

impl<L: Layer> State<L> {
    /// Whether the peer came to us.
    pub(super) fn is_accepted(&self) -> bool {
        match self {
            State::Greeting => true,
            State::Handshaking { tag, .. } => tag.is_none(),
            State::Open(link, ..) => link.is_server(),
            State::Plain(_) | State::Over(_) => false,
        }
    }

    /// Remembers why a connection of ours failed.
    pub(super) fn tell_failure(&self, reason: &str) {
        if let State::Handshaking { link, .. } | State::Open(link, ..) = self {
            link.tell_failure(reason);
        }
    }
}

/// The peer's side of an open connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Incoming {
    Flowing,
    /// close_notify came: nothing behind it counts.
    Ended,
}

/// Whether a handshake may begin; see `turns.rs`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It has not asked.
    Unasked,
    /// It waits, under this number.
    Queued(u64),
    /// It has waited, and may.
    Granted,
}

impl<L: Layer> TlsSession<L> {
    /// What is dear is still to come.
    pub(super) fn is_unanswered(&self) -> bool {
        matches!(self.state, State::Handshaking { is_answered: false, tag: None, .. })
    }

    /// What rustls has taken of the input and keeps there.
    pub(super) fn held_bytes(&self) -> usize {
        if let State::Open(link, ..) = &self.state { link.held_bytes() } else { 0 }
    }

    /// rustls and the facts have the peer's certificates once each.
    pub(super) fn memory_bytes(&self) -> usize {
        let chain_bytes = if let State::Open(link, ..) = &self.state { link.chain_bytes() } else { 0 };
        LINK_BYTES + 2 * chain_bytes + self.rest.capacity()
    }

    /// While it waits for its turn, it is shown nothing.
    pub(super) fn wait(&self) -> Step {
        Step::next(if let Turn::Queued(_) = self.turn { Next::Pause } else { Next::Continue })
    }
}
