//! A worker's hub: where its handlers publish and subscribe; and what all hubs of a program share.

use super::carrier::Carrier;
use super::core::{Core, Outside};
use super::counters::{Live, TopicCounters};
use super::envelope;
use super::inbox::{Inbox, Restart};
use super::message::{Publication, Published};
use super::options::TopicOptions;
use super::place::is_name;
#[cfg(feature = "tower")]
use super::reminders::Reminder;
use super::reminders::Reminders;
use ringmill_engine::{Dialer, Tick, WorkerContext};
use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::Waker;
use std::time::Duration;

/// The topics of a program. Clones are the same topics; each worker has a [`Hub`] of them.
#[derive(Clone)]
pub struct Topics(pub(super) Arc<Shared>);

/// What all hubs share.
pub(super) struct Shared {
    pub(super) options: TopicOptions,
    /// The first epoch.
    pub(super) epoch: u64,
    /// How often another one has begun.
    restarts: AtomicU64,
    /// Messages of other processes that could not be read.
    unreadable: AtomicU64,
    /// What carries messages to other processes.
    pub(super) carrier: OnceLock<Arc<dyn Carrier>>,
    /// Not to be known to others: who knows it can send everything to one worker.
    seed: u64,
    seats: OnceLock<Box<[Seat]>>,
    inboxes: OnceLock<Box<[Inbox]>>,
}

/// What one worker shows to the others.
#[derive(Default)]
struct Seat {
    live: Live,
    /// How many subscribers each topic has there.
    subscribers: Mutex<HashMap<Arc<str>, usize>>,
}

/// A worker's hub. Clones are the same hub; it never leaves the worker's thread.
#[derive(Clone)]
pub struct Hub(pub(super) Rc<Inner>);

pub(super) struct Inner {
    pub(super) shared: Arc<Shared>,
    pub(super) worker: usize,
    pub(super) core: RefCell<Core>,
    pub(super) dialer: RefCell<Option<Dialer>>,
    is_ticking: RefCell<bool>,
    reminders: Reminders,
}

/// Of a worker's memory the messages that it keeps have one part of so many, at most.
const MEMORY_SHARE: usize = 4;
/// How old messages are looked for.
const TICK: Duration = Duration::from_secs(1);

thread_local! {
    /// The hubs of this thread, by what they share and the worker.
    static HUBS: RefCell<Vec<(usize, usize, Weak<Inner>)>> = const { RefCell::new(Vec::new()) };
}

impl Default for Topics {
    fn default() -> Topics {
        Topics::new(TopicOptions::default())
    }
}

impl Topics {
    /// Topics with these limits.
    pub fn new(options: TopicOptions) -> Topics {
        Topics::with_seed(options, RandomState::new().hash_one("topics"))
    }

    /// The same with a randomness of one's own, for tests.
    #[doc(hidden)]
    pub fn with_seed(options: TopicOptions, seed: u64) -> Topics {
        Topics(Arc::new(Shared {
            options,
            epoch: hash(seed, "epoch"),
            restarts: AtomicU64::new(0),
            unreadable: AtomicU64::new(0),
            carrier: OnceLock::new(),
            seed,
            seats: OnceLock::new(),
            inboxes: OnceLock::new(),
        }))
    }

    /// The hub of this worker. To be called on its thread, as factories of protocols are.
    pub fn hub(&self, worker: &WorkerContext) -> Hub {
        let hub = self.hub_of(worker.index, worker.workers);
        hub.0.core.borrow_mut().bytes_max = worker.config.memory_bytes_max / MEMORY_SHARE;
        hub
    }

    /// The same for a worker of which only the number is known, of so many.
    #[doc(hidden)]
    pub fn hub_of(&self, worker: usize, workers: usize) -> Hub {
        let count = workers.max(1);
        let seats = self.0.seats.get_or_init(|| (0..count).map(|_| Seat::default()).collect());
        self.0.inboxes.get_or_init(|| (0..count).map(|_| Inbox::default()).collect());
        assert!(worker < seats.len(), "these topics belong to an engine of {} workers", seats.len());
        let key = Arc::as_ptr(&self.0).addr();
        HUBS.with_borrow_mut(|hubs| {
            hubs.retain(|(_, _, hub)| hub.strong_count() > 0);
            let known = hubs.iter().find(|(shared, index, _)| (*shared, *index) == (key, worker));
            if let Some(hub) = known.and_then(|(_, _, hub)| hub.upgrade()) {
                return Hub(hub);
            }
            let hub = Rc::new(Inner {
                shared: self.0.clone(),
                worker,
                core: RefCell::new(Core::new(self.0.epoch)),
                dialer: RefCell::default(),
                is_ticking: RefCell::new(false),
                reminders: Reminders::default(),
            });
            hubs.push((key, worker, Rc::downgrade(&hub)));
            Hub(hub)
        })
    }

    /// The hub of the worker whose thread this is.
    pub fn here(&self) -> Option<Hub> {
        let key = Arc::as_ptr(&self.0).addr();
        HUBS.with_borrow(|hubs| {
            let mut own = hubs.iter().filter(|(shared, ..)| *shared == key);
            own.find_map(|(_, _, hub)| hub.upgrade()).map(Hub)
        })
    }

    /// Publishes from any thread; see [`Hub::publish`].
    pub fn publish(&self, topic: &str, message: impl Into<Publication>) -> Published {
        match (self.0.hand_over(topic, message.into()), self.here()) {
            (Ok(published), _) => published,
            (Err(message), Some(hub)) => hub.enter(topic, message),
            (Err(message), None) => self.0.send_home(&topic.into(), message),
        }
    }

    /// What is counted, over all workers.
    pub fn counters(&self) -> TopicCounters {
        let unreadable = self.0.unreadable.load(Relaxed);
        let mut sum = TopicCounters { unreadable, ..TopicCounters::default() };
        self.0.seats().iter().for_each(|seat| seat.live.add_to(&mut sum));
        sum
    }

    /// How many subscribers a topic has, on all workers.
    pub fn subscribers(&self, topic: &str) -> usize {
        let count = |seat: &Seat| {
            let subscribers = seat.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
            subscribers.get(topic).copied().unwrap_or(0)
        };
        self.0.seats().iter().map(count).sum()
    }

    /// Their limits.
    pub fn options(&self) -> &TopicOptions {
        &self.0.options
    }
}

impl std::fmt::Debug for Topics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Topics({:x})", self.0.epoch)
    }
}

impl Shared {
    fn seats(&self) -> &[Seat] {
        self.seats.get().map_or(&[], |seats| seats)
    }

    pub(super) fn inboxes(&self) -> &[Inbox] {
        self.inboxes.get().map_or(&[], |inboxes| inboxes)
    }

    /// Hands a message to what carries it, if there is such a thing; `Err` with a message whose way is within the process.
    fn hand_over(&self, topic: &str, publication: Publication) -> Result<Published, Publication> {
        if !is_name(topic) {
            return Ok(Published::NoTopic);
        }
        if publication.len() > self.options.message_bytes_max {
            return Ok(Published::TooLarge);
        }
        let Some(carrier) = self.carrier.get() else { return Err(publication) };
        let Some(payload) = envelope::encode(&publication) else { return Ok(Published::TooLarge) };
        let published = carrier.publish(topic, payload);
        if published == Published::Busy {
            self.count_busy(topic);
        }
        Ok(published)
    }

    /// Leaves a message in the inbox of its topic's home, if there is one yet.
    fn send_home(&self, name: &Arc<str>, publication: Publication) -> Published {
        let inbox = self.inboxes().get(self.home_of(name));
        if inbox.is_some_and(|inbox| inbox.publish(name, publication, &self.options)) {
            return Published::Done { offset: None };
        }
        self.count_busy(name);
        Published::Busy
    }

    /// Counted by whoever is refused: rarely, so that it may be by several threads.
    fn count_busy(&self, name: &str) {
        if let Some(seat) = self.seats().get(self.home_of(name)) {
            seat.live.busy.fetch_add(1, Relaxed);
        }
    }

    /// Counted by what carries messages, and nobody else; how many there are now.
    pub(super) fn count_unreadable(&self) -> u64 {
        self.unreadable.fetch_add(1, Relaxed) + 1
    }

    pub(super) fn next_epoch(&self) -> Restart {
        let number = self.restarts.fetch_add(1, Relaxed);
        Restart { number, epoch: hash(self.seed, &format!("epoch {}", number + 1)) }
    }

    /// Which worker a topic is at home at.
    pub(super) fn home_of(&self, name: &str) -> usize {
        (hash(self.seed, name) % self.inboxes().len().max(1) as u64) as usize
    }
}

fn hash(seed: u64, name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (seed, name).hash(&mut hasher);
    hasher.finish()
}

impl Hub {
    /// Publishes to a topic: a `&str`, a `String`, a `&[u8]` or a [`Publication`]. All who subscribe get it, the one who publishes included.
    pub fn publish(&self, topic: &str, message: impl Into<Publication>) -> Published {
        match self.0.shared.hand_over(topic, message.into()) {
            Ok(published) => published,
            Err(message) => self.enter(topic, message),
        }
    }

    /// Where a message enters that is not carried: one that is comes to its topic's home by [`Arrivals`](super::Arrivals).
    fn enter(&self, topic: &str, publication: Publication) -> Published {
        let shared = &*self.0.shared;
        let name: Arc<str> = topic.into();
        let home = shared.home_of(topic);
        if home != self.0.worker {
            return shared.send_home(&name, publication);
        }
        let placed = self.with(|core, outside| {
            let placed = core.place(&name, publication, outside);
            core.wake_touched(outside);
            placed
        });
        self.start_ticking();
        placed.map_or(Published::Busy, |offset| Published::Done { offset: Some(offset) })
    }

    /// How many subscribers a topic has, on all workers.
    pub fn subscribers(&self, topic: &str) -> usize {
        Topics(self.0.shared.clone()).subscribers(topic)
    }

    /// The topics that it is a hub of.
    pub fn topics(&self) -> Topics {
        Topics(self.0.shared.clone())
    }

    #[cfg(feature = "websocket")]
    pub(crate) fn options(&self) -> &TopicOptions {
        &self.0.shared.options
    }

    pub(super) fn count_subscribers(&self, name: &Arc<str>, count: usize) {
        let seat = &self.0.shared.seats()[self.0.worker];
        let mut subscribers = seat.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        let before =
            if count == 0 { subscribers.remove(name) } else { subscribers.insert(name.clone(), count) };
        let change = (count as u64).wrapping_sub(before.unwrap_or(0) as u64);
        Live::add(&seat.live.subscribers, change);
    }

    /// The worker starts.
    pub(super) fn start(&self, dialer: Dialer) {
        self.0.shared.inboxes()[self.0.worker].set_waker(dialer.waker());
        self.0.dialer.replace(Some(dialer));
        // Others may have started before, and have rung for nobody.
        self.look();
    }

    /// Does what other workers have left to do.
    pub(super) fn look(&self) {
        let mail = self.0.shared.inboxes()[self.0.worker].take(&self.0.shared.options);
        self.with(|core, outside| core.receive(mail, outside));
        self.start_ticking();
    }

    /// Drops what is too old.
    pub(super) fn tick(&self, now: Tick) {
        let keeps = self.with(|core, outside| core.tick(now, outside));
        let (due, reminds) = self.0.reminders.tick(now);
        let goes_on = keeps || reminds;
        self.0.is_ticking.replace(goes_on);
        due.into_iter().for_each(Waker::wake);
        if goes_on && let Some(dialer) = &*self.0.dialer.borrow() {
            dialer.set_timer(Some(now.after(TICK)));
        }
    }

    /// Somebody has left: what is still heard for a while comes to its end by ticks.
    pub(super) fn look_later(&self) {
        if self.0.shared.carrier.get().is_some() {
            self.start_ticking();
        }
    }

    /// A reminder in so long, and two seconds more at most.
    #[cfg(feature = "tower")]
    pub(crate) fn remind(&self, after: Duration) -> Reminder {
        let reminder = self.0.reminders.add(after);
        self.start_ticking();
        reminder
    }

    /// Has old messages looked for, if there are any messages.
    fn start_ticking(&self) {
        if !*self.0.is_ticking.borrow()
            && let Some(dialer) = &*self.0.dialer.borrow()
        {
            self.0.is_ticking.replace(true);
            // At once: what time it is, is only told then.
            dialer.set_timer(Some(Tick(0)));
        }
    }

    pub(super) fn with<T>(&self, call: impl FnOnce(&mut Core, Outside<'_>) -> T) -> T {
        let shared = &*self.0.shared;
        let dialer = self.0.dialer.borrow();
        let outside = Outside {
            options: &shared.options,
            worker: self.0.worker,
            inboxes: shared.inboxes(),
            live: self.live(),
            dialer: dialer.as_ref(),
            restarts: &shared.restarts,
            carrier: shared.carrier.get().map(|carrier| &**carrier),
            home_of: &|name| shared.home_of(name),
        };
        call(&mut self.0.core.borrow_mut(), outside)
    }

    fn live(&self) -> &Live {
        &self.0.shared.seats()[self.0.worker].live
    }
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hub({:x}, worker {})", self.0.shared.epoch, self.0.worker)
    }
}
