//! What other workers leave for a worker: messages to publish and to deliver, within a limit, and who wants what.
//!
//! Nothing is lost here without a word: a message to publish that does not fit is refused, and one to deliver leaves a gap, which its
//! receiver is told of and fills from the topic's home. Who wants what is one entry for each worker and topic, however often it
//! changes, so that it needs no limit; neither does history, which is asked for by one mirror of a topic once at a
//! time.

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
    /// Topics of which something did not fit, and a letter says so.
    gaps: HashSet<Arc<str>>,
    messages: usize,
    bytes: usize,
}

/// What a worker wants of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// All from this offset on; the number of the question, and how many epochs had ended then.
    From {
        question: u64,
        offset: u64,
        restarts: u64,
    },
    Nothing,
}

/// What a mirror wanted.
pub(super) struct History {
    pub(super) question: u64,
    /// What is kept from there on...
    pub(super) frames: Vec<Arc<Frame>>,
    /// ...and how far the log has come.
    pub(super) end: End,
}

/// Another epoch.
#[derive(Clone, Copy)]
pub(super) struct Restart {
    /// How many there were before.
    pub(super) number: u64,
    pub(super) epoch: u64,
}

/// What one worker has for another.
pub(super) enum Letter {
    /// To the topic's home.
    Publish(Arc<str>, Publication),
    /// From there.
    Deliver(Arc<str>, Arc<Frame>),
    /// From there as well: what follows did not fit.
    Gap(Arc<str>),
    /// The answer to a wish.
    History(Arc<str>, History),
    /// To the topic's home, from other processes.
    Arrive(Arc<str>, Publication),
    /// From here on it is heard without a gap.
    Began(Arc<str>),
    /// Something of that was missed.
    Missed(Arc<str>),
    /// Something of all was, but of those that were not heard before; another epoch begins.
    Restart(Restart),
}

impl Inbox {
    /// Whoever leaves something rings for this worker.
    pub(super) fn set_waker(&self, waker: Waker) {
        // A worker has one hub, which is started once.
        let _ = self.waker.set(waker);
    }

    /// Takes a message to publish; `false` if it is full.
    pub(super) fn publish(&self, name: &Arc<str>, publication: Publication, options: &TopicOptions) -> bool {
        let bytes = publication.len();
        self.take_in(bytes, options, || Letter::Publish(name.clone(), publication))
    }

    /// Takes a message of another process; `false` if it is full.
    pub(super) fn arrive(&self, name: &Arc<str>, publication: Publication, options: &TopicOptions) -> bool {
        let bytes = publication.len();
        self.take_in(bytes, options, || Letter::Arrive(name.clone(), publication))
    }

    fn take_in(&self, bytes: usize, options: &TopicOptions, letter: impl FnOnce() -> Letter) -> bool {
        let mut mail = self.open();
        if !mail.fits(bytes, options.inbox_limits()) {
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

    pub(super) fn restart(&self, restart: Restart) {
        let mut mail = self.open();
        if matches!(mail.letters.back(), Some(Letter::Restart(_))) {
            mail.letters.pop_back();
        }
        mail.letters.push_back(Letter::Restart(restart));
        self.ring(mail);
    }

    /// Takes a message to deliver; `false` if this is where a gap begins.
    pub(super) fn deliver(&self, name: &Arc<str>, frame: &Arc<Frame>, options: &TopicOptions) -> bool {
        let bytes = frame.as_bytes().len();
        let mut mail = self.open();
        if mail.gaps.contains(name) {
            return true;
        }
        let fits = mail.fits(bytes, options.inbox_limits());
        if fits {
            mail.count(bytes);
            mail.letters.push_back(Letter::Deliver(name.clone(), frame.clone()));
        } else {
            // It has its turn among the letters: others may go on leaving some without end.
            mail.gaps.insert(name.clone());
            mail.letters.push_back(Letter::Gap(name.clone()));
        }
        self.ring(mail);
        fits
    }

    pub(super) fn wish(&self, worker: usize, name: &Arc<str>, wish: Wish) {
        let mut mail = self.open();
        mail.wishes.insert((worker, name.clone()), wish);
        self.ring(mail);
    }

    pub(super) fn history(&self, name: &Arc<str>, history: History) {
        let mut mail = self.open();
        // What did not fit before is in it. What does not from here on has a letter
        // behind it: the one in front would find that its topic is asked for already.
        mail.gaps.remove(name);
        mail.letters.push_back(Letter::History(name.clone(), history));
        self.ring(mail);
    }

    /// What lies here, but no more messages at once than an eighth of a log: they are read before more come, so that a burst is not too fast
    /// for those who read in time. Where some are left it rings again.
    pub(super) fn take(&self, options: &TopicOptions) -> Mail {
        let mut mail = self.open();
        let mut taken = Mail { wishes: std::mem::take(&mut mail.wishes), ..Mail::default() };
        while let Some(letter) = mail.letters.front() {
            let bytes = letter.message_bytes();
            if bytes.is_some_and(|bytes| !taken.fits(bytes, options.burst_limits())) {
                self.ring(mail);
                return taken;
            }
            if let Some(bytes) = bytes {
                taken.count(bytes);
                mail.messages -= 1;
                mail.bytes -= bytes;
            }
            let letter = mail.letters.pop_front();
            if let Some(Letter::Gap(name)) = &letter {
                mail.gaps.remove(name);
            }
            taken.letters.extend(letter);
        }
        taken
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

impl Letter {
    /// The length of a message, if it is one.
    fn message_bytes(&self) -> Option<usize> {
        match self {
            Letter::Publish(_, publication) | Letter::Arrive(_, publication) => Some(publication.len()),
            Letter::Deliver(_, frame) => Some(frame.as_bytes().len()),
            _ => None,
        }
    }
}

impl Mail {
    fn fits(&self, bytes: usize, (messages_max, bytes_max): (usize, usize)) -> bool {
        // One always fits.
        self.messages == 0 || (self.messages < messages_max && self.bytes + bytes <= bytes_max)
    }

    fn count(&mut self, bytes: usize) {
        self.messages += 1;
        self.bytes += bytes;
    }
}
