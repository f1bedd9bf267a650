//! A tower service behind our HTTP/1.1: strict heads, pipelining, limits and deadlines are those of [`Server`], and the service is called
//! in place.
//!
//! A request whose body is all there is answered like any other. One whose body is still to come reads it from a queue (`body.rs`)
//! while the service runs; the session in `http/one/streaming.rs` fills it. A service that takes the connection over gets a pipe
//! (`upgrade.rs`).

use super::arena::Arena;
use super::body::{Body, BodyError, QUEUED_BYTES_MAX, Writer};
use super::notices::Notices;
use super::pipe::Near;
use super::request::{convert, trailers};
use super::response::{self, Asked, Place, failed};
use super::service::{Answer, BoxError, Introduce, Program};
use super::upgrade::{Wanted, offer};
use crate::http::intake::Intake;
use crate::http::owned::reply::{self, OwnedReply};
use crate::http::reply::Work;
use crate::http::work::One;
use crate::http::{BodyWriter, Fill, Handler, Method, Plan, Reply, Request, Source, Streaming, Version};
use bytes::Bytes;
use http::{Extensions, HeaderMap, StatusCode};
use std::cell::RefCell;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker, ready};

/// A tower service as a [`Handler`].
pub struct Tower<S: Answer> {
    program: Program<S>,
    arena: Arena,
    spare: Spare<S>,
    body_bytes_max: u64,
}

/// Places of exchanges that are not in use.
type Spare<S> = Rc<Places<S>>;

type Places<S> = RefCell<Vec<Box<Exchange<S>>>>;

/// So many are kept; more are freed.
const SPARE_MAX: usize = 256;

impl<S: Answer> Tower<S> {
    pub(super) fn new(program: Program<S>) -> Tower<S> {
        Tower { program, arena: Arena::default(), spare: Spare::default(), body_bytes_max: u64::MAX }
    }

    pub(super) fn set_introduce(&mut self, introduce: Rc<Introduce>) {
        self.program.set_introduce(introduce);
    }

    pub(super) fn begin_shutdown(&self) {
        self.program.shutdown().begin();
    }

    pub(super) fn set_body_bytes_max(&mut self, bytes_max: u64) {
        self.body_bytes_max = bytes_max;
    }

    /// Begins an exchange: with a request of ours, and the body that it has.
    fn begin(
        &mut self,
        request: &Request<'_>,
        body: Body,
        reply: &Reply<'_>,
    ) -> Result<Box<Exchange<S>>, &'static str> {
        let spare = self.spare.borrow_mut().pop();
        let mut exchange = spare.unwrap_or_else(|| {
            let notices = Notices::new(self.program.shutdown());
            Box::new(Exchange::new(Rc::downgrade(&self.spare), notices))
        });
        let mut converted = http::Request::new(body);
        *converted.headers_mut() = exchange.map.take().unwrap_or_default();
        if let Err(reason) = convert(request, &mut converted, &mut self.arena) {
            exchange.retire();
            return Err(reason);
        }
        exchange.asked = asked(request);
        let extensions = converted.extensions_mut();
        extensions.insert(exchange.notices.clone());
        self.program.introduce(reply.io(), extensions);
        if let Some(wanted) = exchange.asked.wanted {
            exchange.near = offer_in(wanted, extensions);
        }
        exchange.begin(self.program.service(), converted);
        Ok(exchange)
    }
}

/// What the answer to this request depends on.
fn asked(request: &Request<'_>) -> Asked {
    let wanted = match request.method() {
        Method::Connect => Some(Wanted::Connect),
        _ if request.offers_upgrade() && request.body_length().unwrap_or(0) == 0 => Some(Wanted::Upgrade),
        _ => None,
    };
    let takes_trailers = request.version() == Version::Http11
        && request.field("te").is_some_and(|te| {
            te.split(|&byte| byte == b',').any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
        });
    Asked { is_head: request.method() == Method::Head, takes_trailers, wanted }
}

#[cold]
fn offer_in(wanted: Wanted, extensions: &mut Extensions) -> Option<Rc<Near>> {
    let (upgrade, near) = offer(wanted)?;
    extensions.insert(upgrade);
    Some(Rc::new(near))
}

impl<S: Answer> Handler for Tower<S> {
    fn handle(&mut self, request: &Request<'_>, reply: &mut Reply<'_>) {
        let body = match request.body() {
            b"" => Body::empty(),
            bytes => Body::whole(Bytes::copy_from_slice(bytes)),
        };
        let mut exchange = match self.begin(request, body, reply) {
            Ok(exchange) => exchange,
            Err(reason) => {
                reply.put(refused(reason));
                return;
            }
        };
        match exchange.poll_response(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(response) => {
                let made = exchange.make(response);
                exchange.write(made, reply);
                exchange.retire();
            }
            Poll::Pending => {
                let peer = exchange.notices.peer().clone();
                reply.put_off(exchange, Some(peer));
            }
        }
    }

    fn plan(&mut self, _: &Request<'_>) -> Plan {
        Plan::CollectUpTo(self.body_bytes_max)
    }

    fn stream(&mut self, request: &Request<'_>, reply: &mut Reply<'_>) -> Option<Streaming> {
        let (writer, body) = Body::stream(request.body_length(), None);
        let (work, peer): (Box<dyn Work>, _) = match self.begin(request, body, reply) {
            Ok(mut exchange) => {
                // A client that sends a body still speaks HTTP.
                (exchange.asked.wanted, exchange.near) = (None, None);
                let peer = exchange.notices.peer().clone();
                (exchange, Some(peer))
            }
            Err(reason) => (One::new(Box::pin(std::future::ready(refused(reason)))), None),
        };
        Some(Streaming { intake: Box::new(writer), work, peer, body_bytes_max: self.body_bytes_max })
    }

    fn takes_connect(&self) -> bool {
        true
    }
}

#[cold]
fn refused(reason: &str) -> OwnedReply {
    OwnedReply::new().status(400).close().text(format!("400 Bad Request: {reason}\n"))
}

/// One request and the future that answers it, in a place that is used again.
struct Exchange<S: Answer> {
    future: Pin<Box<Option<S::Future>>>,
    /// The service is not ready for the request yet.
    waiting: Option<Box<(S, http::Request<Body>)>>,
    /// The answer, if it was waited for and did not fail.
    made: Option<Made>,
    body: Place<S::Body>,
    /// That of an answer becomes that of the next request, as in hyper.
    map: Option<HeaderMap>,
    asked: Asked,
    near: Option<Rc<Near>>,
    notices: Notices,
    spare: Weak<Places<S>>,
}

type Response<S> = Result<http::Response<<S as Answer>::Body>, BoxError>;

/// An answer of which nothing is written.
struct Made {
    status: StatusCode,
    headers: HeaderMap,
    is_granted: bool,
    content: reply::Body,
}

impl<S: Answer> Exchange<S> {
    fn new(spare: Weak<Places<S>>, notices: Notices) -> Exchange<S> {
        Exchange {
            future: Box::pin(None),
            waiting: None,
            made: None,
            body: Box::pin(None),
            map: None,
            asked: Asked::default(),
            near: None,
            notices,
            spare,
        }
    }

    fn begin(&mut self, service: &mut S, request: http::Request<Body>) {
        match service.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => self.future.set(Some(service.call(request))),
            Poll::Ready(Err(_)) | Poll::Pending => {
                // What was asked for a permit goes with the request, and may get it; the next one asks anew.
                let next = service.clone();
                self.waiting = Some(Box::new((std::mem::replace(service, next), request)));
            }
        }
    }

    fn poll_response(&mut self, context: &mut Context<'_>) -> Poll<Response<S>> {
        if let Some(waiting) = &mut self.waiting {
            ready!(waiting.0.poll_ready(context)).map_err(Into::into)?;
        }
        if let Some(waiting) = self.waiting.take() {
            let (mut service, request) = *waiting;
            self.future.set(Some(service.call(request)));
        }
        let future = self.future.as_mut().as_pin_mut().expect("a request was begun, and is not answered");
        future.poll(context).map_err(Into::into)
    }

    /// The answer with its body, which is looked at for the first time: it may want the one of the request.
    #[inline]
    fn make(&mut self, response: Response<S>) -> Option<Made> {
        let (parts, body) = match response {
            Ok(response) => response.into_parts(),
            Err(error) => {
                tracing::debug!(error = &*error, "a service failed: the client is told 500");
                return None;
            }
        };
        let (status, headers) = (parts.status, parts.headers);
        let is_granted = self.asked.is_granted(status);
        let content = match self.near.take() {
            _ if status.is_informational() && !is_granted => {
                tracing::error!(
                    %status,
                    "a service answered with what is no final answer here: the client is told 500"
                );
                None
            }
            near if is_granted => {
                near.map(|near| reply::Body::Tunnel(Box::new(Inflow(near.clone())), Box::new(Outflow(near))))
            }
            _ => response::body(&headers, body, self.asked, &mut self.body),
        };
        Some(Made { status, headers, is_granted, content: content? })
    }

    #[inline]
    fn write(&mut self, made: Option<Made>, reply: &mut Reply<'_>) {
        let Some(Made { status, headers, is_granted, content }) = made else { return reply.put(failed()) };
        let lines = reply.head(status.as_u16(), response::said(&headers, is_granted));
        response::fields(&headers, status, is_granted, lines);
        reply.content(content);
        self.keep(headers);
    }

    /// Keeps memory for the next request.
    fn keep(&mut self, mut map: HeaderMap) {
        if map.capacity() <= KEPT_FIELDS_MAX {
            map.clear();
            self.map = Some(map);
        }
    }
}

/// What is larger is freed.
const KEPT_FIELDS_MAX: usize = 32;

impl<S: Answer> Work for Exchange<S> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let response = ready!(self.poll_response(context));
        self.made = self.make(response);
        Poll::Ready(())
    }

    fn answer(mut self: Box<Self>, reply: &mut Reply<'_>) {
        let made = self.made.take();
        self.write(made, reply);
        self.retire();
    }

    fn has_begun(&self) -> bool {
        self.waiting.is_none()
    }

    fn bytes(&self) -> usize {
        size_of::<Self>() + size_of::<S::Future>() + size_of::<S::Body>() + HEAD_BYTES
    }

    fn retire(mut self: Box<Self>) {
        self.future.set(None);
        (self.waiting, self.made, self.near) = (None, None, None);
        self.notices.renew();
        // None where the server is gone.
        let Some(spare) = self.spare.upgrade() else { return };
        let spare = &mut *spare.borrow_mut();
        if spare.len() < SPARE_MAX {
            spare.push(self);
        }
    }
}

/// What a request's head and its map take, about.
const HEAD_BYTES: usize = 2 * 1024;

/// The session's end of a body.
impl Intake for Writer {
    fn set_waker(&mut self, waker: Waker) {
        Writer::set_waker(self, waker);
    }

    fn room(&mut self) -> usize {
        if self.has_room() { QUEUED_BYTES_MAX } else { 0 }
    }

    fn put(&mut self, bytes: &[u8]) {
        self.push(bytes);
    }

    fn end(&mut self, section: &[u8]) {
        Writer::end(self, trailers(section));
    }

    fn late(&mut self) {
        self.fail(BodyError::Late);
    }

    fn is_wanted(&self) -> bool {
        self.was_polled() && !self.is_dropped()
    }

    fn bytes(&self) -> usize {
        Writer::bytes(self)
    }
}

/// What comes in on a connection that was given over.
struct Inflow(Rc<Near>);

impl Intake for Inflow {
    fn set_waker(&mut self, waker: Waker) {
        self.0.set_waker(waker);
    }

    fn room(&mut self) -> usize {
        self.0.room()
    }

    fn put(&mut self, bytes: &[u8]) {
        self.0.push(bytes);
    }

    fn end(&mut self, _: &[u8]) {
        self.0.end();
    }

    fn is_wanted(&self) -> bool {
        true
    }

    fn bytes(&self) -> usize {
        self.0.bytes()
    }
}

/// What goes out on it.
struct Outflow(Rc<Near>);

impl Source for Outflow {
    fn fill(&mut self, writer: &mut BodyWriter<'_>) -> Fill {
        let bytes = self.0.take(writer.room_bytes().max(1));
        if !bytes.is_empty() {
            writer.queue(bytes);
            Fill::More
        } else if self.0.is_over() {
            Fill::End
        } else {
            Fill::Waiting
        }
    }
}
