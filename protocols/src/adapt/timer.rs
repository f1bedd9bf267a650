//! hyper's timer on a session's one deadline: the session says what time it is, and is told when it is to look again.

use hyper::rt::{Sleep, Timer};
use ringmill_engine::Tick;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// The time of one session. Clones are the same.
#[derive(Clone)]
pub(crate) struct Clock(Arc<Mutex<State>>);

struct State {
    /// The instant of tick zero. hyper compares instants that it got from here, and no others.
    zero: Instant,
    now: Tick,
    sleepers: BTreeMap<(Tick, u64), Waker>,
    last_id: u64,
}

struct Sleeper {
    clock: Clock,
    at: Tick,
    id: u64,
}

impl Clock {
    pub(crate) fn new(now: Tick) -> Clock {
        #[expect(clippy::disallowed_methods, reason = "any instant will do: hyper cannot be given a number")]
        let zero = Instant::now();
        Clock(Arc::new(Mutex::new(State { zero, now, sleepers: BTreeMap::new(), last_id: 0 })))
    }

    /// It is so late now: wakes whoever has slept long enough.
    pub(crate) fn set(&self, now: Tick) {
        let mut state = self.lock();
        state.now = now;
        let due = match state.sleepers.first_key_value() {
            Some((&(at, _), _)) if at <= now => {
                let later = state.sleepers.split_off(&(now, u64::MAX));
                std::mem::replace(&mut state.sleepers, later)
            }
            _ => return,
        };
        drop(state);
        due.into_values().for_each(Waker::wake);
    }

    pub(crate) fn tick(&self) -> Tick {
        self.lock().now
    }

    /// When somebody is to be woken next.
    pub(crate) fn next(&self) -> Option<Tick> {
        self.lock().sleepers.first_key_value().map(|(&(at, _), _)| at)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sleeper(&self, at: impl FnOnce(&State) -> Tick) -> Pin<Box<dyn Sleep>> {
        let mut state = self.lock();
        state.last_id += 1;
        Box::pin(Sleeper { clock: self.clone(), at: at(&state), id: state.last_id })
    }
}

impl Timer for Clock {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleeper(|state| state.now.after(duration))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        self.sleeper(|state| Tick::default().after(deadline.saturating_duration_since(state.zero)))
    }

    fn now(&self) -> Instant {
        let state = self.lock();
        state.zero + state.now.since(Tick::default())
    }
}

impl Future for Sleeper {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.clock.lock();
        if state.now >= self.at {
            return Poll::Ready(());
        }
        state.sleepers.insert((self.at, self.id), context.waker().clone());
        Poll::Pending
    }
}

impl Sleep for Sleeper {}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let waker = self.clock.lock().sleepers.remove(&(self.at, self.id));
        // Not under the lock: a waker that goes may take a sleeper with it.
        drop(waker);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleepers_wake_when_it_is_time() {
        let second = Duration::from_secs(1);
        let clock = Clock::new(Tick(7_000_000_000));
        let context = &mut Context::from_waker(Waker::noop());
        let (mut first, mut last) = (clock.sleep(second), clock.sleep_until(clock.now() + 3 * second));
        assert_eq!(clock.next(), None);
        assert!(last.as_mut().poll(context).is_pending() && first.as_mut().poll(context).is_pending());
        assert_eq!(clock.next(), Some(Tick(8_000_000_000)));
        clock.set(Tick(7_999_999_999));
        assert!(first.as_mut().poll(context).is_pending());
        clock.set(Tick(8_000_000_000));
        assert!(first.as_mut().poll(context).is_ready() && last.as_mut().poll(context).is_pending());
        assert_eq!(clock.next(), Some(Tick(10_000_000_000)));
        drop(last);
        assert_eq!(clock.next(), None);
    }
}
