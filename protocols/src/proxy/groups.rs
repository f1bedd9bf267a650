//! The upstreams of a worker: those of the plan that holds, and earlier ones that still have something to do. Pure.

use super::config::ProxyConfig;
use super::plan::{Plan, PlannedUpstream};
use super::pool::{Endpoint, Pool};
use ringmill_engine::Tick;
use slab::Slab;
use std::ops::{Index, IndexMut};
use std::sync::Arc;

/// Where a server is: in which upstream, and which of its servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) group: usize,
    pub(super) server: usize,
}

/// The bit of a tag that says so: there are not so many upstreams.
const CHECK: u64 = 1 << 63;

/// One upstream.
pub(super) struct Group {
    is_of: PlannedUpstream,
    pub(super) pool: Pool,
    /// Requests that are given to it, until they end.
    pub(super) exchanges: usize,
    /// No plan has it any more.
    is_leaving: bool,
}

/// All upstreams.
pub(super) struct Groups {
    all: Slab<Group>,
    /// Those of the plan, by their numbers in it.
    planned: Vec<usize>,
    seed: u64,
}

impl Groups {
    pub(super) fn new(plan: &Plan, seed: u64) -> Groups {
        let mut groups = Groups { all: Slab::new(), planned: Vec::new(), seed };
        groups.follow(plan);
        groups
    }

    /// Another plan holds. Says which connections are of no use any more: idle ones of upstreams that are in it no longer.
    pub(super) fn follow(&mut self, plan: &Plan) -> Vec<usize> {
        let before = std::mem::take(&mut self.planned);
        for upstream in &plan.upstreams {
            let same = |key: &&usize| self.all[**key].is_like(upstream);
            let key = before.iter().find(same).copied().unwrap_or_else(|| {
                let pool = Pool::new(&upstream.config, self.seed);
                self.all.insert(Group { is_of: upstream.clone(), pool, exchanges: 0, is_leaving: false })
            });
            self.planned.push(key);
        }
        let mut idle = Vec::new();
        let left: Vec<usize> = before.into_iter().filter(|key| !self.planned.contains(key)).collect();
        for key in left {
            let group = &mut self.all[key];
            group.is_leaving = true;
            group.pool.endpoints.iter_mut().for_each(|endpoint| idle.append(&mut endpoint.idle));
            self.forget_if_done(key);
        }
        idle
    }

    /// Where the upstream with this number in the plan is.
    pub(super) fn planned(&self, number: usize) -> Option<usize> {
        self.planned.get(number).copied()
    }

    /// All upstreams of this worker, also those that no plan has any more.
    pub(super) fn all(&mut self) -> impl Iterator<Item = (usize, &mut Group)> {
        self.all.iter_mut()
    }

    /// Those of the plan.
    pub(super) fn all_planned(&self) -> Vec<usize> {
        self.planned.clone()
    }

    pub(super) fn group(&mut self, key: usize) -> &mut Group {
        &mut self.all[key]
    }

    pub(super) fn config(&self, key: usize) -> &Arc<ProxyConfig> {
        &self.all[key].is_of.config
    }

    /// Its name in the plan.
    pub(super) fn name(&self, key: usize) -> &str {
        &self.all[key].is_of.name
    }

    /// Whether connections with a server are secured.
    pub(super) fn is_secured(&self, place: Place) -> bool {
        self.all[place.group].is_of.config.upstreams[place.server].peer.is_some()
    }

    /// Why the last connection with it that could not be secured could not, where that is known.
    pub(super) fn reason(&self, place: Place) -> Option<String> {
        self.all[place.group].is_of.config.upstreams[place.server].peer.as_ref()?.reason()
    }

    /// Whether its servers are spoken to in HTTP/2. What is relayed goes as it is, so there only checks are.
    pub(super) fn is_http2(&self, key: usize, is_check: bool) -> bool {
        let config = &self.all[key].is_of.config;
        config.is_http2 && (is_check || !config.is_relayed)
    }

    pub(super) fn is_leaving(&self, key: usize) -> bool {
        self.all[key].is_leaving
    }

    pub(super) fn pool(&self, key: usize) -> &Pool {
        &self.all[key].pool
    }

    /// What became of a request that this server had.
    pub(super) fn note(&self, place: Place, is_good: bool, now: Tick) {
        self.all[place.group].pool.note(place.server, is_good, now);
    }

    /// What an upstream is in its plan.
    pub(super) fn planned_as(&self, key: usize) -> Option<&PlannedUpstream> {
        self.all.get(key).map(|group| &group.is_of)
    }

    /// An upstream that is in no plan goes with the last thing it had to do.
    pub(super) fn forget_if_done(&mut self, key: usize) {
        let Some(group) = self.all.get(key).filter(|group| group.is_leaving && group.exchanges == 0) else {
            return;
        };
        if group.pool.endpoints.iter().all(|endpoint| endpoint.open == 0) {
            self.all.remove(key);
        }
    }
}

impl Group {
    pub(super) fn connections_max(&self) -> usize {
        self.is_of.config.connections_max
    }

    fn is_like(&self, planned: &PlannedUpstream) -> bool {
        let PlannedUpstream { name, config } = &self.is_of;
        // What is known of its servers is no part of a configuration, but workers that share them share that.
        *name == planned.name && config.fleet.is(&planned.config.fleet) && *config == planned.config
    }
}

impl Place {
    /// The bit of a tag that says that a stream is meant, and not its connection.
    pub(super) const LANE: u64 = 1 << 62;
    /// The tag of a client's stream.
    pub(super) const STREAM: u64 = u64::MAX;

    /// The tag of a connection with this server.
    pub(super) fn tag(self) -> u64 {
        (self.group as u64) << 32 | self.server as u64
    }

    /// The tag of a connection that checks it.
    pub(super) fn check_tag(self) -> u64 {
        self.tag() | CHECK
    }

    /// Whether a connection with this tag checks its server.
    pub(super) fn is_check(tag: u64) -> bool {
        tag & CHECK != 0
    }

    pub(super) fn of_tag(tag: u64) -> Place {
        Place {
            group: ((tag & !(CHECK | Place::LANE)) >> 32) as usize,
            server: (tag & u64::from(u32::MAX)) as usize,
        }
    }
}

/// Which of its upstream's servers a connection with this tag is with: what a layer under a proxy of one upstream asks.
pub fn server_of(tag: u64) -> usize {
    Place::of_tag(tag).server
}

impl Index<Place> for Groups {
    type Output = Endpoint;

    fn index(&self, place: Place) -> &Endpoint {
        &self.all[place.group].pool.endpoints[place.server]
    }
}

impl IndexMut<Place> for Groups {
    fn index_mut(&mut self, place: Place) -> &mut Endpoint {
        &mut self.all[place.group].pool.endpoints[place.server]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::peer::Peer;
    use crate::proxy::plan::Front;
    use crate::proxy::pool::Wanted;

    fn plan(upstreams: &[(&str, bool, u16)]) -> Plan {
        let planned = upstreams.iter().map(|(name, is_secured, port)| {
            let servers = vec![format!("127.0.0.1:{port}").parse().unwrap()];
            let mut config = ProxyConfig::new(servers);
            config.upstreams[0].peer = is_secured.then(|| Peer::new(()));
            PlannedUpstream { name: (*name).to_owned(), config: Arc::new(config) }
        });
        let front = Front::from(&ProxyConfig::new(Vec::new()));
        Plan::new(front, planned.collect(), Vec::new())
    }

    #[test]
    fn what_stays_the_same_keeps_its_place() {
        let before = plan(&[("a", false, 1), ("b", false, 2), ("c", false, 3)]);
        let mut groups = Groups::new(&before, 1);
        let [a, b, c] = [0, 1, 2].map(|number| groups.planned(number).unwrap());
        // In another order, one gone, one with another server, one secured otherwise.
        let mut next = plan(&[("c", true, 3), ("b", false, 9), ("a", false, 1)]);
        next.take_over(&before);
        assert!(groups.follow(&next).is_empty());
        assert_eq!(groups.planned(2), Some(a));
        assert_ne!(groups.planned(1), Some(b));
        assert_ne!(groups.planned(0), Some(c));
        assert_eq!(groups.planned(3), None);
        assert_eq!(groups.all.len(), 3, "nothing was to be done for the others");
    }

    /// A worker that was busy while an upstream went and came back has missed a plan, and another one may not: they share what the last plan says.
    #[test]
    fn an_upstream_that_came_back_is_a_new_one_also_for_who_missed_that() {
        let [first, mut second, mut third] = [&["a"][..], &[], &["a"]]
            .map(|names| plan(&names.iter().map(|name| (*name, false, 1)).collect::<Vec<_>>()));
        let mut groups = Groups::new(&first, 1);
        second.take_over(&first);
        third.take_over(&second);
        groups.follow(&third);
        let config = &third.upstreams[0].config;
        assert!(config.fleet.drain(&config.upstreams[0].address, true), "its worker is known");
        let key = groups.planned(0).unwrap();
        assert_eq!(groups.group(key).pool.choose(Wanted::Any, None, Tick(0)), None);
    }

    #[test]
    fn what_is_gone_goes_with_its_last_connection_and_request() {
        let mut groups = Groups::new(&plan(&[("a", false, 1)]), 1);
        let place = Place { group: groups.planned(0).unwrap(), server: 0 };
        for tag in [place.tag(), place.check_tag()] {
            assert_eq!((Place::of_tag(tag), Place::is_check(tag)), (place, tag == place.check_tag()));
        }
        (groups[place].open, groups.group(place.group).exchanges) = (2, 1);
        groups[place].idle.push(7);
        assert_eq!(groups.follow(&plan(&[("a", false, 2)])), [7], "the idle one is of no use");
        assert!(groups.is_leaving(place.group) && groups[place].idle.is_empty());
        groups[place].open = 0;
        groups.forget_if_done(place.group);
        assert!(groups.planned_as(place.group).is_some(), "a request is still there");
        groups.group(place.group).exchanges = 0;
        groups.forget_if_done(place.group);
        assert!(groups.planned_as(place.group).is_none());
        groups.forget_if_done(groups.planned(0).unwrap());
        assert_eq!(groups.all.len(), 1);
    }
}
