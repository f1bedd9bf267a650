//! What can go wrong at start, said so that the reader knows what to do.

use crate::address::Address;

/// Why the engine did not start, or stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration contradicts itself; every problem is listed.
    #[error("bad configuration: {}", problems.join("; "))]
    Config {
        /// One sentence each.
        problems: Vec<String>,
    },
    /// Text that should have been an address.
    #[error(transparent)]
    Address(#[from] crate::address::BadAddress),
    /// A socket could not be bound or listened on.
    #[error("cannot listen on {address}: {step} failed: {source}{}", remedy(source))]
    Listen {
        /// The address asked for.
        address: Address,
        /// The option or call that failed.
        step: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The driver asked for is not available here.
    #[error("the {driver} driver cannot be used here: {reason}")]
    Driver {
        /// Its name.
        driver: &'static str,
        /// The step that failed, the cause, and what to do.
        reason: String,
    },
    /// A worker thread or its resources could not be had.
    #[error("cannot start worker {worker}: {step}: {source}{}", remedy(source))]
    Worker {
        /// Which worker.
        worker: usize,
        /// What failed.
        step: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A protocol factory panicked.
    #[error("the protocol factory of worker {worker} panicked: see the message above")]
    Factory {
        /// Which worker.
        worker: usize,
    },
    /// A worker's thread panicked outside protocol code: a defect of the engine.
    #[error("worker {worker} panicked: see the message above; the other workers were stopped")]
    Panicked {
        /// Which worker.
        worker: usize,
    },
    /// A worker stopped on an error of its driver.
    #[error("worker {worker} stopped: its driver failed: {source}")]
    Stopped {
        /// Which worker.
        worker: usize,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

/// What the reader can do about a system error, as an appendix to the message.
fn remedy(error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind;
    match (error.kind(), error.raw_os_error()) {
        (ErrorKind::AddrInUse, _) => {
            " (another process listens there: stop it, or choose another port; `ss -ltnup` shows it)"
        }
        (ErrorKind::AddrNotAvailable, _) => {
            " (no interface of this machine has that address; `ip address` lists them)"
        }
        (ErrorKind::PermissionDenied, _) => {
            " (ports below 1024 need CAP_NET_BIND_SERVICE; a Unix socket needs a writable directory)"
        }
        (_, Some(24 | 23)) => " (out of descriptors: raise `ulimit -n`)",
        (_, Some(12)) => " (out of memory, or the limit on locked memory: raise `ulimit -l`)",
        (ErrorKind::NotFound, _) => " (no such file or name)",
        _ => "",
    }
}
