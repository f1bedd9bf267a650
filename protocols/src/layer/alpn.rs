//! One listener, several protocols: the session above is chosen by what the client and we agreed on (ALPN, RFC 7301).
//!
//! [`Alpn`] stands on a layer that knows, which is TLS, and carries two protocols. Which one a connection speaks is known before
//! its first byte; so the one that is chosen stands in the layer's own place, with its deadline, its output and its input, and costs
//! a branch a call. More than two are a matter of nesting: either of the two may be an [`Alpn`] itself.
//!
//! ```
//! use ringmill_protocols::layer::alpn::Alpn;
//! use ringmill_protocols::{Echo, http};
//!
//! let site = http::server(|_request, reply| reply.text("Hello, World!"));
//! let either = Alpn::new(site, "echo", Echo::default());
//! ```
//!
//! It never looks at input, so a client that begins with another protocol without having agreed on it gets the default one. Nor does
//! it take a proxy's word ([`Proxied::alpn`](ringmill_engine::Proxied::alpn)): a proxy may tell what its client speaks while it
//! speaks something else itself.

use ringmill_engine::{Call, CloseReason, Io, Layer, Notice, Origin, Reclaim, Secure, Step};

/// Carries `O` where TLS agreed on its protocol, and `D` everywhere else: where another or none was agreed on, and without TLS. What
/// TLS offers is said apart, with `TlsConfig::with_alpn`.
///
/// Both are told when the worker starts, and of all that concerns no session. They share one timer
/// ([`Dialer::set_timer`](ringmill_engine::Dialer::set_timer)) and the tags of connections that they ask for, as they are one
/// protocol to the engine: the timer is for one of them alone.
#[derive(Clone, Debug)]
pub struct Alpn<D, O> {
    default: D,
    protocol: Box<[u8]>,
    other: O,
}

impl<D: Layer, O: Layer> Alpn<D, O> {
    /// `other` for connections that agreed on `protocol`, such as `h2` (the names are IANA's), `default` for all others.
    pub fn new(default: D, protocol: impl Into<Vec<u8>>, other: O) -> Alpn<D, O> {
        Alpn { default, protocol: protocol.into().into_boxed_slice(), other }
    }

    fn is_agreed(&self, io: &Io<'_>) -> bool {
        let secure: Option<&Secure> = io.facts().and_then(|facts| facts.secure.as_ref());
        secure.and_then(|secure| secure.alpn.as_deref()) == Some(&*self.protocol)
    }
}

/// The session that was chosen.
#[doc(hidden)]
pub enum Chosen<D: Layer, O: Layer> {
    Default(D::Session),
    Other(O::Session),
}

impl<D: Layer, O: Layer> Layer for Alpn<D, O> {
    type Session = Chosen<D, O>;

    fn open(&mut self, origin: Origin, io: &mut Io<'_>) -> Chosen<D, O> {
        if self.is_agreed(io) {
            Chosen::Other(self.other.open(origin, io))
        } else {
            Chosen::Default(self.default.open(origin, io))
        }
    }

    #[inline]
    fn call(&mut self, session: &mut Chosen<D, O>, call: Call<'_>, io: &mut Io<'_>) -> Step {
        match session {
            Chosen::Default(session) => self.default.call(session, call, io),
            Chosen::Other(session) => self.other.call(session, call, io),
        }
    }

    fn closed(&mut self, session: Chosen<D, O>, reason: CloseReason, reclaim: &mut Reclaim<'_>) {
        match session {
            Chosen::Default(session) => self.default.closed(session, reason, reclaim),
            Chosen::Other(session) => self.other.closed(session, reason, reclaim),
        }
    }

    fn notice(&mut self, notice: Notice) {
        self.default.notice(notice.clone());
        self.other.notice(notice);
    }
}
