//! The waker of a session that polls futures in place: while it does, a wake only says that it is to go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Wake, Waker};

/// One session's. Wakes from within its own polls cost no call of it.
pub(crate) struct Signal(Arc<State>);

struct State {
    is_raised: AtomicBool,
    is_polling: AtomicBool,
    /// Has the session called.
    bell: Waker,
}

impl Signal {
    pub(crate) fn new(bell: Waker) -> Signal {
        Signal(Arc::new(State {
            is_raised: AtomicBool::new(false),
            is_polling: AtomicBool::new(false),
            bell,
        }))
    }

    pub(crate) fn waker(&self) -> Waker {
        self.0.clone().into()
    }

    /// The session begins to poll.
    pub(crate) fn begin(&self) {
        self.0.is_polling.store(true, SeqCst);
    }

    /// What was raised before is about to be seen.
    pub(crate) fn lower(&self) {
        self.0.is_raised.store(false, SeqCst);
    }

    pub(crate) fn is_raised(&self) -> bool {
        self.0.is_raised.load(SeqCst)
    }

    /// The session has done with polling. Of it and of whoever wakes it now, the later one sees what the other has stored.
    pub(crate) fn end(&self) {
        self.0.is_polling.store(false, SeqCst);
        if self.is_raised() {
            self.0.bell.wake_by_ref();
        }
    }
}

impl Wake for State {
    fn wake(self: Arc<State>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<State>) {
        let was_raised = self.is_raised.swap(true, SeqCst);
        if !was_raised && !self.is_polling.load(SeqCst) {
            self.bell.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapt::counting::Count;

    #[test]
    fn only_wakes_from_elsewhere_ring() {
        let count = Arc::<Count>::default();
        let signal = Signal::new(count.clone().into());
        let (waker, rings) = (signal.waker(), || count.take());
        waker.wake_by_ref();
        waker.wake_by_ref();
        assert_eq!(rings(), 1);
        signal.begin();
        signal.lower();
        assert!(!signal.is_raised());
        waker.wake_by_ref();
        assert!(signal.is_raised() && rings() == 0);
        signal.lower();
        signal.end();
        assert_eq!(rings(), 0);
        signal.begin();
        waker.wake();
        signal.end();
        assert_eq!(rings(), 1, "it was not looked at");
    }
}
