//! What a proxy does, as one immutable value: routes, upstreams, and what clients may do. How workers come to the next one is
//! `plans.rs`.

use super::config::{ProxyConfig, Server};
use super::normal::{Host, Path, Unclear};
use super::observe::Observe;
use super::pages::Pages;
use super::route::{FixedReply, HostPattern, Missed, PathPattern, Route, Routes, Target};
use crate::adapt::Http2Limits;
use crate::http::Limits;
use crate::layer::proxy::Network;
use std::borrow::Cow;
use std::sync::Arc;

/// What clients may do, whatever route their requests take.
#[derive(Clone, Debug)]
pub struct Front {
    /// Heads, bodies, and how long they may take.
    pub limits: Limits,
    /// What is HTTP/2's alone.
    pub http2: Http2Limits,
    /// Requests that a client may take back a second (RST_STREAM), with ten seconds' worth at once: beyond them its connection ends.
    pub http2_resets_per_sec_max: u32,
    /// The largest request body in bytes where its route says nothing: beyond it the answer is 413.
    pub body_bytes_max: u64,
    /// Who may say who the client is.
    pub trusted: Vec<Network>,
    /// What stands in `Via`.
    pub name: String,
    /// A client that has ended its stream is still answered.
    pub half_close: bool,
    /// What is told of requests to those who look from outside.
    pub observe: Observe,
    /// Pages of HTML for what the proxy answers itself.
    pub pages: Pages,
}

impl From<&ProxyConfig> for Front {
    fn from(config: &ProxyConfig) -> Front {
        // A name that cannot stand in a field would break every head.
        let is_name = !config.name.is_empty() && config.name.bytes().all(|byte| byte.is_ascii_graphic());
        Front {
            limits: config.limits.clone(),
            http2: config.http2.clone(),
            http2_resets_per_sec_max: config.http2_resets_per_sec_max,
            body_bytes_max: config.body_bytes_max,
            trusted: config.trusted.clone(),
            name: if is_name { config.name.clone() } else { "ringmill".to_owned() },
            half_close: config.half_close,
            observe: config.observe.clone(),
            pages: config.pages.clone(),
        }
    }
}

/// An upstream of a plan: servers that are as good as each other.
#[derive(Clone, Debug)]
pub struct PlannedUpstream {
    /// Its name in the plan.
    pub name: String,
    /// Its servers, and how they are used. What concerns clients ([`Front`]) is not read.
    pub config: Arc<ProxyConfig>,
}

/// What a proxy does.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(super) front: Front,
    pub(super) upstreams: Vec<PlannedUpstream>,
    pub(super) routes: Routes,
    /// Paths and hosts are put into their normal form.
    is_routed: bool,
}

/// Where a request goes.
#[derive(Debug)]
pub(super) struct Way<'a> {
    pub(super) route: usize,
    /// The path as it is passed on.
    pub(super) path: Cow<'a, [u8]>,
    /// The host as it is passed on, where the request names one.
    pub(super) host: Option<Cow<'a, [u8]>>,
}

/// Why a request goes nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Its target is none for all readers.
    Unclear(Unclear),
    /// No route takes it.
    Missed(Missed),
}

impl Refused {
    /// What is answered: a status, and why.
    pub fn answer(&self) -> (u16, &'static str) {
        match self {
            Refused::Unclear(unclear) => (400, unclear.reason()),
            Refused::Missed(Missed::Nothing) => (404, "nothing is served under this host and path"),
            Refused::Missed(Missed::Method(_)) => (405, "nothing is served there with this method"),
        }
    }
}

impl Plan {
    /// A plan. Target numbers of routes are places in `upstreams`.
    ///
    /// # Panics
    /// If a route names an upstream that is not there.
    pub fn new(front: Front, upstreams: Vec<PlannedUpstream>, routes: Vec<Route>) -> Plan {
        for route in &routes {
            let number = if let Target::Upstream(number) = route.target { number } else { 0 };
            assert!(
                number == 0 || number < upstreams.len(),
                "a route leads to an upstream that is not there"
            );
        }
        Plan { front, upstreams, routes: Routes::new(routes), is_routed: true }
    }

    /// All requests go to one upstream, with their paths as they are: nothing depends on them.
    ///
    /// # Panics
    /// If it has no server.
    pub fn one(config: ProxyConfig) -> Plan {
        assert!(!config.upstreams.is_empty(), "a proxy needs at least one upstream");
        let front = Front::from(&config);
        let route = Route {
            host: HostPattern::Any,
            path: PathPattern::Prefix(String::new()),
            methods: Vec::new(),
            target: Target::Upstream(0),
            body_bytes_max: None,
            buffer_bytes: config.buffer_bytes,
            limit: config.limit.clone(),
        };
        let upstreams = vec![PlannedUpstream { name: String::new(), config: Arc::new(config) }];
        Plan { is_routed: false, ..Plan::new(front, upstreams, vec![route]) }
    }

    /// Where a request goes. An absent or empty host is none.
    pub(super) fn way<'a>(
        &self,
        method: &str,
        host: Option<&'a [u8]>,
        path: &'a [u8],
        is_secured: bool,
    ) -> Result<Way<'a>, Refused> {
        if !self.is_routed {
            let (path, host) = (Cow::Borrowed(path), host.map(Cow::Borrowed));
            return Ok(Way { route: 0, path, host });
        }
        let path = Path::new(path).map_err(Refused::Unclear)?;
        let named = host.filter(|host| !host.is_empty());
        let named = named.map(|host| Host::new(host, if is_secured { 443 } else { 80 })).transpose();
        let named = named.map_err(Refused::Unclear)?;
        let name = named.as_ref().map_or(&b""[..], Host::name);
        let found = self.routes.find(name, &path.text, method);
        for (reading, unclear) in path.other_readings() {
            let reading = reading.map_err(Refused::Unclear)?;
            if self.routes.find(name, &reading, method) != found {
                return Err(Refused::Unclear(unclear));
            }
        }
        let route = found.map_err(Refused::Missed)?;
        let host = named.map_or(host.map(Cow::Borrowed), |named| Some(named.text));
        Ok(Way { route, path: path.text, host })
    }

    /// What is known of servers goes on where the upstream of that name has them in the next plan too. One that it did not have is new: that
    /// it was drained when it had it earlier says nothing of it now, also while a worker still has to do with it.
    pub(super) fn take_over(&mut self, before: &Plan) {
        self.routes.take_over(&before.routes);
        for upstream in &mut self.upstreams {
            // There may be two of a name, for requests and for connections, which share what is known.
            let same = before.upstreams.iter().filter(|known| known.name == upstream.name);
            let same: Vec<&ProxyConfig> = same.map(|known| &*known.config).collect();
            let Some(known) = same.first() else { continue };
            let config = Arc::make_mut(&mut upstream.config);
            config.fleet = known.fleet.clone();
            config.fleet.keep(|address| config.has(address));
            for Server { address, .. } in &config.upstreams {
                if !same.iter().any(|known| known.has(address)) {
                    config.fleet.member(address).health.drain(false);
                }
            }
        }
    }

    /// Its upstreams.
    pub fn upstreams(&self) -> &[PlannedUpstream] {
        &self.upstreams
    }

    /// What clients may do.
    pub fn front(&self) -> &Front {
        &self.front
    }

    /// Its routes.
    pub fn routes(&self) -> &Routes {
        &self.routes
    }
}

impl Target {
    /// Where a redirect leads: a URL without a path keeps the request's.
    pub(super) fn location(to: &str, path: &[u8], query: Option<&[u8]>) -> Vec<u8> {
        let mut location = to.as_bytes().to_vec();
        let has_path = to.split_once("://").map_or(to, |(_, rest)| rest).contains(['/', '?', '#']);
        if !has_path {
            location.extend_from_slice(if path == b"*" { b"/" } else { path });
            if let Some(query) = query {
                location.push(b'?');
                location.extend_from_slice(query);
            }
        }
        location
    }
}

impl FixedReply {
    /// What a proxy says itself.
    pub(super) fn text(status: u16, body: impl Into<bytes::Bytes>) -> FixedReply {
        FixedReply { status, content_type: "text/plain".to_owned(), body: body.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::pool::Pool;
    use ringmill_engine::Address;

    fn plan(routes: &[(&str, &str)]) -> Plan {
        let servers = vec!["127.0.0.1:1".parse().unwrap()];
        let config = Arc::new(ProxyConfig::new(servers));
        let upstream = |n| PlannedUpstream { name: format!("u{n}"), config: config.clone() };
        let routes = routes.iter().enumerate().map(|(n, (host, path))| Route {
            host: host.parse().unwrap(),
            path: PathPattern::prefix(path).unwrap(),
            methods: Vec::new(),
            target: Target::Upstream(n),
            body_bytes_max: None,
            buffer_bytes: 0,
            limit: None,
        });
        let routes: Vec<Route> = routes.collect();
        Plan::new(Front::from(&*config), (0..routes.len() as u32).map(upstream).collect(), routes)
    }

    fn text<'a>(way: &'a Way<'_>) -> (usize, &'a str, &'a str) {
        let host = way.host.as_deref().map_or("", |host| str::from_utf8(host).unwrap());
        (way.route, host, str::from_utf8(&way.path).unwrap())
    }

    #[test]
    fn what_a_route_is_chosen_by_is_what_is_passed_on() {
        let plan = plan(&[("*", "/"), ("*", "/api"), ("a.test", "/"), ("a.test", "/admin")]);
        let check = |host: &str, path: &str, expected: Result<(usize, &str, &str), Unclear>| {
            let way = plan.way("GET", Some(host.as_bytes()), path.as_bytes(), false);
            let way = way.as_ref().map(text);
            let way = way.map_err(|refused| match refused {
                Refused::Unclear(unclear) => *unclear,
                Refused::Missed(missed) => panic!("{host} {path}: {missed:?}"),
            });
            assert_eq!(way, expected, "{host} {path}");
        };
        check("b", "/", Ok((0, "b", "/")));
        check("B.", "//api/../api/./x", Ok((1, "b", "/api/x")));
        check("A.Test:80", "/%61dmin", Ok((3, "a.test", "/admin")));
        check("a.test.:81", "/admin/..", Ok((2, "a.test:81", "/")));
        check("", "/api", Ok((1, "", "/api")));
        // Both readings take the same route.
        check("b", "/x%2fy", Ok((0, "b", "/x%2Fy")));
        check("b", "/api/x%2fy", Ok((1, "b", "/api/x%2Fy")));
        check("b", "/api/x%2f..%2fy", Ok((1, "b", "/api/x%2F..%2Fy")));
        // They do not.
        check("b", "/api%2fx", Err(Unclear::Slash));
        check("b", "/x/..%2fapi", Err(Unclear::Slash));
        check("a.test", "/x%2f..%2fadmin", Err(Unclear::Slash));
        check("a.test", "/x%5c..%5cadmin", Err(Unclear::Slash));
        check("a.test", "/admin%2f/%5c..", Err(Unclear::Slash));
        check("a.test", "/admin;x", Err(Unclear::Parameters));
        check("a.test", "/;x/admin/y", Err(Unclear::Parameters));
        check("a.test", "/admin/y;x", Ok((3, "a.test", "/admin/y;x")));
        check("a.test", "/y;x", Ok((2, "a.test", "/y;x")));
        check("a.test", "/..%2f", Err(Unclear::AboveRoot));
        check("a b", "/", Err(Unclear::Host));
        check("a:x", "/", Err(Unclear::Port));
    }

    #[test]
    fn one_upstream_gets_everything_as_it_came() {
        let plan = Plan::one(ProxyConfig::new(vec!["127.0.0.1:1".parse().unwrap()]));
        let way = plan.way("GET", Some(b"A.:80"), b"//a/../%2f", false).unwrap();
        assert_eq!(text(&way), (0, "A.:80", "//a/../%2f"));
    }

    #[test]
    fn a_server_that_comes_back_is_not_drained() {
        let planned = |all: &[&[u16]]| {
            let upstream = |ports: &&[u16]| {
                let address = |port: &u16| Address::Ip(([127, 0, 0, 1], *port).into());
                let config = Arc::new(ProxyConfig::new(ports.iter().map(address).collect()));
                PlannedUpstream { name: "a".to_owned(), config }
            };
            let front = Front::from(&ProxyConfig::new(Vec::new()));
            Plan::new(front, all.iter().map(upstream).collect(), Vec::new())
        };
        let drained = |plan: &Plan| {
            let counts = plan.upstreams[0].config.fleet.counts();
            counts.iter().map(|server| server.is_drained).collect::<Vec<_>>()
        };
        let mut plan = planned(&[&[1, 2, 3]]);
        // A worker that has to do with all of them.
        let _pool = Pool::new(&plan.upstreams[0].config, 1);
        for server in &plan.upstreams[0].config.upstreams[1..] {
            assert!(plan.upstreams[0].config.fleet.drain(&server.address, true));
        }
        for (next, expected) in [
            (&[&[1, 2][..]][..], [false, true, true]),
            (&[&[1, 2, 3]], [false, true, false]),
            // One of two has it all the while.
            (&[&[1], &[1, 2]], [false, true, false]),
            (&[&[1, 2], &[1, 2]], [false, true, false]),
        ] {
            let mut next = planned(next);
            next.take_over(&plan);
            plan = next;
            assert_eq!(drained(&plan), expected);
        }
        // A new one may be drained before a worker knows of it.
        let mut next = planned(&[&[4]]);
        next.take_over(&plan);
        assert!(next.upstreams[0].config.fleet.drain(&next.upstreams[0].config.upstreams[0].address, true));
    }

    #[test]
    fn redirects_keep_what_they_do_not_name() {
        let check = |to: &str, path: &str, query: Option<&str>, expected: &str| {
            let location = Target::location(to, path.as_bytes(), query.map(str::as_bytes));
            assert_eq!(str::from_utf8(&location), Ok(expected), "{to}");
        };
        check("https://b.test", "/a", None, "https://b.test/a");
        check("https://b.test:81", "/a", Some("c"), "https://b.test:81/a?c");
        check("https://b.test", "*", None, "https://b.test/");
        check("https://b.test/", "/a", Some("c"), "https://b.test/");
        check("https://b.test/x?y", "/a", Some("c"), "https://b.test/x?y");
        check("/x", "/a", Some("c"), "/x");
    }
}
