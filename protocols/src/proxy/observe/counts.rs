//! What workers count of routes and of servers: each for itself, with plain additions; anybody sums them when asked. Names come from the
//! plan, never from a request.

use super::entry::{End, Numbers};
use ringmill_engine::Address;
use slab::Slab;
use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Times are counted by these limits, in microseconds: from half a millisecond to ten seconds.
pub const LIMITS_MICROS: [u64; 14] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];

/// Of what is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Counted {
    /// Requests that take a route, by what the plan says of it.
    Route(String),
    /// Requests that take none: nothing is served there, or they are none.
    Unrouted,
    /// Requests that a server was given, by the name of its upstream and its address.
    Server(String, Address),
    /// Connections that a listener passes on as they are, by what it is called.
    Listener(String),
    /// Connections that a server was given so, by the name of its upstream and its address.
    Relayed(String, Address),
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LineCounts {
    /// Requests by the hundreds of their status; those that were not answered come first, and so do connections.
    pub statuses: [u64; 6],
    /// Requests, or connections, by how they came to their end, in the order of [`End::ALL`].
    pub ends: [u64; End::ALL.len()],
    /// Bytes of requests, heads and framing included; or what clients sent.
    pub received: u64,
    /// Bytes of replies, likewise; or what servers sent.
    pub sent: u64,
    /// How often requests were sent beyond the first time; or to how many servers more it was tried to connect.
    pub retries: u64,
    /// How long they took, in all, in microseconds: of routes and listeners from their beginnings to their ends, of servers from the
    /// connection to the first byte that came.
    pub micros: u64,
    /// How many took no longer than each of [`LIMITS_MICROS`], and longer than the one before; the last took longer than any. Of servers
    /// those are missing that were not answered.
    pub times: [u64; LIMITS_MICROS.len() + 1],
}

/// What the workers of a proxy count. Clones are the same one.
#[derive(Clone, Default)]
pub struct Counts(Arc<Mutex<Vec<Known>>>);

struct Known {
    what: Counted,
    /// One for each worker that has it, and more for a moment while a plan changes.
    lines: Vec<Arc<Line>>,
    /// Of lines that nobody has any more.
    before: LineCounts,
}

/// What one worker counts of one thing. It alone writes.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct Line {
    statuses: [AtomicU64; 6],
    ends: [AtomicU64; End::ALL.len()],
    received: AtomicU64,
    sent: AtomicU64,
    retries: AtomicU64,
    micros: AtomicU64,
    times: [AtomicU64; LIMITS_MICROS.len() + 1],
}

impl Counts {
    /// All that is counted, in the order in which it came.
    pub fn all(&self) -> Vec<(Counted, LineCounts)> {
        let mut all = self.lock();
        forget_unused(&mut all);
        all.iter().map(|known| (known.what.clone(), known.sum())).collect()
    }

    /// A line for one worker.
    pub(crate) fn line(&self, what: &Counted) -> Arc<Line> {
        let (mut all, line) = (self.lock(), Arc::<Line>::default());
        forget_unused(&mut all);
        match all.iter_mut().find(|known| known.what == *what) {
            Some(known) => known.lines.push(line.clone()),
            None => {
                let before = LineCounts::default();
                all.push(Known { what: what.clone(), lines: vec![line.clone()], before });
            }
        }
        line
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What no worker has any more is forgotten with its last line; until then, what it came to is kept.
fn forget_unused(all: &mut Vec<Known>) {
    for known in &mut *all {
        for line in std::mem::take(&mut known.lines) {
            match Arc::try_unwrap(line) {
                Ok(line) => known.before += line.counts(),
                Err(line) => known.lines.push(line),
            }
        }
    }
    all.retain(|known| !known.lines.is_empty());
}

impl Known {
    fn sum(&self) -> LineCounts {
        let mut sum = self.before;
        self.lines.iter().for_each(|line| sum += line.counts());
        sum
    }
}

impl PartialEq for Counts {
    fn eq(&self, other: &Counts) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Counts {}

impl std::fmt::Debug for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Counts(of {})", self.lock().len())
    }
}

/// No locked instruction is needed: there is one writer.
fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(more), Relaxed);
}

impl Line {
    fn count(&self, numbers: &Numbers, status: u16, time: Option<Duration>) {
        add(&self.statuses[usize::from(status / 100).min(5)], 1);
        add(&self.ends[numbers.end as usize], 1);
        add(&self.received, numbers.received);
        add(&self.sent, numbers.sent);
        add(&self.retries, numbers.retries.into());
        if let Some(time) = time {
            let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
            add(&self.micros, micros);
            add(&self.times[LIMITS_MICROS.partition_point(|limit| *limit < micros)], 1);
        }
    }

    /// A request of a route, or a connection of a listener.
    pub(crate) fn count_whole(&self, numbers: &Numbers) {
        self.count(numbers, numbers.status, Some(numbers.total));
    }

    /// A request that a server was given: what this proxy answered instead is no reply of the server.
    pub(crate) fn count_given(&self, numbers: &Numbers) {
        let is_theirs = numbers.first_byte.is_some() && numbers.end != End::UpstreamFailed;
        self.count(numbers, if is_theirs { numbers.status } else { 0 }, numbers.first_byte);
    }

    fn counts(&self) -> LineCounts {
        let read = |counter: &AtomicU64| counter.load(Relaxed);
        LineCounts {
            statuses: self.statuses.each_ref().map(read),
            ends: self.ends.each_ref().map(read),
            received: read(&self.received),
            sent: read(&self.sent),
            retries: read(&self.retries),
            micros: read(&self.micros),
            times: self.times.each_ref().map(read),
        }
    }
}

impl AddAssign for LineCounts {
    fn add_assign(&mut self, other: LineCounts) {
        let add_all =
            |sum: &mut [u64], more: &[u64]| sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        add_all(&mut self.statuses, &other.statuses);
        add_all(&mut self.ends, &other.ends);
        add_all(&mut self.times, &other.times);
        self.received += other.received;
        self.sent += other.sent;
        self.retries += other.retries;
        self.micros += other.micros;
    }
}

/// The lines of one worker for the routes of its plan, and of earlier ones as long as requests have them.
pub(crate) struct Tally {
    counts: Counts,
    held: Slab<Held>,
    /// Those of the plan, by their numbers in it.
    planned: Vec<usize>,
    unrouted: Arc<Line>,
}

struct Held {
    what: Counted,
    line: Arc<Line>,
    requests: usize,
    is_planned: bool,
}

impl Tally {
    pub(crate) fn new(counts: &Counts) -> Tally {
        let unrouted = counts.line(&Counted::Unrouted);
        Tally { counts: counts.clone(), held: Slab::new(), planned: Vec::new(), unrouted }
    }

    pub(crate) fn is_of(&self, counts: &Counts) -> bool {
        self.counts == *counts
    }

    /// These are the routes of the plan that holds.
    pub(crate) fn follow(&mut self, routes: impl Iterator<Item = String>) {
        self.held.iter_mut().for_each(|(_, held)| held.is_planned = false);
        self.planned.clear();
        for what in routes.map(Counted::Route) {
            let known = self.held.iter_mut().find(|(_, held)| held.what == what);
            let key = match known {
                Some((key, held)) => {
                    held.is_planned = true;
                    key
                }
                None => {
                    let line = self.counts.line(&what);
                    self.held.insert(Held { what, line, requests: 0, is_planned: true })
                }
            };
            self.planned.push(key);
        }
        self.held.retain(|_, held| held.is_planned || held.requests > 0);
    }

    /// A request takes the route with this number. Its end is to be told with what is returned.
    pub(crate) fn begin(&mut self, route: usize) -> Option<usize> {
        let key = *self.planned.get(route)?;
        self.held[key].requests += 1;
        Some(key)
    }

    /// A request has come to its end.
    pub(crate) fn end(&mut self, key: Option<usize>, numbers: &Numbers) {
        let Some((key, held)) = key.and_then(|key| Some((key, self.held.get_mut(key)?))) else {
            return self.unrouted.count_whole(numbers);
        };
        held.line.count_whole(numbers);
        held.requests = held.requests.saturating_sub(1);
        if !held.is_planned && held.requests == 0 {
            self.held.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::tests::numbers;
    use super::*;

    fn names(counts: &Counts) -> Vec<(String, u64)> {
        let name =
            |(what, counts): (Counted, LineCounts)| (format!("{what:?}"), counts.statuses.iter().sum());
        counts.all().into_iter().map(name).collect()
    }

    #[test]
    fn times_and_statuses_have_their_places() {
        let line = Line::default();
        for (micros, status, place) in [
            (0, 200, 0),
            (500, 101, 0),
            (501, 404, 1),
            (1_000, 304, 1),
            (9_999_999, 503, 13),
            (10_000_000, 599, 13),
            (10_000_001, 0, 14),
            (u64::MAX, 200, 14),
        ] {
            let before = line.counts();
            line.count_whole(&Numbers { status, total: Duration::from_micros(micros), ..numbers() });
            let after = line.counts();
            assert_eq!(after.times[place], before.times[place] + 1, "{micros}");
            assert_eq!(
                after.statuses[usize::from(status / 100)],
                before.statuses[usize::from(status / 100)] + 1
            );
        }
        assert_eq!(line.counts().statuses, [1, 1, 2, 1, 1, 2]);
        assert_eq!((line.counts().received, line.counts().retries), (8 * 80, 8));
    }

    #[test]
    fn what_a_server_did_not_answer_is_not_its_answer() {
        let line = Line::default();
        let first_byte = Some(Duration::from_micros(700));
        line.count_given(&Numbers { first_byte, status: 200, ..numbers() });
        line.count_given(&Numbers { first_byte: None, status: 504, end: End::TimedOut, ..numbers() });
        line.count_given(&Numbers { first_byte, status: 502, end: End::UpstreamFailed, ..numbers() });
        assert_eq!(line.counts().statuses, [2, 0, 1, 0, 0, 0]);
        assert_eq!(line.counts().ends, [1, 0, 0, 1, 1]);
        assert_eq!((line.counts().times[1], line.counts().micros), (2, 1400));
    }

    #[test]
    fn a_route_that_stays_goes_on_and_one_that_goes_waits_for_its_requests() {
        let counts = Counts::default();
        let (mut one, mut other) = (Tally::new(&counts), Tally::new(&counts));
        let routes =
            |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>().into_iter();
        one.follow(routes(&["a", "b"]));
        other.follow(routes(&["a", "b"]));
        let (a, b) = (one.begin(0), one.begin(1));
        let far = other.begin(1);
        other.end(far, &numbers());
        one.end(None, &numbers());
        one.follow(routes(&["c", "a"]));
        other.follow(routes(&["c", "a"]));
        let c = one.begin(0);
        [a, c].into_iter().for_each(|key| one.end(key, &numbers()));
        let named = |what: &str, requests| (format!("Route(\"{what}\")"), requests);
        let unrouted = ("Unrouted".to_owned(), 1);
        assert_eq!(names(&counts), [unrouted.clone(), named("a", 1), named("b", 1), named("c", 1)]);
        one.end(b, &numbers());
        assert_eq!(names(&counts), [unrouted, named("a", 1), named("c", 1)]);
        assert_eq!((one.begin(2), one.held.len()), (None, 2));
    }

    #[test]
    fn what_came_before_is_kept() {
        let (counts, what) =
            (Counts::default(), Counted::Server("app".to_owned(), "127.0.0.1:1".parse().unwrap()));
        let (old, new) = (counts.line(&what), counts.line(&what));
        old.count_given(&numbers());
        drop(old);
        assert_eq!(counts.all()[0].1.statuses[0], 1);
        assert_eq!(counts.lock()[0].lines.len(), 1);
        new.count_given(&numbers());
        assert_eq!(counts.all()[0].1.statuses[0], 2);
        drop(new);
        assert_eq!(counts.all(), []);
    }
}
