//! What can be served: axum's `Router` and its make-services, and with the feature `tonic` its `Routes`.

use axum::Router;
use axum::extract::connect_info::{Connected, IntoMakeServiceWithConnectInfo};
use axum::routing::IntoMakeService;
use http::Request;
use ringmill_engine::{Address, Facts};
use ringmill_protocols::adapt::{Answer, Body, Connection, TowerServer, tower};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tower_service::Service;

/// What can be served: axum's `Router`, and what its two `into_make_service` methods make; with the feature `tonic` its `Routes`.
pub trait App: Clone + Send + sealed::Sealed + 'static {
    /// The service behind it.
    #[doc(hidden)]
    type Service: Answer;

    #[doc(hidden)]
    fn server(self) -> TowerServer<Self::Service>;
}

mod sealed {
    pub trait Sealed {}
}

impl sealed::Sealed for Router {}

impl App for Router {
    type Service = Router;

    fn server(self) -> TowerServer<Router> {
        tower(self)
    }
}

impl<S> sealed::Sealed for IntoMakeService<S> {}

impl<S: Answer + Send> App for IntoMakeService<S> {
    type Service = S;

    fn server(mut self) -> TowerServer<S> {
        tower(at_once(self.call(())))
    }
}

impl<S, C> sealed::Sealed for IntoMakeServiceWithConnectInfo<S, C> {}

impl<S, C> App for IntoMakeServiceWithConnectInfo<S, C>
where
    S: Answer + Send,
    C: Connected<Incoming> + Sync,
{
    type Service = Introduced<S, C>;

    fn server(self) -> TowerServer<Introduced<S, C>> {
        tower(Introduced(self)).with_introduction(|connection, extensions| {
            extensions.insert(Incoming::of(connection));
        })
    }
}

/// Services of gRPC, without the transport of tonic. `tonic::Request::remote_addr` and `local_addr` tell what a proxy in front told, else
/// what the kernel has.
#[cfg(feature = "tonic")]
impl App for tonic::service::Routes {
    type Service = Router;

    fn server(self) -> TowerServer<Router> {
        tower(self.into_axum_router()).with_introduction(|connection, extensions| {
            extensions.insert(tonic::transport::server::TcpConnectInfo {
                local_addr: connection.local().and_then(|local| local.ip()),
                remote_addr: connection.peer().and_then(|peer| peer.ip()),
            });
        })
    }
}

#[cfg(feature = "tonic")]
impl sealed::Sealed for tonic::service::Routes {}

/// axum's make-services have what they make.
fn at_once<S>(future: impl Future<Output = Result<S, std::convert::Infallible>>) -> S {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(service)) => service,
        Poll::Pending => unreachable!("IntoMakeService waits for nothing"),
    }
}

/// A connection, for what an app wants to know of it: `impl Connected<ringmill::Incoming> for ..`, beside that for axum's own.
#[derive(Clone, Debug)]
pub struct Incoming {
    peer: Option<Address>,
    local: Option<Address>,
    facts: Option<Arc<Facts>>,
}

impl Incoming {
    fn of(connection: &Connection<'_, '_>) -> Incoming {
        Incoming { peer: connection.peer(), local: connection.local(), facts: connection.share_facts() }
    }

    /// The client's address, as a proxy in front told it, else as the kernel has it.
    pub fn peer(&self) -> Option<&Address> {
        self.peer.as_ref()
    }

    /// The address the client connected to, in the same way.
    pub fn local(&self) -> Option<&Address> {
        self.local.as_ref()
    }

    /// What the layers below have learned: TLS, a proxy in front.
    pub fn facts(&self) -> Option<&Facts> {
        self.facts.as_deref()
    }
}

/// Of a client without an address, over a Unix socket or gone already, it is 0.0.0.0 and port 0.
impl Connected<Incoming> for SocketAddr {
    fn connect_info(incoming: Incoming) -> SocketAddr {
        let known = incoming.peer.and_then(|peer| peer.ip());
        known.unwrap_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0))
    }
}

/// A service that has to be told of the connection: it is made for each request, which costs a clone.
#[doc(hidden)]
pub struct Introduced<S, C>(IntoMakeServiceWithConnectInfo<S, C>);

impl<S: Clone, C> Clone for Introduced<S, C> {
    fn clone(&self) -> Introduced<S, C> {
        Introduced(self.0.clone())
    }
}

type Told<S, C> = axum::middleware::AddExtension<S, axum::extract::ConnectInfo<C>>;

impl<S, C> Service<Request<Body>> for Introduced<S, C>
where
    S: Answer,
    C: Connected<Incoming> + Sync,
{
    type Response = <Told<S, C> as Service<Request<Body>>>::Response;
    type Error = <Told<S, C> as Service<Request<Body>>>::Error;
    type Future = <Told<S, C> as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let incoming = request.extensions_mut().remove::<Incoming>();
        let incoming = incoming.unwrap_or(Incoming { peer: None, local: None, facts: None });
        at_once(self.0.call(incoming)).call(request)
    }
}
