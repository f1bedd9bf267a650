//! Who may come in, of the file: the rules of a listener, and what they are in a few words. All that is wrong is told at once.

use super::lists::{Listed, list};
use super::problem::Problem;
use super::schema;
use ringmill::GateRules;
use std::fmt;
use toml::Spanned;

/// The rules of a listener.
pub(super) fn rules(asked: &schema::Listen, problems: &mut Vec<Problem>) -> GateRules {
    let mut listed = |asked: &Option<Spanned<schema::Lists>>| {
        let asked = asked.as_ref()?;
        let entries: Vec<Listed> = asked.get_ref().0.iter().map(|entry| entry.value.clone()).collect();
        list(&entries).unwrap_or_else(|bad| {
            problems.extend(bad.into_iter().map(|problem| Problem::at(asked.span(), problem, "")));
            None
        })
    };
    let (deny, allow) = (listed(&asked.deny), listed(&asked.allow));
    let rules = GateRules {
        deny,
        allow,
        connections_per_ip: asked.connections_per_ip,
        connections_per_prefix: asked.connections_per_prefix,
        new_connections_per_ip: asked.new_connections_per_ip.as_ref().map(|rate| rate.value),
    };
    let span = asked.address.span();
    for (key, limit) in [
        ("connections_per_ip", rules.connections_per_ip),
        ("connections_per_prefix", rules.connections_per_prefix),
    ] {
        if limit == Some(0) {
            let remedy = "at least 1; leave it out for no limit";
            problems.push(Problem::at(span.clone(), format!("`{key}` is 0: nobody could come in"), remedy));
        }
    }
    let has_addresses = asked.address.get_ref().value.ip().is_some() || !asked.proxy_protocol.is_empty();
    if !has_addresses && !rules.is_open() {
        let what = "peers of a Unix socket have no address, so nothing can be asked of them";
        problems.push(Problem::at(
            span,
            what,
            "leave lists and limits out; who may connect is a matter of its file",
        ));
    }
    rules
}

/// In a few words, for one client: whether it may come in, and what it may have then.
pub(crate) struct Said<'a>(pub(crate) &'a GateRules, pub(crate) std::net::IpAddr);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Said(rules, ip) = self;
        if let Some(why) = rules.refuses(*ip) {
            return write!(f, "connections of {ip} are closed: {why}");
        }
        write!(f, "{ip} may come in")?;
        if let Some(limit) = rules.connections_per_ip {
            write!(f, "; {limit} connection(s) of an address")?;
        }
        if let Some(limit) = rules.connections_per_prefix {
            write!(f, "; {limit} of the network around it")?;
        }
        if let Some(rate) = rules.new_connections_per_ip {
            write!(f, "; new ones of an address {rate}")?;
        }
        Ok(())
    }
}
