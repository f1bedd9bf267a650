//! An answer that is still being made: a future, in the place where its exchange keeps it.

use super::owned::reply::OwnedReply;
use std::pin::Pin;
use std::task::{Context, Poll};

/// What an exchange waits for.
pub(crate) trait Work {
    /// Goes on. Not to be called again once it is ready.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<OwnedReply>;

    /// Whether whoever makes the answer has the request: a service may say that it is not ready for one.
    fn has_begun(&self) -> bool {
        true
    }

    /// The memory it takes, with its request.
    fn bytes(&self) -> usize;

    /// It is ready, or nobody waits for it any more: what it has is dropped, and its place can be used again.
    fn retire(self: Box<Self>) {}
}

/// A future for one answer.
impl<F: Future<Output = OwnedReply>> Work for Pin<Box<F>> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<OwnedReply> {
        self.as_mut().poll(context)
    }

    fn bytes(&self) -> usize {
        size_of::<F>()
    }
}
