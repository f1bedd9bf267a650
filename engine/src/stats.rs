//! Counters of a worker: it alone writes them, with plain loads and stores; anybody sums them when asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What one worker counted since it started; or the sum over workers.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters { $($(#[$doc])* pub $name: u64,)* }

        /// The counters as their worker writes them.
        #[derive(Default)]
        pub(crate) struct Live { $(pub(crate) $name: Count,)* }

        impl Live {
            fn snapshot(&self) -> Counters { Counters { $($name: self.$name.0.load(Relaxed),)* } }
        }

        impl Counters {
            /// Every counter with its name, in a fixed order.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }

        impl std::ops::AddAssign for Counters {
            fn add_assign(&mut self, other: Counters) { $(self.$name += other.$name;)* }
        }
    };
}

counters! {
    /// Connections open now.
    connections,
    /// Connections accepted.
    accepted,
    /// Outbound connections made.
    connected,
    /// Outbound connections that could not be made.
    refused,
    /// Connections closed.
    closed,
    /// Requests that protocols counted.
    requests,
    /// Bytes received on connections.
    received_bytes,
    /// Bytes sent on connections.
    sent_bytes,
    /// Bytes that went from one connection to another unseen; they count as received and sent, too.
    spliced_bytes,
    /// Datagrams received.
    datagrams_received,
    /// Datagrams handed to the kernel.
    datagrams_sent,
    /// Datagrams the kernel refused to send.
    datagrams_refused,
    /// Datagrams that protocols received and left unanswered on purpose.
    datagrams_ignored,
    /// Connected datagram sockets that protocols have open now.
    flows,
    /// Connected datagram sockets that protocols opened.
    flows_opened,
    /// Turns of the loop.
    turns,
    /// Completions handled.
    events,
    /// Times no receive buffer was free.
    buffers_starved,
    /// Receives that were cancelled because a session took no more.
    receives_cancelled,
    /// Times accepting paused: out of descriptors, or at the connection limit.
    accept_paused,
    /// Connections closed because a deadline of the protocol passed.
    timeouts,
    /// Connections closed because the peer took no output.
    write_timeouts,
    /// Connections closed because queued output or unconsumed input passed its limit.
    overflows,
    /// Connections that the peer reset or that failed.
    failures,
    /// Bytes that receive buffers, output, unconsumed input and what sessions hold take now.
    memory_bytes,
    /// Times memory ran short, and accepting paused for it.
    memory_shortages,
    /// Idle connections closed because memory was short.
    shed,
    /// Requests that were refused, and connections that were closed, because the memory budget was used up.
    memory_refused,
    /// Panics of protocol code, each of which closed its connection.
    panics,
    /// Times that a worker hosted by tokio was kept for longer than 100 ms, by a handler that should not block.
    long_polls,
    /// Connections closed because a list denies their address.
    gate_denied,
    /// Connections closed because the list of who alone may come in does not have their address.
    gate_unlisted,
    /// Connections closed because their address makes new ones too fast.
    gate_too_fast,
    /// Connections closed because their address has as many as it may.
    gate_per_ip,
    /// Connections closed because the network around their address has.
    gate_per_prefix,
    /// Connections closed because they were gone before anybody could ask for their address.
    gate_gone,
    /// Connections let in that were not counted, because too many addresses are.
    gate_uncounted,
    /// PROXY headers taken.
    proxy_headers,
    /// Connections closed because the peer is none of the proxies that were listed.
    proxy_unlisted,
    /// Connections closed because a proxy sent something else than a PROXY header.
    proxy_missing,
    /// Connections closed because a PROXY header was malformed or cut.
    proxy_malformed,
    /// Connections closed because a PROXY header was not there in time.
    proxy_late,
}

/// One counter with one writer: no locked instruction is needed.
#[derive(Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    #[inline]
    pub(crate) fn add(&self, more: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(more), Relaxed);
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }
}

/// One worker's counters, on cache lines of their own.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct WorkerStats {
    pub(crate) live: Live,
    thread: AtomicU32,
    alive: AtomicBool,
}

impl WorkerStats {
    /// Remembers the kernel's id of the calling thread, by which its CPU time can be read.
    pub(crate) fn started(&self, thread: u32) {
        self.thread.store(thread, Relaxed);
        self.alive.store(true, Relaxed);
    }

    pub(crate) fn stopped(&self) {
        self.alive.store(false, Relaxed);
    }
}

/// What one worker has done.
#[derive(Clone, Copy, Debug, Default)]
pub struct WorkerSnapshot {
    /// Its counters.
    pub counters: Counters,
    /// CPU time of its thread in nanoseconds; zero once it has stopped, or where /proc is not readable.
    pub cpu_ns: u64,
}

/// Reads the counters of all workers, from any thread, without disturbing them.
#[derive(Clone)]
pub struct Stats {
    workers: Arc<[Arc<WorkerStats>]>,
}

impl Stats {
    pub(crate) fn new(workers: usize) -> Stats {
        Stats { workers: (0..workers).map(|_| Arc::new(WorkerStats::default())).collect() }
    }

    pub(crate) fn worker(&self, index: usize) -> Arc<WorkerStats> {
        self.workers[index].clone()
    }

    /// One snapshot a worker, in worker order.
    pub fn workers(&self) -> Vec<WorkerSnapshot> {
        self.workers
            .iter()
            .map(|worker| WorkerSnapshot {
                counters: worker.live.snapshot(),
                cpu_ns: if worker.alive.load(Relaxed) { cpu_ns(worker.thread.load(Relaxed)) } else { 0 },
            })
            .collect()
    }

    /// The sum over all workers.
    pub fn total(&self) -> Counters {
        let mut total = Counters::default();
        for worker in self.workers.iter() {
            total += worker.live.snapshot();
        }
        total
    }
}

/// Time on CPU of a thread of this process: the first field of its schedstat (proc(5)).
fn cpu_ns(thread: u32) -> u64 {
    std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat"))
        .ok()
        .and_then(|text| text.split_ascii_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_sums_over_workers() {
        let stats = Stats::new(2);
        stats.worker(0).live.accepted.add(1);
        stats.worker(0).live.accepted.add(2);
        stats.worker(0).live.panics.set(1);
        stats.worker(1).live.accepted.add(4);
        let total = stats.total();
        assert_eq!((total.accepted, total.panics, total.closed), (7, 1, 0));
        assert!(total.iter().any(|(name, value)| name == "accepted" && value == 7));
    }
}
