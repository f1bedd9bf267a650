//! What `ringmill proxy --stats` tells of upstreams, as JSON, and how a server is drained there.

use ringmill::http::{Handler, Method, Reply, Request};
use ringmill::proxy::{Fleet, ServerCounts};
use ringmill::{Address, Stats};
use serde::Serialize;

/// Answers `GET /stats`, and `POST /drain/ADDRESS` and `POST /undrain/ADDRESS`.
pub(crate) struct UpstreamStats {
    pub(crate) fleet: Fleet,
    pub(crate) stats: Stats,
}

#[derive(Serialize)]
struct Page {
    connections: u64,
    accepted: u64,
    requests: u64,
    upstreams: Vec<Server>,
}

#[derive(Serialize)]
struct Server {
    address: String,
    connections: u32,
    in_flight: u32,
    waiting: u32,
    requests: u64,
    repeats: u64,
    failures: u64,
    ejections: u64,
    spared: u64,
    down: bool,
    drained: bool,
}

impl From<ServerCounts> for Server {
    fn from(counts: ServerCounts) -> Server {
        Server {
            address: counts.address.to_string(),
            connections: counts.open,
            in_flight: counts.in_flight,
            waiting: counts.waiting,
            requests: counts.requests,
            repeats: counts.repeats,
            failures: counts.failures,
            ejections: counts.ejections,
            spared: counts.spared,
            down: counts.is_down,
            drained: counts.is_drained,
        }
    }
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
        let page = Page {
            connections: total.connections,
            accepted: total.accepted,
            requests: total.requests,
            upstreams: self.fleet.counts().into_iter().map(Server::from).collect(),
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
        let is_known = address.parse::<Address>().is_ok_and(|address| self.fleet.drain(&address, is_drained));
        if is_known {
            reply.status(204).empty();
        } else {
            reply.status(404).text("404 Not Found: no upstream has this address\n");
        }
    }
}
