//! What a server's user writes: a handler, and for bodies that stream in, an upload. Bodies that stream out are in
//! `content.rs`.

use super::intake::Intake;
use super::peer::Peer;
use super::reply::{Reply, Work};
use super::request::Request;

/// Answers requests. One value a worker, on that worker's thread: state needs no lock and no `Send`.
///
/// Closures that take a request and a reply are handlers.
pub trait Handler: 'static {
    /// Answers. A handler that writes nothing has answered 200 with no body.
    ///
    /// A panic is answered with 500 where nothing of the answer was written yet, closes the connection after the replies
    /// before it, and is logged; other connections do not notice.
    fn handle(&mut self, request: &Request<'_>, reply: &mut Reply<'_>);

    /// Says what to do with the body of this request, before it is read. Asked only if there is one.
    fn plan(&mut self, _request: &Request<'_>) -> Plan {
        Plan::Collect
    }

    /// Takes a request over whose body is still to come, to answer it meanwhile; asked before [`Handler::plan`].
    #[doc(hidden)]
    fn stream(&mut self, _request: &Request<'_>, _reply: &mut Reply<'_>) -> Option<Streaming> {
        None
    }

    /// Whether CONNECT is a method like others.
    #[doc(hidden)]
    fn takes_connect(&self) -> bool {
        false
    }
}

impl<F: FnMut(&Request<'_>, &mut Reply<'_>) + 'static> Handler for F {
    fn handle(&mut self, request: &Request<'_>, reply: &mut Reply<'_>) {
        self(request, reply);
    }
}

/// What to do with a request's body.
pub enum Plan {
    /// Collect it, up to the server's limit, and call [`Handler::handle`] with all of it.
    Collect,
    /// Collect it up to this many bytes; beyond, the answer is 413.
    CollectUpTo(u64),
    /// Hand it over as it comes; `Handler::handle` is not called.
    Stream(Box<dyn Upload>),
    /// The same, up to this many bytes; beyond, the answer is 413, or is cut where it has begun.
    StreamUpTo(u64, Box<dyn Upload>),
}

/// Takes a request's body piece by piece. Nothing is buffered: a piece is gone after its call.
pub trait Upload {
    /// The next bytes, at least one. Replying in full before the end closes the connection after the reply; one that
    /// is begun and ended here should say so first, with [`Reply::close`]. A reply that was begun with [`Reply::begin`] may be written here as the body comes in, and reading
    /// pauses while the client does not read it.
    fn chunk(&mut self, bytes: &[u8], reply: &mut Reply<'_>);

    /// The body is complete. Answer here, or finish the answer.
    fn end(self: Box<Self>, reply: &mut Reply<'_>);
}

/// A request that is answered while its body arrives.
#[doc(hidden)]
pub struct Streaming {
    pub(crate) intake: Box<dyn Intake>,
    pub(crate) work: Box<dyn Work>,
    pub(crate) peer: Option<Peer>,
    /// Beyond so many bytes the body is too large.
    pub(crate) body_bytes_max: u64,
}
