//! A worker as a future: tokio waits, the worker turns.
//!
//! It is the root future of its runtime, which is polled before the tasks of each round and again when it is woken: by an edge of the
//! driver's descriptor, by a timer, by its bell. A poll makes a few turns that never wait; then the tasks and sockets of tokio have
//! theirs. The bell wakes the future itself: an event counter that the ring polls would have to signal another one from inside
//! of a write, which the kernel puts off, and after the first time for ever (`__io_eventfd_signal`, io_uring/eventfd.c).

use super::Worker;
use crate::driver::{Hosted, Wait};
use crate::event::Errno;
use crate::sys::Readiness;
use crate::time::Tick;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};

/// Turns that a poll makes at most before others have theirs.
const TURNS: usize = 8;
/// A poll that takes longer keeps everybody else waiting.
const LONG_POLL: Duration = Duration::from_millis(100);
/// The log says so at most once in this time.
const QUIET: Duration = Duration::from_secs(60);
/// A timer that is set before it is waited for.
const FAR: Duration = Duration::from_secs(24 * 3600);

/// What a worker remembers of being hosted.
#[derive(Default)]
pub(super) struct Hosting {
    is_hosted: bool,
    /// Until when nothing more is said about polls that take long.
    quiet_until: Option<Tick>,
}

/// What ends the wait of a worker.
struct Park<'s> {
    ready: Readiness,
    sleep: Pin<&'s mut Sleep>,
    /// When it is over.
    sleeps_until: Tick,
}

impl<D: crate::driver::Driver> Worker<D> {
    /// Nothing watches the bell for a worker that is hosted: it looks for itself.
    pub(super) fn look_at_bell_if_hosted(&mut self) {
        if self.hosting.is_hosted && self.shared.bell.is_announced() {
            self.look_at_bell();
        }
    }
}

impl<D: Hosted> Worker<D> {
    /// Runs until stopped or drained, in a runtime of tokio. An error means that the driver broke.
    pub(crate) async fn run_hosted(&mut self) -> Result<(), Errno> {
        let failed = |error: std::io::Error| Errno::from_io(&error);
        let ready = Readiness::of(self.driver.readiness().map_err(failed)?).map_err(failed)?;
        self.hosting.is_hosted = true;
        self.start_serving();
        let mut park = Park { ready, sleep: pin!(sleep(FAR)), sleeps_until: Tick::NEVER };
        poll_fn(|context| self.poll_turns(&mut park, context)).await
    }

    fn poll_turns(&mut self, park: &mut Park<'_>, context: &mut Context<'_>) -> Poll<Result<(), Errno>> {
        self.shared.bell.host_by(context.waker());
        self.driver.unpark();
        let mut began = None;
        for _ in 0..TURNS {
            self.turn_with(Wait::Poll)?;
            began.get_or_insert(self.shared.now);
            if self.is_done() {
                return Poll::Ready(Ok(()));
            }
            if self.driver.is_quiet() && self.parks(park, context)? {
                self.judge_poll(began);
                return Poll::Pending;
            }
        }
        self.judge_poll(began);
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether nothing is left to do before something wakes this worker.
    fn parks(&mut self, park: &mut Park<'_>, context: &mut Context<'_>) -> Result<bool, Errno> {
        let wait = self.next_wait(Tick::NEVER);
        if wait == Wait::Poll {
            return Ok(false);
        }
        if !self.driver.park() {
            return Ok(false);
        }
        if let Poll::Ready(edge) = park.ready.poll(context) {
            return edge.map(|()| false).map_err(|error| Errno::from_io(&error));
        }
        let Wait::Until(at) = wait else { return Ok(true) };
        // Deadlines mostly move later: one that comes too early costs a turn.
        if at < park.sleeps_until {
            park.sleeps_until = at;
            park.sleep.as_mut().reset(Instant::now() + at.since(self.shared.now));
        }
        let is_over = park.sleep.as_mut().poll(context).is_ready();
        if is_over {
            park.sleeps_until = Tick::NEVER;
        }
        Ok(!is_over)
    }

    /// One clock reading a poll: whether somebody blocked.
    fn judge_poll(&mut self, began: Option<Tick>) {
        let now = self.driver.clock();
        let took = began.map_or(Duration::ZERO, |began| now.since(began));
        if took > LONG_POLL {
            self.tell_of_long_poll(now, took);
        }
    }

    #[cold]
    fn tell_of_long_poll(&mut self, now: Tick, took: Duration) {
        self.shared.stats.live.long_polls.add(1);
        if self.hosting.quiet_until.is_none_or(|until| until <= now) {
            self.hosting.quiet_until = Some(now.after(QUIET));
            tracing::warn!(
                ?took,
                "a handler kept its worker, and all connections there, waiting: block in tokio::task::spawn_blocking; \
                 said once a minute"
            );
        }
    }
}
