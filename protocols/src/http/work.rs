//! Answers that are put off: a future, in the place where its exchange keeps it.

use super::owned::reply::OwnedReply;
use super::owned::request::OwnedRequest;
use super::peer::Peer;
use super::reply::{Reply, Stage, Work};
use super::request::Request;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

impl Reply<'_> {
    /// Puts the answer off until `future` has made it. It is polled on this worker, between other requests: it may use whatever wakes its
    /// waker, from any thread. The client's next requests wait behind it, and it is dropped when the client leaves before
    /// ([`WhenGone`](super::WhenGone)). To be called instead of writing an answer.
    pub fn later(&mut self, future: impl Future<Output = OwnedReply> + 'static) {
        if !self.may_be_put_off() {
            return;
        }
        let mut future = Box::pin(future);
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => self.put(answer),
            Poll::Pending => self.put_off(One::new(future), None),
        }
    }

    /// Takes a request out of the input, for a future that answers it later.
    pub fn own(&mut self, request: &Request<'_>) -> OwnedRequest {
        let later = self.state.later.get_or_insert_default();
        OwnedRequest::take(request, later.peer.get_or_insert_default().clone())
    }

    /// Whether nothing of the answer is written, and the request has arrived in full.
    pub(crate) fn may_be_put_off(&self) -> bool {
        let may = self.state.stage == Stage::Unsent && !self.state.reading;
        if !may {
            tracing::error!(
                "an answer that has begun, or whose request is not complete, was put off: ignored"
            );
        }
        may
    }

    /// The answer is not ready: its exchange goes on with it.
    pub(crate) fn put_off(&mut self, work: Box<dyn Work>, peer: Option<Peer>) {
        self.state.stage = Stage::Later;
        let later = self.state.later.get_or_insert_default();
        later.work = Some(work);
        later.peer = peer.or(later.peer.take());
    }
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
