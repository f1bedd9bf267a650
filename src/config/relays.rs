//! Listeners that pass connections or datagrams on as they are, and the upstreams of these.

use super::draft::Drafted;
use super::problem::Problem;
use super::schema::{self, File, Tcp, Udp};
use super::text::At;
use ringmill::layer::proxy::Version;
use ringmill::proxy::{Balance, FlowRules, HashBy, ProxyConfig, Relaying};
use std::collections::{BTreeSet, HashMap};
use toml::Spanned;

/// The number of the upstream that is called so.
pub(super) fn named(
    to: &Spanned<String>,
    names: &HashMap<&str, usize>,
    problems: &mut Vec<Problem>,
) -> Option<usize> {
    let found = names.get(to.get_ref().as_str()).copied();
    if found.is_none() {
        let mut known: Vec<&str> = names.keys().copied().collect();
        known.sort_unstable();
        let distance = |name: &&str| strsim::damerau_levenshtein(name, to.get_ref());
        let remedy = match known.iter().copied().min_by_key(distance).filter(|name| distance(name) <= 2) {
            Some(near) => format!("did you mean {near:?}?"),
            None => format!("there is no [upstream.{}]", to.get_ref()),
        };
        problems.push(Problem::at(to.span(), format!("no upstream is called {:?}", to.get_ref()), remedy));
    }
    found
}

/// What a listener of `tcp` does.
pub(super) fn relaying(
    asked: &schema::Listen,
    tcp: &Spanned<Tcp>,
    names: &HashMap<&str, usize>,
    problems: &mut Vec<Problem>,
) -> Relaying {
    let Tcp { to, idle, splice, sni } = tcp.get_ref();
    let mut bad = |what: &str, remedy: &str| problems.push(Problem::at(tcp.span(), what, remedy));
    if to.is_none() && sni.is_empty() {
        bad("`tcp` leads nowhere", "give it `to`, or `sni`");
    }
    if asked.redirect_to_https.is_some() {
        bad("what is passed on as it is, is not sent on to HTTPS", "leave out `redirect_to_https` here");
    }
    if asked.tls.is_some() && !sni.is_empty() {
        bad("TLS is either opened here, or looked at for a name", "leave out `tls` or `sni` here");
    }
    for to in to.iter().chain(sni.values()) {
        named(to, names, problems);
    }
    let mut patterns = Vec::new();
    for (name, to) in sni {
        match name.parse() {
            Ok(pattern) => patterns.push((pattern, to.get_ref().clone())),
            Err(error) => problems.push(Problem::at(to.span(), error, "")),
        }
    }
    let to = to.as_ref().map(|to| to.get_ref().clone());
    let relaying = Relaying { names: patterns, idle_timeout: idle.value, ..Relaying::new(to) };
    if *splice { relaying } else { Relaying { splice_bytes_min: u32::MAX, ..relaying } }
}

/// What a listener of `udp` does.
pub(super) fn flowing(
    asked: &schema::Listen,
    udp: &Spanned<Udp>,
    names: &HashMap<&str, usize>,
    problems: &mut Vec<Problem>,
) -> FlowRules {
    let Udp { to, idle, flows, replies } = udp.get_ref();
    let mut bad = |what: &str, remedy: &str| problems.push(Problem::at(udp.span(), what, remedy));
    let others = [
        (asked.tcp.is_some(), "tcp"),
        (asked.tls.is_some(), "tls"),
        (asked.redirect_to_https.is_some(), "redirect_to_https"),
        (!asked.proxy_protocol.is_empty(), "proxy_protocol"),
    ];
    for (_, key) in others.iter().filter(|(is_there, _)| *is_there) {
        bad(&format!("`udp` and `{key}` exclude each other"), "leave one of them out");
    }
    if asked.address.get_ref().value.ip().is_none() {
        bad("datagrams come to an IP address and port", "such as \"0.0.0.0:53\"");
    }
    if *flows == 0 {
        bad("with no flow nothing is passed on", "give `flows` at least 1, or leave it out");
    }
    named(to, names, problems);
    FlowRules {
        idle_timeout: idle.value,
        flows_max: *flows as usize,
        replies: *replies,
        ..FlowRules::new(to.get_ref().clone())
    }
}

/// What is wrong with an upstream of `udp`.
fn check_flows(to: &str, drafted: &Drafted, upstream: &schema::Upstream, problems: &mut Vec<Problem>) {
    let is_ip = |entry: &super::Entry| match &entry.server.at {
        At::Address(address) => address.ip().is_some(),
        At::Name(_) => true,
    };
    let is_plain = |entry: &super::Entry| entry.peer.is_none();
    if !drafted.entries.iter().all(|entry| is_ip(entry) && is_plain(entry)) {
        let what = format!("datagrams are passed on to upstream {to:?}, and one of its servers takes none");
        problems.push(Problem::at(upstream.servers.span(), what, "write IP:PORT or NAME:PORT"));
    }
}

/// Adds to the upstreams those that connections are passed on to. What is known of their servers is shared with those that requests go
/// to, where they are the same.
pub(super) fn settle(
    file: &File,
    relaying: &[&Relaying],
    flowing: &[&FlowRules],
    names: &HashMap<&str, usize>,
    upstreams: &mut Vec<Drafted>,
    problems: &mut Vec<Problem>,
) {
    let relayed: BTreeSet<&str> = relaying
        .iter()
        .flat_map(|tcp| tcp.to.iter().chain(tcp.names.iter().map(|(_, to)| to)).map(String::as_str))
        .collect();
    let flowed: BTreeSet<&str> = flowing.iter().map(|udp| &*udp.to).collect();
    let is_routed =
        |name: &str| file.route.iter().any(|route| route.to.as_ref().is_some_and(|to| to.get_ref() == name));
    for (name, upstream) in &file.upstream {
        let Some(number) = names.get(name.as_str()) else { continue };
        let (is_relayed, is_routed) = (relayed.contains(name.as_str()), is_routed(name));
        let version = upstream.proxy_protocol.as_ref().and_then(|version| {
            let mut bad = |what: &str, remedy: &str| {
                problems.push(Problem::at(version.span(), what, remedy));
                None
            };
            match version.get_ref() {
                _ if is_routed => bad(
                    "requests of many clients go over a connection",
                    "leave out `proxy_protocol`: they have X-Forwarded-For",
                ),
                _ if !is_relayed => {
                    bad("no listener of `tcp` goes to this upstream", "leave out `proxy_protocol`")
                }
                1 => Some(Version::One),
                2 => Some(Version::Two),
                _ => bad("there is no such version of the PROXY protocol", "1 or 2"),
            }
        });
        if flowed.contains(name.as_str()) {
            check_flows(name, &upstreams[*number], upstream, problems);
            if upstream.health.is_some() && !is_relayed && !is_routed {
                let what = format!("upstream {name:?} has datagrams alone, and `health` asks over HTTP");
                let remedy = "leave out `health`: a server that nobody listens at is found by ICMP";
                problems.push(Problem::at(upstream.servers.span(), what, remedy));
            }
        } else if !is_relayed {
            continue;
        }
        let planned = &mut upstreams[*number];
        let by_request = matches!(
            planned.config.balance,
            Balance::Hash(HashBy::Path | HashBy::Field(_)) | Balance::Sticky(_)
        );
        if by_request && !is_routed {
            let what = format!("upstream {name:?} has connections alone, and `balance` asks for requests");
            problems.push(Problem::at(upstream.servers.span(), what, "such as \"hash-client\""));
        }
        let connect_timeout =
            planned.config.connect_timeout.or(ProxyConfig::relayed(Vec::new()).connect_timeout);
        let config = ProxyConfig {
            is_relayed: true,
            connect_timeout,
            proxy_protocol: version,
            ..planned.config.clone()
        };
        let relayed = Drafted { config, ..planned.clone() };
        if is_routed {
            upstreams.push(relayed);
        } else {
            *planned = relayed;
        }
    }
}
