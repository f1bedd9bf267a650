//! A relay: the connection of a client is joined with one of a server, and bytes go both ways as they are.
//!
//! Either end may finish and read on (half-close), a reset of one is a reset of the other, and an end that takes nothing pauses its
//! partner alone. Which server comes next, who waits for a connection, and what a server that fails does not get is what it is for
//! requests (`pool.rs`, `groups.rs`). Where clients speak TLS, the name they ask for may say the upstream: it is read and nothing is
//! opened.
//!
//! Read on: `pair.rs` is what two ends share, pure; `ends.rs` is what each of them does; `greeting.rs` reads names; `seen.rs` notes what is
//! told of it. Datagrams are passed on by `flows.rs`.

mod ends;
pub(super) mod flows;
#[cfg(feature = "tls-layer")]
pub(super) mod greeting;
pub(super) mod pair;
mod seen;

use super::groups::Groups;
use super::observe::{Counts, Label};
use super::plan::Plan;
use super::route::HostPattern;
use std::rc::Rc;
use std::time::Duration;

/// Where the connections of a listener go, and how long they may be quiet. The upstreams, by their names in the plan, are those whose
/// connections are relayed ([`ProxyConfig::is_relayed`](crate::proxy::ProxyConfig::is_relayed)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relaying {
    /// What the listener is called in the access log and where connections are counted: its address, best.
    pub listener: String,
    /// The upstream; with `names`, the one of clients that ask for none of them. Without it those are refused.
    pub to: Option<String>,
    /// Upstreams by the names that clients ask for in their first bytes, which must be those of TLS. Left empty, these are not looked at.
    #[cfg(feature = "tls-layer")]
    pub names: Vec<(HostPattern, String)>,
    /// So long a client may take to ask for a name.
    #[cfg(feature = "tls-layer")]
    pub hello_timeout: Duration,
    /// Connections on which nothing moves for so long are reset; and so are those of which one side takes nothing of what waits for it, within
    /// twice that time. For them this is instead of the engine's `Config::write_timeout`.
    pub idle_timeout: Duration,
    /// Once so many bytes in a row went one way, what follows is not copied any more: it goes from one connection to the other through a
    /// pipe of the kernel, as long as much of it comes. `u32::MAX` is never. Connections behind a layer (TLS, PROXY) are always copied.
    pub splice_bytes_min: u32,
}

impl Relaying {
    /// The defaults, for this upstream: ten minutes, as nginx has them.
    pub fn new(to: Option<String>) -> Relaying {
        Relaying {
            listener: String::new(),
            to,
            #[cfg(feature = "tls-layer")]
            names: Vec::new(),
            #[cfg(feature = "tls-layer")]
            hello_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(600),
            splice_bytes_min: pair::SPLICE_BYTES_MIN,
        }
    }

    /// Whether clients have to ask for a name.
    #[cfg(feature = "tls-layer")]
    pub(super) fn reads_names(&self) -> bool {
        !self.names.is_empty()
    }

    /// The upstream of clients that ask for this name, or for none. The most special pattern that matches says it.
    pub fn upstream_of(&self, name: Option<&str>) -> Option<&str> {
        #[cfg(feature = "tls-layer")]
        if let Some(name) = name {
            let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
            let rank = |pattern: &HostPattern| match pattern {
                HostPattern::Exact(exact) if *exact == name => Some(usize::MAX),
                HostPattern::Below(below) => {
                    let rest = name.strip_suffix(below.as_str())?;
                    rest.strip_suffix('.').filter(|rest| !rest.is_empty()).map(|_| below.len() + 1)
                }
                HostPattern::Any => Some(0),
                HostPattern::Exact(_) => None,
            };
            let ranked = self.names.iter().filter_map(|(pattern, to)| rank(pattern).map(|rank| (rank, to)));
            if let Some((_, to)) = ranked.max_by_key(|(rank, _)| *rank) {
                return Some(to);
            }
        }
        #[cfg(not(feature = "tls-layer"))]
        let _ = (name, HostPattern::Any);
        self.to.as_deref()
    }
}

/// A listener of one worker, whose connections are passed on.
pub(super) struct Listener {
    pub(super) relaying: Relaying,
    label: Rc<Label>,
}

impl Listener {
    /// Its connections are counted where these are.
    pub(super) fn new(relaying: Relaying, counts: Option<&Counts>) -> Listener {
        let label = Label::of_listener(&relaying.listener, counts);
        Listener { relaying, label: Rc::new(label) }
    }
}

/// Where the upstream with this name is, which is one of a relay.
pub(super) fn group_of(groups: &Groups, plan: &Plan, name: &str) -> Option<usize> {
    let is_meant = |upstream: &super::PlannedUpstream| upstream.config.is_relayed && upstream.name == name;
    groups.planned(plan.upstreams().iter().position(is_meant)?)
}

#[cfg(all(test, feature = "tls-layer"))]
mod tests {
    use super::*;

    #[test]
    fn the_most_special_pattern_says_the_upstream() {
        let names = ["db.test one", "*.test two", "*.b.test three"];
        let names = names.map(|line| {
            let (pattern, to) = line.split_once(' ').unwrap();
            (pattern.parse().unwrap(), to.to_owned())
        });
        let mut relaying = Relaying { names: names.to_vec(), ..Relaying::new(None) };
        let check = |relaying: &Relaying, name: &str, expected| {
            assert_eq!(relaying.upstream_of(Some(name)), expected, "{name}");
        };
        check(&relaying, "DB.test.", Some("one"));
        check(&relaying, "a.db.test", Some("two"));
        check(&relaying, "a.c.b.test", Some("three"));
        check(&relaying, "b.test", Some("two"));
        check(&relaying, "test", None);
        check(&relaying, ".test", None);
        check(&relaying, "xtest", None);
        assert_eq!(relaying.upstream_of(None), None);
        relaying.to = Some("else".to_owned());
        check(&relaying, "test", Some("else"));
        assert_eq!(relaying.upstream_of(None), Some("else"));
    }
}
