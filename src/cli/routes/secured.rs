//! What `/stats` says of TLS.

use ringmill::TlsStore;
use serde::Serialize;
use std::collections::BTreeMap;

/// Counters of all workers since the start, and how long certificates hold.
#[derive(Serialize)]
pub(super) struct SecuredPage {
    #[serde(flatten)]
    counters: BTreeMap<&'static str, u64>,
    versions: BTreeMap<&'static str, u64>,
    groups: BTreeMap<&'static str, u64>,
    alerts_sent: BTreeMap<&'static str, u64>,
    alerts_received: BTreeMap<&'static str, u64>,
    certificates: Vec<TermPage>,
}

/// A certificate or a list that holds for a while.
#[derive(Serialize)]
struct TermPage {
    kind: &'static str,
    subject: String,
    file: Option<String>,
    until: String,
    /// Below zero once it has expired.
    seconds_left: i64,
}

impl SecuredPage {
    pub(super) fn new(store: &TlsStore) -> SecuredPage {
        let stats = store.stats();
        let certificates = store.terms().into_iter().map(|term| TermPage {
            kind: term.kind,
            until: term.until(),
            seconds_left: term.secs_left(),
            file: term.file.map(|file| file.display().to_string()),
            subject: term.subject,
        });
        SecuredPage {
            counters: stats.counters().collect(),
            versions: stats.versions,
            groups: stats.groups,
            alerts_sent: stats.alerts_sent,
            alerts_received: stats.alerts_received,
            certificates: certificates.collect(),
        }
    }
}
