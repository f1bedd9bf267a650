//! What can go wrong at start, said so that the reader knows what to do.

use crate::address::{Address, needs_zone};
use std::io::ErrorKind;
use std::net::SocketAddr;

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
    #[error("cannot listen on {address}: {step} failed: {source}{}", listen_remedy(address, step, source))]
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
    #[error("cannot start worker {worker}: {step}: {source}{}", worker_remedy(step, source))]
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
    /// A protocol factory that may fail did so: one that was given to `listen_async`.
    #[error("the protocol factory of worker {worker} failed: {source}")]
    FactoryFailed {
        /// Which worker.
        worker: usize,
        /// Its own error.
        source: Box<dyn std::error::Error + Send + Sync>,
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

/// What was being done when an error came, where the remedy depends on it.
pub(crate) mod step {
    pub(crate) const BINDING: &str = "binding";
    pub(crate) const LISTENING: &str = "listening";
    pub(crate) const UNIX_MODE: &str = "setting its mode";
    pub(crate) const UNIX_GROUP: &str = "giving it to its group";
    pub(crate) const RING: &str = "setting up its ring";
    pub(crate) const THREAD: &str = "spawning a thread";
}

/// What the reader can do about an error at a listener, as an appendix to the message. The step comes first: the same errno
/// means something else to each.
fn listen_remedy(address: &Address, at: &str, error: &std::io::Error) -> &'static str {
    match (at, error.kind(), address) {
        (step::BINDING | step::LISTENING, ErrorKind::AddrInUse, Address::Ip(_)) => {
            " (another process listens there: stop it, or choose another port; `ss -ltnup` shows it)"
        }
        (step::BINDING | step::LISTENING, ErrorKind::AddrInUse, _) => {
            " (another process listens there: stop it, or choose another name; `ss -lxp` shows it)"
        }
        (step::BINDING, ErrorKind::AddrNotAvailable, _) => {
            " (no interface of this machine has that address; `ip address` lists them)"
        }
        (step::BINDING, ErrorKind::InvalidInput, Address::Ip(SocketAddr::V6(ip)))
            if needs_zone(*ip.ip()) && ip.scope_id() == 0 =>
        {
            " (such an address needs its interface: [fe80::1%eth0]:80; `ip address` shows it)"
        }
        // EACCES is about the port (ip(7)), EPERM comes from a filter.
        (step::BINDING, ErrorKind::PermissionDenied, Address::Ip(_)) if error.raw_os_error() == Some(13) => {
            " (ports below 1024 need CAP_NET_BIND_SERVICE)"
        }
        (step::BINDING, ErrorKind::PermissionDenied, Address::Unix(_)) => {
            " (the folder of the socket must be writable for this user)"
        }
        (step::BINDING, ErrorKind::NotFound, Address::Unix(_)) => " (the folder of the socket must exist)",
        (step::UNIX_GROUP, ErrorKind::PermissionDenied, _) => {
            " (only root, or the owner where it is a member of the group, may do that)"
        }
        (step::UNIX_MODE | step::UNIX_GROUP, ErrorKind::NotFound, _) => " (it needs /proc to be mounted)",
        _ => remedy(error),
    }
}

/// The same for what a worker needs before it listens.
fn worker_remedy(at: &str, error: &std::io::Error) -> &'static str {
    match (at, error.kind()) {
        (step::RING, ErrorKind::PermissionDenied) => {
            " (io_uring is forbidden, by a seccomp profile or by the sysctl kernel.io_uring_disabled)"
        }
        (step::RING, ErrorKind::OutOfMemory) => " (out of memory, or of locked memory: raise `ulimit -l`)",
        (step::THREAD, ErrorKind::WouldBlock) => " (too many threads: raise `ulimit -u` or the pids limit)",
        _ => remedy(error),
    }
}

/// What holds wherever the error comes.
fn remedy(error: &std::io::Error) -> &'static str {
    match (error.kind(), error.raw_os_error()) {
        (ErrorKind::PermissionDenied, _) => {
            " (a seccomp profile or another restriction of this process, container or unit forbids it)"
        }
        (_, Some(24 | 23)) => " (out of descriptors: raise `ulimit -n`)",
        (ErrorKind::OutOfMemory, _) => " (out of memory)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remedy_fits_the_step_and_not_the_number_alone() {
        const EPERM: i32 = 1;
        const EACCES: i32 = 13;
        let source = std::io::Error::from_raw_os_error;
        let listen = |address: &str, step, errno| {
            let address = address.parse().unwrap();
            Error::Listen { address, step, source: source(errno) }.to_string()
        };
        let worker = |step, errno| Error::Worker { worker: 0, step, source: source(errno) }.to_string();
        let check = |text: String, word: &str| {
            assert!(text.contains(word), "expected {word:?} in: {text}");
            assert!(word.contains("1024") || !text.contains("1024"), "{text}");
        };
        check(listen("1.2.3.4:80", step::BINDING, EACCES), "1024");
        check(listen("1.2.3.4:80", step::BINDING, EPERM), "seccomp");
        check(listen("1.2.3.4:80", "setting TCP_CONGESTION", EPERM), "restriction");
        check(listen("1.2.3.4:80", "opening a socket", EACCES), "seccomp");
        check(listen("[fe80::1]:80", step::BINDING, 22), "[fe80::1%eth0]");
        check(listen("unix:/x/y", step::BINDING, EACCES), "writable");
        check(listen("unix:/x/y", step::BINDING, 98), "ss -lxp");
        check(listen("unix:@y", step::BINDING, 98), "ss -lxp");
        check(listen("1.2.3.4:80", step::LISTENING, 98), "ss -ltnup");
        check(listen("unix:/x/y", step::UNIX_GROUP, EPERM), "member");
        check(worker("opening epoll", EPERM), "seccomp");
        check(worker(step::RING, EPERM), "io_uring_disabled");
        check(worker(step::RING, 12), "ulimit -l");
        check(worker(step::THREAD, 11), "ulimit -u");
        check(worker("opening epoll", 24), "ulimit -n");
    }
}
