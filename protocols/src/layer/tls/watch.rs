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

/// What makes a file another one than before; `None` if it is not there.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

struct Watch {
    files: Vec<PathBuf>,
    /// As they were when they were read.
    read: Vec<Stamp>,
    /// As they were at the last look.
    seen: Vec<Stamp>,
    /// When something was last said of what expires.
    said: HashMap<String, u64>,
}

impl Watch {
    fn new(store: &TlsStore) -> Watch {
        let files = store.files();
        let stamps = stamps(&files);
        Watch { files, read: stamps.clone(), seen: stamps, said: HashMap::new() }
    }

    /// Whether there is still something to look after.
    fn look(&mut self, store: &Weak<TlsStore>) -> bool {
        let Some(store) = store.upgrade() else { return false };
        let stamps = stamps(&self.files);
        // Who writes a certificate and then its key is not disturbed between the two.
        if stamps != self.read && stamps == self.seen {
            self.read.clone_from(&stamps);
            // It has said itself what is wrong. The next change is another try.
            let _ = store.reload();
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
        Some((data.dev(), data.ino(), data.size(), data.mtime(), data.mtime_nsec()))
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
