//! The ring where tokio waits for it: by an event counter that the kernel raises with each completion.

use super::Uring;
use crate::driver::Hosted;
use crate::sys;
use crate::time::Tick;
use std::os::fd::{AsRawFd, OwnedFd};

impl Hosted for Uring {
    /// With deferred task work the kernel raises the counter when there is work, and once for many of them. Nobody reads it: each raise is
    /// an edge.
    fn readiness(&mut self) -> std::io::Result<OwnedFd> {
        let counter = sys::event_counter()?;
        self.ring.submitter().register_eventfd(counter.as_raw_fd())?;
        Ok(counter)
    }

    fn is_quiet(&mut self) -> bool {
        let is_told = self.done.is_empty() && !self.is_owing && self.broken.is_none();
        is_told && self.ring.submission().is_empty() && self.suspects.is_empty()
    }

    /// Buffers that came back since the last turn: kept here they could not be filled.
    fn before_park(&mut self) {
        self.buffers.publish();
    }

    fn clock(&self) -> Tick {
        sys::clock()
    }
}
