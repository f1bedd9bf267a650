//! Who an upstream of the file consists of: servers and names, how one of them is chosen, and how names are looked up.

use super::draft::{Draft, Entry};
use super::peers::{Known, Trust};
use super::problem::Problem;
use super::schema::{self, File};
use super::text::{BalanceBy, Server};
use ringmill::proxy::{Balance, LookupOptions, Sticky};
use toml::Spanned;

/// How names are looked up, where there are any.
pub(super) fn lookups(file: &File, draft: &Draft, problems: &mut Vec<Problem>) -> LookupOptions {
    let Some(dns) = &file.dns else { return LookupOptions::default() };
    if draft.names().is_empty() {
        let remedy = "write a server as dns:NAME:PORT, or leave [dns] out";
        problems.push(Problem::at(dns.span(), "no server is a name that is looked up", remedy));
    }
    let schema::Dns { resolver, min_ttl, max_ttl } = dns.get_ref();
    let (min, max) = (min_ttl.get_ref(), max_ttl.get_ref());
    if min.value > max.value {
        // One of them may be left out.
        let span = if min_ttl.span().is_empty() { max_ttl.span() } else { min_ttl.span() };
        let what = format!("`dns.min_ttl`, {}, is longer than `dns.max_ttl`, {}", min.text, max.text);
        problems.push(Problem::at(span, what, "an answer holds at least min_ttl and at most max_ttl"));
    }
    let resolvers = resolver.0.iter().map(|resolver| resolver.value).collect();
    LookupOptions { resolvers, ttl_min: min.value, ttl_max: max.value }
}

/// The servers of an upstream, and names of some.
pub(super) fn entries(
    upstream: &schema::Upstream,
    trust: &Trust,
    known: &mut Known,
    problems: &mut Vec<Problem>,
) -> Vec<Entry> {
    let span = upstream.servers.span();
    let mut peer = |server: &Server| {
        let name = server.secure_name.as_ref()?;
        let refuse = |error| {
            let span = upstream.ca.as_ref().map_or(span.clone(), Spanned::span);
            problems.push(Problem::at(span, error, ""));
        };
        known.peer(name, trust).map_err(refuse).ok()
    };
    let mut entry = |server: &Server, weight: u16, is_backup| {
        let (peer, server) = (peer(server), server.clone());
        Entry { server, weight: weight.into(), is_backup, peer }
    };
    let own = upstream.servers.get_ref().iter().map(|member| &member.0);
    let mut entries: Vec<Entry> =
        own.map(|member| entry(&member.address.value, member.weight, member.backup)).collect();
    entries.extend(upstream.backup.iter().map(|server| entry(&server.value, 1, true)));
    if entries.iter().any(|entry| entry.weight == 0) {
        let remedy = "from 1 to 65535; leave the server out that is to get nothing";
        problems.push(Problem::at(span.clone(), "a weight is 0", remedy));
    }
    entries
}

/// How a server is chosen.
pub(super) fn balance(name: &str, upstream: &schema::Upstream, problems: &mut Vec<Problem>) -> Balance {
    let span = upstream.servers.span();
    match (&upstream.balance.value, &upstream.sticky) {
        (BalanceBy::Rule(rule), None) => return rule.clone(),
        (BalanceBy::Rule(_), Some(sticky)) => {
            let remedy = "write `balance = \"sticky\"`, or leave `sticky` out";
            problems.push(Problem::at(sticky.span(), "`sticky` is for `balance = \"sticky\"`", remedy));
        }
        (BalanceBy::Cookie, None) => {
            let what = format!("upstream {name:?} is sticky, and its cookie has no secret");
            let remedy = "such as sticky = { secret = \"file:/run/secrets/cookie\" }";
            problems.push(Problem::at(span, what, remedy));
        }
        (BalanceBy::Cookie, Some(sticky)) => {
            let schema::Sticky { secret, cookie } = sticky.get_ref();
            match Sticky::new(cookie, &secret.value) {
                Ok(sticky) => return Balance::Sticky(sticky),
                Err(error) => problems.push(Problem::at(sticky.span(), error, "")),
            }
        }
    }
    Balance::default()
}
