//! Flags, and the queue of those that went up: many ring, one receiver sleeps until it is told.
//!
//! Who rings writes what there is to see, raises the flag, and queues it if it was down. The receiver takes the flag down *before* it
//! looks: what is written later raises it again. Both sides change the flag with one operation, so whoever finds it up
//! has left what it wrote for the look that follows. Of those that queue something, only the one that finds the queue unannounced
//! tells the receiver, and the receiver takes that back *before* it empties the queue: a ring is either seen by that emptying or
//! announced again. So there is no race between sleeping and waking, and an idle queue costs the receiver nothing, not even
//! a load. `engine/tests/bell_model.rs` compiles this file with loom's types and tries every interleaving.

use crate::sync::{AtomicBool, Mutex};
use std::sync::atomic::Ordering::AcqRel;

/// One flag.
pub(crate) struct Flag(AtomicBool);

impl Flag {
    pub(crate) fn new() -> Flag {
        Flag(AtomicBool::new(false))
    }

    /// Takes it up; whether it was down.
    pub(crate) fn raise(&self) -> bool {
        !self.0.swap(true, AcqRel)
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn is_up(&self) -> bool {
        self.0.load(std::sync::atomic::Ordering::Acquire)
    }

    /// Takes it down. What those wrote who found it up is visible behind this.
    pub(crate) fn lower(&self) {
        self.0.swap(false, AcqRel);
    }
}

/// What is to be looked at.
pub(crate) struct Queue<M> {
    waiting: Mutex<Vec<M>>,
    is_announced: Flag,
}

impl<M> Queue<M> {
    pub(crate) fn new() -> Queue<M> {
        Queue { waiting: Mutex::new(Vec::new()), is_announced: Flag::new() }
    }

    /// Queues something; whether the receiver is to be told, because nobody has yet.
    pub(crate) fn post(&self, what: M) -> bool {
        self.waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(what);
        self.is_announced.raise()
    }

    /// Whether the receiver has been told, and has not looked since.
    #[cfg(feature = "tokio")]
    pub(crate) fn is_announced(&self) -> bool {
        self.is_announced.is_up()
    }

    /// Moves everything into `into`. Call it after the receiver was told.
    pub(crate) fn take(&self, into: &mut Vec<M>) {
        self.is_announced.lower();
        into.append(&mut self.waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
    }
}
