//! Every interleaving of the bell's flags and their queue, tried by loom: whoever rings while the receiver falls asleep, looks or
//! empties the queue, what was written before a ring is seen by a look behind it.

// The real file, built from loom's types instead of the standard library's.
#[path = "../src/bell/queue.rs"]
mod queue;

mod sync {
    pub(crate) use loom::sync::Mutex;
    pub(crate) use loom::sync::atomic::AtomicBool;
}

use loom::sync::atomic::AtomicU32;
use loom::sync::{Arc, Notify};
use queue::{Flag, Queue};
use std::sync::atomic::Ordering::Relaxed;

struct Bell {
    queue: Queue<usize>,
    /// The event counter: raised until somebody waits for it.
    counter: Notify,
    flags: Vec<Flag>,
    /// What there is to see, by flag. Relaxed: that it is seen is the flags' and the queue's doing.
    written: Vec<AtomicU32>,
}

impl Bell {
    /// As in `bell.rs`.
    fn ring(&self, whom: usize) {
        if self.flags[whom].raise() && self.queue.post(whom) {
            self.counter.notify();
        }
    }
}

/// Some ringers, several of which may have one flag, and each of which writes some times. The receiver sleeps until it has seen all of
/// it: a ring that is lost is a deadlock, which loom reports.
fn check(flag_of: &'static [usize], rounds: u32) {
    loom::model(move || {
        let flags = flag_of.iter().max().expect("somebody rings") + 1;
        let bell = Arc::new(Bell {
            queue: Queue::new(),
            counter: Notify::new(),
            flags: (0..flags).map(|_| Flag::new()).collect(),
            written: (0..flags).map(|_| AtomicU32::new(0)).collect(),
        });
        let threads: Vec<_> = flag_of
            .iter()
            .map(|&whom| {
                let bell = bell.clone();
                loom::thread::spawn(move || {
                    for _ in 0..rounds {
                        bell.written[whom].fetch_add(1, Relaxed);
                        bell.ring(whom);
                    }
                })
            })
            .collect();
        let expected = |whom| flag_of.iter().filter(|of| **of == whom).count() as u32 * rounds;
        let (mut all, mut seen) = (Vec::new(), vec![0; flags]);
        while (0..flags).any(|whom| seen[whom] < expected(whom)) {
            bell.counter.wait();
            bell.queue.take(&mut all);
            assert!(all.len() <= flags, "a flag that is up is not queued again");
            for whom in all.drain(..) {
                bell.flags[whom].lower();
                seen[whom] = bell.written[whom].load(Relaxed);
            }
        }
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn one_ringer_that_rings_twice() {
    check(&[0], 2);
}

#[test]
fn two_ringers_with_a_flag_each() {
    check(&[0, 1], 1);
}

#[test]
fn two_ringers_with_one_flag() {
    check(&[0, 0], 1);
}

/// A worker that is hosted says whom to wake, and then looks: a ring that found nobody to wake is seen by that.
#[cfg(feature = "tokio")]
#[test]
fn a_ring_before_the_host_is_known_is_not_lost() {
    loom::model(|| {
        let queue = Arc::new(Queue::new());
        let host: Arc<loom::sync::Mutex<Option<Arc<Notify>>>> = Arc::new(loom::sync::Mutex::new(None));
        let ringer = (queue.clone(), host.clone());
        let ringing = loom::thread::spawn(move || {
            if ringer.0.post(7)
                && let Some(host) = &*ringer.1.lock().unwrap()
            {
                host.notify();
            }
        });
        let woken = Arc::new(Notify::new());
        *host.lock().unwrap() = Some(woken.clone());
        // loom wakes for no reason as well.
        while !queue.is_announced() {
            woken.wait();
        }
        let mut all = Vec::new();
        queue.take(&mut all);
        assert_eq!(all, [7]);
        ringing.join().unwrap();
    });
}
