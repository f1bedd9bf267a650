//! Connections that the protocol opens itself: how they begin, and what it is told of those that do not come about. Once a
//! handshake is complete, they are like accepted ones.

use super::client::CLOSED;
use super::link::Event;
use super::{LINK_BYTES, Peers, State, Tls, TlsPeer};
use ringmill_engine::{Call, CloseReason, Io, Layer, Notice, Origin, Refusal, Step, Upper};

impl<L: Layer> Tls<L> {
    /// `inner`, whose accepted connections stay plain, while those that it opens itself are secured as [`Tls::with_peers`] says.
    pub fn client(inner: L, choose: impl FnMut(u64) -> Option<TlsPeer> + 'static) -> Tls<L> {
        Tls::bare(inner).with_peers(choose)
    }

    /// Secures the connections that the protocol opens itself: `choose` is given the tag of each, and says with which server it is.
    /// Without an answer that connection stays plain.
    pub fn with_peers(self, choose: impl FnMut(u64) -> Option<TlsPeer> + 'static) -> Tls<L> {
        Tls { peers: Peers::ByTag(Box::new(choose)), ..self }
    }

    pub(super) fn open_plain(&mut self, origin: Origin, io: &mut Io<'_>) -> State<L> {
        let mut upper = Upper::open(&mut self.inner, origin, io);
        upper.pass(0, io);
        State::Plain(upper)
    }

    /// A connection that the protocol asked for: our part of the handshake is the first.
    pub(super) fn connected(&mut self, tag: u64, io: &mut Io<'_>) -> State<L> {
        let peer = match &mut self.peers {
            Peers::None => None,
            Peers::ByTag(choose) => match choose(tag) {
                None => return self.open_plain(Origin::Connected(tag), io),
                peer => peer,
            },
        };
        let refusal = if io.hold(LINK_BYTES) { Refusal::Unsecured } else { Refusal::Limit };
        let link =
            peer.filter(|_| refusal == Refusal::Unsecured).and_then(|peer| Some((peer.link().ok()?, peer)));
        let Some((mut link, peer)) = link else {
            // Only a call can close, and this asks for one at once.
            io.notify_drained();
            return State::Over(Some((tag, refusal)));
        };
        io.set_timeout(peer.handshake_timeout());
        let (_, event) = link.advance(&mut [], &mut self.plain, &mut self.wire);
        debug_assert!(matches!(event, Event::Starved), "nothing has come yet: {event:?}");
        io.write(&self.wire);
        self.wire.clear();
        State::Handshaking {
            link: Box::new(link),
            taken_bytes: 0,
            is_answered: false,
            server_name: Some(peer.name()),
            tag: Some(tag),
        }
    }

    /// Says that there is no connection, where it was asked for.
    pub(super) fn tell_refused(&mut self, state: &State<L>, reason: CloseReason) {
        let Some((tag, refusal)) = state.unmade() else { return };
        let refusal = match (refusal, reason) {
            (Refusal::Unsecured, CloseReason::Failed(errno)) => Refusal::Failed(errno),
            (Refusal::Unsecured, CloseReason::Stopped) => Refusal::Stopped,
            (refusal, _) => refusal,
        };
        self.inner.notice(Notice::Refused(tag, refusal));
    }
}

impl<L: Layer> State<L> {
    /// What the protocol is still to be told of a connection that it asked for, should there be none.
    pub(super) fn unmade(&self) -> Option<(u64, Refusal)> {
        match self {
            State::Handshaking { tag: Some(tag), .. } => Some((*tag, Refusal::Unsecured)),
            State::Over(unmade) => *unmade,
            _ => None,
        }
    }

    /// A handshake ends without having been completed.
    pub(super) fn break_off(&mut self, call: &Call<'_>) -> Step {
        if let State::Handshaking { link, tag, .. } = self {
            let is_late = matches!(call, Call::Timeout);
            link.tell_failure(if is_late { "the handshake was not complete in time" } else { CLOSED });
            let refusal = if is_late { Refusal::TimedOut } else { Refusal::Unsecured };
            *self = State::Over(tag.map(|tag| (tag, refusal)));
        }
        Step::close()
    }
}
