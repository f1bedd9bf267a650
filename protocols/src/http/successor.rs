//! Who comes after HTTP on a connection (RFC 9110, 7.8): a session of another protocol, to which the answer 101 gives it.

use ringmill_engine::{Call, CloseReason, Io, Next, Step};

/// A session that goes on with a connection on which HTTP was spoken: `Reply::switch`.
pub trait Successor {
    /// The connection is its own from here on; the answer 101 is written, and no deadline is set. If the engine is draining, it is
    /// told so after this.
    fn open(&mut self, io: &mut Io<'_>) -> Next;

    /// Any call of the session, as [`Protocol`](ringmill_engine::Protocol) says. What came behind the request is its first data.
    fn call(&mut self, call: Call<'_>, io: &mut Io<'_>) -> Step;

    /// It is over.
    fn closed(self: Box<Self>, reason: CloseReason);
}
