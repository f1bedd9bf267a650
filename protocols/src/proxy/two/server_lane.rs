//! A stream with a server: its session writes requests, one after the other, and is given their replies to read.

use super::lane::{Fed, Lane};
use super::lanes::{Carries, Turn};
use super::requesting::{To, begin, is_unprocessed, read_body};
use super::sink::Sent;
use super::text::{self, Heads};
use crate::http::one::decoder::Decoder;
use crate::proxy::state::State;
use h2::RecvStream;
use h2::client::ResponseFuture;
use http::Response;
use ringmill_engine::{Call, Io, Layer, Tick};
use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll};

/// What a client is told that waits with its body.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

pub(super) struct ServerLane<L: Layer> {
    pub(super) lane: Lane<L>,
    /// The rest of the request's body.
    decoder: Option<Decoder>,
    reply: Option<ResponseFuture>,
    /// When the last head of a reply came.
    pub(super) replied: Tick,
    is_head: bool,
    /// Its connection takes no more requests, and its session was told.
    pub(super) is_last: bool,
}

impl<L: Layer> Carries<L> for ServerLane<L> {
    fn lane(&mut self) -> &mut Lane<L> {
        &mut self.lane
    }
}

impl<L: Layer> ServerLane<L> {
    pub(super) fn new(lane: Lane<L>) -> ServerLane<L> {
        ServerLane { lane, decoder: None, reply: None, replied: Tick(0), is_head: false, is_last: false }
    }

    /// Something of a request was sent, and its reply is not complete.
    pub(super) fn has_begun(&self) -> bool {
        !self.is_answered() || self.lane.is_fed()
    }

    /// The request was read, and its reply's head has come: what its session writes next is another request.
    fn is_answered(&self) -> bool {
        self.decoder.is_none() && self.reply.is_none()
    }

    /// Moves what there is to move; whether it waits for the connection.
    pub(super) fn drive(
        &mut self,
        layer: &mut L,
        (turn, context): (&mut Turn<'_>, &mut Context<'_>),
        (to, state): (&To<'_>, &RefCell<State>),
        heads: &RefCell<Heads>,
        io: &mut Io<'_>,
    ) -> bool {
        while self.lane.is_open() {
            let mut has_moved = self.take(layer, to, heads, io);
            let sent = self.lane.sink.as_mut().map_or(Sent::On, |sink| turn.send(sink, context));
            match sent {
                Sent::Whole => self.lane.sink = None,
                // The reply says why, or its absence. The rest of the request is still read, and is nothing else.
                Sent::Broken => self.lane.sink = None,
                Sent::On | Sent::Waits | Sent::Starved => {}
            }
            while let Some(text) = self.interim(context) {
                self.lane.call(layer, Call::Data(&mut { text }), io);
            }
            if let Some(reply) = &mut self.reply
                && let Poll::Ready(replied) = Pin::new(reply).poll(context)
            {
                self.reply = None;
                match replied {
                    Ok(response) => self.take_head(layer, response, heads, io),
                    Err(error) => {
                        if is_unprocessed(&error) {
                            state.borrow_mut().unprocessed(self.lane.key(), error.is_reset());
                        }
                        self.lane.call(layer, Call::End(&mut []), io);
                        return false;
                    }
                }
                has_moved = true;
            }
            match self.lane.feed(layer, context, io) {
                Fed::Cut => {
                    self.lane.call(layer, Call::End(&mut []), io);
                    return false;
                }
                Fed::Some => {}
                Fed::Nothing if has_moved || self.lane.has_more() => {}
                Fed::Nothing => return sent == Sent::Starved,
            }
        }
        false
    }

    /// Takes what the session wrote; whether that was anything.
    fn take(&mut self, layer: &mut L, to: &To<'_>, heads: &RefCell<Heads>, io: &mut Io<'_>) -> bool {
        if self.is_answered() && self.lane.has_output() {
            // The reply was whole by its length: its stream may go on as it likes, and nobody reads or writes it any more.
            self.lane.let_go();
        }
        let Some(output) = self.lane.take() else { return false };
        for piece in output.pieces() {
            let read = self.read_piece(piece, to, &mut heads.borrow_mut());
            match read {
                // The body may as well come at once.
                Ok(true) => self.lane.call(layer, Call::Data(&mut CONTINUE.to_vec()), io),
                Ok(false) => {}
                Err(said) => {
                    (self.decoder, self.lane.sink, self.reply) = (None, None, None);
                    self.lane.rest.clear();
                    self.lane.call(layer, Call::Data(&mut said.as_bytes().to_vec()), io);
                    break;
                }
            }
        }
        self.lane.give_back(layer, output, io);
        true
    }

    /// The text of an interim reply, if one has come.
    fn interim(&mut self, context: &mut Context<'_>) -> Option<Vec<u8>> {
        match self.reply.as_mut()?.poll_informational(context) {
            Poll::Ready(Some(Ok(response))) => Some(text::interim(&response)),
            // Whatever it is, the reply says it as well.
            Poll::Ready(_) | Poll::Pending => None,
        }
    }

    fn take_head(
        &mut self,
        layer: &mut L,
        response: Response<RecvStream>,
        heads: &RefCell<Heads>,
        io: &mut Io<'_>,
    ) {
        self.replied = io.now();
        let (parts, body) = response.into_parts();
        let (mut head, has_body) = (std::mem::take(&mut heads.borrow_mut().text), !body.is_end_stream());
        let is_chunked = text::write_response(&mut head, &parts, (self.is_head, has_body));
        if has_body {
            self.lane.follow(body, is_chunked);
        }
        self.lane.call(layer, Call::Data(&mut head), io);
        head.clear();
        heads.borrow_mut().text = head;
    }

    /// Reads on in the request; whether its client waits for a 100. An error is what is said instead of a reply.
    fn read_piece(&mut self, piece: &[u8], to: &To<'_>, heads: &mut Heads) -> Result<bool, &'static str> {
        let is_new = self.is_answered();
        let ServerLane { lane, decoder, reply, is_head, .. } = self;
        let sink = &mut lane.sink;
        lane.rest.read(piece, |text| {
            let (mut at, mut waits) = (0, false);
            if is_new {
                match begin(text, to, heads) {
                    Ok(None) => return (0, Ok(false)),
                    Ok(Some(begun)) => {
                        at = begun.bytes;
                        waits = begun.waits;
                        *is_head = begun.is_head;
                        (*decoder, *sink, *reply) = (begun.decoder, begun.sink, Some(begun.reply));
                    }
                    Err(said) => return (0, Err(said)),
                }
            }
            match read_body(&text[at..], decoder, sink) {
                Ok(used) => (at + used, Ok(waits)),
                Err(said) => (at, Err(said)),
            }
        })
    }
}
