//! Handlers that wait: a future for each request, in a place that is used again.
//!
//! A future is polled once where it is made, in the place that it keeps, with a waker that does nothing: most answers are there then, and
//! neither a waker nor memory of their own was needed. Only one that is not ready goes to its exchange, where it is polled again at
//! once, with the connection's waker: of several wakers the last one counts (`std::future::Future`).

use super::handler::Handler;
use super::owned::reply::OwnedReply;
use super::owned::request::OwnedRequest;
use super::peer::Peer;
use super::reply::{Reply, Work};
use super::request::Request;
use std::cell::RefCell;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

/// A handler that answers with a future for each request: see [`server_async`](super::server_async). Part of a [`Handler`] of your
/// own, it takes those requests that are handed to it, beside others that are answered at once.
///
/// Bodies are collected first, up to the server's limit.
pub struct Async {
    make: Box<dyn Fn() -> Box<dyn Place>>,
    spare: Spare,
}

/// Places that are not in use.
type Spare = Rc<RefCell<Vec<Box<dyn Place>>>>;

/// So many are kept; more are freed.
const SPARE_MAX: usize = 256;

/// A place for the future of one request after the other.
trait Place: Work {
    fn begin(&mut self, request: &Request<'_>);
    fn peer(&self) -> Peer;
}

struct Typed<M, F> {
    make: Rc<M>,
    future: Pin<Box<Option<F>>>,
    made: Option<OwnedReply>,
    peer: Peer,
    request_bytes: usize,
    spare: Weak<RefCell<Vec<Box<dyn Place>>>>,
}

impl Async {
    /// A handler for an async closure. Each worker has its own, so it may keep state without locks (in a `Cell`, `RefCell` or `Rc`:
    /// several of its futures may be under way).
    pub fn new<H>(handler: H) -> Async
    where
        H: AsyncFn(OwnedRequest, OwnedReply) -> OwnedReply + 'static,
    {
        let handler = Rc::new(handler);
        Async::of(move |request| {
            let handler = handler.clone();
            async move { handler(request, OwnedReply::new()).await }
        })
    }

    fn of<M, F>(make: M) -> Async
    where
        M: Fn(OwnedRequest) -> F + 'static,
        F: Future<Output = OwnedReply> + 'static,
    {
        let (make, spare) = (Rc::new(make), Spare::default());
        let own = Rc::downgrade(&spare);
        let place = move || -> Box<dyn Place> {
            Box::new(Typed {
                make: make.clone(),
                future: Box::pin(None),
                made: None,
                peer: Peer::default(),
                request_bytes: 0,
                spare: own.clone(),
            })
        };
        Async { make: Box::new(place), spare }
    }
}

impl Handler for Async {
    fn handle(&mut self, request: &Request<'_>, reply: &mut Reply<'_>) {
        if !reply.may_be_put_off() {
            return;
        }
        let spare = self.spare.borrow_mut().pop();
        let mut place = spare.unwrap_or_else(|| (self.make)());
        place.begin(request);
        match place.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(()) => place.answer(reply),
            Poll::Pending => {
                let peer = place.peer();
                reply.put_off(place, Some(peer));
            }
        }
    }
}

impl<M, F> Place for Typed<M, F>
where
    M: Fn(OwnedRequest) -> F + 'static,
    F: Future<Output = OwnedReply> + 'static,
{
    fn begin(&mut self, request: &Request<'_>) {
        let request = OwnedRequest::take(request, self.peer.clone());
        self.request_bytes = request.bytes();
        let future = (self.make)(request);
        self.future.set(Some(future));
    }

    fn peer(&self) -> Peer {
        self.peer.clone()
    }
}

impl<M, F> Work for Typed<M, F>
where
    M: Fn(OwnedRequest) -> F + 'static,
    F: Future<Output = OwnedReply> + 'static,
{
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let future = self.future.as_mut().as_pin_mut().expect("a request was begun");
        future.poll(context).map(|answer| self.made = Some(answer))
    }

    fn answer(mut self: Box<Self>, reply: &mut Reply<'_>) {
        let made = self.made.take();
        self.retire();
        made.into_iter().for_each(|answer| reply.put(answer));
    }

    fn bytes(&self) -> usize {
        size_of::<F>() + self.request_bytes
    }

    fn retire(mut self: Box<Self>) {
        self.future.set(None);
        self.made = None;
        self.peer.renew();
        // None where the server is gone.
        let Some(spare) = self.spare.upgrade() else { return };
        let spare = &mut *spare.borrow_mut();
        if spare.len() < SPARE_MAX {
            spare.push(self);
        }
    }
}
