//! Who takes a request's body while its answer is being made, or what follows an upgrade.

use std::task::Waker;

/// Takes bytes as they arrive, and may hold their sender back. Dropped before its end, it knows that the rest never comes.
pub(crate) trait Intake {
    /// Whom to wake when it takes bytes again, when somebody begins to wait for them, and when nobody wants them any more.
    fn set_waker(&mut self, waker: Waker);

    /// How many bytes it takes now. If that is none, it wakes when it takes some again.
    fn room(&mut self) -> usize;

    /// Takes bytes. More than there is room for are taken too, where they are a piece of a body that was begun.
    fn put(&mut self, bytes: &[u8]);

    /// That was all, with the raw trailer section of a body in chunks.
    fn end(&mut self, trailers: &[u8]);

    /// The rest did not arrive in time.
    fn late(&mut self) {}

    /// Whether somebody waits for the body: the client may be told to send it (100).
    fn is_wanted(&self) -> bool;

    /// The memory that it takes.
    fn bytes(&self) -> usize;
}
