//! Rings from within the worker's own turn: a list, which the worker looks at before it waits. No lock, no system call, and for a turn
//! without any a few instructions.

use super::whom::Whom;
use std::cell::{Cell, RefCell};

thread_local! {
    static NOW: Now = const { Now { bell: Cell::new(0), has_rung: Cell::new(false) } };
    static RUNG: RefCell<Vec<Whom>> = const { RefCell::new(Vec::new()) };
}

struct Now {
    /// The bell whose worker has its turn on this thread, by its address; 0 between turns.
    bell: Cell<usize>,
    /// Something is on the list.
    has_rung: Cell<bool>,
}

/// A worker has its turn until this is dropped. (A thread has several workers in the simulator.)
pub(crate) struct Turn(());

impl Turn {
    /// The worker of the bell at this address begins its turn.
    #[inline]
    pub(crate) fn begin(bell: usize) -> Turn {
        NOW.with(|now| now.bell.set(bell));
        Turn(())
    }

    /// Whether anybody was rung for in this turn and was not taken.
    #[inline]
    pub(crate) fn has_rung(&self) -> bool {
        NOW.with(|now| now.has_rung.get())
    }

    /// Moves those who were rung for into `into`.
    #[cold]
    pub(crate) fn take(&self, into: &mut Vec<Whom>) {
        NOW.with(|now| now.has_rung.set(false));
        RUNG.with_borrow_mut(|rung| into.append(rung));
    }
}

impl Drop for Turn {
    #[inline]
    fn drop(&mut self) {
        NOW.with(|now| now.bell.set(0));
        // Only a turn that panicked leaves something.
        if self.has_rung() {
            self.take(&mut Vec::new());
        }
    }
}

/// Puts a ring on the list, if the worker of this bell has its turn here and now. Whether it did.
pub(super) fn leave(bell: usize, whom: Whom) -> bool {
    let is_here = NOW.with(|now| now.bell.get() == bell);
    if is_here {
        NOW.with(|now| now.has_rung.set(true));
        RUNG.with_borrow_mut(|rung| rung.push(whom));
    }
    is_here
}
