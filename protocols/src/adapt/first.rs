//! HTTP of either version on one listener: the first bytes tell (RFC 9113, 3.3), unless TLS has.

use super::h2::{self, Http2};
use super::limits::Http2Limits;
use super::service::{Answer, Connection, Program};
use super::tower::Tower;
use crate::http::{self, Limits, Server, WhenGone};
use ::http::Extensions;
use ringmill_engine::{Call, CloseReason, Io, Layer, Next, Notice, Origin, Reclaim, Step};
use std::rc::Rc;
use std::time::Duration;

/// A tower service over HTTP/1.1 and HTTP/2.
pub struct TowerServer<S: Answer> {
    one: Server<Tower<S>>,
    two: Http2<S>,
    /// The first bytes must be complete within this time.
    first_timeout: Duration,
}

/// What a client of HTTP/2 says first (RFC 9113, 3.4). No HTTP/1.1 request begins like this.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A server for a tower service, as it is: `Service<http::Request<Body>>` with a response of any body. A worker calls its own clone.
///
/// It speaks HTTP/1.1 and, with clients that begin with it or agreed on `h2` by TLS, HTTP/2. Requests have in their extensions
/// [`Notices`](super::Notices), which tell when the client leaves and when the server drains; an `Arc<Facts>` where layers below have
/// learned something, and what [`TowerServer::with_introduction`] adds.
///
/// ```no_run
/// # use ringmill_engine as ringmill;
/// use ringmill_protocols::adapt::{Body, tower};
/// # #[derive(Clone)] struct Hello;
/// # impl tower_service::Service<http::Request<Body>> for Hello {
/// #     type Response = http::Response<Body>;
/// #     type Error = std::convert::Infallible;
/// #     type Future = std::future::Ready<Result<Self::Response, Self::Error>>;
/// #     fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
/// #         std::task::Poll::Ready(Ok(()))
/// #     }
/// #     fn call(&mut self, _: http::Request<Body>) -> Self::Future {
/// #         std::future::ready(Ok(http::Response::new(Body::empty())))
/// #     }
/// # }
/// let service = Hello; // or an axum Router, or a stack of tower layers
/// ringmill::Engine::builder().listen("127.0.0.1:8080", move |_worker| tower(service.clone())).run()?;
/// # Ok::<(), ringmill_engine::Error>(())
/// ```
pub fn tower<S: Answer>(service: S) -> TowerServer<S> {
    TowerServer::new(Program::new(service))
}

/// The same over HTTP/2 alone: for connections that agreed on it ([`Alpn`](crate::layer::alpn::Alpn)).
pub fn http2<S: Answer>(service: S) -> Http2<S> {
    Http2::new(Program::new(service), Limits::default())
}

impl<S: Answer> TowerServer<S> {
    fn new(program: Program<S>) -> TowerServer<S> {
        let limits = Limits::default();
        let first_timeout = limits.head_timeout;
        let two = Http2::new(program.clone(), limits);
        TowerServer { one: Server::new(Tower::new(program)), two, first_timeout }
    }

    /// Replaces the limits. Those of collected bodies are not used: the service reads its bodies itself.
    pub fn with_limits(self, limits: Limits) -> TowerServer<S> {
        let first_timeout = limits.head_timeout;
        let two = self.two.with_limits(limits.clone());
        TowerServer { one: self.one.with_limits(limits), two, first_timeout }
    }

    /// Replaces the limits of HTTP/2.
    pub fn with_http2_limits(self, limits: Http2Limits) -> TowerServer<S> {
        TowerServer { two: self.two.with_http2_limits(limits), ..self }
    }

    /// Refuses larger bodies over HTTP/1.1 (413), whatever the service would say. There is no such limit unless it is set.
    pub fn with_body_bytes_max(mut self, bytes_max: u64) -> TowerServer<S> {
        self.one.handler_mut().set_body_bytes_max(bytes_max);
        self
    }

    /// Replaces the Server field's value in answers that bring none; empty leaves the field out.
    pub fn with_name(self, name: &str) -> TowerServer<S> {
        TowerServer { one: self.one.with_name(name), ..self }
    }

    /// Serves WebSockets on a path, over HTTP/1.1: requests of it do not reach the service. See
    /// [`Server::websocket`](http::Server::websocket).
    #[cfg(feature = "websocket")]
    pub fn websocket<H: crate::websocket::Handler>(
        self,
        path: &str,
        endpoint: impl Into<crate::websocket::Endpoint<H>>,
    ) -> TowerServer<S> {
        TowerServer { one: self.one.websocket(path, endpoint), ..self }
    }

    /// What becomes of requests over HTTP/1.1 whose client leaves before the answer is there; they are dropped unless this is set.
    pub fn when_gone(self, when_gone: WhenGone) -> TowerServer<S> {
        TowerServer { one: self.one.when_gone(when_gone), ..self }
    }

    /// Adds to the extensions of every request, such as the client's address. Over HTTP/2 it is asked once a connection.
    pub fn with_introduction(
        mut self,
        introduce: impl Fn(&Connection<'_, '_>, &mut Extensions) + 'static,
    ) -> TowerServer<S> {
        let introduce = Rc::new(introduce);
        self.one.handler_mut().set_introduce(introduce.clone());
        self.two.set_introduce(introduce);
        self
    }
}

/// The session of a connection.
#[doc(hidden)]
pub enum Chosen<S: Answer> {
    /// HTTP/1.1, unless nothing has arrived yet, or not enough to tell.
    One(http::Session, IsOpen),
    Two(Box<h2::Session<S>>),
}

type IsOpen = bool;

impl<S: Answer> TowerServer<S> {
    /// Looks at the first bytes; whether it is known now what they are.
    #[inline]
    fn choose(&mut self, session: &mut Chosen<S>, input: &[u8], io: &mut Io<'_>) -> bool {
        let Chosen::One(_, is_open @ true) = session else { return true };
        let known = input.len().min(PREFACE.len());
        if input[..known] == PREFACE[..known] {
            if known < PREFACE.len() {
                io.set_timeout(self.first_timeout);
                return false;
            }
            *session = Chosen::Two(Box::new(self.two.open(Origin::Accepted, io)));
        } else {
            *is_open = false;
        }
        true
    }
}

impl<S: Answer> Layer for TowerServer<S> {
    type Session = Chosen<S>;

    fn open(&mut self, origin: Origin, io: &mut Io<'_>) -> Chosen<S> {
        let alpn =
            io.facts().and_then(|facts| facts.secure.as_ref()).and_then(|secure| secure.alpn.as_deref());
        match alpn {
            Some(b"h2") => Chosen::Two(Box::new(self.two.open(origin, io))),
            _ => Chosen::One(Layer::open(&mut self.one, origin, io), true),
        }
    }

    #[inline]
    fn call(&mut self, session: &mut Chosen<S>, call: Call<'_>, io: &mut Io<'_>) -> Step {
        if let Call::Data(input) = &call
            && !self.choose(session, input, io)
        {
            return Step::next(Next::Continue);
        }
        match session {
            Chosen::One(one, _) => {
                if let Call::Drain = call {
                    self.one.handler_mut().begin_shutdown();
                }
                self.one.call(one, call, io)
            }
            Chosen::Two(two) => self.two.call(two, call, io),
        }
    }

    fn closed(&mut self, session: Chosen<S>, reason: CloseReason, reclaim: &mut Reclaim<'_>) {
        match session {
            Chosen::One(one, _) => Layer::closed(&mut self.one, one, reason, reclaim),
            Chosen::Two(two) => Layer::closed(&mut self.two, *two, reason, reclaim),
        }
    }

    fn notice(&mut self, notice: Notice) {
        self.one.notice(notice);
    }
}
