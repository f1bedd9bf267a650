//! epoll where tokio waits for it: by its own descriptor, in tokio's epoll.

use super::{POLL_EVENTS, Poll};
use crate::driver::Hosted;
use crate::sys;
use crate::time::Tick;
use std::os::fd::OwnedFd;

impl Hosted for Poll {
    fn readiness(&mut self) -> std::io::Result<OwnedFd> {
        sys::duplicate(&self.poll)
    }

    /// All that the kernel had was taken: what comes next makes this descriptor readable anew (epoll(7)), so it need not be asked again
    /// before waiting.
    fn is_quiet(&mut self) -> bool {
        let is_told = self.done.is_empty() && self.unawaited.is_empty();
        is_told && self.ready.is_empty() && !self.skipped && self.readiness.iter().count() < POLL_EVENTS
    }

    fn park(&mut self) -> bool {
        true
    }

    fn unpark(&mut self) {}

    fn clock(&self) -> Tick {
        sys::clock()
    }
}
