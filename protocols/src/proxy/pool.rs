//! Which upstream, and which connection with it: who may be chosen, idle connections, requests that wait. What all workers share of it
//! is `fleet.rs`. Pure: keys and numbers; who connects and who calls is `state.rs`.

use super::balance::{self, Candidate, Random, key_of};
use super::config::{Balance, HashBy, ProxyConfig, Server};
use super::fleet::{Fleet, Member};
use super::health::Failure;
use super::observe::Label;
use super::rules::{Check, Ejection};
use super::sticky::Cookies;
use crate::http::message::Fields;
use ringmill_engine::{Address, Tick};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// An upstream that refused a connection is not chosen for so long, if there is another one.
const AVOID: Duration = Duration::from_secs(1);
/// Weights are at most this: where there is a larger one, all are made smaller in proportion.
const WEIGHT_MAX: u32 = u16::MAX as u32;
/// What each request adds to the budget of repeated ones, in thousandths: 20%.
const BUDGET_REQUEST: u64 = 200;

/// The servers of an upstream.
pub(super) struct Pool {
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) fleet: Fleet,
    /// This worker's number with the fleet, once it has one.
    pub(super) bell: Option<u64>,
    pub(super) check: Option<Check>,
    balance: Balance,
    cookies: Option<Cookies>,
    ejection: Ejection,
    slow_start: Duration,
    random: Random,
    candidates: Vec<Candidate>,
}

/// Which server a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Any,
    /// The one that this key leads to.
    Key(u64),
    /// This one, if it can take it.
    Server(usize),
}

/// One server.
pub(super) struct Endpoint {
    pub(super) address: Address,
    /// For requests that name no host.
    pub(super) host: String,
    /// For those who look from outside.
    pub(super) label: Rc<Label>,
    /// Connections without a request; the last one was used last, and is the first to be used again.
    pub(super) idle: Vec<usize>,
    /// Requests that wait for a connection, the first one longest.
    pub(super) waiting: VecDeque<usize>,
    /// Connections of this worker, and attempts to get one.
    pub(super) open: usize,
    /// The attempts among them.
    connecting: usize,
    /// Requests of this worker that have a connection.
    in_flight: usize,
    /// Clients of this worker whose datagrams go there.
    flows: usize,
    member: Arc<Member>,
    weight: u32,
    is_backup: bool,
    identity: u64,
    /// What was earned for the budget since it was last asked.
    earned: u64,
    /// A connection was given up for another worker, whose turn it is.
    yields: bool,
}

impl Pool {
    pub(super) fn new(config: &ProxyConfig, seed: u64) -> Pool {
        // Whatever they are, as of services times those of the file, they keep their proportions.
        let heaviest = config.upstreams.iter().map(|server| server.weight).max().unwrap_or(1);
        let scale = u64::from(heaviest.max(WEIGHT_MAX));
        let weight = |weight: u32| (u64::from(weight) * u64::from(WEIGHT_MAX) / scale).max(1) as u32;
        let endpoint = |server: &Server| Endpoint {
            address: server.address.clone(),
            host: server.address.ip().map_or("localhost".to_owned(), |ip| ip.to_string()),
            label: Rc::new(Label { address: server.address.to_string(), line: None }),
            idle: Vec::new(),
            waiting: VecDeque::new(),
            open: 0,
            connecting: 0,
            in_flight: 0,
            flows: 0,
            member: config.fleet.member(&server.address),
            weight: weight(server.weight),
            is_backup: server.is_backup,
            identity: key_of(server.address.to_string().as_bytes()),
            earned: 0,
            yields: false,
        };
        let cookies = match &config.balance {
            Balance::Sticky(sticky) => Some(Cookies::new(sticky, &config.upstreams)),
            _ => None,
        };
        Pool {
            cookies,
            endpoints: config.upstreams.iter().map(endpoint).collect(),
            fleet: config.fleet.clone(),
            bell: None,
            check: config.check.clone(),
            balance: config.balance.clone(),
            ejection: config.ejection,
            slow_start: config.slow_start,
            random: Random::new(seed),
            candidates: Vec::new(),
        }
    }

    /// Chooses a server; not `but`, if there is another one, and none that is down, ejected or has just refused, unless all others are. Those
    /// that stand by are chosen where no other one is left. `None` where all are drained.
    pub(super) fn choose(&mut self, wanted: Wanted, but: Option<usize>, now: Tick) -> Option<usize> {
        let is_checked = self.check.is_some();
        let is_ready =
            |it: &Endpoint| it.member.health.is_well(now, is_checked) && !it.member.is_avoided(now);
        if let Wanted::Server(server) = wanted
            && self.gather(but, now, |it| is_ready(it))
            && self.candidates.iter().any(|candidate| candidate.server == server)
            && self.may_stay(server)
        {
            return Some(server);
        }
        let has_some = self.gather(but, now, |endpoint| is_ready(endpoint) && !endpoint.is_backup)
            || self.gather(but, now, |endpoint| is_ready(endpoint) && endpoint.is_backup);
        if !has_some {
            return self.choose_unready(but, now);
        }
        let candidates = &self.candidates;
        Some(match (&self.balance, wanted) {
            (_, Wanted::Key(key)) => balance::by_key(candidates, key),
            (Balance::RoundRobin, _) => balance::in_turn(candidates, self.fleet.turn()),
            (Balance::Least, _) => balance::least(candidates, &mut self.random),
            (Balance::TwoChoices | Balance::Hash(_) | Balance::Sticky(_), _) => {
                balance::two_choices(candidates, &mut self.random)
            }
        })
    }

    /// Chooses where no server is ready: all that are well are tried in turn, else whoever it is. That one has just refused is the weakest
    /// reason: the next connection may be taken, while who is down or ejected would answer with failures.
    fn choose_unready(&mut self, but: Option<usize>, now: Tick) -> Option<usize> {
        let is_checked = self.check.is_some();
        let is_well = self.gather(but, now, |it| it.member.health.is_well(now, is_checked));
        if !is_well && !self.gather(but, now, |_| true) {
            return but.filter(|server| !self.endpoints[*server].member.health.is_drained());
        }
        let server = balance::in_turn(&self.candidates, self.fleet.turn());
        let Endpoint { member, address, .. } = &self.endpoints[server];
        if !is_well && member.health.is_to_be_said(now) {
            tracing::warn!(
                "upstream {address}: down or ejected, and it still gets requests: no server that is well is left to try"
            );
        }
        Some(server)
    }

    /// Whether a client stays with this one of the candidates: whoever stands by keeps nobody once another one is well.
    fn may_stay(&self, server: usize) -> bool {
        let is_backup = |server: usize| self.endpoints[server].is_backup;
        !is_backup(server) || self.candidates.iter().all(|candidate| is_backup(candidate.server))
    }

    /// Tells whoever else may wait for this server that there may be room for connections, or that some are needed. One address may be there
    /// twice, as of two names: the one is to the other what another worker is, and then this worker is told as well.
    pub(super) fn ring_others(&self, server: usize) {
        let member = &self.endpoints[server].member;
        let is_it = |it: &&Endpoint| Arc::ptr_eq(&it.member, member);
        let is_here_twice = self.endpoints.iter().filter(is_it).nth(1).is_some();
        self.fleet.ring(self.bell.filter(|_| !is_here_twice));
    }

    /// For requests that name no host.
    pub(super) fn host(&self) -> &str {
        self.endpoints.first().map_or("localhost", |endpoint| &endpoint.host)
    }

    /// What became of a request that this server had.
    pub(super) fn note(&self, server: usize, is_good: bool, now: Tick) {
        let Endpoint { member, address, .. } = &self.endpoints[server];
        if is_good {
            return member.health.succeed();
        }
        let Failure::Many(time) = member.health.fail(&self.ejection, now) else { return };
        let (all, after) = (self.endpoints.len(), self.ejection.after);
        let out = self.endpoints.iter().filter(|it| it.member.health.is_out(now)).count();
        if (out + 1) * 100 <= all * usize::from(self.ejection.percent_max) {
            member.health.eject(now, time);
            tracing::warn!("upstream {address}: {after} failures in a row: no requests for {time:?}");
        } else if member.health.spare(now) {
            tracing::warn!(
                "upstream {address}: {after} failures in a row, and it still gets requests: {out} of {all} are ejected, and of a \
                 hundred {} may be",
                self.ejection.percent_max
            );
        }
    }

    /// What a check came to.
    pub(super) fn note_check(&self, server: usize, is_good: bool, now: Tick) {
        let (Some(rule), Endpoint { member, address, .. }) = (&self.check, &self.endpoints[server]) else {
            return;
        };
        match member.health.checked(is_good, rule, now) {
            None => {}
            Some(true) => tracing::info!("upstream {address}: up again, say {} checks", rule.rise),
            Some(false) => {
                let is_left = self.endpoints.iter().any(|it| it.member.health.is_well(now, true));
                let so =
                    if is_left { "no requests" } else { "and so are all others, so they get requests still" };
                tracing::warn!("upstream {address}: down, say {} checks: {so}", rule.fall);
            }
        }
    }

    /// The servers whose check this worker is to make now, and when it is to look again.
    pub(super) fn take_checks(&mut self, now: Tick, due: &mut Vec<usize>) -> Tick {
        let Some(check) = &self.check else { return Tick::NEVER };
        let mut next = Tick::NEVER;
        for (server, endpoint) in self.endpoints.iter().enumerate() {
            let health = &endpoint.member.health;
            let tenths = self.random.below(201) as u32 + 900;
            if health.take_check(now, check.every.saturating_mul(tenths) / 1000) {
                due.push(server);
            }
            next = next.min(health.check_due());
        }
        next
    }

    /// Which server a request is for, by its fields, its path and the client's address.
    pub(super) fn wanted(&self, fields: &Fields<'_, '_>, path: &[u8], client: Option<IpAddr>) -> Wanted {
        let key = match &self.balance {
            Balance::TwoChoices | Balance::RoundRobin | Balance::Least => None,
            Balance::Sticky(_) => {
                let server = self.cookies.as_ref().and_then(|cookies| cookies.server(fields));
                return server.map_or(Wanted::Any, Wanted::Server);
            }
            Balance::Hash(HashBy::Client) => return self.wanted_by(client),
            Balance::Hash(HashBy::Path) => Some(key_of(path)),
            Balance::Hash(HashBy::Field(name)) => fields.value(name).map(key_of),
        };
        key.map_or(Wanted::Any, Wanted::Key)
    }

    /// Whether the client's address says which server a connection is for.
    pub(super) fn is_by_client(&self) -> bool {
        self.balance == Balance::Hash(HashBy::Client)
    }

    /// Which server a client's connection is for.
    pub(super) fn wanted_by(&self, client: Option<IpAddr>) -> Wanted {
        let key = client.filter(|_| self.is_by_client()).map(|ip| match ip.to_canonical() {
            IpAddr::V4(ip) => key_of(&ip.octets()),
            IpAddr::V6(ip) => key_of(&ip.octets()),
        });
        key.map_or(Wanted::Any, Wanted::Key)
    }

    /// What `Set-Cookie` says where a client did not name the server that it got.
    pub(super) fn cookie(&self, wanted: Wanted, server: usize) -> Option<&str> {
        let cookies = self.cookies.as_ref().filter(|_| wanted != Wanted::Server(server));
        cookies.map(|cookies| cookies.field(server))
    }

    /// Makes these the candidates. Whether there are any.
    fn gather(&mut self, but: Option<usize>, now: Tick, is_meant: impl Fn(&Endpoint) -> bool) -> bool {
        let all = self.endpoints.iter().enumerate();
        let is_there = |it: &Endpoint| !it.member.health.is_drained() && is_meant(it);
        let meant = all.filter(|(server, endpoint)| Some(*server) != but && is_there(endpoint));
        self.candidates.clear();
        self.candidates.extend(meant.map(|(server, endpoint)| Candidate {
            server,
            weight: endpoint.weight * endpoint.member.health.percent(now, self.slow_start),
            busy: endpoint.member.busy(),
            identity: endpoint.identity,
        }));
        !self.candidates.is_empty()
    }
}

impl Endpoint {
    /// It refused a connection. Whether that is news.
    pub(super) fn avoid(&mut self, now: Tick) -> bool {
        self.member.avoid(now, AVOID)
    }

    /// A request is sent to it for the first time.
    pub(super) fn earn(&mut self) {
        self.earned = self.earned.saturating_add(BUDGET_REQUEST);
    }

    /// Whether a request may be repeated: an upstream that fails is not asked twice for everything. So many are saved up at most:
    /// when it ends, it takes along what was in progress, on all its connections.
    pub(super) fn spend(&mut self, now: Tick, saved_max: usize) -> bool {
        self.member.spend(now, std::mem::take(&mut self.earned), saved_max)
    }

    /// Whether a connection may be asked for: requests wait for which nobody connects, and all workers have fewer than so many.
    pub(super) fn begin_connect(&mut self, connections_max: usize) -> bool {
        self.yields &= self.is_wanted_elsewhere();
        let is_needed = self.connecting < self.waiting.len() && !self.yields;
        let begins = is_needed && self.member.try_connect(connections_max);
        if begins {
            self.connecting += 1;
            self.open += 1;
        }
        begins
    }

    /// Whether more attempts are made than are waited for.
    pub(super) fn has_attempt_too_many(&self) -> bool {
        self.connecting > self.waiting.len()
    }

    /// Whether requests wait for it on other workers, or on this one where its address is there twice.
    pub(super) fn is_wanted_elsewhere(&self) -> bool {
        self.member.waiting() > self.waiting.len()
    }

    /// Whether requests that wait on other workers could have a connection now.
    pub(super) fn has_room_for_others(&self, connections_max: usize) -> bool {
        self.is_wanted_elsewhere() && self.has_room(connections_max)
    }

    /// Whether requests wait here although other workers have idle connections, which are in the way.
    pub(super) fn needs_idle_ones(&self, connections_max: usize) -> bool {
        self.connecting < self.waiting.len() && !self.has_room(connections_max) && self.member.idle() > 0
    }

    /// Idle connections whose places other workers need: from now on they are not used.
    pub(super) fn take_surplus(&mut self, connections_max: usize) -> Vec<usize> {
        if self.has_room(connections_max) || !self.is_wanted_elsewhere() {
            return Vec::new();
        }
        let wanted = self.member.waiting().saturating_sub(self.waiting.len());
        // Those that were used longest ago.
        self.idle.drain(..wanted.min(self.idle.len())).collect()
    }

    /// There may be room again. Whether it had given a connection up.
    pub(super) fn stop_yielding(&mut self) -> bool {
        std::mem::take(&mut self.yields)
    }

    /// An attempt to connect has come to an end: there is a connection.
    pub(super) fn end_connect(&mut self) {
        let attempts = self.connecting.min(1);
        self.connecting -= attempts;
        self.member.settle(attempts);
    }

    /// A connection is gone.
    pub(super) fn close(&mut self) {
        let connections = self.open.min(1);
        self.open -= connections;
        self.member.close(connections);
    }

    pub(super) fn begin_request(&mut self) {
        self.in_flight += 1;
        self.member.begin_request();
    }

    pub(super) fn end_request(&mut self) {
        let requests = self.in_flight.min(1);
        self.in_flight -= requests;
        self.member.end_requests(requests);
    }

    pub(super) fn begin_flow(&mut self) {
        self.flows += 1;
        self.member.begin_flow();
    }

    pub(super) fn end_flow(&mut self) {
        let flows = self.flows.min(1);
        self.flows -= flows;
        self.member.end_flows(flows);
    }

    /// A datagram of so many bytes was passed on to it.
    pub(super) fn count_to(&self, bytes: usize) {
        self.member.to.count(bytes);
    }

    /// One came from it.
    pub(super) fn count_from(&self, bytes: usize) {
        self.member.from.count(bytes);
    }

    /// Has a request wait, if fewer than so many do on all workers.
    pub(super) fn wait(&mut self, key: usize, waiting_max: usize) -> bool {
        let may_wait = self.member.try_wait(waiting_max);
        if may_wait {
            self.waiting.push_back(key);
        }
        may_wait
    }

    /// The request that waits longest, of those that this is good for, waits no longer.
    pub(super) fn stop_waiting(&mut self, is_meant: impl Fn(usize) -> bool) -> Option<usize> {
        let at = self.waiting.iter().position(|key| is_meant(*key))?;
        self.member.stop_waiting(1);
        self.waiting.remove(at)
    }

    /// Whether there is room for a connection.
    pub(super) fn has_room(&self, connections_max: usize) -> bool {
        self.member.open() < connections_max
    }

    /// Whether a connection that is free now is kept: not while others could use its place, which is told, nor beyond so many idle ones
    /// of all workers, unless this worker has no other.
    pub(super) fn keeps(&mut self, connections_max: usize, keep_max: usize) -> bool {
        let has_room = self.has_room(connections_max);
        if !has_room && self.is_wanted_elsewhere() {
            self.yields = true;
            return false;
        }
        // One that needs a new connection may be waiting for room.
        let is_in_the_way = !has_room && !self.waiting.is_empty();
        let is_one_of_few = self.idle.is_empty() || self.member.idle() <= keep_max;
        keep_max > 0 && is_one_of_few && !is_in_the_way && !self.member.health.is_drained()
    }

    /// Whether a connection that is free now goes to another worker, although requests wait here: where this worker has more than
    /// its part of all, by the requests that wait.
    pub(super) fn yields_one(&mut self, connections_max: usize) -> bool {
        if self.has_room(connections_max) || !self.is_wanted_elsewhere() {
            return false;
        }
        let wanted = |open: usize, waiting: usize| (open + waiting) as u64;
        let (ours, all) =
            (wanted(self.open, self.waiting.len()), wanted(self.member.open(), self.member.waiting()));
        self.yields = self.open as u64 * all > connections_max as u64 * ours;
        self.yields
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // A worker that ends takes along what it had.
        self.member.settle(self.connecting);
        self.member.close(self.open);
        self.member.end_requests(self.in_flight);
        self.member.end_flows(self.flows);
        self.member.stop_waiting(self.waiting.len());
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if let Some(bell) = self.bell {
            self.fleet.leave(bell);
        }
    }
}

#[cfg(test)]
mod tests;
