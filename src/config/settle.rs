//! From types to what runs: names become numbers, and everything that is wrong is found in one go.

use super::answers;
use super::draft::{Draft, Drafted};
use super::gate;
use super::limit;
use super::members;
use super::observe::AccessLogTable;
use super::peers::{Known, Trust};
use super::problem::Problem;
use super::relays;
use super::schema::{self, File, Match};
use super::text::{LogTarget, Protocol};
use ringmill::http::Limits;
use ringmill::layer::proxy::Network;
use ringmill::proxy::{
    Check, Ejection, FixedReply, FlowRules, Front, HostPattern, LogFormat, LookupOptions, Observe,
    PathPattern, Plan, ProxyConfig, Relaying, Route, Routes, Target,
};
use ringmill::{Address, Config, Gate, GateRules, TlsConfig, TlsVersion};
use std::collections::HashMap;
use std::num::NonZeroU16;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;
use toml::Spanned;

/// What runs by a file.
pub(crate) struct Settled {
    pub(crate) engine: Config,
    pub(crate) drain: Duration,
    pub(crate) watch: Option<Duration>,
    pub(crate) listen: Vec<Listen>,
    pub(crate) draft: Draft,
    pub(crate) lookups: LookupOptions,
    /// Where the access log goes, if there is one.
    pub(crate) access_log: Option<(LogTarget, LogFormat)>,
    /// Of each route of the plan the number in the file, from 0: one with several hosts is several.
    pub(crate) places: Vec<usize>,
    /// What a change needs a restart of.
    pub(crate) server: schema::Server,
}

/// A listener. Two that are equal need no change.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Listen {
    pub(crate) address: Address,
    pub(crate) tls: Vec<schema::Certificate>,
    pub(crate) tls_min: TlsVersion,
    pub(crate) client_ca: Vec<PathBuf>,
    pub(crate) https_port: Option<u16>,
    pub(crate) proxies: Vec<Network>,
    /// Connections are passed on as they are.
    pub(crate) tcp: Option<Relaying>,
    /// Datagrams are.
    pub(crate) udp: Option<FlowRules>,
    /// Who may come in.
    pub(crate) rules: GateRules,
}

impl Listen {
    /// Where its datagrams go, behind this gate.
    pub(crate) fn flow_rules(&self, gate: &Gate) -> Option<FlowRules> {
        let gate = Some(gate.clone()).filter(|_| !self.rules.is_open());
        let listener = format!("udp {}", self.address);
        self.udp.clone().map(|rules| FlowRules { gate, listener, ..rules })
    }

    /// What its TLS runs with; `None` for plain HTTP.
    pub(crate) fn tls_config(&self) -> Option<TlsConfig> {
        let mut pairs = self.tls.iter();
        let first = pairs.next()?;
        let config = TlsConfig::from_files(&first.cert, &first.key);
        let config = pairs.fold(config, |config, pair| config.with_files(&pair.cert, &pair.key));
        let config = self.client_ca.iter().fold(config, TlsConfig::with_client_ca);
        let config = config.with_version_min(self.tls_min);
        // What is passed on as it is stays what it was.
        Some(if self.tcp.is_some() { config } else { config.with_alpn(["h2", "http/1.1"]) })
    }
}

pub(super) fn settle(file: &File, known: &mut Known, problems: &mut Vec<Problem>) -> Settled {
    let schema::Server {
        workers,
        pin,
        driver,
        max_connections,
        max_memory,
        connect_timeout,
        drain,
        watch,
        ..
    } = &file.server;
    let flows_max = file.listen.iter().filter_map(|listen| listen.udp.as_ref());
    let flows_max = flows_max.map(|udp| udp.get_ref().flows as usize).sum();
    let engine = Config {
        // The kernel spreads clients over workers by a hash, not evenly.
        flows_max,
        workers: workers.value.0,
        pin: pin.value.clone(),
        driver: driver.value,
        connections_max: max_connections.map(|max| max as usize),
        memory_bytes_max: usize::try_from(max_memory.value).unwrap_or(usize::MAX),
        connect_timeout: connect_timeout.value,
        ..Config::default()
    };
    if let Err(error) = engine.check() {
        problems.push(Problem::of_file(error.to_string(), ""));
    }
    let (names, mut upstreams) = upstreams(file, known, problems);
    let listen = listeners(file, &names, problems);
    let relaying: Vec<&Relaying> = listen.iter().filter_map(|listen| listen.tcp.as_ref()).collect();
    let flowing: Vec<&FlowRules> = listen.iter().filter_map(|listen| listen.udp.as_ref()).collect();
    relays::settle(file, &relaying, &flowing, &names, &mut upstreams, problems);
    if let Some(stats) = &file.server.stats
        && listen.iter().any(|listen| listen.udp.is_none() && listen.address == stats.value)
        && stats.value.ip().is_none_or(|ip| ip.port() != 0)
    {
        let what = format!("`server.stats` and a listener are both {}", stats.text);
        problems.push(Problem::of_file(what, "give `stats` an address of its own"));
    }
    let (routes, places) = routes(file, &names, problems);
    let front = Front::from(&ProxyConfig {
        limits: Limits {
            head_timeout: file.limits.head_timeout.value,
            body_idle_timeout: file.limits.body_timeout.value,
            keep_alive_timeout: file.limits.keep_alive_timeout.value,
            requests_max: file.limits.max_requests,
            ..Limits::default()
        },
        http2: file.http2.limits(problems),
        http2_resets_per_sec_max: file.http2.resets,
        body_bytes_max: file.limits.max_body.as_ref().map_or(u64::MAX, |size| size.value),
        trusted: file.limits.trust.iter().map(|network| network.value).collect(),
        half_close: file.limits.half_close,
        pages: answers::pages(&file.error_pages, problems),
        observe: Observe {
            ids: file.ids.rules(),
            log: file.access_log.as_ref().map(|log| log.rules(&known.access_log)),
            counts: file.server.stats.as_ref().map(|_| known.counts.clone()),
        },
        ..ProxyConfig::new(Vec::new())
    });
    let draft = Draft::new(upstreams, move |upstreams| Plan::new(front.clone(), upstreams, routes.clone()));
    let lookups = members::lookups(file, &draft, problems);
    file.access_log.iter().for_each(|log| log.check(problems));
    Settled {
        engine,
        drain: drain.value,
        watch: watch.as_ref().map(|watch| watch.value),
        listen,
        draft,
        lookups,
        access_log: file.access_log.as_ref().map(AccessLogTable::target),
        places,
        server: file.server.clone(),
    }
}

/// The upstreams, and their numbers by name.
fn upstreams<'a>(
    file: &'a File,
    known: &mut Known,
    problems: &mut Vec<Problem>,
) -> (HashMap<&'a str, usize>, Vec<Drafted>) {
    let (mut names, mut all) = (HashMap::new(), Vec::new());
    known.prune();
    for (name, upstream) in &file.upstream {
        let schema::Upstream { servers, ca, connections, timeout, retry, .. } = upstream;
        let span = servers.span();
        if servers.get_ref().is_empty() {
            problems.push(Problem::at(span, format!("upstream {name:?} has no server"), "name at least one"));
            continue;
        }
        if retry.tries == 0 || connections.max == 0 {
            let what = if retry.tries == 0 { "retry.tries" } else { "connections.max" };
            problems.push(Problem::at(
                span.clone(),
                format!("{what} of upstream {name:?} is 0"),
                "at least 1",
            ));
        }
        let roots = ca.as_ref().map_or(&[][..], |ca| ca.get_ref());
        let protocol = upstream.protocol.value;
        let trust = Trust::new(roots, file.server.connect_timeout.value, protocol);
        let entries = members::entries(upstream, &trust, known, problems);
        if let Some(ca) = ca.as_ref().filter(|_| entries.iter().all(|it| it.server.secure_name.is_none())) {
            let remedy = "write https://HOST[:PORT] for a server, or leave `ca` out";
            problems.push(Problem::at(ca.span(), "`ca` is for servers that speak TLS", remedy));
        }
        let config = ProxyConfig {
            is_http2: protocol == Protocol::Http2,
            balance: members::balance(name, upstream, problems),
            check: upstream.health.as_ref().map(check_of),
            ejection: ejection_of(&upstream.eject),
            slow_start: upstream.slow_start.value,
            connections_max: connections.max as usize,
            keep_max: connections.keep as usize,
            keep_timeout: connections.keep_for.value,
            age_max: connections.max_age.value,
            queue_max: connections.queue as usize,
            queue_timeout: connections.wait.value,
            first_byte_timeout: timeout.first_byte.value,
            idle_timeout: timeout.idle.value,
            tunnel_timeout: timeout.tunnel.value,
            connect_timeout: timeout.connect.as_ref().map(|connect| connect.value),
            tries_max: retry.tries,
            replay_bytes_max: usize::try_from(retry.max_bytes.value).unwrap_or(usize::MAX),
            ..ProxyConfig::new(Vec::new())
        };
        names.insert(name.as_str(), all.len());
        all.push(Drafted { name: name.clone(), entries, config });
    }
    (names, all)
}

fn check_of(health: &schema::Health) -> Check {
    let schema::Health { path, every, timeout, rise, fall } = health;
    let (path, every, timeout) = (path.value.clone(), every.value, timeout.value);
    // None in a row is no rule.
    Check { path, every, timeout, rise: (*rise).max(1), fall: (*fall).max(1) }
}

fn ejection_of(eject: &schema::Eject) -> Ejection {
    Ejection {
        after: eject.after,
        time: eject.time.value,
        time_max: eject.max_time.value,
        percent_max: eject.max_percent,
        on_server_errors: eject.server_errors,
    }
}

fn listeners(file: &File, names: &HashMap<&str, usize>, problems: &mut Vec<Problem>) -> Vec<Listen> {
    if file.listen.is_empty() {
        problems.push(Problem::of_file("there is nothing to listen on", "add [[listen]] with an address"));
    }
    let mut all: Vec<Listen> = Vec::new();
    for asked in &file.listen {
        let address = asked.address.get_ref().value.clone();
        let span = asked.address.span();
        let any_port = address.ip().is_some_and(|ip| ip.port() == 0);
        let is_same = |other: &Listen| other.address == address && other.udp.is_some() == asked.udp.is_some();
        if !any_port && all.iter().any(is_same) {
            problems.push(Problem::at(span.clone(), format!("{address} is listed twice"), "once is enough"));
        }
        let listen = Listen {
            address,
            tls: asked.tls.as_ref().map_or(Vec::new(), |tls| tls.get_ref().clone()),
            tls_min: asked.tls_min.as_ref().map_or(TlsVersion::V1_2, |version| version.value),
            client_ca: asked.client_ca.clone(),
            https_port: asked.redirect_to_https.map(NonZeroU16::get),
            proxies: asked.proxy_protocol.iter().map(|network| network.value).collect(),
            tcp: asked.tcp.as_ref().map(|tcp| relays::relaying(asked, tcp, names, problems)),
            udp: asked.udp.as_ref().map(|udp| relays::flowing(asked, udp, names, problems)),
            rules: gate::rules(asked, problems),
        };
        match (listen.tls_config(), &asked.tls) {
            (Some(config), tls) => {
                let span = tls.as_ref().map_or(span, Spanned::span);
                if listen.https_port.is_some() {
                    let remedy = "leave out `redirect_to_https` here";
                    problems.push(Problem::at(
                        span.clone(),
                        "what is secured is not sent on to HTTPS",
                        remedy,
                    ));
                }
                if let Err(error) = config.check() {
                    problems.extend(error.problems().map(|problem| Problem::at(span.clone(), problem, "")));
                }
            }
            (None, Some(tls)) => {
                problems.push(Problem::at(
                    tls.span(),
                    "there is no certificate",
                    "name one, or leave `tls` out",
                ));
            }
            (None, None) if asked.tls_min.is_some() || !asked.client_ca.is_empty() => {
                let remedy = "name a certificate: tls = [{ cert = \"chain.pem\", key = \"key.pem\" }]";
                problems.push(Problem::at(span, "`tls_min` and `client_ca` are for TLS", remedy));
            }
            (None, None) => {}
        }
        all.push(listen);
    }
    all
}

/// The routes, and the number of each in the file.
fn routes(
    file: &File,
    names: &HashMap<&str, usize>,
    problems: &mut Vec<Problem>,
) -> (Vec<Route>, Vec<usize>) {
    let (mut all, mut places) = (Vec::new(), Vec::new());
    // Where a route is named: at its first key.
    let mut spans = Vec::new();
    let serves_http = file.listen.is_empty()
        || file.listen.iter().any(|listen| listen.tcp.is_none() && listen.udp.is_none());
    if file.route.is_empty() && serves_http {
        problems.push(Problem::of_file("there is no route", "add [[route]] with `to = \"NAME\"`"));
    }
    for (place, route) in file.route.iter().enumerate() {
        let target = target(route, place, names, problems);
        let (matches, span) = match &route.matches {
            Some(matches) => (matches.get_ref().clone(), Some(matches.span())),
            None => (Match::default(), None),
        };
        let path = path(&matches, problems);
        let token = |method: &String| {
            !method.is_empty()
                && method
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
        };
        if let Some(method) = matches.method.0.iter().find(|method| !token(method)) {
            let problem = format!("{method:?} is no method");
            problems.push(Problem { span: span.clone(), what: problem, remedy: "such as GET".to_owned() });
        }
        let span = span.or_else(|| first_span(route));
        let mut hosts: Vec<HostPattern> = matches.host.0.iter().map(|host| host.value.clone()).collect();
        if hosts.is_empty() {
            hosts.push(HostPattern::Any);
        }
        let (Some(target), Some(path)) = (target, path) else { continue };
        let limit = limit::limit(route.rate.as_ref(), problems);
        let buffer_bytes = buffer_bytes(route, &target, problems);
        for host in hosts {
            all.push(Route {
                host,
                path: path.clone(),
                methods: matches.method.0.clone(),
                target: target.clone(),
                body_bytes_max: route.max_body.as_ref().map(|size| size.value),
                buffer_bytes,
                limit: limit.clone(),
            });
            places.push(place);
            spans.push(span.clone());
        }
    }
    for (first, second) in Routes::new(all.clone()).repeated() {
        let what = format!("route {} matches the same as route {}", places[second] + 1, places[first] + 1);
        let remedy = "it would never be taken".to_owned();
        problems.push(Problem { span: spans[second].clone(), what, remedy });
    }
    (all, places)
}

/// How much of a body is taken in first.
fn buffer_bytes(route: &schema::Route, target: &Target, problems: &mut Vec<Problem>) -> usize {
    let Some(buffer) = &route.buffer else { return 0 };
    if !matches!(target, Target::Upstream(_)) {
        let what = "`buffer` is for requests that are given to a server";
        problems.push(Problem::at(buffer.span(), what, "leave it out"));
    }
    usize::try_from(buffer.get_ref().value).unwrap_or(usize::MAX)
}

fn first_span(route: &schema::Route) -> Option<Range<usize>> {
    let to = route.to.as_ref().map(Spanned::span);
    let reply = route.reply.as_ref().map(Spanned::span);
    to.or(reply).or(route.redirect.as_ref().map(Spanned::span))
}

fn path(matches: &Match, problems: &mut Vec<Problem>) -> Option<PathPattern> {
    let (read, span) = match (&matches.path, &matches.exact) {
        (None, None) => return Some(PathPattern::Prefix(String::new())),
        (Some(_), Some(exact)) => {
            let remedy = "leave one of them out";
            problems.push(Problem::at(exact.span(), "`path` and `exact` exclude each other", remedy));
            return None;
        }
        (Some(path), None) => (PathPattern::prefix(path.get_ref()), path.span()),
        (None, Some(exact)) => (PathPattern::exact(exact.get_ref()), exact.span()),
    };
    read.map_err(|error| problems.push(Problem::at(span, error, ""))).ok()
}

fn target(
    route: &schema::Route,
    place: usize,
    names: &HashMap<&str, usize>,
    problems: &mut Vec<Problem>,
) -> Option<Target> {
    match (&route.to, &route.reply, &route.redirect) {
        (Some(to), None, None) => {
            let found = relays::named(to, names, problems);
            found.map(Target::Upstream)
        }
        (None, Some(reply), None) => fixed(reply, problems).map(Target::Reply),
        (None, None, Some(redirect)) => redirected(redirect, problems),
        (None, None, None) => {
            let what = format!("route {} leads nowhere", place + 1);
            let remedy = "give it `to`, `reply` or `redirect`".to_owned();
            problems.push(Problem { span: route.matches.as_ref().map(Spanned::span), what, remedy });
            None
        }
        _ => {
            let what = format!("route {} leads to several targets", place + 1);
            let remedy = "one of `to`, `reply` and `redirect`".to_owned();
            problems.push(Problem { span: first_span(route), what, remedy });
            None
        }
    }
}

fn fixed(reply: &Spanned<schema::Reply>, problems: &mut Vec<Problem>) -> Option<FixedReply> {
    let schema::Reply { status, body, content_type } = reply.get_ref();
    let mut bad = |what: String, remedy: &str| problems.push(Problem::at(reply.span(), what, remedy));
    if !(200..=599).contains(status) || matches!(status, 204 | 205 | 304) {
        bad(format!("{status} is no status for this"), "from 200 to 599, but not 204, 205 or 304");
    } else if body.len() > FixedReply::BYTES_MAX {
        bad("the body is longer than 16 KiB".to_owned(), "let a server answer that");
    } else if content_type.is_empty() || !content_type.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        bad(format!("{content_type:?} is no type"), "such as \"text/plain\"");
    } else {
        let body = body.clone().into_bytes().into();
        return Some(FixedReply { status: *status, content_type: content_type.clone(), body });
    }
    None
}

fn redirected(redirect: &Spanned<schema::Redirect>, problems: &mut Vec<Problem>) -> Option<Target> {
    let schema::Redirect { to, status } = redirect.get_ref();
    let mut bad = |what: String, remedy: &str| problems.push(Problem::at(redirect.span(), what, remedy));
    if !matches!(status, 301 | 302 | 303 | 307 | 308) {
        bad(format!("{status} is no redirect"), "301, 302, 303, 307 or 308");
        return None;
    }
    let is_url = to.starts_with("http://") || to.starts_with("https://") || to.starts_with('/');
    let host =
        to.split_once("://").map_or("x", |(_, rest)| rest.split(['/', '?', '#']).next().unwrap_or_default());
    if !is_url || host.is_empty() || !to.bytes().all(|byte| byte.is_ascii_graphic()) {
        bad(
            format!("{to:?} is no address to send clients to"),
            "http://HOST, https://HOST or a path, spaces as %20",
        );
        return None;
    }
    Some(Target::Redirect { status: *status, to: to.clone() })
}
