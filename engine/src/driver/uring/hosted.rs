//! The ring where tokio waits for it: by an event counter that the kernel raises with each completion.

use super::Uring;
use crate::driver::Hosted;
use crate::sys;
use crate::time::Tick;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{Ordering::SeqCst, fence};

impl Hosted for Uring {
    /// With deferred task work the kernel raises the counter when there is work, and once for many of them. Nobody reads it: each raise is
    /// an edge.
    fn readiness(&mut self) -> std::io::Result<OwnedFd> {
        let counter = sys::event_counter()?;
        self.ring.submitter().register_eventfd(counter.as_raw_fd())?;
        Ok(counter)
    }

    fn is_quiet(&mut self) -> bool {
        // Nobody would wake it to ask later.
        self.find_resets();
        let is_told = self.done.is_empty() && !self.is_owing && self.broken.is_none();
        is_told && !self.splices.is_moving() && self.ring.submission().is_empty()
    }

    /// Buffers that came back since the last turn go first: kept here they could not be filled. Then the order counts: what the kernel
    /// queues before it sees that the counter is wanted is seen here.
    fn park(&mut self) -> bool {
        self.buffers.publish();
        self.ring.completion().enable_eventfd();
        fence(SeqCst);
        let submission = self.ring.submission();
        let has_work = submission.taskrun() || submission.cq_overflow();
        drop(submission);
        !has_work && self.ring.completion().is_empty()
    }

    /// Completions that a turn's own enter brings would otherwise raise the counter, and end the next wait for nothing.
    fn unpark(&mut self) {
        self.ring.completion().disable_eventfd();
    }

    fn clock(&self) -> Tick {
        sys::clock()
    }
}
