//! The queue of a mailbox: many senders, one receiver that sleeps on an event counter.
//!
//! The counter is raised only by the sender that finds the flag down, and the receiver takes the flag down
//! *before* it empties the queue: a message is either seen by that emptying or raises the counter again, which
//! stays raised until it is read. So there is no race between sleeping and waking, and an idle queue costs the
//! receiver nothing, not even a load. `engine/tests/mailbox_model.rs` compiles this file with loom's types and
//! tries every interleaving.

use crate::sync::{AtomicBool, Mutex};
use crate::sys::EventCounter;
use std::sync::atomic::{Ordering::AcqRel, Ordering::Release};

pub(crate) struct Queue<M> {
    messages: Mutex<Vec<M>>,
    raised: AtomicBool,
    counter: EventCounter,
}

impl<M> Queue<M> {
    pub(crate) fn new(counter: EventCounter) -> Queue<M> {
        Queue { messages: Mutex::new(Vec::new()), raised: AtomicBool::new(false), counter }
    }

    pub(crate) fn counter(&self) -> &EventCounter {
        &self.counter
    }

    /// Queues a message, unless so many wait already, and wakes the receiver if nobody has yet. Whether it was queued.
    pub(crate) fn post(&self, message: M, messages_max: usize) -> bool {
        {
            let mut messages = self.messages.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            if messages.len() >= messages_max {
                return false;
            }
            messages.push(message);
        }
        if !self.raised.swap(true, AcqRel) {
            self.counter.raise();
        }
        true
    }

    /// Moves all messages into `into`. Call it after the counter was seen raised.
    pub(crate) fn take(&self, into: &mut Vec<M>) {
        self.raised.store(false, Release);
        let mut messages = self.messages.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        into.append(&mut messages);
    }
}
