//! What a worker counts and measures, and how the parts become one. Plain data: each worker has its own.

use hdrhistogram::Histogram;
use ringmill::Secure;
use std::time::Duration;

/// What can go wrong with a request or a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// No connection could be made.
    Connect,
    /// No connection, or no response, in time.
    Timeout,
    /// The TLS handshake failed, or the connection broke TLS's rules.
    Tls,
    /// The connection was reset or broke.
    Reset,
    /// The connection was closed with a response missing or incomplete.
    Closed,
    /// The bytes are no response, or one that nobody asked for.
    Malformed,
    /// The status is not the expected one.
    Status,
    /// The body is not the expected one.
    Body,
}

impl Failure {
    /// All of them, with the names of the report.
    pub(super) const ALL: [(Failure, &'static str); 8] = [
        (Failure::Connect, "connect"),
        (Failure::Timeout, "timeout"),
        (Failure::Tls, "tls"),
        (Failure::Reset, "reset"),
        (Failure::Closed, "closed"),
        (Failure::Malformed, "malformed"),
        (Failure::Status, "status"),
        (Failure::Body, "body"),
    ];
}

/// TLS handshakes that were made, and how many of them resumed an earlier session.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Handshakes {
    pub(super) made: u64,
    pub(super) resumed: u64,
}

impl Handshakes {
    pub(super) fn count(&mut self, is_resumed: bool) {
        self.made += 1;
        self.resumed += u64::from(is_resumed);
    }

    fn add(&mut self, other: Handshakes) {
        self.made += other.made;
        self.resumed += other.resumed;
    }
}

/// What a TLS handshake agreed on.
#[derive(Clone, Debug)]
pub(super) struct Agreed {
    pub(super) version: &'static str,
    pub(super) cipher_suite: &'static str,
    pub(super) alpn: Option<String>,
}

impl Agreed {
    pub(super) fn new(secure: &Secure) -> Agreed {
        Agreed {
            version: secure.version,
            cipher_suite: secure.cipher_suite,
            alpn: secure.alpn.as_deref().map(|alpn| String::from_utf8_lossy(alpn).into_owned()),
        }
    }
}

/// The counts and latencies of one worker, or of all.
pub(super) struct Tally {
    /// Good responses within the measured time.
    pub(super) requests: u64,
    /// Good responses in all: with the warm-up, and with what was still on its way at the end.
    pub(super) requests_all: u64,
    /// Requests sent.
    pub(super) sent: u64,
    /// Messages of a fan-out within the measured time; requests are then their deliveries.
    pub(super) published: u64,
    /// What CPU time the watched process took for all of them.
    pub(super) watched_cpu: Option<Duration>,
    /// Requests that were due by the schedule and could not even be sent by the end.
    pub(super) unsent: u64,
    /// By kind, in the order of `Failure::ALL`.
    pub(super) failures: [u64; Failure::ALL.len()],
    /// An example of the first failure in words.
    pub(super) first_failure: Option<String>,
    /// Connections made.
    pub(super) connects: u64,
    /// TLS handshakes: those within the measured time, and all.
    pub(super) handshakes: Handshakes,
    pub(super) handshakes_all: Handshakes,
    /// What the first of them agreed on.
    pub(super) agreed: Option<Agreed>,
    /// Responses within the measured time, by the first digit of their status; echoes have none.
    pub(super) statuses: [u64; 6],
    /// Bytes of datagrams sent and received in all; the engine counts those of connections.
    pub(super) sent_bytes: u64,
    pub(super) received_bytes: u64,
    /// The measured time.
    pub(super) elapsed: Duration,
    /// Nanoseconds from the time a request was due to its complete response.
    pub(super) latency: Histogram<u64>,
}

/// Latencies beyond this are counted as this.
const LATENCY_NS_MAX: u64 = 600_000_000_000;

impl Tally {
    pub(super) fn new() -> Tally {
        Tally {
            requests: 0,
            requests_all: 0,
            sent: 0,
            published: 0,
            watched_cpu: None,
            unsent: 0,
            failures: Default::default(),
            first_failure: None,
            connects: 0,
            handshakes: Handshakes::default(),
            handshakes_all: Handshakes::default(),
            agreed: None,
            statuses: Default::default(),
            sent_bytes: 0,
            received_bytes: 0,
            elapsed: Duration::ZERO,
            latency: histogram(),
        }
    }

    pub(super) fn fail(&mut self, failure: Failure, say: impl FnOnce() -> String) {
        self.failures[failure as usize] += 1;
        self.first_failure.get_or_insert_with(say);
    }

    pub(super) fn errors(&self) -> u64 {
        self.failures.iter().sum()
    }

    pub(super) fn merge(&mut self, other: &Tally) {
        self.requests += other.requests;
        self.requests_all += other.requests_all;
        self.sent += other.sent;
        self.published += other.published;
        self.watched_cpu = self.watched_cpu.or(other.watched_cpu);
        self.unsent += other.unsent;
        for (sum, part) in self.failures.iter_mut().zip(other.failures) {
            *sum += part;
        }
        for (sum, part) in self.statuses.iter_mut().zip(other.statuses) {
            *sum += part;
        }
        if self.first_failure.is_none() {
            self.first_failure.clone_from(&other.first_failure);
        }
        self.connects += other.connects;
        self.handshakes.add(other.handshakes);
        self.handshakes_all.add(other.handshakes_all);
        if self.agreed.is_none() {
            self.agreed.clone_from(&other.agreed);
        }
        self.sent_bytes += other.sent_bytes;
        self.received_bytes += other.received_bytes;
        self.elapsed = self.elapsed.max(other.elapsed);
        self.latency.add(&other.latency).expect("all histograms have the same bounds");
    }
}

/// Three digits from a nanosecond to ten minutes.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("constant bounds that are sound")
}
