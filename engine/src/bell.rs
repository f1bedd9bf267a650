//! How a worker is told to look at something: a bell, with a flag for each connection and service that is rung for, and one for the
//! worker itself.
//!
//! Nothing travels in it: who rings has left what there is to see elsewhere. A flag that is up needs no second ring, so no ring is ever
//! refused, and what waits is bounded by what there is to ring for. From within the worker's own turn a ring is an entry in
//! a list (`here.rs`); from elsewhere it goes through a queue (`queue.rs`), and the first one raises the event counter that the
//! worker's driver watches.

pub(crate) mod here;
mod queue;
mod whom;

use crate::sys::EventCounter;
use queue::{Flag, Queue};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Wake;
use std::time::Duration;
pub use whom::ConnId;
pub(crate) use whom::Whom;

/// One worker's bell.
pub(crate) struct Bell {
    queue: Queue<Whom>,
    counter: EventCounter,
    /// What is woken instead of raising the counter, where the worker is a future: see `worker/hosted.rs`.
    #[cfg(feature = "tokio")]
    host: Mutex<Option<std::task::Waker>>,
    /// The worker's own flag, and what it is up for.
    has_orders: Flag,
    orders: Mutex<Orders>,
}

/// What a worker is told to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Orders {
    /// Stop accepting, finish what is open, and end; at the latest after this time.
    pub(crate) drain: Option<Duration>,
    /// End now.
    pub(crate) stop: bool,
}

impl Bell {
    pub(crate) fn new() -> std::io::Result<Bell> {
        Ok(Bell {
            queue: Queue::new(),
            counter: EventCounter::new()?,
            #[cfg(feature = "tokio")]
            host: Mutex::default(),
            has_orders: Flag::new(),
            orders: Mutex::default(),
        })
    }

    /// Raised when there is something to take.
    pub(crate) fn counter(&self) -> &EventCounter {
        &self.counter
    }

    /// Where it is: tells bells apart.
    pub(crate) fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Has the worker drain; of several orders the shortest time counts.
    pub(crate) fn order_drain(&self, timeout: Duration) {
        self.order(|orders| {
            orders.drain = Some(orders.drain.map_or(timeout, |before| before.min(timeout)));
        });
    }

    /// Has the worker stop.
    pub(crate) fn order_stop(&self) {
        self.order(|orders| orders.stop = true);
    }

    /// Has the worker look at what is to change.
    pub(crate) fn order_changes(&self) {
        self.order(|_| {});
    }

    fn order(&self, change: impl FnOnce(&mut Orders)) {
        change(&mut self.orders.lock().unwrap_or_else(PoisonError::into_inner));
        self.ring(&self.has_orders, Whom::Worker);
    }

    /// The orders since this was last asked.
    pub(crate) fn take_orders(&self) -> Orders {
        self.has_orders.lower();
        std::mem::take(&mut self.orders.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn ring(&self, flag: &Flag, whom: Whom) {
        if flag.raise() {
            self.nudge(whom);
        }
    }

    /// The same without a flag.
    fn nudge(&self, whom: Whom) {
        if !here::leave(self.address(), whom) && self.queue.post(whom) {
            self.announce();
        }
    }

    #[cfg(not(feature = "tokio"))]
    fn announce(&self) {
        self.counter.raise();
    }

    #[cfg(feature = "tokio")]
    fn announce(&self) {
        match &*self.host.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(host) => host.wake_by_ref(),
            None => self.counter.raise(),
        }
    }

    /// From now on this is woken. What was announced before, to the counter, is seen by asking [`Bell::is_announced`]
    /// behind this.
    #[cfg(feature = "tokio")]
    pub(crate) fn host_by(&self, waker: &std::task::Waker) {
        self.host
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert_with(|| waker.clone())
            .clone_from(waker);
    }

    /// Whether there is something to take.
    #[cfg(feature = "tokio")]
    pub(crate) fn is_announced(&self) -> bool {
        self.queue.is_announced()
    }

    /// Moves the rings from elsewhere into `into`. Call it after the counter was seen raised.
    pub(crate) fn take(&self, into: &mut Vec<Whom>) {
        self.queue.take(into);
    }
}

/// Rings for one connection or protocol value, from any thread: its `wake`, or its `rung`, is called on its worker. Clones are
/// cheap. Several rings may become one call, and none is refused or lost; nothing happens once the one it rings for is gone.
///
/// It is also the waker of a future: `std::task::Waker::from(waker)`.
#[derive(Clone)]
pub struct Waker(Arc<Ringer>);

struct Ringer {
    bell: Arc<Bell>,
    whom: Whom,
    flag: Flag,
}

impl Waker {
    pub(crate) fn new(bell: Arc<Bell>, whom: Whom) -> Waker {
        Waker(Arc::new(Ringer { bell, whom, flag: Flag::new() }))
    }

    /// Asks for the call.
    pub fn wake(&self) {
        self.0.bell.ring(&self.0.flag, self.0.whom);
    }

    /// Rings for a connection of the same worker. From within a turn of that worker.
    pub(crate) fn wake_neighbour(&self, conn: ConnId) {
        self.0.bell.nudge(Whom::Conn(conn));
    }

    /// The call is about to be made.
    pub(crate) fn lower(&self) {
        self.0.flag.lower();
    }

    /// Whom it rings for, and at which bell.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn target(&self) -> (usize, Whom) {
        (self.0.bell.address(), self.0.whom)
    }
}

impl Wake for Ringer {
    fn wake(self: Arc<Ringer>) {
        self.bell.ring(&self.flag, self.whom);
    }

    fn wake_by_ref(self: &Arc<Ringer>) {
        self.bell.ring(&self.flag, self.whom);
    }
}

impl From<Waker> for std::task::Waker {
    fn from(waker: Waker) -> std::task::Waker {
        waker.0.into()
    }
}

impl std::fmt::Debug for Waker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Waker({:?})", self.0.whom)
    }
}

/// The wakers of a worker's connections, by slot: made when one is first asked for, so a connection that waits for nothing has none.
#[derive(Default)]
pub(crate) struct Wakers(Vec<Option<Waker>>);

impl Wakers {
    /// The one waker of this connection.
    pub(crate) fn of(&mut self, conn: ConnId, bell: &Arc<Bell>) -> Waker {
        let slot = conn.index as usize;
        if self.0.len() <= slot {
            self.0.resize(slot + 1, None);
        }
        let waker = self.0[slot].get_or_insert_with(|| Waker::new(bell.clone(), Whom::Conn(conn)));
        debug_assert_eq!(waker.0.whom, Whom::Conn(conn), "a slot keeps no waker of an earlier tenant");
        waker.clone()
    }

    /// The session of this connection is about to be called.
    pub(crate) fn lower(&self, conn: ConnId) {
        if let Some(Some(waker)) = self.0.get(conn.index as usize) {
            waker.lower();
        }
    }

    /// The connection in this slot is over.
    #[inline]
    pub(crate) fn forget(&mut self, slot: u32) {
        if let Some(waker) = self.0.get_mut(slot as usize) {
            *waker = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conn(index: u32) -> ConnId {
        ConnId { index, generation: 7 }
    }

    #[test]
    fn a_flag_that_is_up_is_queued_once() {
        let (bell, mut wakers, mut all) = (Arc::new(Bell::new().unwrap()), Wakers::default(), Vec::new());
        let waker = wakers.of(conn(3), &bell);
        let same = std::task::Waker::from(wakers.of(conn(3), &bell));
        for _ in 0..3 {
            waker.wake();
            same.wake_by_ref();
        }
        bell.take(&mut all);
        assert_eq!(all, [Whom::Conn(conn(3))]);
        // Up still, until it is looked at.
        waker.wake();
        bell.take(&mut all);
        assert_eq!(all.len(), 1);
        wakers.lower(conn(3));
        waker.wake();
        bell.take(&mut all);
        assert_eq!(all.len(), 2);
    }

    #[test]
    fn orders_are_summed_up() {
        let (bell, mut all) = (Bell::new().unwrap(), Vec::new());
        let [short, long] = [Duration::from_secs(1), Duration::from_secs(2)];
        bell.order_drain(long);
        bell.order_drain(short);
        bell.order_drain(long);
        bell.take(&mut all);
        assert_eq!(all, [Whom::Worker]);
        assert_eq!(bell.take_orders(), Orders { drain: Some(short), stop: false });
        bell.order_stop();
        bell.take(&mut all);
        assert_eq!((all.len(), bell.take_orders()), (2, Orders { drain: None, stop: true }));
    }

    #[test]
    fn a_ring_from_within_the_turn_is_only_listed() {
        let (bell, other) = (Arc::new(Bell::new().unwrap()), Arc::new(Bell::new().unwrap()));
        let [waker, to_other] = [&bell, &other].map(|bell| Waker::new(bell.clone(), Whom::Service(1)));
        let mut all = Vec::new();
        let turn = here::Turn::begin(bell.address());
        assert!(!turn.has_rung());
        waker.wake();
        to_other.wake();
        bell.take(&mut all);
        assert_eq!(all, []);
        assert!(turn.has_rung());
        turn.take(&mut all);
        assert_eq!(all, [Whom::Service(1)]);
        assert!(!turn.has_rung());
        drop(turn);
        other.take(&mut all);
        assert_eq!(all.len(), 2);
        waker.lower();
        waker.wake();
        bell.take(&mut all);
        assert_eq!(all.len(), 3);
    }

    #[test]
    fn no_ring_is_left_behind_unannounced() {
        const ROUNDS: u64 = 10_000;
        let bell = Arc::new(Bell::new().unwrap());
        let wrote: Arc<[std::sync::atomic::AtomicU64; 2]> = Arc::default();
        let mut wakers = Wakers::default();
        let ringing: Vec<_> = (0..2)
            .map(|index| {
                let (waker, wrote) = (wakers.of(conn(index), &bell), wrote.clone());
                std::thread::spawn(move || {
                    for round in 1..=ROUNDS {
                        wrote[index as usize].store(round, std::sync::atomic::Ordering::Relaxed);
                        waker.wake();
                    }
                })
            })
            .collect();
        let (mut seen, mut all) = ([0; 2], Vec::new());
        while seen != [ROUNDS; 2] {
            bell.counter().wait();
            bell.take(&mut all);
            for whom in all.drain(..) {
                let Whom::Conn(conn) = whom else { panic!("nobody rang for {whom:?}") };
                wakers.lower(conn);
                seen[conn.index as usize] =
                    wrote[conn.index as usize].load(std::sync::atomic::Ordering::Relaxed);
            }
        }
        ringing.into_iter().for_each(|thread| thread.join().unwrap());
    }
}
