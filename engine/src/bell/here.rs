//! Rings from within the worker's own turn: a list, which the worker looks at before it waits. No lock, and no system call.

use super::whom::Whom;
use std::cell::RefCell;
use std::rc::Rc;

/// Whom the worker's own thread has rung for since the worker last looked.
#[derive(Clone, Default)]
pub(crate) struct Rung(Rc<RefCell<Vec<Whom>>>);

impl Rung {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    pub(crate) fn push(&self, whom: Whom) {
        self.0.borrow_mut().push(whom);
    }

    /// Exchanges the list with an empty one.
    pub(crate) fn swap(&self, list: &mut Vec<Whom>) {
        std::mem::swap(&mut *self.0.borrow_mut(), list);
    }
}

/// The bell whose worker has its turn on this thread, by its address, and that worker's list.
type Turn = Option<(usize, Rung)>;

thread_local! {
    static TURN: RefCell<Turn> = const { RefCell::new(None) };
}

/// A worker has its turn until this is dropped. (A thread has several workers in the simulator.)
pub(crate) struct Entered(Turn);

/// The worker of the bell at this address begins its turn.
#[inline]
pub(crate) fn enter(bell: usize, rung: &Rung) -> Entered {
    Entered(TURN.replace(Some((bell, rung.clone()))))
}

impl Drop for Entered {
    #[inline]
    fn drop(&mut self) {
        TURN.set(self.0.take());
    }
}

/// Puts a ring on the list, if the worker of this bell has its turn here and now. Whether it did.
pub(super) fn leave(bell: usize, whom: Whom) -> bool {
    let leave = |turn: &RefCell<Turn>| match &*turn.borrow() {
        Some((of, rung)) if *of == bell => {
            rung.push(whom);
            true
        }
        _ => false,
    };
    // A thread that ends has no turn any more.
    TURN.try_with(leave).unwrap_or(false)
}
