//! An answer that is still being made: a future, in the place where its exchange keeps it.

use super::owned::reply::OwnedReply;
use super::reply::Reply;
use std::pin::Pin;
use std::task::{Context, Poll};

/// What an exchange waits for.
pub(crate) trait Work {
    /// Goes on. Not to be called again once it is ready.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()>;

    /// Writes what it has made: to be called once it is ready, and its place can be used again behind that.
    fn answer(self: Box<Self>, reply: &mut Reply<'_>);

    /// Whether whoever makes the answer has the request: a service may say that it is not ready for one.
    fn has_begun(&self) -> bool {
        true
    }

    /// The memory it takes, with its request.
    fn bytes(&self) -> usize;

    /// Nobody waits for it any more: what it has is dropped, and its place can be used again.
    fn retire(self: Box<Self>) {}
}

/// A future for one answer.
pub(crate) struct One<F> {
    future: Pin<Box<F>>,
    made: Option<OwnedReply>,
}

impl<F: Future<Output = OwnedReply>> One<F> {
    pub(crate) fn new(future: Pin<Box<F>>) -> Box<One<F>> {
        Box::new(One { future, made: None })
    }
}

impl<F: Future<Output = OwnedReply>> Work for One<F> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.future.as_mut().poll(context).map(|answer| self.made = Some(answer))
    }

    fn answer(self: Box<Self>, reply: &mut Reply<'_>) {
        self.made.into_iter().for_each(|answer| reply.put(answer));
    }

    fn bytes(&self) -> usize {
        size_of::<F>()
    }
}
