//! How many requests a route takes: of each client, of each value of a field, or in all. What is one too many is answered with 429,
//! and when to come again.
//!
//! A limit is shared by all workers, and goes on with the next plan where route and rule are the same. It costs nothing where
//! there is none.

use crate::http::message::Fields;
use crate::layer::proxy::Network;
use ringmill_engine::{Address, ClientKey, Rate, RateLimiter, Tick};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Clients, or values of a field, that are remembered for a route. Half a megabyte; the oldest are forgotten.
const REMEMBERED_MAX: usize = 64 * 1024;

/// What a rate is kept for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Per {
    /// Each client. Behind a trusted proxy it is the last address in `X-Forwarded-For` that is not a trusted one itself. Clients without
    /// an address, who come by a Unix socket, are one.
    Client,
    /// All that the route takes.
    Route,
    /// Each value of this field, in lower case. A request without it counts for its client.
    Field(String),
}

/// How many requests a route takes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteRate {
    /// Of whom.
    pub per: Per,
    /// How many.
    pub rate: Rate,
}

/// A [`RouteRate`] that is kept. Clones are the same one; what was counted is no difference.
#[derive(Clone)]
pub struct Limit(Arc<Kept>);

struct Kept {
    rule: RouteRate,
    limiter: RateLimiter,
}

/// What a limit has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitCounts {
    /// The route, in words.
    pub route: String,
    /// What it takes.
    pub rule: RouteRate,
    /// Requests that it took.
    pub allowed: u64,
    /// Requests that were answered with 429.
    pub limited: u64,
}

/// What is counted as one.
#[derive(Hash)]
enum Key<'a> {
    Client(Option<ClientKey>),
    Value(&'a [u8]),
    All,
}

impl Limit {
    /// Nobody has come yet.
    pub fn new(rule: RouteRate) -> Limit {
        let keys = if rule.per == Per::Route { 1 } else { REMEMBERED_MAX };
        let limiter = RateLimiter::new(rule.rate, keys);
        Limit(Arc::new(Kept { rule, limiter }))
    }

    /// What it keeps.
    pub fn rule(&self) -> &RouteRate {
        &self.0.rule
    }

    /// Whether it is the same one.
    pub(super) fn is(&self, other: &Limit) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// What it has come to, on a route of which this says what it matches.
    pub(super) fn counts(&self, route: String) -> LimitCounts {
        let (allowed, limited) = self.0.limiter.counts();
        LimitCounts { route, rule: self.0.rule.clone(), allowed, limited }
    }

    /// After what time one more would be taken, if this one is not.
    pub(super) fn exceeded(
        &self,
        fields: &Fields<'_, '_>,
        now: Tick,
        client: impl FnOnce() -> Option<IpAddr>,
    ) -> Option<Duration> {
        let value = match &self.0.rule.per {
            Per::Field(name) => fields.value(name),
            Per::Client | Per::Route => None,
        };
        let key = match (&self.0.rule.per, value) {
            (Per::Route, _) => Key::All,
            (_, Some(value)) => Key::Value(value),
            (_, None) => Key::Client(client().map(ClientKey::of)),
        };
        self.0.limiter.admit(key, now).err()
    }
}

/// Who the client of a request is: its peer, or who that names, if it is trusted. Of the list that proxies have made, each behind the one
/// before it, the last address counts that is none of a trusted proxy; what stands before something that is no address does not.
pub(super) fn client_of(
    fields: &Fields<'_, '_>,
    (peer, is_peer_trusted): (Option<IpAddr>, bool),
    trusted: &[Network],
) -> Option<IpAddr> {
    if !is_peer_trusted {
        return peer;
    }
    let is_trusted =
        |ip| trusted.iter().any(|network| network.contains(&Address::Ip(SocketAddr::new(ip, 0))));
    let lines = fields.iter().filter(|field| field.name.eq_ignore_ascii_case(b"x-forwarded-for"));
    let named = lines.flat_map(|field| field.value.split(|byte| *byte == b','));
    let last = named.fold(None, |before, named| match address(named) {
        None => None,
        Some(ip) if before.is_none() || !is_trusted(ip) => Some(ip),
        Some(_) => before,
    });
    last.or(peer)
}

/// An address as proxies write them: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:80`.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(text.trim_ascii()).ok()?;
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let ip = bare.parse().ok().or_else(|| text.parse().ok().map(|address: SocketAddr| address.ip()));
    ip.map(|ip: IpAddr| ip.to_canonical())
}

impl std::str::FromStr for Per {
    type Err = String;

    fn from_str(text: &str) -> Result<Per, String> {
        let is_name = |name: &str| {
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        match text {
            "client" => Ok(Per::Client),
            "route" => Ok(Per::Route),
            other => match other.strip_prefix("field:").filter(|name| is_name(name)) {
                Some(name) => Ok(Per::Field(name.to_ascii_lowercase())),
                None => Err("expected \"client\", \"route\" or \"field:NAME\"".to_owned()),
            },
        }
    }
}

impl fmt::Display for Per {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Per::Client => f.write_str("client"),
            Per::Route => f.write_str("route"),
            Per::Field(name) => write!(f, "field:{name}"),
        }
    }
}

impl fmt::Debug for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.rule.fmt(f)
    }
}

impl PartialEq for Limit {
    fn eq(&self, other: &Limit) -> bool {
        self.0.rule == other.0.rule
    }
}

impl Eq for Limit {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::message::Slots;
    use crate::http::one::head::{HeadLimits, Outcome, parse_head};

    /// Reads a head with these fields, `~` for line ends.
    fn with_fields<T>(fields: &str, look: impl FnOnce(&Fields<'_, '_>) -> T) -> T {
        let input = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", fields.replace('~', "\r\n"));
        let mut slots = Slots::new();
        match parse_head(input.as_bytes(), &mut slots, &HeadLimits::default()) {
            Outcome::Complete { head, .. } => look(&head.fields),
            _ => panic!("no head: {input:?}"),
        }
    }

    #[test]
    fn a_trusted_proxy_says_who_its_client_is() {
        let trusted: Vec<Network> = ["10.0.0.0/8", "fd00::/8"].map(|text| text.parse().unwrap()).to_vec();
        let check = |peer: Option<&str>, fields: &str, expected: Option<&str>| {
            let ip: Option<IpAddr> = peer.map(|peer| peer.parse().unwrap());
            // Who comes by a Unix socket may be trusted as well.
            let is_trusted = ip
                .is_none_or(|ip| trusted.iter().any(|it| it.contains(&Address::Ip(SocketAddr::new(ip, 1)))));
            let found = with_fields(fields, |fields| client_of(fields, (ip, is_trusted), &trusted));
            assert_eq!(found.map(|ip| ip.to_string()).as_deref(), expected, "{peer:?}: {fields}");
        };
        check(Some("192.0.2.1"), "", Some("192.0.2.1"));
        check(Some("192.0.2.1"), "X-Forwarded-For: 6.6.6.6~", Some("192.0.2.1"));
        check(Some("10.0.0.1"), "", Some("10.0.0.1"));
        check(Some("10.0.0.1"), "X-Forwarded-For: 192.0.2.7~", Some("192.0.2.7"));
        check(Some("10.0.0.1"), "X-FORWARDED-FOR: 6.6.6.6, 192.0.2.7~", Some("192.0.2.7"));
        check(
            Some("10.0.0.1"),
            "X-Forwarded-For: 6.6.6.6~x-forwarded-for: 192.0.2.7 ,10.0.0.9~",
            Some("192.0.2.7"),
        );
        check(Some("10.0.0.1"), "X-Forwarded-For: 10.0.0.3, 10.0.0.9~", Some("10.0.0.3"));
        check(Some("10.0.0.1"), "X-Forwarded-For: 6.6.6.6, 10.0.0.3, 10.0.0.9~", Some("6.6.6.6"));
        // What anybody may have put there.
        check(Some("10.0.0.1"), "X-Forwarded-For: 6.6.6.6, unknown~", Some("10.0.0.1"));
        check(Some("10.0.0.1"), "X-Forwarded-For: 6.6.6.6, x, 10.0.0.3~", Some("10.0.0.3"));
        check(Some("10.0.0.1"), "X-Forwarded-For: ,192.0.2.7~", Some("192.0.2.7"));
        check(Some("10.0.0.1"), "X-Forwarded-For:~", Some("10.0.0.1"));
        check(Some("fd00::1"), "X-Forwarded-For: [2001:db8::1]:80, ::ffff:10.0.0.2~", Some("2001:db8::1"));
        check(Some("fd00::1"), "X-Forwarded-For: 2001:db8::1~", Some("2001:db8::1"));
        check(Some("fd00::1"), "X-Forwarded-For: [2001:db8::1]~", Some("2001:db8::1"));
        check(Some("fd00::1"), "X-Forwarded-For: 192.0.2.1:1234~", Some("192.0.2.1"));
        check(None, "X-Forwarded-For: 192.0.2.1~", Some("192.0.2.1"));
        check(None, "", None);
    }

    #[test]
    fn what_counts_as_one_is_limited_as_one() {
        let check = |per: &str, first: (&str, &str), second: (&str, &str), is_same: bool| {
            let rule = RouteRate { per: per.parse().unwrap(), rate: "1/h".parse().unwrap() };
            let limit = Limit::new(rule);
            let is_limited = |(ip, fields): (&str, &str)| {
                with_fields(fields, |fields| limit.exceeded(fields, Tick(1), || ip.parse().ok())).is_some()
            };
            assert_eq!(
                [is_limited(first), is_limited(second)],
                [false, is_same],
                "{per}: {first:?} {second:?}"
            );
        };
        check("client", ("192.0.2.1", ""), ("192.0.2.1", "A: b~"), true);
        check("client", ("192.0.2.1", ""), ("192.0.2.2", ""), false);
        check("client", ("::1", ""), ("::2", ""), true);
        check("client", ("2001:db8::1", ""), ("2001:db8:0:1::1", ""), false);
        check("client", ("by a socket", ""), ("by a socket", ""), true);
        check("route", ("192.0.2.1", ""), ("192.0.2.2", "A: b~"), true);
        check("field:X-Key", ("192.0.2.1", "x-key: a~"), ("192.0.2.2", "X-KEY: a~"), true);
        check("field:x-key", ("192.0.2.1", "x-key: a~"), ("192.0.2.1", "x-key: b~"), false);
        check("field:x-key", ("192.0.2.1", "x-key: a~"), ("192.0.2.1", ""), false);
        check("field:x-key", ("192.0.2.1", ""), ("192.0.2.1", ""), true);
        check("field:x-key", ("192.0.2.1", ""), ("192.0.2.2", ""), false);
        for text in ["", "field:", "field:a b", "clients", "field:a:b"] {
            assert!(text.parse::<Per>().is_err(), "{text}");
        }
        assert_eq!("field:X-Key".parse::<Per>().unwrap().to_string(), "field:x-key");
    }
}
