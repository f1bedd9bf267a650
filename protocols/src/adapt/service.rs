//! What a tower service is to us, and what it learns of a connection. How it is called is in `tower.rs` and `h2.rs`.

use super::body::Body;
use crate::http::Shutdown;
use http::{Extensions, Request, Response};
use ringmill_engine::{Address, Facts, Io};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use tower_service::Service;

/// Any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A service that answers requests. Implemented for every [`Service`] that fits, and for nothing else.
pub trait Answer:
    Service<Request<Body>, Response = Response<Self::Body>, Error: Into<BoxError>, Future: 'static>
    + Clone
    + 'static
{
    /// The body of its answers.
    type Body: http_body::Body<Error: Into<BoxError>> + 'static;
}

impl<S, B> Answer for S
where
    S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>, Future: 'static>
        + Clone
        + 'static,
    B: http_body::Body<Error: Into<BoxError>> + 'static,
{
    type Body = B;
}

/// Calls a service as soon as it is ready, and says so. A body of `None` is that of an answer that we make for it.
pub(super) async fn call<S: Answer>(
    mut service: S,
    request: Request<Body>,
    begun: impl FnOnce(),
) -> Result<Response<Option<S::Body>>, BoxError> {
    poll_fn(|context| service.poll_ready(context)).await.map_err(Into::into)?;
    begun();
    let response = service.call(request).await.map_err(Into::into)?;
    Ok(response.map(Some))
}

/// A connection, as far as requests may want to know it.
pub struct Connection<'a, 'b>(&'a Io<'b>);

impl Connection<'_, '_> {
    /// The client's address: as a proxy in front told it, else as the kernel has it, which costs a system call
    /// the first time.
    pub fn peer(&self) -> Option<Address> {
        self.0.peer()
    }

    /// The address the client connected to, in the same way.
    pub fn local(&self) -> Option<Address> {
        self.0.local()
    }

    /// What the layers below have learned: TLS, a proxy in front.
    pub fn facts(&self) -> Option<&Facts> {
        self.0.facts()
    }

    /// The same, to keep.
    pub fn share_facts(&self) -> Option<Arc<Facts>> {
        self.0.share_facts()
    }
}

pub(super) type Introduce = dyn Fn(&Connection<'_, '_>, &mut Extensions);

/// A service, with what its requests are told of their connection.
#[derive(Clone)]
pub(crate) struct Program<S> {
    service: S,
    introduce: Option<Rc<Introduce>>,
    shutdown: Shutdown,
}

impl<S> Program<S> {
    pub(crate) fn new(service: S) -> Program<S> {
        Program { service, introduce: None, shutdown: Shutdown::default() }
    }

    pub(super) fn set_introduce(&mut self, introduce: Rc<Introduce>) {
        self.introduce = Some(introduce);
    }

    pub(super) fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    pub(super) fn service(&mut self) -> &mut S {
        &mut self.service
    }

    /// Adds to a request's extensions. Facts of the connection are always among them, where there are any.
    #[inline]
    pub(super) fn introduce(&self, io: &Io<'_>, extensions: &mut Extensions) {
        if let Some(facts) = io.share_facts() {
            extensions.insert::<Arc<Facts>>(facts);
        }
        if let Some(introduce) = &self.introduce {
            introduce(&Connection(io), extensions);
        }
    }
}
