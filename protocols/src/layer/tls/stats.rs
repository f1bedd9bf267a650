//! What became of TLS connections, counted by reason. One lock, taken once or twice a handshake and once a fault: next to the
//! cryptography of a handshake it cannot be seen. Nothing on the way of a request comes here.

use ringmill_engine::Tick;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// No more than one line in this time says what peers did wrong.
const SUMMARY_EVERY: Duration = Duration::from_secs(60);

/// Counters of a [`TlsStore`](crate::TlsStore), summed over all its workers since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsStats {
    /// Handshakes that were made in full.
    pub handshakes_full: u64,
    /// Handshakes that took up an earlier one with a ticket.
    pub handshakes_resumed: u64,
    /// Handshakes that had to wait, because the CPU time of a turn was used up.
    pub handshakes_queued: u64,
    /// Connections closed because their handshake was not complete in time.
    pub handshakes_late: u64,
    /// Connections closed because the turn of their handshake did not come in time: more came than the CPU has time for.
    pub handshakes_unserved: u64,
    /// Connections that ended before their handshake was complete, without an alert: left by the client, or too long.
    pub handshakes_left: u64,
    /// Handshakes in which the client showed a certificate.
    pub client_certificates: u64,
    /// Connections that began with a request of HTTP without TLS.
    pub plain_http: u64,
    /// Streams that ended without close_notify.
    pub truncated: u64,
    /// Times new files were taken.
    pub reloads: u64,
    /// Times new files could not be used, and the last good ones stayed.
    pub reloads_failed: u64,
    /// Handshakes by version.
    pub versions: BTreeMap<&'static str, u64>,
    /// Full handshakes by the group of the key exchange.
    pub groups: BTreeMap<&'static str, u64>,
    /// Connections that we ended with an alert, by its name in rustls (RFC 8446, 6).
    pub alerts_sent: BTreeMap<&'static str, u64>,
    /// Connections that peers ended with an alert.
    pub alerts_received: BTreeMap<&'static str, u64>,
}

impl TlsStats {
    /// The counters that are one number, with their names.
    pub fn counters(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        [
            ("handshakes_full", self.handshakes_full),
            ("handshakes_resumed", self.handshakes_resumed),
            ("handshakes_queued", self.handshakes_queued),
            ("handshakes_late", self.handshakes_late),
            ("handshakes_unserved", self.handshakes_unserved),
            ("handshakes_left", self.handshakes_left),
            ("client_certificates", self.client_certificates),
            ("plain_http", self.plain_http),
            ("truncated", self.truncated),
            ("reloads", self.reloads),
            ("reloads_failed", self.reloads_failed),
        ]
        .into_iter()
    }
}

/// What a complete handshake came to.
pub(super) struct Handshake {
    pub(super) version: &'static str,
    pub(super) group: Option<&'static str>,
    pub(super) is_resumed: bool,
    pub(super) has_certificate: bool,
}

/// What a peer did, or failed to do.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    Sent(&'static str),
    Received(&'static str),
    Late,
    Unserved,
    Left,
    PlainHttp,
    Truncated,
}

/// The counters as they are written, and when they were last spoken of.
#[derive(Debug, Default)]
pub(super) struct Counts(Mutex<Ledger>);

#[derive(Debug, Default)]
struct Ledger {
    stats: TlsStats,
    /// What was not said yet, as it will be.
    unsaid: BTreeMap<String, u64>,
    said_at: Option<Tick>,
}

impl Counts {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn snapshot(&self) -> TlsStats {
        self.ledger().stats.clone()
    }

    /// A client reset its connection in the handshake.
    pub(super) fn left(&self) {
        self.ledger().count(Fault::Left);
    }

    pub(super) fn queued(&self) {
        self.ledger().stats.handshakes_queued += 1;
    }

    pub(super) fn reloaded(&self, is_good: bool) {
        let mut ledger = self.ledger();
        let stats = &mut ledger.stats;
        *(if is_good { &mut stats.reloads } else { &mut stats.reloads_failed }) += 1;
    }

    pub(super) fn complete(&self, handshake: &Handshake) {
        let mut ledger = self.ledger();
        let stats = &mut ledger.stats;
        *stats.versions.entry(handshake.version).or_default() += 1;
        if handshake.is_resumed {
            stats.handshakes_resumed += 1;
        } else {
            stats.handshakes_full += 1;
            if let Some(group) = handshake.group {
                *stats.groups.entry(group).or_default() += 1;
            }
        }
        stats.client_certificates += u64::from(handshake.has_certificate);
    }

    /// Counts, and says once in a while what came together. The first fault after a quiet time is said at once.
    pub(super) fn fault(&self, fault: Fault, now: Tick) {
        let mut ledger = self.ledger();
        ledger.count(fault);
        if let Some(said) = ledger.summary(now) {
            drop(ledger);
            tracing::info!("TLS connections that went wrong: {said}");
        }
    }
}

impl Ledger {
    fn count(&mut self, fault: Fault) {
        let stats = &mut self.stats;
        let (counter, words) = match fault {
            Fault::Sent(alert) => (stats.alerts_sent.entry(alert).or_default(), format!("refused ({alert})")),
            Fault::Received(alert) => {
                (stats.alerts_received.entry(alert).or_default(), format!("refused by the client ({alert})"))
            }
            Fault::Late => (&mut stats.handshakes_late, "handshake not in time".to_owned()),
            Fault::Unserved => {
                (&mut stats.handshakes_unserved, "handshake without a turn in time".to_owned())
            }
            Fault::Left => (&mut stats.handshakes_left, "left in the handshake".to_owned()),
            Fault::PlainHttp => (&mut stats.plain_http, "HTTP without TLS".to_owned()),
            // So many clients do it that it is not worth a word.
            Fault::Truncated => {
                stats.truncated += 1;
                return;
            }
        };
        *counter += 1;
        *self.unsaid.entry(words).or_default() += 1;
    }

    fn summary(&mut self, now: Tick) -> Option<String> {
        if self.unsaid.is_empty() {
            return None;
        }
        if self.said_at.is_some_and(|said_at| now < said_at.after(SUMMARY_EVERY)) {
            return None;
        }
        self.said_at = Some(now);
        let said: Vec<String> = std::mem::take(&mut self.unsaid)
            .iter()
            .map(|(words, times)| format!("{times} {words}"))
            .collect();
        Some(said.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_said_at_once_and_then_once_a_minute() {
        let mut ledger = Ledger::default();
        let start = Tick(5);
        let mut check = |fault, after_secs, expected: Option<&str>| {
            ledger.count(fault);
            let now = start.after(Duration::from_secs(after_secs));
            assert_eq!(ledger.summary(now).as_deref(), expected, "{fault:?} after {after_secs}");
        };
        check(Fault::Sent("handshake_failure"), 0, Some("1 refused (handshake_failure)"));
        check(Fault::Late, 1, None);
        check(Fault::Received("unknown_ca"), 30, None);
        check(Fault::Late, 59, None);
        let all = "2 handshake not in time, 1 left in the handshake, 1 refused by the client (unknown_ca)";
        check(Fault::Left, 60, Some(all));
        check(Fault::Truncated, 4000, None);
        check(Fault::PlainHttp, 61, None);
        check(Fault::PlainHttp, 3600, Some("2 HTTP without TLS"));
        let stats = &ledger.stats;
        assert_eq!((stats.handshakes_late, stats.truncated, stats.plain_http), (2, 1, 2));
        assert_eq!(stats.alerts_received["unknown_ca"], 1);
    }
}
