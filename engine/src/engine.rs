//! From listeners and factories to running workers: check, probe, spawn, bind, join.
//!
//! Nothing listens before every worker has its driver and its protocols: a start that fails resets nobody. All sockets exist before
//! the first worker accepts: the kernel spreads connections over the sockets of a SO_REUSEPORT group, and one that joins or
//! leaves later moves connections that are being opened.

mod job;
mod later;
mod spawn;

pub use later::Listeners;

use crate::address::Address;
use crate::bell::Bell;
use crate::config::{Config, ListenOptions};
use crate::error::Error;
#[cfg(feature = "tokio")]
use crate::host::TokioOptions;
use crate::listen::on::{ListenOn, Place};
use crate::listen::unix::UnixPaths;
use crate::seam::datagram::Datagram;
use crate::seam::layer::Layer;
use crate::session::service::{Service, Typed};
use crate::stats::Stats;
use std::future::ready;
use std::net::TcpListener;
use std::pin::Pin;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

/// A protocol that is being made. Only an async factory's waits.
type Making =
    Pin<Box<dyn Future<Output = Result<Box<dyn Service>, Box<dyn std::error::Error + Send + Sync>>>>>;
type ServiceFactory = dyn Fn(&WorkerContext) -> Making + Send + Sync;
type DatagramClientsFactory = dyn Fn(&WorkerContext) -> Vec<Box<dyn Datagram>> + Send + Sync;
type DatagramFactory = dyn Fn(&WorkerContext) -> Box<dyn Datagram> + Send + Sync;

/// What a factory is told about the worker it builds for.
#[derive(Clone)]
#[non_exhaustive]
pub struct WorkerContext {
    /// Which worker, from 0.
    pub index: usize,
    /// How many there are.
    pub workers: usize,
    /// The CPU it is pinned to, if it is.
    pub cpu: Option<usize>,
    /// The counters of all workers.
    pub stats: Stats,
    /// What the engine runs with; `connections_max` is always there.
    pub config: Arc<Config>,
}

#[cfg(any(test, feature = "sim"))]
impl WorkerContext {
    /// That of a simulated worker.
    pub fn simulated(index: usize, workers: usize) -> WorkerContext {
        WorkerContext { index, workers, cpu: None, stats: Stats::new(workers), config: Arc::default() }
    }
}

/// A server engine. Start with [`Engine::builder`].
pub struct Engine;

impl Engine {
    /// A builder with the default configuration and no listener.
    pub fn builder() -> Builder {
        Builder {
            config: Config::default(),
            streams: Vec::new(),
            datagrams: Vec::new(),
            outbound: Vec::new(),
            datagram_clients: Vec::new(),
            #[cfg(feature = "tokio")]
            tokio: None,
            #[cfg(feature = "tokio")]
            has_async_factories: false,
            problem: None,
        }
    }
}

/// Collects configuration and listeners.
#[must_use = "nothing runs before `run` or `start`"]
pub struct Builder {
    config: Config,
    streams: Vec<Stream>,
    datagrams: Vec<DatagramListener>,
    outbound: Vec<Arc<ServiceFactory>>,
    datagram_clients: Vec<DatagramClients>,
    #[cfg(feature = "tokio")]
    tokio: Option<TokioOptions>,
    #[cfg(feature = "tokio")]
    has_async_factories: bool,
    /// The first bad address: said by `start`, so that listeners can be chained.
    problem: Option<Error>,
}

struct Stream {
    address: Address,
    /// It is bound there already.
    bound: Option<TcpListener>,
    options: ListenOptions,
    factory: Arc<ServiceFactory>,
}

struct DatagramListener {
    address: Address,
    factory: Arc<DatagramFactory>,
}

#[derive(Clone)]
struct DatagramClients {
    address: Address,
    factory: Arc<DatagramClientsFactory>,
}

impl Builder {
    /// Replaces the configuration.
    pub fn config(mut self, config: Config) -> Builder {
        self.config = config;
        self
    }

    /// Sets the number of worker threads.
    pub fn workers(mut self, workers: usize) -> Builder {
        self.config.workers = Some(workers);
        self
    }

    /// Listens on `address` (see [`Address`]; a TCP listener that is bound will do as well, see [`ListenOn`]) with default options. `factory` is called once on each worker's
    /// thread; what it makes never leaves that thread.
    pub fn listen<P: Layer>(
        self,
        address: impl TryInto<ListenOn, Error: Into<Error>>,
        factory: impl Fn(&WorkerContext) -> P + Send + Sync + 'static,
    ) -> Builder {
        self.listen_with(address, ListenOptions::default(), factory)
    }

    /// Listens with options.
    pub fn listen_with<P: Layer>(
        mut self,
        address: impl TryInto<ListenOn, Error: Into<Error>>,
        options: ListenOptions,
        factory: impl Fn(&WorkerContext) -> P + Send + Sync + 'static,
    ) -> Builder {
        if let Some((address, bound)) = self.place(address) {
            self.streams.push(Stream { address, bound, options, factory: at_once(factory) });
        }
        self
    }

    /// Hosts every worker in a runtime of tokio of its own ([`LocalRuntime`](tokio::runtime::LocalRuntime)), on the worker's thread: in
    /// handlers, `start`, and whatever they spawn, tokio's timers and sockets work, `spawn_local` puts what is not `Send` on the
    /// same thread, and `spawn_blocking` takes what blocks from it. What a handler awaits is awaited in place.
    ///
    /// A handler that blocks keeps its worker, and all connections there, waiting: `block_in_place` panics here, and a computation of
    /// more than some milliseconds belongs into `spawn_blocking` ([`Counters::long_polls`](crate::Counters)). Timers are exact to a
    /// millisecond. Without this workers wait in their driver, which costs a little less.
    #[cfg(feature = "tokio")]
    pub fn tokio(mut self, options: TokioOptions) -> Builder {
        self.tokio = Some(options);
        self
    }

    /// Listens with an async factory, for workers that tokio hosts: it runs in the worker's own runtime, so what it connects is driven there.
    /// An error ends the start. Other workers' factories run at the same time.
    #[cfg(feature = "tokio")]
    pub fn listen_async<P: Layer, E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        mut self,
        address: impl TryInto<ListenOn, Error: Into<Error>>,
        options: ListenOptions,
        factory: impl AsyncFn(WorkerContext) -> Result<P, E> + Send + Sync + 'static,
    ) -> Builder {
        self.has_async_factories = true;
        if let Some((address, bound)) = self.place(address) {
            let factory = Arc::new(factory);
            let factory: Arc<ServiceFactory> = Arc::new(move |worker| {
                let (factory, worker) = (factory.clone(), worker.clone());
                Box::pin(async move {
                    let made = factory(worker).await.map_err(Into::into)?;
                    Ok(Box::new(Typed::new(made)) as Box<dyn Service>)
                })
            });
            self.streams.push(Stream { address, bound, options, factory });
        }
        self
    }

    /// Serves datagrams on `address`.
    ///
    /// A socket that is bound to all addresses (`0.0.0.0`, `[::]`) is told which of them was asked, and answers leave from
    /// there ([`DatagramIo::send_to`](crate::DatagramIo::send_to)). That makes a datagram 2 to 8% dearer (`benches/README.md`);
    /// a socket that is bound to one address does not pay for it.
    pub fn datagrams<P: Datagram>(
        mut self,
        address: impl TryInto<Address, Error: Into<Error>>,
        factory: impl Fn(&WorkerContext) -> P + Send + Sync + 'static,
    ) -> Builder {
        if let Some(address) = self.address(address) {
            let factory: Arc<DatagramFactory> = Arc::new(move |worker| Box::new(factory(worker)));
            self.datagrams.push(DatagramListener { address, factory });
        }
        self
    }

    /// Adds a protocol without a listener, one value a worker: its connections are those it opens through the
    /// [`Dialer`](crate::Dialer) that [`Protocol::start`](crate::Protocol::start) hands it. A protocol that listens as well has one too.
    pub fn outbound<P: Layer>(
        mut self,
        factory: impl Fn(&WorkerContext) -> P + Send + Sync + 'static,
    ) -> Builder {
        self.outbound.push(at_once(factory));
        self
    }

    /// Adds datagram sockets that belong to one worker alone, for protocols that send first: one socket for each value
    /// that `factory` makes on the worker's thread. Bind to port 0: each socket gets a port of its own. On a socket that is
    /// bound to all addresses the route decides which of them a datagram leaves from.
    pub fn datagram_clients<P: Datagram>(
        mut self,
        address: impl TryInto<Address, Error: Into<Error>>,
        factory: impl Fn(&WorkerContext) -> Vec<P> + Send + Sync + 'static,
    ) -> Builder {
        if let Some(address) = self.address(address) {
            let boxed = |protocol| -> Box<dyn Datagram> { Box::new(protocol) };
            let factory: Arc<DatagramClientsFactory> =
                Arc::new(move |worker| factory(worker).into_iter().map(boxed).collect());
            self.datagram_clients.push(DatagramClients { address, factory });
        }
        self
    }

    /// Runs until another thread stops the engine; for most programs, for ever.
    pub fn run(self) -> Result<(), Error> {
        self.start()?.join()
    }

    /// Binds everything and starts the workers. When this returns, connections are being accepted.
    pub fn start(self) -> Result<Running, Error> {
        spawn::start(self)
    }

    fn place(
        &mut self,
        on: impl TryInto<ListenOn, Error: Into<Error>>,
    ) -> Option<(Address, Option<TcpListener>)> {
        match on.try_into() {
            Ok(ListenOn(Place::Address(address))) => Some((address, None)),
            Ok(ListenOn(Place::Bound(address, listener))) => Some((Address::Ip(address), Some(listener))),
            Err(error) => {
                self.problem.get_or_insert(error.into());
                None
            }
        }
    }

    fn address(&mut self, address: impl TryInto<Address, Error: Into<Error>>) -> Option<Address> {
        address.try_into().map_err(|error| self.problem.get_or_insert(error.into()).to_string()).ok()
    }
}

fn at_once<P: Layer>(factory: impl Fn(&WorkerContext) -> P + Send + Sync + 'static) -> Arc<ServiceFactory> {
    Arc::new(move |worker| {
        let made: Box<dyn Service> = Box::new(Typed::new(factory(worker)));
        Box::pin(ready(Ok(made)))
    })
}

/// An engine whose workers run. Dropping it stops them at once.
pub struct Running {
    handle: Handle,
    addresses: Vec<Address>,
    datagram_addresses: Vec<Address>,
    driver: &'static str,
    driver_reason: String,
    cpus: Vec<Option<usize>>,
    threads: Vec<JoinHandle<Result<(), Error>>>,
    /// Where workers wait for their sockets, while the engine starts.
    starts: Vec<mpsc::Sender<job::Sockets>>,
    /// There when all of it has started.
    listeners: Option<Listeners>,
}

impl Running {
    /// A handle for other threads.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// The counters.
    pub fn stats(&self) -> &Stats {
        &self.handle.stats
    }

    /// Where the stream listeners are, in the order they were added; port 0 has become a real port.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// A way to change listeners while the engine runs; `None` if a worker has ended already.
    pub fn listeners(&self) -> Option<Listeners> {
        self.listeners.clone()
    }

    /// Where the datagram sockets are, in the order they were added.
    pub fn datagram_addresses(&self) -> &[Address] {
        &self.datagram_addresses
    }

    /// The driver in use: `uring` or `poll`.
    pub fn driver(&self) -> &'static str {
        self.driver
    }

    /// Why that driver was chosen, in one line.
    pub fn driver_reason(&self) -> &str {
        &self.driver_reason
    }

    /// The CPU each worker is pinned to, in worker order.
    pub fn cpus(&self) -> &[Option<usize>] {
        &self.cpus
    }

    /// Waits until all workers have ended; the first error, if any failed.
    pub fn join(mut self) -> Result<(), Error> {
        self.join_threads()
    }

    fn join_threads(&mut self) -> Result<(), Error> {
        // Workers that still wait for their sockets end without them.
        self.starts.clear();
        let mut first = Ok(());
        for (worker, thread) in self.threads.drain(..).enumerate() {
            let ended = thread.join().unwrap_or(Err(Error::Panicked { worker }));
            if first.is_ok() {
                first = ended;
            }
        }
        self.handle.unix_paths.remove();
        first
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.handle.stop();
            let _ = self.join_threads();
        }
    }
}

/// Steers a running engine from any thread.
#[derive(Clone)]
pub struct Handle {
    bells: Arc<[Arc<Bell>]>,
    stats: Stats,
    unix_paths: UnixPaths,
}

impl Handle {
    /// Ends everything now: connections are reset, unsent output is lost.
    pub fn stop(&self) {
        self.order(Bell::order_stop);
    }

    /// Stops accepting, lets every protocol finish what is in progress, and ends when the last connection is
    /// closed; what is still open after `deadline` is closed hard. Files of Unix sockets are removed at once.
    pub fn drain(&self, deadline: Duration) {
        self.order(|bell| bell.order_drain(deadline));
    }

    /// The counters.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    fn order(&self, order: impl Fn(&Bell)) {
        // Before the listeners are emptied: whoever still found the file is in their queue then, and answered.
        self.unix_paths.remove();
        self.bells.iter().for_each(|bell| order(bell));
    }
}

impl TryFrom<&str> for Address {
    type Error = Error;

    fn try_from(text: &str) -> Result<Address, Error> {
        Ok(text.parse()?)
    }
}

impl TryFrom<String> for Address {
    type Error = Error;

    fn try_from(text: String) -> Result<Address, Error> {
        Ok(text.parse()?)
    }
}

impl From<std::convert::Infallible> for Error {
    fn from(never: std::convert::Infallible) -> Error {
        match never {}
    }
}
