//! Futures that want to be woken after a while, to the second: by the tick of the hub that looks for old messages as well.

use ringmill_engine::Tick;
use slab::Slab;
use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Those of one hub. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Reminders(Rc<RefCell<Slab<Entry>>>);

struct Entry {
    waker: Waker,
    after: Duration,
    at: At,
}

enum At {
    /// It begins with the next tick, which knows what time it is.
    Later,
    Tick(Tick),
    Over,
}

/// A time that passes. Nothing is left of it when it is dropped.
pub(crate) struct Reminder {
    all: Reminders,
    key: usize,
}

impl Reminder {
    /// Whether its time has passed.
    pub(crate) fn poll(&self, context: &Context<'_>) -> Poll<()> {
        let mut all = self.all.0.borrow_mut();
        let Some(entry) = all.get_mut(self.key) else { return Poll::Pending };
        if let At::Over = entry.at {
            return Poll::Ready(());
        }
        let before = std::mem::replace(&mut entry.waker, context.waker().clone());
        drop(all);
        // A whole future may go with it, and its reminders.
        drop(before);
        Poll::Pending
    }
}

impl Drop for Reminder {
    fn drop(&mut self) {
        let entry = self.all.0.borrow_mut().try_remove(self.key);
        drop(entry);
    }
}

impl Reminders {
    /// Another one, that counts from the next tick.
    pub(super) fn add(&self, after: Duration) -> Reminder {
        let entry = Entry { waker: Waker::noop().clone(), after, at: At::Later };
        Reminder { all: self.clone(), key: self.0.borrow_mut().insert(entry) }
    }

    /// Those whose time has passed now, and whether others go on.
    pub(super) fn tick(&self, now: Tick) -> (Vec<Waker>, bool) {
        let (mut due, mut goes_on) = (Vec::new(), false);
        for (_, entry) in &mut *self.0.borrow_mut() {
            match entry.at {
                At::Later => entry.at = At::Tick(now.after(entry.after)),
                At::Tick(at) if at <= now => {
                    entry.at = At::Over;
                    due.push(entry.waker.clone());
                }
                At::Tick(_) | At::Over => {}
            }
            goes_on |= !matches!(entry.at, At::Over);
        }
        (due, goes_on)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reminder_counts_from_the_tick_that_follows() {
        let all = Reminders::default();
        let context = &Context::from_waker(Waker::noop());
        let second = Duration::from_secs(1);
        let reminder = all.add(2 * second);
        let tick = |secs: u32| all.tick(Tick(0).after(secs * second));
        let told = |(due, goes_on): (Vec<Waker>, bool)| (due.len(), goes_on);
        assert_eq!(told(tick(10)), (0, true));
        assert_eq!(told(tick(11)), (0, true));
        assert!(reminder.poll(context).is_pending());
        assert_eq!(told(tick(12)), (1, false));
        assert!(reminder.poll(context).is_ready());
        drop(reminder);
        assert!(all.0.borrow().is_empty());
    }
}
