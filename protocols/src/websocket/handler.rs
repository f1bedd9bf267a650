//! What a WebSocket's user writes.

use super::handshake::Accept;
use super::message::{Closed, Message, Piece};
use super::ws::Ws;
use crate::http::Request;

/// Talks with clients. One value a worker, on that worker's thread: state needs no lock and no `Send`.
///
/// A panic closes the connection with 1011 and is logged; the value stays in use for the others.
pub trait Handler: 'static {
    /// What it keeps for each connection.
    type State: 'static;

    /// Takes a connection whose handshake is good, or not (`None`, which is answered with 403 or what
    /// [`Accept::refuse`] says). Cookies, tokens and the query are in the request; a subprotocol is chosen with [`Accept::choose`].
    fn accept(&mut self, request: &Request<'_>, accept: &mut Accept<'_>) -> Option<Self::State>;

    /// The connection is there.
    fn open(&mut self, _state: &mut Self::State, _ws: &mut Ws<'_>) {}

    /// A message arrived.
    fn message(&mut self, state: &mut Self::State, message: Message<'_>, ws: &mut Ws<'_>);

    /// A part of a message arrived, instead of `message`, if [`Options::in_pieces`](super::Options::in_pieces) says so.
    fn piece(&mut self, _state: &mut Self::State, _piece: Piece<'_>, _ws: &mut Ws<'_>) {}

    /// There is room again, after [`Ws::notify_room`] asked to be told.
    fn room(&mut self, _state: &mut Self::State, _ws: &mut Ws<'_>) {}

    /// Messages of a topic are missing from here on, because the client was too slow for them ([`SlowPolicy`](crate::topic::SlowPolicy)): so
    /// many; or `None`, nobody knows how many, if the place that it wanted to go on from is not known any more, or if the broker was lost
    /// that carries the topic. Unless a handler does something else, the latter has the client begin anew ([`Ws::begin_anew`]).
    fn skipped(&mut self, _state: &mut Self::State, _topic: &str, messages: Option<u64>, ws: &mut Ws<'_>) {
        if messages.is_none() {
            ws.begin_anew();
        }
    }

    /// A waker of this connection ([`Ws::waker`]) was used. Several uses may become one call, and a call may
    /// come without any.
    fn wake(&mut self, _state: &mut Self::State, _ws: &mut Ws<'_>) {}

    /// The connection has ended, or will: nothing is heard of it any more. Called once.
    fn closed(&mut self, _state: Self::State, _closed: Closed<'_>) {}
}
