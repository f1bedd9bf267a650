//! The session above a layer, on a duplex of its own: what a layer uses to carry another protocol.

use super::calls::{Callee, Panicked};
use super::duplex::Duplex;
use super::inlet::Reading;
use super::life::{CloseReason, Ending, Phase};
use super::outlet::{Last, Level, Wish};
use super::service::guard;
use crate::output::Output;
use crate::seam::io::Io;
use crate::seam::layer::{Call, Layer, Origin, Reclaim};
use crate::seam::step::{Next, Step};
use crate::time::Tick;

/// A session of `L` that stands on a layer. Its rules of calling are those of a session that stands on a socket; its water marks
/// are those of the connection, over all that is queued in the stack.
///
/// A layer calls [`Upper::call`] for whatever it is called with itself, and answers with [`Upper::pass`]; or with [`Upper::step`], once it
/// has taken what the session wrote ([`Upper::take_output`]) and written down what becomes of it. A panic of the session ends here: what it
/// wrote before can be taken, and then the answer is to abort.
pub struct Upper<L: Layer> {
    duplex: Duplex,
    /// `None` once it is over.
    session: Option<L::Session>,
    /// What is queued below is not its own.
    is_apart: bool,
}

struct Bound<'a, L: Layer> {
    layer: &'a mut L,
    session: &'a mut L::Session,
}

impl<L: Layer> Callee for Bound<'_, L> {
    #[inline]
    fn call(&mut self, call: Call<'_>, io: &mut Io<'_>) -> Result<Step, Panicked> {
        let input_bytes = call.input_bytes();
        // Caught here, so that the layer can still send what the session wrote before.
        guard(|| {
            let step = self.layer.call(self.session, call, io);
            assert!(step.consumed <= input_bytes, "a protocol consumed more than it was given");
            step
        })
    }
}

impl<L: Layer> Upper<L> {
    /// Opens a session above the one that `io` belongs to.
    pub fn open(layer: &mut L, origin: Origin, io: &mut Io<'_>) -> Upper<L> {
        let mut duplex = Duplex::new();
        io.duplex.is_layered = true;
        let session = layer.open(origin, &mut Io { duplex: &mut duplex, below: io.under() });
        unsplice(&mut duplex);
        Upper { duplex, session: Some(session), is_apart: false }
    }

    /// For a layer that carries several sessions: the water marks of this one count its own output alone, so that none waits for what
    /// another one has queued. Their layer bounds what it queues itself, and says what it holds for them ([`Upper::queued_bytes`]).
    pub fn apart(self) -> Upper<L> {
        Upper { is_apart: true, ..self }
    }

    /// Output that was not taken.
    pub fn queued_bytes(&self) -> usize {
        self.duplex.outlet.pending_bytes()
    }

    /// Whether the session goes on.
    pub fn is_open(&self) -> bool {
        self.session.is_some()
    }

    /// Whether the session wrote its last in the last call, because it is over or has ended its output ([`Io::end_output`]): the
    /// place for a layer's own end, once. A session that broke off without that has none.
    pub fn take_end(&mut self) -> bool {
        let Duplex { phase, ending, outlet, .. } = &mut self.duplex;
        let last = &mut outlet.last;
        let is_over = *phase == Phase::Draining && *ending == Ending::Eof && *last != Last::Told;
        let is_end = is_over || *phase != Phase::Closing && *last == Last::Written;
        if is_end {
            *last = Last::Told;
        }
        is_end
    }

    /// Hands a call on. Of [`Call::Data`] all bytes are taken: what the session does not consume is kept here, as is what
    /// comes while it pauses. A timeout that is not the session's is not handed on. Nothing happens once the session is over.
    pub fn call(&mut self, layer: &mut L, call: Call<'_>, io: &mut Io<'_>) {
        let Some(session) = &mut self.session else { return };
        let mut callee = Bound { layer, session };
        let mut below = io.under();
        if self.is_apart {
            below.queued_bytes = 0;
        }
        let mut above = Io { duplex: &mut self.duplex, below };
        let reason = match call {
            Call::Data(input) => above.receive(&mut callee, input),
            Call::End(_) => above.end(&mut callee),
            // Whether the session itself asked for it is its duplex's to know.
            Call::Drained => above.settle(&mut callee),
            Call::Timeout if above.duplex.deadline > above.now() => None,
            Call::Timeout => {
                above.duplex.deadline = Tick::NEVER;
                above.call(&mut callee, Call::Timeout)
            }
            Call::Gone => above.gone(&mut callee),
            Call::Shed if !above.duplex.is_at_rest() || above.duplex.inlet.unread_bytes() > 0 => None,
            Call::Wake | Call::Drain | Call::Shed | Call::Spliced(_) => above.call(&mut callee, call),
        };
        unsplice(&mut self.duplex);
        let Some(reason) = reason else { return };
        let is_closed = self.over(layer, reason, &mut io.reclaim());
        if reason == CloseReason::Panicked || is_closed.is_err() {
            io.count_panic();
        }
    }

    /// Moves what the session wrote down as it is, and says what this layer wants of the one below ([`Upper::step`]).
    pub fn pass(&mut self, consumed: usize, io: &mut Io<'_>) -> Step {
        if let Some(output) = self.take_output() {
            io.append(output);
        }
        self.step(consumed, io)
    }

    /// What the session wrote since this was last asked, to be changed on its way down. Give it back with [`Io::recycle`].
    pub fn take_output(&mut self) -> Option<Box<Output>> {
        self.duplex.outlet.pending.take()
    }

    /// What this layer wants of the one below, having consumed so many bytes. Sets the deadline of the layer's session to
    /// that of the session above; an earlier one of its own goes with [`Io::set_deadline`] behind it. Call it when the output
    /// was taken, and a layer's own end written behind it: with a session that only reads on, the layer's output ends here.
    pub fn step(&mut self, consumed: usize, io: &mut Io<'_>) -> Step {
        let duplex = &self.duplex;
        let is_over = self.session.is_none();
        // Behind the end of a session that is over there is one anyway, and of several sessions none ends what they have in common.
        let keeps_on = self.is_apart || is_over && duplex.ending == Ending::Eof;
        if duplex.outlet.last == Last::Told && !keeps_on {
            io.end_output();
        }
        if is_over {
            let next = if duplex.ending == Ending::Eof { Next::Close } else { Next::Abort };
            return Step { consumed, need: 0, next };
        }
        io.set_deadline((duplex.deadline != Tick::NEVER).then_some(duplex.deadline));
        if duplex.outlet.level == Level::High || duplex.outlet.wish == Wish::Drained {
            io.notify_drained();
        } else if duplex.outlet.wish == Wish::Sent {
            io.notify_sent();
        }
        let takes_input = duplex.inlet.reading == Reading::Flowing && duplex.outlet.level == Level::Low;
        let next = if takes_input { Next::Continue } else { Next::Pause };
        Step { consumed, need: 0, next }
    }

    /// The connection is over, and with it this session.
    pub fn close(mut self, layer: &mut L, reason: CloseReason, reclaim: &mut Reclaim<'_>) {
        if let Some(output) = self.take_output() {
            reclaim.0.recycle(output);
        }
        if self.over(layer, reason, reclaim).is_err() {
            reclaim.0.count_panic_outside();
        }
    }

    fn over(
        &mut self,
        layer: &mut L,
        reason: CloseReason,
        reclaim: &mut Reclaim<'_>,
    ) -> Result<(), Panicked> {
        self.duplex.leave_session(reclaim.0);
        let Some(session) = self.session.take() else { return Ok(()) };
        guard(|| layer.closed(session, reason, reclaim))
    }
}

/// What goes through a layer cannot be passed on unseen: a session above one goes on as if it had not asked.
fn unsplice(duplex: &mut Duplex) {
    if duplex.outlet.last == Last::Fed {
        duplex.outlet.last = Last::Open;
    }
}
