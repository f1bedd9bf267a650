//! Looks after files and dates: reads certificates again when their files change, and warns before they expire. A thread of its own,
//! because nothing of it is a worker's business.

use super::clock::unix_secs;
use super::identity::TlsTerm;
use super::store::TlsStore;
use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// What is about to expire, or has, is said again after this.
const SAID_AGAIN_SECS: u64 = 24 * 3600;

impl TlsStore {
    /// Looks at the files about every so often, on a thread that ends with the store. When one has changed, also by a rename or a
    /// symbolic link that points elsewhere, and stayed the same between two looks, all are read again: [`TlsStore::reload`]. Says
    /// in the log once a day which certificates have less than a third of their time left, or none.
    pub fn watch(self: &Arc<TlsStore>, every: Duration) -> io::Result<()> {
        let (store, mut watch) = (Arc::downgrade(self), Watch::new(self));
        let run = move || {
            while watch.look(&store) {
                // Nobody unparks it; a wait that ends early is an early look.
                std::thread::park_timeout(every);
            }
        };
        std::thread::Builder::new().name("tls-watch".to_owned()).spawn(run).map(drop)
    }
}

/// What was wrong is tried again after this: a certificate may begin to hold, and a file may be readable then.
const TRIED_AGAIN_SECS: u64 = 60;

/// What makes a file another one than before, or other people's; `None` if it is not there.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

struct Watch {
    files: Vec<PathBuf>,
    /// As they were when they were read.
    read: Vec<Stamp>,
    /// As they were at the last look.
    seen: Vec<Stamp>,
    /// When what was wrong is tried again.
    try_again_secs: u64,
    /// When something was last said of what expires.
    said: HashMap<String, u64>,
}

impl Watch {
    fn new(store: &TlsStore) -> Watch {
        let files = store.files();
        let seen = stamps(&files);
        // They may have changed since the store read them: the first look reads them once more.
        Watch { files, read: Vec::new(), seen, try_again_secs: u64::MAX, said: HashMap::new() }
    }

    /// Whether there is still something to look after.
    fn look(&mut self, store: &Weak<TlsStore>) -> bool {
        let Some(store) = store.upgrade() else { return false };
        let stamps = stamps(&self.files);
        let is_time = unix_secs() >= self.try_again_secs;
        // Who writes a certificate and then its key is not disturbed between the two.
        if is_time || (stamps != self.read && stamps == self.seen) {
            self.read.clone_from(&stamps);
            // It says itself what is wrong.
            let is_good = store.reload_again().is_ok();
            self.try_again_secs = if is_good { u64::MAX } else { unix_secs() + TRIED_AGAIN_SECS };
        }
        self.seen = stamps;
        for term in store.terms() {
            self.warn(&term, unix_secs());
        }
        true
    }

    fn warn(&mut self, term: &TlsTerm, now_secs: u64) {
        let Some(is_over) = ending(term, now_secs) else { return };
        let what = format!("{} of {}", term.kind, term.subject);
        if self.said.get(&what).is_some_and(|said_secs| now_secs < said_secs + SAID_AGAIN_SECS) {
            return;
        }
        let file = term.file.as_ref().map(|file| format!(" ({})", file.display())).unwrap_or_default();
        if is_over {
            tracing::error!("the {what}{file} has expired: it was good until {}", term.until());
        } else {
            tracing::warn!("the {what}{file} will expire soon: it is good until {}", term.until());
        }
        self.said.insert(what, now_secs);
    }
}

/// Whether it is over, if it has less than a third of its time left.
fn ending(term: &TlsTerm, now_secs: u64) -> Option<bool> {
    let left = term.not_after_secs.saturating_sub(now_secs);
    let whole = term.not_after_secs.saturating_sub(term.not_before_secs);
    (left < whole / 3 || left == 0).then_some(left == 0)
}

fn stamps(files: &[PathBuf]) -> Vec<Stamp> {
    let stamp = |file: &PathBuf| {
        let data = std::fs::metadata(file).ok()?;
        Some((data.dev(), data.ino(), data.size(), data.ctime(), data.ctime_nsec()))
    };
    files.iter().map(stamp).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_third_of_a_term_is_its_end() {
        let day = |n: u64| n * 24 * 3600;
        let term = TlsTerm {
            kind: "certificate",
            subject: String::new(),
            file: None,
            not_before_secs: day(100),
            not_after_secs: day(190),
        };
        let check = |n, expected| assert_eq!(ending(&term, day(n)), expected, "day {n}");
        check(100, None);
        check(160, None);
        check(161, Some(false));
        check(189, Some(false));
        check(190, Some(true));
        check(1000, Some(true));
        // A clock that is behind is not the certificate's fault.
        check(0, None);
    }
}
