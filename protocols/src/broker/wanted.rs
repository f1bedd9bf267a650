//! Which topics are wanted, and by how many: as workers change it, and as the broker's thread knows it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// What workers have changed since the broker's thread last looked. However often they do, it is one entry for each topic, and none where
/// it came to nothing.
#[derive(Default)]
pub(super) struct Changes {
    sums: Mutex<Sums>,
    notify: Notify,
    over: Notify,
}

#[derive(Default)]
struct Sums {
    topics: HashMap<Arc<str>, i64>,
    is_over: bool,
}

impl Changes {
    /// One more wants a topic, or one less.
    pub(super) fn add(&self, topic: &str, change: i64) {
        let mut sums = self.lock();
        let sum = sums.topics.get(topic).copied().unwrap_or(0) + change;
        if sum == 0 {
            sums.topics.remove(topic);
        } else {
            *sums.topics.entry(topic.into()).or_default() = sum;
        }
        drop(sums);
        self.notify.notify_one();
    }

    /// Nobody wants anything any more.
    pub(super) fn end(&self) {
        self.lock().is_over = true;
        self.notify.notify_one();
        self.over.notify_one();
    }

    /// Waits until there may be something to take, or the end has come: however often it is waited for, it has.
    pub(super) async fn wait(&self) {
        if !self.is_over() {
            self.notify.notified().await;
        }
    }

    /// Waits for the end. Only one may.
    pub(super) async fn over(&self) {
        self.over.notified().await;
    }

    pub(super) fn is_over(&self) -> bool {
        self.lock().is_over
    }

    fn lock(&self) -> MutexGuard<'_, Sums> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The topics that are wanted, each by how many.
#[derive(Default)]
pub(super) struct Wanted(BTreeMap<Arc<str>, i64>);

/// What is to be done for what has changed: no topic is in both.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Steps {
    pub(super) subscribe: Vec<Arc<str>>,
    pub(super) unsubscribe: Vec<Arc<str>>,
}

impl Wanted {
    /// Takes what was changed.
    pub(super) fn take(&mut self, changes: &Changes) -> Steps {
        let sums = std::mem::take(&mut changes.lock().topics);
        let mut steps = Steps::default();
        for (topic, change) in sums {
            self.change(topic, change, &mut steps);
        }
        steps
    }

    fn change(&mut self, topic: Arc<str>, change: i64, steps: &mut Steps) {
        let before = self.0.get(&topic).copied().unwrap_or(0);
        let now = before.saturating_add(change).max(0);
        match (before, now) {
            (0, 0) => return,
            (0, _) => steps.subscribe.push(topic.clone()),
            (_, 0) => {
                self.0.remove(&topic);
                return steps.unsubscribe.push(topic);
            }
            _ => {}
        }
        // A key that is there stays: it is the subscription's.
        self.0.insert(topic, now);
    }

    /// All of them.
    pub(super) fn topics(&self) -> Vec<Arc<str>> {
        self.0.keys().cloned().collect()
    }

    /// Whether a message is of the subscription that there is, and not of one that ended before it arrived.
    pub(super) fn is_current(&self, topic: &Arc<str>) -> bool {
        self.0.get_key_value(topic).is_some_and(|(wanted, _)| Arc::ptr_eq(wanted, topic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_never_missed() {
        let changes = Changes::default();
        changes.add("a", 1);
        changes.end();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let twice = async {
            changes.wait().await;
            changes.wait().await;
        };
        let twice = async { tokio::time::timeout(std::time::Duration::from_secs(5), twice).await };
        assert!(runtime.block_on(twice).is_ok() && changes.is_over());
    }

    #[test]
    fn what_comes_to_nothing_is_nothing() {
        let (changes, mut wanted) = (Changes::default(), Wanted::default());
        let mut check = |all: &[(&str, i64)], subscribe: &[&str], unsubscribe: &[&str]| {
            all.iter().for_each(|(topic, change)| changes.add(topic, *change));
            let Steps { subscribe: begun, unsubscribe: ended } = wanted.take(&changes);
            let names =
                |topics: &[Arc<str>]| topics.iter().map(|topic| topic.to_string()).collect::<Vec<_>>();
            assert_eq!(names(&begun), subscribe);
            assert_eq!(names(&ended), unsubscribe);
        };
        check(&[("a", 1), ("a", -1)], &[], &[]);
        check(&[("a", 1), ("a", 1)], &["a"], &[]);
        check(&[("a", 1), ("a", -1), ("a", -1)], &[], &[]);
        check(&[("a", -1), ("a", 1)], &[], &[]);
        check(&[("a", -1)], &[], &["a"]);
        check(&[("a", 1)], &["a"], &[]);
        for number in 0..1000 {
            changes.add(&number.to_string(), 1);
            changes.add(&number.to_string(), -1);
        }
        assert!(changes.lock().topics.is_empty());
        assert!(wanted.is_current(&wanted.topics()[0]) && !wanted.is_current(&"a".into()));
    }
}
