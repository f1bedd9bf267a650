//! Descriptors whose edges tokio waits for.

use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// An event counter that is never read (eventfd(2)).
pub(crate) fn event_counter() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

/// A second descriptor of the same thing.
pub(crate) fn duplicate(of: &impl AsRawFd) -> io::Result<OwnedFd> {
    // SAFETY: whoever is borrowed here has the descriptor open.
    unsafe { BorrowedFd::borrow_raw(of.as_raw_fd()) }.try_clone_to_owned()
}

/// Tells of the edges of a descriptor.
pub(crate) struct Readiness(AsyncFd<OwnedFd>);

impl Readiness {
    /// Of a descriptor that becomes readable. In a runtime of tokio.
    pub(crate) fn of(fd: OwnedFd) -> io::Result<Readiness> {
        debug_assert!(fd.as_fd().as_raw_fd() >= 0);
        // SAFETY: the value owns the descriptor, never gives it away, and an `OwnedFd` always names the same one.
        let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        Ok(Readiness(registered?))
    }

    /// Ready if there was an edge since this was last ready.
    pub(crate) fn poll(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut edge = ready!(self.0.poll_read_ready(context))?;
        edge.clear_ready();
        Poll::Ready(Ok(()))
    }
}
