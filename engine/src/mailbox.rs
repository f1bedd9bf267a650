//! Messages from other threads to a worker: a bounded queue that wakes it (`mailbox/queue.rs`).

mod queue;

use crate::sys::EventCounter;
use queue::Queue;
use std::sync::Arc;

/// What a worker can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// Call `wake` of this connection, if it is still the same one.
    Wake(ConnId),
    /// Stop accepting, finish what is open, and end; at the latest after the drain timeout.
    Drain(std::time::Duration),
    /// End now.
    Stop,
}

/// Names one connection of one worker, also after it is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

pub(crate) struct Mailbox {
    queue: Queue<Message>,
    messages_max: usize,
}

/// The mailbox holds as many messages as `Config::mailbox_messages_max` allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MailboxFull;

impl Mailbox {
    pub(crate) fn new(messages_max: usize) -> std::io::Result<Mailbox> {
        Ok(Mailbox { queue: Queue::new(EventCounter::new()?), messages_max })
    }

    pub(crate) fn counter(&self) -> &EventCounter {
        self.queue.counter()
    }

    /// Queues a message and wakes the worker if nobody has yet. Control messages are never refused.
    pub(crate) fn post(&self, message: Message) -> Result<(), MailboxFull> {
        let messages_max = if matches!(message, Message::Wake(_)) { self.messages_max } else { usize::MAX };
        if self.queue.post(message, messages_max) { Ok(()) } else { Err(MailboxFull) }
    }

    /// Moves all messages into `into`. Call it after the counter was seen raised.
    pub(crate) fn take(&self, into: &mut Vec<Message>) {
        self.queue.take(into);
    }
}

/// Wakes one connection from any thread: its protocol's `wake` is called on its worker.
#[derive(Clone)]
pub struct Waker {
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) conn: ConnId,
}

impl Waker {
    /// Asks for the call. Nothing happens if the connection is gone by then.
    pub fn wake(&self) -> Result<(), MailboxFull> {
        self.mailbox.post(Message::Wake(self.conn))
    }
}

impl std::fmt::Debug for Waker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Waker({:?})", self.conn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_is_bounded_but_a_stop_always_fits() {
        let mailbox = Mailbox::new(1).unwrap();
        let wake = Message::Wake(ConnId { index: 1, generation: 2 });
        assert_eq!(mailbox.post(wake), Ok(()));
        assert_eq!(mailbox.post(wake), Err(MailboxFull));
        assert_eq!(mailbox.post(Message::Stop), Ok(()));
        let mut all = Vec::new();
        mailbox.take(&mut all);
        assert_eq!(all, [wake, Message::Stop]);
    }

    #[test]
    fn no_message_is_left_behind_unannounced() {
        let mailbox = Arc::new(Mailbox::new(usize::MAX).unwrap());
        let senders: Vec<_> = (0..2)
            .map(|index| {
                let mailbox = mailbox.clone();
                std::thread::spawn(move || {
                    for generation in 0..10_000 {
                        mailbox.post(Message::Wake(ConnId { index, generation })).unwrap();
                    }
                })
            })
            .collect();
        let mut all = Vec::new();
        while all.len() < 20_000 {
            mailbox.counter().wait();
            mailbox.take(&mut all);
        }
        for sender in senders {
            sender.join().unwrap();
        }
        for index in 0..2 {
            let order = all.iter().filter_map(|message| match message {
                Message::Wake(conn) if conn.index == index => Some(conn.generation),
                _ => None,
            });
            assert!(order.eq(0..10_000), "each sender's messages arrive in order");
        }
    }
}
