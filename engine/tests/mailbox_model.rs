//! Every interleaving of the mailbox's queue, tried by loom: no message is lost, doubled or left behind
//! unannounced, whoever sends while the receiver falls asleep.

// The real file, built from loom's types instead of the standard library's.
#[path = "../src/mailbox/queue.rs"]
mod queue;

mod sync {
    pub(crate) use loom::sync::Mutex;
    pub(crate) use loom::sync::atomic::AtomicBool;
}

mod sys {
    /// An event counter is raised until somebody waits for it.
    pub(crate) struct EventCounter(loom::sync::Notify);

    impl EventCounter {
        pub(crate) fn new() -> EventCounter {
            EventCounter(loom::sync::Notify::new())
        }

        pub(crate) fn raise(&self) {
            self.0.notify();
        }

        pub(crate) fn wait(&self) {
            self.0.wait();
        }
    }
}

use loom::sync::Arc;
use queue::Queue;

/// One message for each sender and round; the receiver sleeps until it has all. A lost wake-up is a deadlock, which loom
/// reports.
fn check(senders: u32, rounds: u32) {
    loom::model(move || {
        let queue = Arc::new(Queue::new(sys::EventCounter::new()));
        let threads: Vec<_> = (0..senders)
            .map(|sender| {
                let queue = queue.clone();
                loom::thread::spawn(move || {
                    for round in 0..rounds {
                        assert!(queue.post((sender, round), usize::MAX));
                    }
                })
            })
            .collect();
        let mut all: Vec<(u32, u32)> = Vec::new();
        while all.len() < (senders * rounds) as usize {
            queue.counter().wait();
            queue.take(&mut all);
        }
        for thread in threads {
            thread.join().unwrap();
        }
        for sender in 0..senders {
            let order = all.iter().filter(|(from, _)| *from == sender).map(|(_, round)| *round);
            assert!(order.eq(0..rounds), "each sender's messages arrive in order: {all:?}");
        }
    });
}

#[test]
fn one_sender_with_two_messages() {
    check(1, 2);
}

#[test]
fn two_senders() {
    check(2, 1);
}

#[test]
fn a_full_queue_refuses_and_says_so() {
    loom::model(|| {
        let queue = Arc::new(Queue::new(sys::EventCounter::new()));
        let sender = queue.clone();
        let thread = loom::thread::spawn(move || sender.post(1, 1));
        let second = queue.post(2, 1);
        let first = thread.join().unwrap();
        let mut all = Vec::new();
        queue.counter().wait();
        queue.take(&mut all);
        assert_eq!(all.len(), 1, "exactly one fits: {first} {second}");
        assert_eq!(usize::from(first) + usize::from(second), 1);
    });
}
