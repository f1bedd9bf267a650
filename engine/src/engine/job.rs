//! What a worker's thread does: it makes its driver and its protocols, says so, waits for its sockets, and serves.

use super::{DatagramClients, DatagramFactory, ServiceFactory, WorkerContext};
use crate::address::Address;
use crate::bell::Bell;
use crate::config::Config;
use crate::driver::Driver;
use crate::driver::poll;
use crate::driver::uring::{Abilities, Uring};
use crate::error::{Error, step};
use crate::event::{Errno, Socket};
use crate::gate::Gate;
#[cfg(feature = "tokio")]
use crate::host::{self, TokioOptions};
use crate::seam::datagram::Datagram;
use crate::session::service::Service;
use crate::sys;
use crate::worker::{Change, Worker};
use std::future::poll_fn;
use std::os::fd::IntoRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Waker};

/// The factories of one worker's protocols.
pub(super) struct Protocols {
    pub(super) streams: Vec<Arc<ServiceFactory>>,
    pub(super) datagrams: Vec<Arc<DatagramFactory>>,
    pub(super) outbound: Vec<Arc<ServiceFactory>>,
    pub(super) datagram_clients: Vec<DatagramClients>,
}

/// The sockets of one worker, in the order of its protocols.
#[derive(Default)]
pub(super) struct Sockets {
    /// Each with its gate.
    pub(super) streams: Vec<(socket2::Socket, Option<Gate>)>,
    pub(super) datagrams: Vec<socket2::Socket>,
    pub(super) datagram_clients: Vec<socket2::Socket>,
}

/// Everything a worker's thread needs.
pub(super) struct Job {
    pub(super) context: WorkerContext,
    pub(super) connections_max: usize,
    pub(super) protocols: Protocols,
    pub(super) bell: Arc<Bell>,
    /// What is to change while it runs.
    pub(super) changes: mpsc::Receiver<Change>,
    pub(super) choice: Choice,
    #[cfg(feature = "tokio")]
    pub(super) tokio: Option<TokioOptions>,
}

#[derive(Clone, Copy)]
pub(super) enum Choice {
    Uring(Abilities),
    Poll,
}

impl Choice {
    pub(super) fn name(self) -> &'static str {
        match self {
            Choice::Uring(_) => "uring",
            Choice::Poll => "poll",
        }
    }
}

/// Where a worker says that it is made, and which addresses its datagram clients want.
pub(super) type Prepared = mpsc::Sender<(usize, Vec<Address>)>;

impl Job {
    pub(super) fn run(self, prepared: Prepared, start: &mpsc::Receiver<Sockets>) -> Result<(), Error> {
        let worker = self.context.index;
        #[cfg(feature = "tokio")]
        let affinity = sys::Affinity::of_thread();
        if let Some(id) = self.context.cpu
            && !core_affinity::set_for_current(core_affinity::CoreId { id })
        {
            tracing::warn!(
                worker,
                cpu = id,
                "cannot be pinned to this CPU: it runs where the scheduler likes"
            );
        }
        let (buffers, bytes) = (self.context.config.recv_buffers, self.context.config.recv_buffer_bytes);
        let failed = |step| move |source| Error::Worker { worker, step, source };
        match self.choice {
            Choice::Uring(abilities) => {
                let driver = Uring::new(abilities, buffers, bytes).map_err(failed(step::RING))?;
                #[cfg(feature = "tokio")]
                if let Some(options) = self.tokio.clone() {
                    let hosted = self.serve_hosted(driver, prepared, start);
                    return host::run(&options, worker, affinity, hosted).map_err(failed(RUNTIME))?;
                }
                self.serve(driver, prepared, start)
            }
            Choice::Poll => {
                let driver = poll::Poll::new(buffers, bytes).map_err(failed("opening epoll"))?;
                #[cfg(feature = "tokio")]
                if let Some(options) = self.tokio.clone() {
                    let hosted = self.serve_hosted(driver, prepared, start);
                    return host::run(&options, worker, affinity, hosted).map_err(failed(RUNTIME))?;
                }
                self.serve(driver, prepared, start)
            }
        }
    }

    fn serve(
        self,
        driver: impl Driver,
        prepared: Prepared,
        start: &mpsc::Receiver<Sockets>,
    ) -> Result<(), Error> {
        let stats = self.context.stats.worker(self.context.index);
        stats.started(sys::thread_id());
        let made = now(self.protocols.make(&self.context))?;
        made.tell(self.context.index, prepared);
        // No sockets come where another worker failed, or an address cannot be had; who asked hears of it there.
        let Ok(sockets) = start.recv() else { return Ok(()) };
        let mut worker = made.worker(driver, &self.context, self.connections_max, self.bell, sockets);
        worker.take_changes_from(self.changes);
        let ended = worker.run();
        stats.stopped();
        ended.map_err(|errno| stopped(self.context.index, errno))
    }

    /// The same in a runtime of tokio.
    #[cfg(feature = "tokio")]
    async fn serve_hosted(
        self,
        driver: impl crate::driver::Hosted,
        prepared: Prepared,
        start: &mpsc::Receiver<Sockets>,
    ) -> Result<(), Error> {
        let stats = self.context.stats.worker(self.context.index);
        stats.started(sys::thread_id());
        let made = self.protocols.make(&self.context).await?;
        made.tell(self.context.index, prepared);
        // What factories have spawned goes on meanwhile: another worker's factory may wait for it.
        let Some(sockets) = host::receive(start).await else { return Ok(()) };
        let mut worker = made.worker(driver, &self.context, self.connections_max, self.bell, sockets);
        worker.take_changes_from(self.changes);
        let ended = worker.run_hosted().await;
        stats.stopped();
        ended.map_err(|errno| stopped(self.context.index, errno))
    }
}

#[cfg(feature = "tokio")]
const RUNTIME: &str = "making its runtime";

fn stopped(worker: usize, Errno(errno): Errno) -> Error {
    Error::Stopped { worker, source: std::io::Error::from_raw_os_error(errno) }
}

impl Protocols {
    /// Calls the factories, in their order.
    async fn make(self, context: &WorkerContext) -> Result<Made, Error> {
        let worker = context.index;
        let streams = make_all(context, self.streams).await?;
        let caught = |made: std::thread::Result<_>| made.map_err(|_| Error::Factory { worker });
        let datagram =
            |factory: Arc<DatagramFactory>| caught(catch_unwind(AssertUnwindSafe(|| factory(context))));
        let mut datagrams = self.datagrams.into_iter().map(datagram).collect::<Result<Vec<_>, Error>>()?;
        let outbound = make_all(context, self.outbound).await?;
        let mut addresses = Vec::new();
        for DatagramClients { address, factory } in self.datagram_clients {
            let made = catch_unwind(AssertUnwindSafe(|| factory(context)));
            let made = made.map_err(|_| Error::Factory { worker })?;
            addresses.resize(addresses.len() + made.len(), address);
            datagrams.extend(made);
        }
        Ok(Made { streams, datagrams, outbound, addresses })
    }
}

/// The protocols of one worker.
struct Made {
    streams: Vec<Box<dyn Service>>,
    /// Those of listeners, and behind them those of clients.
    datagrams: Vec<Box<dyn Datagram>>,
    outbound: Vec<Box<dyn Service>>,
    /// Those that datagram clients want.
    addresses: Vec<Address>,
}

impl Made {
    /// All that can fail is made. Nobody may wait for us any more: then there is nobody to tell.
    fn tell(&self, worker: usize, prepared: Prepared) {
        let _ = prepared.send((worker, self.addresses.clone()));
    }

    fn worker<D: Driver>(
        self,
        driver: D,
        context: &WorkerContext,
        connections_max: usize,
        bell: Arc<Bell>,
        sockets: Sockets,
    ) -> Worker<D> {
        let stats = context.stats.worker(context.index);
        let mut worker = Worker::new(driver, Config::clone(&context.config), connections_max, bell, stats);
        for ((socket, gate), service) in sockets.streams.into_iter().zip(self.streams) {
            worker.add_listener(Socket(socket.into_raw_fd()), gate, service);
        }
        let mut protocols = self.datagrams.into_iter();
        for (socket, protocol) in sockets.datagrams.into_iter().zip(&mut protocols) {
            worker.add_datagram_listener(Socket(socket.into_raw_fd()), protocol);
        }
        for (socket, protocol) in sockets.datagram_clients.into_iter().zip(protocols) {
            worker.add_datagrams(Socket(socket.into_raw_fd()), protocol);
        }
        for service in self.outbound {
            worker.add_outbound(service);
        }
        worker
    }
}

async fn make_all(
    context: &WorkerContext,
    factories: Vec<Arc<ServiceFactory>>,
) -> Result<Vec<Box<dyn Service>>, Error> {
    let worker = context.index;
    let mut all = Vec::with_capacity(factories.len());
    for factory in factories {
        let making = catch_unwind(AssertUnwindSafe(|| factory(context)));
        let mut making = making.map_err(|_| Error::Factory { worker })?;
        let made = poll_fn(|task| {
            let polled = catch_unwind(AssertUnwindSafe(|| making.as_mut().poll(task)));
            polled.map_or(Poll::Ready(Err(Error::Factory { worker })), |made| {
                made.map_err(|source| Error::FactoryFailed { worker, source })
            })
        });
        all.push(made.await?);
    }
    Ok(all)
}

/// What a future is that waits for nothing.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(ready) => ready,
        Poll::Pending => unreachable!("only async factories wait, and a start without tokio refuses them"),
    }
}
