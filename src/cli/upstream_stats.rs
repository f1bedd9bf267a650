//! What a proxy tells of upstreams and routes, as JSON, and how a server is drained there.

use ringmill::http::{Handler, Method, Reply, Request};
use ringmill::proxy::{
    Counted, Counts, End, LIMITS_MICROS, LimitCounts, LineCounts, PlannedUpstream, Plans, ServerCounts,
};
use ringmill::{Address, Stats};
use serde::Serialize;
use serde_json::{Map, Value as Json, json};
use std::collections::BTreeMap;

/// Answers `GET /stats`, and `POST /drain/ADDRESS` and `POST /undrain/ADDRESS`.
pub(crate) struct UpstreamStats {
    /// Whose servers are told of: those of the plan that holds.
    pub(crate) plans: Plans,
    pub(crate) stats: Stats,
}

#[derive(Serialize)]
struct Page {
    connections: u64,
    accepted: u64,
    requests: u64,
    flows: u64,
    flows_opened: u64,
    /// Datagrams that were not passed on: a full table, a gate, no server, too much that waits.
    datagrams_ignored: u64,
    /// Lines that nobody took.
    #[serde(skip_serializing_if = "Option::is_none")]
    access_log_dropped: Option<u64>,
    /// Who was not let in, by reason, without the `gate_` of the counters' names.
    gate: BTreeMap<&'static str, u64>,
    limits: Vec<Limited>,
    upstreams: Vec<Server>,
    routes: Vec<Route>,
    /// Those that pass connections on as they are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    listeners: Vec<Listener>,
    /// Requests that no route took.
    #[serde(skip_serializing_if = "Option::is_none")]
    unrouted: Option<Json>,
}

/// How many requests a route took, and how many were too many.
#[derive(Serialize)]
struct Limited {
    route: String,
    per: String,
    rate: String,
    allowed: u64,
    limited: u64,
}

impl From<LimitCounts> for Limited {
    fn from(counts: LimitCounts) -> Limited {
        Limited {
            route: counts.route,
            per: counts.rule.per.to_string(),
            rate: counts.rule.rate.to_string(),
            allowed: counts.allowed,
            limited: counts.limited,
        }
    }
}

#[derive(Serialize)]
struct Server {
    upstream: String,
    address: String,
    connections: u32,
    in_flight: u32,
    waiting: u32,
    requests: u64,
    repeats: u64,
    flows: u32,
    /// To the server and from it.
    datagrams: Json,
    failures: u64,
    ejections: u64,
    spared: u64,
    down: bool,
    drained: bool,
    /// It is given connections as they are, and no requests.
    tcp: bool,
    /// Of those that have come to their end.
    ended: Json,
}

#[derive(Serialize)]
struct Listener {
    listener: String,
    ended: Json,
}

#[derive(Serialize)]
struct Route {
    route: String,
    ended: Json,
}

impl Server {
    fn of(upstream: &PlannedUpstream, counts: ServerCounts, ended: &LineCounts) -> Server {
        let tcp = upstream.config.is_relayed;
        Server {
            upstream: upstream.name.clone(),
            address: counts.address.to_string(),
            connections: counts.open,
            in_flight: counts.in_flight,
            waiting: counts.waiting,
            requests: counts.requests,
            repeats: counts.repeats,
            flows: counts.flows,
            datagrams: json!({
                "to": counts.datagrams_to.0,
                "bytes_to": counts.datagrams_to.1,
                "from": counts.datagrams_from.0,
                "bytes_from": counts.datagrams_from.1,
            }),
            failures: counts.failures,
            ejections: counts.ejections,
            spared: counts.spared,
            down: counts.is_down,
            drained: counts.is_drained,
            tcp,
            ended: json_of(ended, "first_byte_ms", tcp),
        }
    }
}

/// What was counted of requests, or of connections, with its times under this name.
fn json_of(counts: &LineCounts, times: &str, is_tcp: bool) -> Json {
    let millis = |micros: u64| micros as f64 / 1000.0;
    let names = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"].into_iter();
    let statuses: Map<String, Json> =
        names.zip(counts.statuses).map(|(name, count)| (name.to_owned(), count.into())).collect();
    let limits = LIMITS_MICROS.iter().map(|limit| format!("<={}", millis(*limit)));
    let limits = limits.chain([format!(">{}", millis(LIMITS_MICROS[LIMITS_MICROS.len() - 1]))]);
    let up_to: Map<String, Json> =
        limits.zip(counts.times).map(|(limit, count)| (limit, count.into())).collect();
    let ends: Map<String, Json> =
        End::ALL.iter().zip(counts.ends).map(|(end, count)| (end.name().to_owned(), count.into())).collect();
    let counted = if is_tcp { "connections" } else { "requests" };
    let mut json = json!({
        "ends": ends,
        "bytes_in": counts.received,
        "bytes_out": counts.sent,
        "retries": counts.retries,
        times: { "sum": millis(counts.micros), counted: up_to },
    });
    if !is_tcp {
        json["statuses"] = statuses.into();
    }
    json
}

impl Handler for UpstreamStats {
    fn handle(&mut self, request: &Request<'_>, reply: &mut Reply<'_>) {
        match (request.method(), request.path()) {
            (Method::Get | Method::Head, "/stats") => self.tell(reply),
            (Method::Post, path) if path.starts_with("/drain/") => {
                self.drain(&path["/drain/".len()..], true, reply)
            }
            (Method::Post, path) if path.starts_with("/undrain/") => {
                self.drain(&path["/undrain/".len()..], false, reply);
            }
            _ => reply
                .status(404)
                .text("404 Not Found: GET /stats, POST /drain/ADDRESS, POST /undrain/ADDRESS\n"),
        }
    }
}

impl UpstreamStats {
    fn tell(&self, reply: &mut Reply<'_>) {
        let total = self.stats.total();
        let plan = self.plans.current();
        let observe = &plan.front().observe;
        let counted = observe.counts.as_ref().map_or(Vec::new(), Counts::all);
        let ended =
            |what: &Counted| counted.iter().find(|(known, _)| known == what).map(|(_, counts)| *counts);
        let servers = |upstream: &PlannedUpstream| {
            let of = |counts: ServerCounts| {
                let what = if upstream.config.is_relayed { Counted::Relayed } else { Counted::Server };
                let what = what(upstream.name.clone(), counts.address.clone());
                Server::of(upstream, counts, &ended(&what).unwrap_or_default())
            };
            upstream.config.fleet.counts().into_iter().map(of).collect::<Vec<_>>()
        };
        let route = |(what, counts): &(Counted, LineCounts)| match what {
            Counted::Route(route) => {
                Some(Route { route: route.clone(), ended: json_of(counts, "ms", false) })
            }
            _ => None,
        };
        let listener = |(what, counts): &(Counted, LineCounts)| match what {
            Counted::Listener(name) => {
                Some(Listener { listener: name.clone(), ended: json_of(counts, "ms", true) })
            }
            _ => None,
        };
        let page = Page {
            connections: total.connections,
            accepted: total.accepted,
            requests: total.requests,
            flows: total.flows,
            flows_opened: total.flows_opened,
            datagrams_ignored: total.datagrams_ignored,
            gate: total
                .iter()
                .filter_map(|(name, count)| Some((name.strip_prefix("gate_")?, count)))
                .collect(),
            limits: self.plans.current().routes().limits().into_iter().map(Limited::from).collect(),
            access_log_dropped: observe.log.as_ref().map(|log| log.to.dropped()),
            upstreams: plan.upstreams().iter().flat_map(servers).collect(),
            routes: counted.iter().filter_map(route).collect(),
            listeners: counted.iter().filter_map(listener).collect(),
            unrouted: ended(&Counted::Unrouted).map(|counts| json_of(&counts, "ms", false)),
        };
        match serde_json::to_vec_pretty(&page) {
            Ok(mut json) => {
                json.push(b'\n');
                reply.content_type("application/json").body(&json);
            }
            Err(_) => {
                reply.status(500).text("500 Internal Server Error: the counters could not be written\n")
            }
        }
    }

    fn drain(&self, address: &str, is_drained: bool, reply: &mut Reply<'_>) {
        let drained = |address: &Address| {
            // In all upstreams that have it.
            let plan = self.plans.current();
            let has_it = |upstream: &&PlannedUpstream| upstream.config.fleet.drain(address, is_drained);
            plan.upstreams().iter().filter(has_it).count()
        };
        if address.parse::<Address>().is_ok_and(|address| drained(&address) > 0) {
            reply.status(204).empty();
        } else {
            reply.status(404).text("404 Not Found: no upstream has this address\n");
        }
    }
}
