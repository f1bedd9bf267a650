//! The servers of an upstream as all workers of a process see them: counts in atomics, so that limits, the queue, the choice and the
//! budget hold for the process. What a worker alone knows of a server is in `pool.rs`. Pure: keys, numbers and ticks.
//!
//! Who is told of room is decided by two counts: one worker has its request wait and then finds all connections open, another one closes its
//! connection and then looks whether anybody waits. One of the two has to see what the other did, or nobody connects; so what is changed
//! and looked at for that (connections, attempts, requests that have a connection, and that wait) is sequentially consistent. On x86 that
//! costs nothing: what changes a count is locked in any case, and a load is a plain one. All other counts are relaxed, and so are these
//! where they are only told or compared for a choice. What two workers do at once may pass a limit of connections never, and a bound of
//! idle ones by the workers that look at it at once.

use super::health::{Health, HealthCounts};
use ringmill_engine::{Address, Tick, Waker};
use std::collections::HashMap;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Requests that may be repeated at the start, in thousandths.
const BUDGET_START: u64 = 10_000;
/// What each second adds: 3.
const BUDGET_SEC: u64 = 3_000;
/// Time is added in steps of this, so that nothing is lost by rounding.
const BUDGET_EACH: Duration = Duration::from_millis(10);

/// What the workers of a proxy share of an upstream. Clones are the same one, and a configuration is not another one by it.
#[derive(Clone, Default)]
pub struct Fleet(Arc<Shared>);

#[derive(Default)]
struct Shared {
    members: Mutex<HashMap<Address, Arc<Member>>>,
    /// Of the workers, each with its number.
    bells: Mutex<Vec<(u64, Waker)>>,
    joined: AtomicU64,
    /// Turns that were taken where servers take turns.
    turns: AtomicU64,
}

/// One server: what every request changes in one cache line, what is mostly read in others.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(super) struct Member {
    /// Connections, and attempts to get one.
    open: AtomicU32,
    /// The attempts among them.
    connecting: AtomicU32,
    /// Requests that have a connection.
    in_flight: AtomicU32,
    /// Requests that wait for one.
    waiting: AtomicU32,
    /// Until when it is avoided, since it refused a connection.
    avoid_until: AtomicU64,
    /// Thousandths of requests that may be repeated.
    budget: AtomicU64,
    /// When the budget last grew by time.
    budget_at: AtomicU64,
    requests: AtomicU64,
    repeats: AtomicU64,
    /// Clients whose datagrams go there.
    flows: AtomicU32,
    /// Datagrams that were passed on to it, and those that came from it.
    pub(super) to: Datagrams,
    pub(super) from: Datagrams,
    pub(super) health: Health,
}

/// How many datagrams, and bytes in them. Every one is counted as it passes: next to the system calls for it that is little.
#[derive(Debug, Default)]
pub(super) struct Datagrams {
    count: AtomicU64,
    bytes: AtomicU64,
}

impl Datagrams {
    pub(super) fn count(&self, bytes: usize) {
        self.count.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    fn counts(&self) -> (u64, u64) {
        (self.count.load(Relaxed), self.bytes.load(Relaxed))
    }
}

/// What a server has done since the start, and does now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerCounts {
    /// Where it is.
    pub address: Address,
    /// Connections with it, and attempts to get one.
    pub open: u32,
    /// Requests that have a connection with it.
    pub in_flight: u32,
    /// Requests that wait for one.
    pub waiting: u32,
    /// Requests that it was given, repeated ones among them.
    pub requests: u64,
    /// Those that had been lost by another connection with it.
    pub repeats: u64,
    /// Clients whose datagrams go there.
    pub flows: u32,
    /// Datagrams that were passed on to it, and the bytes in them.
    pub datagrams_to: (u64, u64),
    /// Those that came from it, likewise.
    pub datagrams_from: (u64, u64),
    /// Requests that failed ([`Ejection`](crate::proxy::Ejection)).
    pub failures: u64,
    /// How often it was ejected.
    pub ejections: u64,
    /// How often it would have been, had not too many been out already.
    pub spared: u64,
    /// Checks say that it is down.
    pub is_down: bool,
    /// It is given no new requests, because somebody said so.
    pub is_drained: bool,
}

impl Fleet {
    /// The server with this address.
    pub(super) fn member(&self, address: &Address) -> Arc<Member> {
        lock(&self.0.members).entry(address.clone()).or_insert_with(Member::fresh).clone()
    }

    /// Whether it is the same one.
    pub(super) fn is(&self, other: &Fleet) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The counts of all servers that a worker or a configuration still knows, by address.
    pub fn counts(&self) -> Vec<ServerCounts> {
        let mut counts: Vec<ServerCounts> =
            lock(&self.0.members).iter().map(|(address, member)| member.counts(address.clone())).collect();
        counts.sort_by_cached_key(|counts| counts.address.to_string());
        counts
    }

    /// Gives a server no new requests from now on, or again: what it has it may finish. False where none has this address.
    pub fn drain(&self, address: &Address, is_drained: bool) -> bool {
        let member = lock(&self.0.members).get(address).cloned();
        member.inspect(|member| member.health.drain(is_drained)).is_some()
    }

    /// Forgets servers that are not among these and that no worker uses.
    pub(super) fn keep(&self, is_wanted: impl Fn(&Address) -> bool) {
        lock(&self.0.members).retain(|address, member| is_wanted(address) || Arc::strong_count(member) > 1);
    }

    /// The next turn.
    pub(super) fn turn(&self) -> u64 {
        self.0.turns.fetch_add(1, Relaxed)
    }

    /// A worker wants to be told when there may be room for a connection. Returns its number.
    pub(super) fn join(&self, bell: Waker) -> u64 {
        let number = self.0.joined.fetch_add(1, Relaxed);
        lock(&self.0.bells).push((number, bell));
        number
    }

    pub(super) fn leave(&self, number: u64) {
        lock(&self.0.bells).retain(|(known, _)| *known != number);
    }

    /// Tells the workers, but not this one, that there may be room.
    pub(super) fn ring(&self, but: Option<u64>) {
        lock(&self.0.bells).iter().filter(|(known, _)| Some(*known) != but).for_each(|(_, bell)| bell.wake());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PartialEq for Fleet {
    /// What is counted is no difference between configurations.
    fn eq(&self, _: &Fleet) -> bool {
        true
    }
}

impl Eq for Fleet {}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.counts()).finish()
    }
}

impl Member {
    fn fresh() -> Arc<Member> {
        Arc::new(Member { budget: AtomicU64::new(BUDGET_START), ..Member::default() })
    }

    fn counts(&self, address: Address) -> ServerCounts {
        let HealthCounts { is_down, is_drained, failed, ejected, spared } = self.health.counts();
        ServerCounts {
            address,
            failures: failed,
            ejections: ejected,
            spared,
            is_down,
            is_drained,
            open: self.open.load(Relaxed),
            in_flight: self.in_flight.load(Relaxed),
            waiting: self.waiting.load(Relaxed),
            requests: self.requests.load(Relaxed),
            repeats: self.repeats.load(Relaxed),
            flows: self.flows.load(Relaxed),
            datagrams_to: self.to.counts(),
            datagrams_from: self.from.counts(),
        }
    }

    /// One more attempt to connect, if there are fewer connections than so many.
    pub(super) fn try_connect(&self, open_max: usize) -> bool {
        let is_taken = take(&self.open, open_max);
        if is_taken {
            self.connecting.fetch_add(1, SeqCst);
        }
        is_taken
    }

    /// So many attempts have come to an end, whatever it is.
    pub(super) fn settle(&self, attempts: usize) {
        give(&self.connecting, attempts);
    }

    /// So many connections are gone.
    pub(super) fn close(&self, connections: usize) {
        give(&self.open, connections);
    }

    /// One more request waits, if fewer than so many do.
    pub(super) fn try_wait(&self, waiting_max: usize) -> bool {
        take(&self.waiting, waiting_max)
    }

    /// So many wait no longer.
    pub(super) fn stop_waiting(&self, requests: usize) {
        give(&self.waiting, requests);
    }

    pub(super) fn begin_request(&self) {
        self.in_flight.fetch_add(1, SeqCst);
        self.requests.fetch_add(1, Relaxed);
    }

    pub(super) fn end_requests(&self, requests: usize) {
        give(&self.in_flight, requests);
    }

    /// One more client's datagrams go there.
    pub(super) fn begin_flow(&self) {
        self.flows.fetch_add(1, Relaxed);
    }

    pub(super) fn end_flows(&self, flows: usize) {
        give(&self.flows, flows);
    }

    pub(super) fn open(&self) -> usize {
        self.open.load(SeqCst) as usize
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(SeqCst) as usize
    }

    /// Connections without a request.
    pub(super) fn idle(&self) -> usize {
        // In this order: an attempt that becomes a connection with a request in between is not counted twice, which would hide an idle one.
        let in_flight = self.in_flight.load(SeqCst);
        let used = in_flight + self.connecting.load(SeqCst);
        self.open.load(SeqCst).saturating_sub(used) as usize
    }

    /// Requests and flows that it has to do with.
    pub(super) fn busy(&self) -> u32 {
        let requests = self.in_flight.load(Relaxed).saturating_add(self.waiting.load(Relaxed));
        requests.saturating_add(self.flows.load(Relaxed))
    }

    /// It refused a connection. Whether that is news.
    pub(super) fn avoid(&self, now: Tick, time: Duration) -> bool {
        self.avoid_until.swap(now.after(time).0, Relaxed) <= now.0
    }

    pub(super) fn is_avoided(&self, now: Tick) -> bool {
        self.avoid_until.load(Relaxed) > now.0
    }

    /// Takes one request from the budget of repeated ones, to which a worker adds what it has earned, in thousandths, and time adds its
    /// part. So many are saved up at most.
    pub(super) fn spend(&self, now: Tick, earned: u64, saved_max: usize) -> bool {
        let by_time = (self.time_earned(now).as_millis() as u64).saturating_mul(BUDGET_SEC) / 1000;
        let most = (saved_max as u64).saturating_mul(1000).max(BUDGET_START);
        let grown = |budget: u64| budget.saturating_add(earned).saturating_add(by_time).min(most);
        let spent = self.budget.fetch_update(Relaxed, Relaxed, |budget| {
            let budget = grown(budget);
            Some(budget.checked_sub(1000).unwrap_or(budget))
        });
        let is_spent = spent.is_ok_and(|budget| grown(budget) >= 1000);
        self.repeats.fetch_add(u64::from(is_spent), Relaxed);
        is_spent
    }
}

impl Member {
    /// The time for which the budget has not grown yet; from now on it has. The time before the first call is not counted.
    fn time_earned(&self, now: Tick) -> Duration {
        let before = self.budget_at.load(Relaxed);
        let since = now.since(Tick(before));
        let is_due = before == 0 || since >= BUDGET_EACH;
        let is_ours = is_due && self.budget_at.compare_exchange(before, now.0, Relaxed, Relaxed).is_ok();
        if is_ours && before != 0 { since } else { Duration::ZERO }
    }
}

/// One more, if there are fewer than so many.
fn take(count: &AtomicU32, max: usize) -> bool {
    let one_more = |count: u32| ((count as usize) < max).then_some(count.saturating_add(1));
    count.fetch_update(SeqCst, SeqCst, one_more).is_ok()
}

fn give(count: &AtomicU32, number: usize) {
    if number > 0 {
        count.fetch_sub(number as u32, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_holds_for_all_who_take_at_once() {
        let member = Fleet::default().member(&"127.0.0.1:1".parse().unwrap());
        let taken: usize = std::thread::scope(|scope| {
            let take = || (0..1000).filter(|_| member.try_connect(700)).count();
            let threads = [(); 4].map(|()| scope.spawn(take));
            threads.map(|thread| thread.join().unwrap()).into_iter().sum()
        });
        assert_eq!((taken, member.open(), member.idle()), (700, 700, 0));
        member.settle(100);
        assert_eq!(member.idle(), 100);
        member.begin_request();
        assert_eq!((member.idle(), member.busy()), (99, 1));
        member.close(1);
        assert!(member.try_connect(700) && !member.try_connect(700));
        assert!(member.try_wait(1) && !member.try_wait(1) && !member.try_wait(0));
        member.stop_waiting(1);
        assert_eq!(member.waiting(), 0);
    }

    #[test]
    fn a_budget_is_spent_and_earned() {
        let member = Fleet::default().member(&"127.0.0.1:1".parse().unwrap());
        let second = Tick(1).after(Duration::from_secs(1));
        let spend = |now, earned, times, most| {
            let spent = usize::from(member.spend(now, earned, most));
            spent + (1..times).filter(|_| member.spend(now, 0, most)).count()
        };
        assert_eq!(spend(Tick(1), 0, 20, 0), 10, "the start");
        assert_eq!(spend(Tick(1), 2000, 20, 0), 2, "what was earned");
        assert_eq!(spend(second, 0, 20, 0), 3, "three a second");
        assert_eq!(spend(second, 200_000, 200, 64), 64, "as many as may be in progress");
        assert_eq!(member.repeats.load(Relaxed), 79);
    }

    #[test]
    fn servers_are_known_by_their_address() {
        let (fleet, [one, two]) =
            (Fleet::default(), ["127.0.0.1:1", "127.0.0.1:2"].map(|it| it.parse().unwrap()));
        let member = fleet.member(&one);
        member.begin_request();
        fleet.clone().member(&two);
        let counts: Vec<_> = fleet.counts().into_iter().map(|it| (it.address, it.in_flight)).collect();
        assert_eq!(counts, [(one.clone(), 1), (two.clone(), 0)]);
        fleet.keep(|_| false);
        assert_eq!(fleet.counts().len(), 1, "the one that is used");
        drop(member);
        fleet.keep(|_| false);
        assert_eq!(fleet.counts(), []);
    }
}
