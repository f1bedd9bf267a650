//! The topics that one worker knows: those it is the home of, and mirrors of those that it has subscribers of. Pure: what concerns others
//! goes through [`Outside`].
//!
//! A topic is there while somebody subscribes to it, or something of it is kept.

use super::carrier::Carrier;
use super::counters::Live;
use super::inbox::{Inbox, Letter, Mail, Wish};
use super::log::Log;
use super::message::{Frame, Next, Publication};
use super::one::{Hearing, Notify, Role, Subscriber, Topic};
use super::options::{SlowPolicy, Subscribe, TopicOptions};
use super::place::Place;
use ringmill_engine::{Dialer, Tick};
use slab::Slab;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a worker knows.
pub(super) struct Core {
    pub(super) names: HashMap<Arc<str>, usize>,
    pub(super) topics: Slab<Topic>,
    /// Of which epoch those are that it is the home of.
    pub(super) epoch: u64,
    /// Every message that is kept, in the order in which they came, by topic and offset; and some that are gone.
    order: VecDeque<(usize, u64)>,
    pub(super) messages: usize,
    pub(super) bytes: usize,
    /// How many there may be, whatever the options say: a share of the worker's memory.
    pub(super) bytes_max: usize,
    /// What the worker counts.
    pub(super) held_kib: usize,
    /// Where topics that are made anew begin: behind all those that were forgotten, so that an offset never comes twice.
    forgotten: u64,
    /// How many questions homes were asked.
    pub(super) questions: u64,
    /// Whom to wake once the mail is done with.
    touched: Vec<usize>,
}

/// Why a message cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Busy;

/// The rest of the world, as a worker sees it.
#[derive(Clone, Copy)]
pub(super) struct Outside<'a> {
    pub(super) options: &'a TopicOptions,
    pub(super) worker: usize,
    pub(super) inboxes: &'a [Inbox],
    pub(super) live: &'a Live,
    pub(super) dialer: Option<&'a Dialer>,
    /// What carries messages to other processes.
    pub(super) carrier: Option<&'a dyn Carrier>,
    /// How many epochs have ended.
    pub(super) restarts: &'a AtomicU64,
    /// Which worker a topic is at home at.
    pub(super) home_of: &'a dyn Fn(&str) -> usize,
}

impl Core {
    pub(super) fn new(epoch: u64) -> Core {
        Core {
            names: HashMap::new(),
            topics: Slab::new(),
            epoch,
            order: VecDeque::new(),
            messages: 0,
            bytes: 0,
            bytes_max: usize::MAX,
            held_kib: 0,
            forgotten: 0,
            questions: 0,
            touched: Vec::new(),
        }
    }

    /// The place of a message in a topic that this worker is the home of.
    pub(super) fn place(
        &mut self,
        name: &Arc<str>,
        publication: Publication,
        outside: Outside<'_>,
    ) -> Result<u64, Busy> {
        self.admit(name, outside)?;
        let (index, _) = self.home(name);
        Ok(self.put(index, publication, outside))
    }

    /// Gives a message its place in a topic whose home is here.
    pub(super) fn put(&mut self, index: usize, publication: Publication, outside: Outside<'_>) -> u64 {
        let offset = self.topics[index].log.next();
        let frame = Frame::new(publication, Place { epoch: self.epoch, offset });
        Live::add(&outside.live.published, 1);
        self.spread(index, Arc::new(frame), outside);
        offset
    }

    /// Appends to a topic whose home is here, and lets those know who mirror it.
    pub(super) fn spread(&mut self, index: usize, frame: Arc<Frame>, outside: Outside<'_>) {
        let topic = &self.topics[index];
        if let Role::Home { interested, .. } = &topic.role {
            for worker in interested {
                if !outside.inboxes[*worker].deliver(&topic.name, &frame, outside.options) {
                    Live::add(&outside.live.gaps, 1);
                }
            }
        }
        self.append(index, frame, outside);
    }

    /// Does what others have left to do.
    pub(super) fn receive(&mut self, mail: Mail, outside: Outside<'_>) {
        for ((worker, name), wish) in mail.wishes {
            self.grant(worker, &name, wish, outside);
        }
        for letter in mail.letters {
            match letter {
                // Its publisher was told that it is on its way. It is counted as busy, which `place` has done.
                Letter::Publish(name, publication) => {
                    let _ = self.place(&name, publication, outside);
                }
                Letter::Deliver(name, frame) => self.deliver(&name, frame, outside),
                Letter::Gap(name) => {
                    if let Some(index) = self.names.get(&name) {
                        self.ask(*index, outside);
                    }
                }
                Letter::History(name, history) => self.fill(&name, history, outside),
                Letter::Arrive(name, publication) => self.arrive(&name, publication, outside),
                Letter::Began(name) => self.begin(&name, outside),
                Letter::Missed(name) => self.miss(&name, outside),
                Letter::Restart(restart) => self.restart(restart, outside),
            }
        }
        self.wake_touched(outside);
    }

    /// Subscribes; the topic, and which of its subscribers this is.
    pub(super) fn subscribe(
        &mut self,
        name: &Arc<str>,
        is_home: bool,
        how: Subscribe,
        notify: Notify,
        outside: Outside<'_>,
    ) -> Result<(usize, usize), Busy> {
        self.admit(name, outside)?;
        let restarts = outside.restarts.load(Ordering::Relaxed);
        let index = if is_home { self.wanted(name, restarts, outside) } else { self.mirror(name, outside) };
        let subscriber = Subscriber::new(notify, how.when_slow);
        let until = self.question(index, how.start, outside);
        let topic = &mut self.topics[index];
        let slot = topic.subscribers.insert(subscriber);
        topic.waiting.insert(slot, (how.start, until));
        topic.cursor(slot);
        // It is woken to read what there is; then it rests with the others.
        topic.subscribers[slot].notify.wake(outside.dialer);
        self.wake_touched(outside);
        Ok((index, slot))
    }

    /// The end of a subscription; how many others the topic has here, and what is to be dropped outside.
    pub(super) fn unsubscribe(&mut self, index: usize, slot: usize, outside: Outside<'_>) -> (usize, Notify) {
        let topic = &mut self.topics[index];
        topic.waiting.remove(&slot);
        let Subscriber { notify, .. } = topic.subscribers.remove(slot);
        topic.tidy();
        let left = topic.subscribers.len();
        self.forget_if_idle(index, outside);
        self.tell(outside);
        (left, notify)
    }

    pub(super) fn subscribers(&self, index: usize) -> usize {
        self.topics[index].subscribers.len()
    }

    pub(super) fn name(&self, index: usize) -> &Arc<str> {
        &self.topics[index].name
    }

    /// What a subscriber reads next; and whether that is all, so that it is woken when there is more.
    pub(super) fn next(&mut self, index: usize, slot: usize, outside: Outside<'_>) -> (Next, bool) {
        let topic = &mut self.topics[index];
        let Some(at) = topic.cursor(slot) else {
            topic.set_cursor(slot, topic.log.next());
            Live::add(&outside.live.resets, 1);
            return (Next::Skipped(None), false);
        };
        let Some(at) = at else {
            topic.rest(slot);
            return (Next::Empty, true);
        };
        if let Some(frame) = topic.log.at(at) {
            let frame = frame.clone();
            topic.subscribers[slot].at = at + 1;
            if frame.is_cut() {
                Live::add(&outside.live.resets, 1);
                return (Next::Skipped(None), false);
            }
            let is_last = at + 1 == topic.log.next();
            if is_last {
                topic.rest(slot);
            }
            Live::add(&outside.live.delivered, 1);
            return (Next::Frame(frame), is_last);
        }
        let first = topic.log.first();
        if at >= first {
            topic.rest(slot);
            return (Next::Empty, true);
        }
        let to = match topic.subscribers[slot].when_slow {
            SlowPolicy::Close => {
                Live::add(&outside.live.slow_closed, 1);
                return (Next::Lagged, false);
            }
            SlowPolicy::Skip => first,
            SlowPolicy::Latest => first.max(topic.log.next().saturating_sub(1)),
        };
        topic.set_cursor(slot, to);
        if topic.log.is_cut(at, to) {
            Live::add(&outside.live.resets, 1);
            return (Next::Skipped(None), false);
        }
        Live::add(&outside.live.skipped, to - at);
        (Next::Skipped(Some(to - at)), false)
    }

    /// Whether a subscriber is to be sent more in this turn than one that does not read may cost.
    pub(super) fn is_urgent(&mut self, index: usize, slot: usize, outside: Outside<'_>) -> bool {
        let turn = outside.dialer.map_or(0, Dialer::turn);
        self.topics[index].is_urgent(slot, turn, outside.options.behind_limits())
    }

    /// Replaces what is woken. What was before is to be dropped outside: with a waker a whole future may go, and its subscriptions.
    pub(super) fn set_notify(&mut self, index: usize, slot: usize, notify: Notify) -> Notify {
        std::mem::replace(&mut self.topics[index].subscribers[slot].notify, notify)
    }

    /// Drops what is too old; whether something is left that will be.
    pub(super) fn tick(&mut self, now: Tick, outside: Outside<'_>) -> bool {
        let keep = usize::from(outside.options.keeps_last);
        let mut idle = Vec::new();
        for (index, topic) in &mut self.topics {
            let (messages, bytes) = (topic.log.len(), topic.log.bytes());
            topic.log.expire(now, outside.options.age_max, keep);
            self.messages -= messages - topic.log.len();
            self.bytes -= bytes - topic.log.bytes();
            if topic.log.len() == 0 && topic.subscribers.is_empty() {
                idle.push(index);
            }
        }
        for index in idle {
            self.forget_if_idle(index, outside);
        }
        let is_lingering = self.end_lingering(now, outside);
        self.tell(outside);
        self.messages > 0 || is_lingering
    }

    /// What is kept.
    #[cfg(test)]
    pub(super) fn kept(&self) -> (usize, usize, usize) {
        (self.topics.len(), self.messages, self.bytes)
    }

    #[cfg(test)]
    pub(super) fn resting(&self, index: usize) -> usize {
        self.topics[index].resting.len()
    }

    /// A topic that has its home here, and whether it is new.
    fn home(&mut self, name: &Arc<str>) -> (usize, bool) {
        self.topic(name, || Role::Home {
            interested: Vec::new(),
            hearing: Hearing::Not,
            heard_from: 0,
            restarts: 0,
        })
    }

    /// The same for somebody who subscribes.
    pub(super) fn wanted(&mut self, name: &Arc<str>, restarts: u64, outside: Outside<'_>) -> usize {
        let (index, is_new) = self.home(name);
        self.hear(index, is_new, restarts, outside);
        index
    }

    pub(super) fn topic(&mut self, name: &Arc<str>, role: impl FnOnce() -> Role) -> (usize, bool) {
        if let Some(index) = self.names.get(name) {
            return (*index, false);
        }
        let index = self.topics.insert(Topic {
            name: name.clone(),
            log: Log::new(self.forgotten, self.epoch),
            role: role(),
            subscribers: Slab::new(),
            waiting: BTreeMap::new(),
            resting: Vec::new(),
            is_touched: false,
        });
        self.names.insert(name.clone(), index);
        (index, true)
    }

    /// Appends to a log, within its limits and all others.
    pub(super) fn append(&mut self, index: usize, frame: Arc<Frame>, outside: Outside<'_>) {
        let options = outside.options;
        let topic = &mut self.topics[index];
        self.order.push_back((index, topic.log.next()));
        self.bytes += frame.cost();
        self.messages += 1;
        topic.log.push(frame);
        self.touch(index);
        loop {
            let log = &self.topics[index].log;
            let is_over =
                log.len() > options.messages_max.max(1) || (log.bytes() > options.bytes_max && log.len() > 1);
            if !is_over {
                break;
            }
            self.pop(index);
        }
        // The last message is always kept: its topic is in use.
        while self.bytes > options.worker_bytes_max.min(self.bytes_max)
            && self.messages > 1
            && let Some((index, offset)) = self.order.pop_front()
        {
            if self.topics.get(index).is_some_and(|topic| topic.log.len() > 0 && topic.log.first() == offset)
            {
                self.pop(index);
                self.forget_if_idle(index, outside);
            }
        }
        if self.order.len() > 2 * self.messages + 1024 {
            let topics = &self.topics;
            self.order.retain(|(index, offset)| {
                topics.get(*index).is_some_and(|topic| topic.log.at(*offset).is_some())
            });
        }
    }

    /// There is something to read for those who rest.
    pub(super) fn touch(&mut self, index: usize) {
        if !std::mem::replace(&mut self.topics[index].is_touched, true) {
            self.touched.push(index);
        }
    }

    fn pop(&mut self, index: usize) {
        let log = &mut self.topics[index].log;
        let (messages, bytes) = (log.len(), log.bytes());
        log.pop();
        self.messages -= messages - log.len();
        self.bytes -= bytes - log.bytes();
    }

    /// Wakes those who have something to read.
    pub(super) fn wake_touched(&mut self, outside: Outside<'_>) {
        while let Some(index) = self.touched.pop() {
            if let Some(topic) = self.topics.get_mut(index) {
                topic.is_touched = false;
                topic.wake(outside.dialer);
            }
        }
        self.tell(outside);
    }

    /// Forgets a topic that nobody wants and of which nothing is kept.
    pub(super) fn forget_if_idle(&mut self, index: usize, outside: Outside<'_>) {
        let Some(topic) = self.topics.get(index) else { return };
        if !topic.subscribers.is_empty() {
            return;
        }
        match &topic.role {
            Role::Home { interested, .. } if interested.is_empty() => {
                if self.linger(index, outside) || self.topics[index].log.len() > 0 {
                    return;
                }
                // What is not heard is missed: nobody goes on from there.
                let unheard = u64::from(outside.carrier.is_some());
                self.forgotten = self.forgotten.max(self.topics[index].log.next() + unheard);
            }
            Role::Home { .. } => return,
            Role::Mirror { .. } => {
                self.messages -= topic.log.len();
                self.bytes -= topic.log.bytes();
                let home = (outside.home_of)(&topic.name);
                outside.inboxes[home].wish(outside.worker, &topic.name, Wish::Nothing);
                if let Some(carrier) = outside.carrier {
                    carrier.unsubscribe(&topic.name);
                }
            }
        }
        let topic = self.topics.remove(index);
        self.names.remove(&topic.name);
    }
}
