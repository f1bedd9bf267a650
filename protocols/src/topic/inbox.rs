//! What other workers leave for a worker: messages to publish and to deliver, within a limit, and who wants what.
//!
//! Nothing is lost here without a word: a message to publish that does not fit is refused, and one to deliver leaves a gap, which its
//! receiver is told of and fills from the topic's home. Who wants what is one entry for each worker and topic, however often it
//! changes, so that it needs no limit; neither does history, which is asked for by one topic once at a time.

use super::log::End;
use super::message::{Frame, Publication};
use super::options::TopicOptions;
use ringmill_engine::Waker;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// One worker's inbox.
#[derive(Default)]
pub(super) struct Inbox {
    mail: Mutex<Mail>,
    waker: OnceLock<Waker>,
}

/// What lies in an inbox.
#[derive(Default)]
pub(super) struct Mail {
    /// Looked at first: who wants a topic sees what it publishes after that.
    pub(super) wishes: HashMap<(usize, Arc<str>), Wish>,
    pub(super) letters: VecDeque<Letter>,
    /// Topics of which something did not fit.
    pub(super) gaps: HashSet<Arc<str>>,
    messages: usize,
    bytes: usize,
}

/// What a worker wants of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// All from this offset on.
    From(u64),
    Nothing,
}

/// What one worker has for another.
pub(super) enum Letter {
    /// To the topic's home.
    Publish(Arc<str>, Publication),
    /// From there.
    Deliver(Arc<str>, Arc<Frame>),
    /// The answer to a wish: what is kept from there on, and how far the log has come.
    History {
        name: Arc<str>,
        frames: Vec<Arc<Frame>>,
        end: End,
    },
    /// To the topic's home, from other processes.
    Arrive(Arc<str>, Publication),
    /// From here on it is heard without a gap.
    Began(Arc<str>),
    /// Something of that was missed; of all topics, and another epoch begins.
    Missed(Arc<str>),
    Restart(u64),
}

impl Inbox {
    /// Whoever leaves something rings for this worker.
    pub(super) fn set_waker(&self, waker: Waker) {
        // A worker has one hub, which is started once.
        let _ = self.waker.set(waker);
    }

    /// Takes a message to publish; `false` if it is full.
    pub(super) fn publish(&self, name: &Arc<str>, publication: Publication, options: &TopicOptions) -> bool {
        let bytes = publication.bytes.len();
        self.take_in(bytes, options, || Letter::Publish(name.clone(), publication))
    }

    /// Takes a message of another process; `false` if it is full.
    pub(super) fn arrive(&self, name: &Arc<str>, publication: Publication, options: &TopicOptions) -> bool {
        let bytes = publication.bytes.len();
        self.take_in(bytes, options, || Letter::Arrive(name.clone(), publication))
    }

    fn take_in(&self, bytes: usize, options: &TopicOptions, letter: impl FnOnce() -> Letter) -> bool {
        let mut mail = self.open();
        if !mail.fits(bytes, options) {
            return false;
        }
        mail.count(bytes);
        mail.letters.push_back(letter());
        self.ring(mail);
        true
    }

    /// What is missed is always told, and once is enough.
    pub(super) fn missed(&self, name: &Arc<str>) {
        let mut mail = self.open();
        if !matches!(mail.letters.back(), Some(Letter::Missed(last)) if last == name) {
            mail.letters.push_back(Letter::Missed(name.clone()));
            self.ring(mail);
        }
    }

    /// There is one for each time that a topic is asked for.
    pub(super) fn began(&self, name: &Arc<str>) {
        let mut mail = self.open();
        mail.letters.push_back(Letter::Began(name.clone()));
        self.ring(mail);
    }

    pub(super) fn restart(&self, epoch: u64) {
        let mut mail = self.open();
        if matches!(mail.letters.back(), Some(Letter::Restart(_))) {
            mail.letters.pop_back();
        }
        mail.letters.push_back(Letter::Restart(epoch));
        self.ring(mail);
    }

    /// Takes a message to deliver; `false` if this is where a gap begins.
    pub(super) fn deliver(&self, name: &Arc<str>, frame: &Arc<Frame>, options: &TopicOptions) -> bool {
        let bytes = frame.as_bytes().len();
        let mut mail = self.open();
        if mail.gaps.contains(name) {
            return true;
        }
        let fits = mail.fits(bytes, options);
        if fits {
            mail.count(bytes);
            mail.letters.push_back(Letter::Deliver(name.clone(), frame.clone()));
        } else {
            mail.gaps.insert(name.clone());
        }
        self.ring(mail);
        fits
    }

    pub(super) fn wish(&self, worker: usize, name: &Arc<str>, wish: Wish) {
        let mut mail = self.open();
        mail.wishes.insert((worker, name.clone()), wish);
        self.ring(mail);
    }

    pub(super) fn history(&self, name: &Arc<str>, frames: Vec<Arc<Frame>>, end: End) {
        let mut mail = self.open();
        mail.letters.push_back(Letter::History { name: name.clone(), frames, end });
        self.ring(mail);
    }

    /// All that lies here.
    pub(super) fn take(&self) -> Mail {
        std::mem::take(&mut *self.open())
    }

    fn open(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self, mail: MutexGuard<'_, Mail>) {
        drop(mail);
        if let Some(waker) = self.waker.get() {
            waker.wake();
        }
    }
}

impl Mail {
    fn fits(&self, bytes: usize, options: &TopicOptions) -> bool {
        // One always fits.
        self.messages == 0
            || (self.messages < options.inbox_messages_max && self.bytes + bytes <= options.inbox_bytes_max)
    }

    fn count(&mut self, bytes: usize) {
        self.messages += 1;
        self.bytes += bytes;
    }
}
