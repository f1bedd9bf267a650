//! Who may come in: asked once for each accepted connection before its protocol knows of it, and once more by a layer that learns
//! whom a proxy in front speaks for.
//!
//! A [`Gate`] is a list of who may not, a list of who alone may, and limits of connections and of new connections for an address and
//! for the network around it. Lists are immutable (`list.rs`); what is counted, in tables of a fixed size (`table.rs`, `counts.rs`,
//! `rate.rs`), is shared by all workers, with atomics and no lock. Peers of Unix sockets have no address, so nobody asks for them.
//! Never here: sockets, clocks, files.

mod client;
mod counts;
mod list;
mod network;
mod passes;
mod rate;
mod table;

pub use client::ClientKey;
pub use list::{BadLine, Networks};
pub use network::{BadNetwork, Network};
pub(crate) use passes::Passes;
pub use rate::{Rate, RateLimiter};

use crate::stats::WorkerStats;
use crate::time::Tick;
use counts::{COUNT_MAX, Counts, Entered};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Who is turned away is said once in this time.
const QUIET: Duration = Duration::from_secs(10);
/// Addresses, and networks around them, that are counted at a time. A megabyte; more of them are let in without being counted.
const COUNTED_MAX: usize = 128 * 1024;
/// Addresses whose new connections are remembered. Half a megabyte.
const REMEMBERED_MAX: usize = 64 * 1024;

/// What a [`Gate`] goes by. What is not set is not asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GateRules {
    /// Nobody from these networks. It comes before `allow`.
    pub deny: Option<Arc<Networks>>,
    /// Only who is in one of these networks.
    pub allow: Option<Arc<Networks>>,
    /// Connections of one address at a time. Of IPv6 a /64 counts as an address: who has one of them has all.
    pub connections_per_ip: Option<u32>,
    /// Connections of one network at a time: of a /24 of IPv4, of a /48 of IPv6.
    pub connections_per_prefix: Option<u32>,
    /// New connections of one address.
    pub new_connections_per_ip: Option<Rate>,
}

impl GateRules {
    /// Whether nothing is asked.
    pub fn is_open(&self) -> bool {
        *self == GateRules::default()
    }

    /// Why the lists do not let in who is at this address, if they do not.
    pub fn refuses(&self, ip: IpAddr) -> Option<&'static str> {
        self.listed(ip).err().map(Barred::reason)
    }

    fn listed(&self, ip: IpAddr) -> Result<(), Barred> {
        if self.deny.as_ref().is_some_and(|networks| networks.contains(ip)) {
            return Err(Barred::Denied);
        }
        match &self.allow {
            Some(networks) if !networks.contains(ip) => Err(Barred::Unlisted),
            _ => Ok(()),
        }
    }
}

/// Decides who may come in. Clones are the same one.
#[derive(Clone)]
pub struct Gate(Arc<Inner>);

struct Inner {
    rules: GateRules,
    counts: Option<Arc<Counts>>,
    rates: Option<Arc<RateLimiter>>,
    /// Until when nothing more is said of who is turned away.
    quiet_until: Arc<AtomicU64>,
}

/// Why somebody may not come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Barred {
    /// A list denies the address.
    Denied,
    /// The list of who alone may come in does not have it.
    Unlisted,
    /// Its new connections come too fast.
    TooFast,
    /// It has as many connections as it may.
    PerIp,
    /// The network around it has.
    PerPrefix,
}

impl Barred {
    fn reason(self) -> &'static str {
        match self {
            Barred::Denied => "its address is denied",
            Barred::Unlisted => "its address is none of those that are allowed",
            Barred::TooFast => "its address makes new connections too fast",
            Barred::PerIp => "its address has as many connections as it may",
            Barred::PerPrefix => "the network around its address has as many connections as it may",
        }
    }
}

/// One that was let in and is counted, until this is dropped.
pub(crate) struct Pass {
    counts: Arc<Counts>,
    /// Where it is counted.
    words: [Option<u32>; 2],
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.words.iter().flatten().for_each(|word| self.counts.leave(*word));
    }
}

impl Gate {
    /// A gate that goes by these rules.
    pub fn new(rules: GateRules) -> Gate {
        Gate::build(rules, None, None, Arc::default())
    }

    /// The same gate with other rules: what was counted stays counted. Who is in already is not asked again.
    pub fn with_rules(&self, rules: GateRules) -> Gate {
        let Inner { counts, rates, quiet_until, .. } = &*self.0;
        Gate::build(rules, counts.clone(), rates.clone(), quiet_until.clone())
    }

    fn build(
        rules: GateRules,
        counts: Option<Arc<Counts>>,
        rates: Option<Arc<RateLimiter>>,
        quiet_until: Arc<AtomicU64>,
    ) -> Gate {
        let is_counted = rules.connections_per_ip.is_some() || rules.connections_per_prefix.is_some();
        let counts = counts.or_else(|| is_counted.then(|| Arc::new(Counts::new(COUNTED_MAX))));
        let rates = rules.new_connections_per_ip.map(|rate| {
            let same = rates.filter(|rates| rates.rate() == rate);
            same.unwrap_or_else(|| Arc::new(RateLimiter::new(rate, REMEMBERED_MAX)))
        });
        Gate(Arc::new(Inner { rules, counts, rates, quiet_until }))
    }

    /// What it goes by.
    pub fn rules(&self) -> &GateRules {
        &self.0.rules
    }

    /// Asks for who leaves at once: for benches.
    #[cfg(feature = "sim")]
    pub fn would_let_in(&self, ip: IpAddr, now: Tick) -> bool {
        self.decide(ip, now, &WorkerStats::default()).is_ok()
    }

    /// Whether somebody may come in, with the pass of who is counted. Counts, and now and then says, who may not.
    pub(crate) fn ask(&self, ip: IpAddr, now: Tick, stats: &WorkerStats) -> Result<Option<Pass>, Barred> {
        let asked = self.decide(ip, now, stats);
        if let Err(barred) = asked {
            self.turn_away(barred, ip, now, stats);
        }
        asked
    }

    fn decide(&self, ip: IpAddr, now: Tick, stats: &WorkerStats) -> Result<Option<Pass>, Barred> {
        let Inner { rules, counts, rates, .. } = &*self.0;
        rules.listed(ip)?;
        let key = ClientKey::of(ip);
        if rates.as_ref().is_some_and(|rates| rates.admit(key, now).is_err()) {
            return Err(Barred::TooFast);
        }
        let Some(counts) = counts else { return Ok(None) };
        let mut pass = Pass { counts: counts.clone(), words: [None; 2] };
        let limits = [
            (key, rules.connections_per_ip, Barred::PerIp),
            (key.around(), rules.connections_per_prefix, Barred::PerPrefix),
        ];
        for (word, (key, limit, barred)) in pass.words.iter_mut().zip(limits) {
            let Some(limit) = limit else { continue };
            match counts.enter(key, limit.min(COUNT_MAX)) {
                Entered::Counted(number) => *word = Some(number),
                // Of its own count, if that was made, the pass takes care.
                Entered::Full => return Err(barred),
                Entered::NoPlace => stats.live.gate_uncounted.add(1),
            }
        }
        Ok(Some(pass))
    }

    #[cold]
    fn turn_away(&self, barred: Barred, ip: IpAddr, now: Tick, stats: &WorkerStats) {
        let quiet_until = &self.0.quiet_until;
        let live = &stats.live;
        let count = match barred {
            Barred::Denied => &live.gate_denied,
            Barred::Unlisted => &live.gate_unlisted,
            Barred::TooFast => &live.gate_too_fast,
            Barred::PerIp => &live.gate_per_ip,
            Barred::PerPrefix => &live.gate_per_prefix,
        };
        count.add(1);
        let until = quiet_until.load(Relaxed);
        let next = now.after(QUIET).0;
        if now.0 < until || quiet_until.compare_exchange(until, next, Relaxed, Relaxed).is_err() {
            return;
        }
        let why = barred.reason();
        tracing::warn!(%ip, "a connection is closed: {why}; all are counted, and one in {QUIET:?} is told of");
    }
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.rules.fmt(f)
    }
}

impl PartialEq for Gate {
    /// What is counted is no difference.
    fn eq(&self, other: &Gate) -> bool {
        self.0.rules == other.0.rules
    }
}

impl Eq for Gate {}

#[cfg(test)]
mod tests;
