//! The way of finished requests to whoever writes them down: a ring for each worker, with one writer and one reader. A worker never waits
//! for it: what finds no room is dropped, counted, and told in the log at times.

use super::entry::{ENTRY_BYTES_MAX, Entry, Front, Numbers, put_entry};
use ringmill_engine::Tick;
use rtrb::{Consumer, Producer, RingBuffer};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Thread;
use std::time::Duration;

/// The bytes of a worker's ring: some thousand requests, for as long as the reader is busy.
const RING_BYTES: usize = 1 << 20;
/// The reader is woken when a ring is half full; until then it comes by itself.
const WAKE_BYTES: usize = RING_BYTES / 2;
/// How often a worker says that it drops entries.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Which requests and connections are noted, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRules {
    /// For whom.
    pub to: AccessLog,
    /// So many of a million, taken at random. What failed, by the proxy or with a status of 500 or more, is noted in any case.
    pub sampled_per_million: u32,
    /// And so are requests that take so long, unless they become connections of another protocol.
    pub slow: Duration,
    /// `Referer` and `User-Agent` are wanted.
    pub has_agents: bool,
}

/// Finished requests on their way to who writes them down. Clones are the same one.
#[derive(Clone, Default)]
pub struct AccessLog(Arc<Shared>);

#[derive(Default)]
struct Shared {
    rings: Mutex<Vec<Ring>>,
    /// Entries that rings dropped which are gone.
    dropped: AtomicU64,
    reader: Mutex<Option<Thread>>,
}

struct Ring {
    bytes: Consumer<u8>,
    dropped: Arc<AtomicU64>,
}

/// Entries that were taken out of the rings. Used again, it keeps its memory.
#[derive(Default)]
pub struct Batch(Vec<u8>);

impl AccessLog {
    /// Takes what was noted since the last time, in the order of each worker.
    pub fn take(&self, batch: &mut Batch) {
        batch.0.clear();
        lock(&self.0.rings).retain_mut(|ring| {
            // Asked before: what comes between is taken the next time.
            let is_last = ring.bytes.is_abandoned();
            let chunk = ring.bytes.read_chunk(ring.bytes.slots()).expect("there are so many bytes");
            let (first, second) = chunk.as_slices();
            batch.0.extend_from_slice(first);
            batch.0.extend_from_slice(second);
            chunk.commit_all();
            if is_last {
                self.0.dropped.fetch_add(ring.dropped.load(Relaxed), Relaxed);
            }
            !is_last
        });
    }

    /// This thread takes entries: it is unparked before a ring is full.
    pub fn wake(&self, reader: Thread) {
        *lock(&self.0.reader) = Some(reader);
    }

    /// How many entries found no room.
    pub fn dropped(&self) -> u64 {
        let gone = self.0.dropped.load(Relaxed);
        lock(&self.0.rings).iter().fold(gone, |sum, ring| sum + ring.dropped.load(Relaxed))
    }

    /// A worker's end.
    pub(crate) fn join(&self) -> Sink {
        let (bytes, ring) = RingBuffer::new(RING_BYTES);
        let dropped = Arc::new(AtomicU64::new(0));
        lock(&self.0.rings).push(Ring { bytes: ring, dropped: dropped.clone() });
        let record = Vec::with_capacity(ENTRY_BYTES_MAX + 2);
        Sink { log: self.clone(), bytes, record, has_woken: false, dropped, told: 0, tell_at: Tick(0) }
    }
}

impl Batch {
    /// The entries, in order.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            let (length, more) = rest.split_first_chunk()?;
            let (entry, more) = more.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
            rest = more;
            Entry::read(entry)
        })
    }
}

/// A worker's end of a log.
pub(crate) struct Sink {
    log: AccessLog,
    bytes: Producer<u8>,
    record: Vec<u8>,
    /// The reader was woken, and has not come yet.
    has_woken: bool,
    /// Written here alone.
    dropped: Arc<AtomicU64>,
    /// So many of them were told of.
    told: u64,
    tell_at: Tick,
}

impl Sink {
    pub(crate) fn is_of(&self, log: &AccessLog) -> bool {
        self.log == *log
    }

    /// Notes a request, if there is room.
    pub(crate) fn put(&mut self, numbers: &Numbers, front: Front<'_>, texts: &[u8], now: Tick) {
        self.record.clear();
        self.record.extend_from_slice(&[0; 2]);
        put_entry(&mut self.record, numbers, front, texts);
        let length = self.record.len() as u16 - 2;
        self.record[..2].copy_from_slice(&length.to_le_bytes());
        // All of it or nothing, so that a reader never sees a part.
        if self.bytes.push_entire_slice(&self.record).is_err() {
            self.drop_one(now);
        }
        if self.bytes.cached_slots() < RING_BYTES - WAKE_BYTES {
            self.wake_reader();
        } else {
            // Where it was full, the push has looked, and seen that the reader came.
            self.has_woken = false;
        }
    }

    fn wake_reader(&mut self) {
        let is_due = self.bytes.slots() < RING_BYTES - WAKE_BYTES;
        if is_due
            && !self.has_woken
            && let Some(reader) = &*lock(&self.log.0.reader)
        {
            reader.unpark();
        }
        self.has_woken = is_due;
    }

    #[cold]
    fn drop_one(&mut self, now: Tick) {
        let dropped = self.dropped.load(Relaxed) + 1;
        self.dropped.store(dropped, Relaxed);
        if self.tell_at <= now {
            self.tell_at = now.after(TELL_EVERY);
            let more = dropped - std::mem::replace(&mut self.told, dropped);
            tracing::warn!("the access log is not taken as fast as it grows: {more} lines are missing");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PartialEq for AccessLog {
    fn eq(&self, other: &AccessLog) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for AccessLog {}

impl std::fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AccessLog({} dropped)", self.dropped())
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::tests::numbers;
    use super::super::entry::{LONG_MAX, TEXTS, put_text};
    use super::*;

    fn put(sink: &mut Sink, number: u64) {
        let mut texts = Vec::new();
        (0..TEXTS).for_each(|_| put_text(&mut texts, b"some text", LONG_MAX));
        sink.put(&Numbers { sent: number, ..numbers() }, Front::default(), &texts, Tick(1));
    }

    fn taken(log: &AccessLog, batch: &mut Batch) -> Vec<u64> {
        log.take(batch);
        batch.entries().map(|entry| entry.numbers.sent).collect()
    }

    #[test]
    fn what_finds_no_room_is_dropped_whole_and_counted() {
        let (log, mut batch) = (AccessLog::default(), Batch::default());
        let (mut one, mut other) = (log.join(), log.join());
        put(&mut other, 7);
        let mut kept = 0;
        // Three times, so that the end of the ring is passed in the middle of an entry.
        for round in 0..3 {
            let before = log.dropped();
            (0..20_000).for_each(|number| put(&mut one, number));
            let all = taken(&log, &mut batch);
            let own = all.len() - usize::from(round == 0);
            assert!(own > 4000 && all[..own].iter().copied().eq(0..own as u64), "the first ones, whole");
            assert_eq!(log.dropped() - before, 20_000 - own as u64);
            kept = own;
        }
        drop(one);
        put(&mut other, 8);
        assert_eq!(taken(&log, &mut batch), [8]);
        assert_eq!(lock(&log.0.rings).len(), 1, "who is gone has no ring");
        assert!(log.dropped() >= 3 * (20_000 - kept as u64 - 1), "and what it dropped is remembered");
    }

    #[test]
    fn a_reader_is_woken_before_a_ring_is_full() {
        let (log, mut batch) = (AccessLog::default(), Batch::default());
        let mut sink = log.join();
        // Who was woken by a full ring, and has come, is woken again.
        log.wake(std::thread::current());
        (0..20_000).for_each(|number| put(&mut sink, number));
        assert!(sink.has_woken && log.dropped() > 0);
        taken(&log, &mut batch);
        put(&mut sink, 0);
        assert!(!sink.has_woken);
        taken(&log, &mut batch);
        let reader = std::thread::spawn({
            let log = log.clone();
            move || {
                // Without the waker it would sleep for ever.
                let mut all = Vec::new();
                while all.len() < 4000 {
                    std::thread::park();
                    all.extend(taken(&log, &mut Batch::default()));
                }
                all
            }
        });
        log.wake(reader.thread().clone());
        let mut number = 0;
        while !reader.is_finished() {
            put(&mut sink, number);
            number += 1;
            std::thread::yield_now();
        }
        assert!(reader.join().unwrap().len() >= 4000);
        taken(&log, &mut batch);
    }
}
