//! Where WebSockets begin: an endpoint answers handshakes, on a path of a server or within a handler of HTTP.

use super::deflate::Context;
use super::extension::negotiate;
use super::handler::Handler;
use super::handshake::{Accept, Refusal, all, check, refuse};
use super::options::{Deflate, Options};
use super::sending::{Common, Sending};
use super::session::{Session, Shared};
use crate::http;
use crate::http::switch::Endpoint as Answers;
use crate::http::{Reply, Request, Server};
use crate::topic::Hub;
use std::cell::RefCell;
use std::rc::Rc;

/// A handler with its options: one value a worker. Anything that is a [`Handler`] becomes one.
pub struct Endpoint<H> {
    shared: Rc<Shared<H>>,
}

impl<H: Handler> Endpoint<H> {
    /// One with default options.
    pub fn new(handler: H) -> Endpoint<H> {
        Endpoint::with_options(handler, Options::default())
    }

    /// One with these options.
    pub fn with_options(handler: H, options: Options) -> Endpoint<H> {
        let shared = Shared { handler: RefCell::new(handler), common: Common::new(options) };
        Endpoint { shared: Rc::new(shared) }
    }

    /// One whose connections publish and subscribe to the topics of this hub. To be said before it is used.
    pub fn with_topics(mut self, hub: &Hub) -> Endpoint<H> {
        if let Some(shared) = Rc::get_mut(&mut self.shared) {
            shared.common.hub = Some(hub.clone());
        }
        self
    }

    /// Answers a request within a handler of HTTP, for paths of your own making: with a WebSocket, or with what is wrong. Refusals close
    /// the connection.
    pub fn answer(&self, request: &Request<'_>, reply: &mut Reply<'_>) {
        let options = &self.shared.common.options;
        let offer = match check(request, options) {
            Ok(offer) => offer,
            Err(refusal) => {
                reply.close();
                return refuse(&refusal, reply);
            }
        };
        let codec = &self.shared.common.codec;
        let may_keep =
            options.deflate.as_ref().is_some_and(|deflate| codec.borrow().contexts < deflate.contexts_max);
        let offers = all(request, "sec-websocket-extensions");
        let Ok(agreed) = negotiate(offers, options.deflate.as_ref(), may_keep) else {
            reply.close();
            return refuse(&Refusal::Malformed("Sec-WebSocket-Extensions is no list of offers"), reply);
        };
        let mut accept = Accept::new(offer.protocols);
        let accepted = self.shared.handler.borrow_mut().accept(request, &mut accept);
        let Some(state) = accepted else {
            reply.close().status(accept.status).text("this WebSocket is not for you\n");
            return;
        };
        let context = agreed.and_then(|agreed| Context::new(agreed, deflate_options(options)?));
        codec.borrow_mut().contexts += usize::from(context.is_some());
        let extensions = agreed.map(|agreed| agreed.to_string());
        let mut fields = vec![("sec-websocket-accept", offer.accept_key.as_str())];
        fields.extend(accept.chosen.map(|protocol| ("sec-websocket-protocol", protocol)));
        fields.extend(extensions.as_deref().map(|agreed| ("sec-websocket-extensions", agreed)));
        let session = Session::new(self.shared.clone(), state, Sending::new(agreed, context));
        reply.switch("websocket", &fields, session);
    }
}

fn deflate_options(options: &Options) -> Option<&Deflate> {
    options.deflate.as_ref()
}

impl<H: Handler> From<H> for Endpoint<H> {
    fn from(handler: H) -> Endpoint<H> {
        Endpoint::new(handler)
    }
}

impl<H: Handler> Answers for Endpoint<H> {
    fn answer(&mut self, request: &Request<'_>, reply: &mut Reply<'_>) {
        Endpoint::answer(self, request, reply);
    }
}

impl<S: http::Handler> Server<S> {
    /// Serves WebSockets on a path: every request of it is a handshake, or refused. `endpoint` is a [`Handler`], or an [`Endpoint`] with
    /// options of its own.
    pub fn websocket<H: Handler>(self, path: &str, endpoint: impl Into<Endpoint<H>>) -> Server<S> {
        self.with_endpoint(path, Box::new(endpoint.into()))
    }
}
