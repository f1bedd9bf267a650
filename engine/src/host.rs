//! tokio on a worker's thread: its runtime, in which the worker is the root future (`worker/hosted.rs`).

use crate::address::Address;
use crate::error::Error;
use crate::listen::on::ListenOn;
use crate::sys::Affinity;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc;
use std::time::Duration;
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::coop::unconstrained;

/// How workers are hosted: see [`Builder::tokio`](crate::Builder::tokio).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokioOptions {
    /// Threads for `spawn_blocking`, for each worker. They are started when they are needed, and use all CPUs that the process may.
    pub max_blocking_threads: usize,
    /// How long a worker that has ended waits for what still runs on them.
    pub shutdown_timeout: Duration,
}

impl Default for TokioOptions {
    fn default() -> TokioOptions {
        TokioOptions { max_blocking_threads: 64, shutdown_timeout: Duration::from_secs(1) }
    }
}

impl TokioOptions {
    pub(crate) fn problem(&self) -> Option<String> {
        (self.max_blocking_threads == 0).then(|| "max_blocking_threads is 0: give at least 1".to_owned())
    }
}

impl TryFrom<tokio::net::TcpListener> for ListenOn {
    type Error = Error;

    fn try_from(listener: tokio::net::TcpListener) -> Result<ListenOn, Error> {
        let address = listener.local_addr().unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
        let listener = listener.into_std().map_err(|source| Error::Listen {
            address: Address::Ip(address),
            step: "taking it from its runtime",
            source,
        })?;
        listener.try_into()
    }
}

/// How often somebody who waits for another thread looks whether it has sent something.
const LOOK: Duration = Duration::from_millis(1);

/// What another thread sends; `None` if it has gone without. The runtime goes on meanwhile.
pub(crate) async fn receive<T>(from: &mpsc::Receiver<T>) -> Option<T> {
    loop {
        match from.try_recv() {
            Ok(value) => return Some(value),
            Err(mpsc::TryRecvError::Empty) => tokio::time::sleep(LOOK).await,
            Err(mpsc::TryRecvError::Disconnected) => return None,
        }
    }
}

/// Runs a worker's future in a runtime of its own on this thread. The threads that it starts are not pinned as this one may be.
pub(crate) fn run<T>(
    options: &TokioOptions,
    worker: usize,
    affinity: Affinity,
    future: impl Future<Output = T>,
) -> std::io::Result<T> {
    let runtime = Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(options.max_blocking_threads)
        .thread_name(format!("ringmill-{worker}-b"))
        .on_thread_start(move || affinity.apply())
        .build_local(LocalOptions::default())?;
    // All connections are polled inside of this one future: tokio's budget for a task would be used up by the first few of them, and
    // then every channel and socket would say that it is not ready.
    let ended = catch_unwind(AssertUnwindSafe(|| runtime.block_on(unconstrained(future))));
    // Dropping it would wait for blocking tasks without end.
    runtime.shutdown_timeout(options.shutdown_timeout);
    Ok(ended.unwrap_or_else(|panic| resume_unwind(panic)))
}
