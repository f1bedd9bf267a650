//! A plan of which names are still names: what they mean is looked up, and with every change the next plan is made.

use super::text::{At, Server};
use ringmill::Error;
use ringmill::proxy::{
    self, LookupOptions, Lookups, Name, Peer, Plan, PlannedUpstream, Plans, ProxyConfig, Watching,
};
use std::fmt;
use std::sync::Arc;

/// A server of an upstream, or a name of several.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) server: Server,
    /// Of each server that it stands for, unless the name says another one.
    pub(crate) weight: u32,
    pub(crate) is_backup: bool,
    /// With whom connections are secured.
    pub(crate) peer: Option<Peer>,
}

/// An upstream whose servers are to come.
#[derive(Clone, Debug)]
pub(crate) struct Drafted {
    pub(crate) name: String,
    pub(crate) entries: Vec<Entry>,
    pub(crate) config: ProxyConfig,
}

/// Upstreams, and what makes a plan of them.
#[derive(Clone)]
pub(crate) struct Draft {
    pub(crate) upstreams: Vec<Drafted>,
    plan: Arc<dyn Fn(Vec<PlannedUpstream>) -> Plan + Send + Sync>,
}

impl Draft {
    pub(crate) fn new(
        upstreams: Vec<Drafted>,
        plan: impl Fn(Vec<PlannedUpstream>) -> Plan + Send + Sync + 'static,
    ) -> Draft {
        Draft { upstreams, plan: Arc::new(plan) }
    }

    /// All names, in order; one that is used twice is in it twice.
    pub(crate) fn names(&self) -> Vec<Name> {
        let entries = self.upstreams.iter().flat_map(|upstream| &upstream.entries);
        let name = |entry: &Entry| match &entry.server.at {
            At::Name(name) => Some(name.clone()),
            At::Address(_) => None,
        };
        entries.filter_map(name).collect()
    }

    /// The plan, where names have these answers, in order: a name that has none stands for no server.
    pub(crate) fn plan(&self, answers: &[Vec<proxy::Server>]) -> Plan {
        let mut answers = answers.iter();
        let planned = |upstream: &Drafted| {
            let mut servers = Vec::new();
            upstream.entries.iter().for_each(|entry| entry.add(&mut answers, &mut servers));
            let config = ProxyConfig { upstreams: servers, ..upstream.config.clone() };
            PlannedUpstream { name: upstream.name.clone(), config: Arc::new(config) }
        };
        let upstreams = self.upstreams.iter().map(planned).collect();
        (self.plan)(upstreams)
    }

    /// Looks its names up: those that were watched before go on with what they were.
    pub(crate) fn look_up(
        &self,
        options: LookupOptions,
        before: Option<&Watching>,
    ) -> Result<Option<Lookups>, String> {
        let names = self.names();
        match before {
            _ if names.is_empty() => Ok(None),
            None => Lookups::new(names, options).map(Some),
            Some(before) => Lookups::after(names, options, before).map(Some),
        }
    }

    /// Its plan by these lookups.
    pub(crate) fn first(&self, lookups: Option<&Lookups>) -> Plan {
        self.plan(&lookups.map_or(Vec::new(), Lookups::servers))
    }

    /// Publishes its next plans, until what this returns is dropped.
    pub(crate) fn watch(self, lookups: Option<Lookups>, plans: &Plans) -> Result<Option<Watching>, Error> {
        let Some(lookups) = lookups else { return Ok(None) };
        let plans = plans.clone();
        let watching = lookups.watch(move |answers| plans.publish(self.plan(answers)));
        watching.map(Some).map_err(|source| Error::Worker { worker: 0, step: "looking names up", source })
    }
}

impl Entry {
    /// Adds the servers that it stands for; an answer of names is its own.
    fn add<'a>(
        &self,
        answers: &mut impl Iterator<Item = &'a Vec<proxy::Server>>,
        to: &mut Vec<proxy::Server>,
    ) {
        let before = to.len();
        match &self.server.at {
            At::Address(address) => to.push(proxy::Server::from(address.clone())),
            At::Name(_) => to.extend(answers.next().into_iter().flatten().cloned()),
        }
        for server in &mut to[before..] {
            server.weight = server.weight.saturating_mul(self.weight);
            server.is_backup |= self.is_backup;
            server.peer = self.peer.clone();
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.server.fmt(f)?;
        if self.weight != 1 {
            write!(f, " weight {}", self.weight)?;
        }
        f.write_str(if self.is_backup { " (backup)" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_for_their_servers() {
        let entry = |text: &str, weight, is_backup| {
            let server = text.parse::<Server>().unwrap();
            let peer = server.secure_name.as_ref().map(|name| Peer::new(name.clone()));
            Entry { server, weight, is_backup, peer }
        };
        let entries = vec![
            entry("3000", 1, false),
            entry("dns:https://a:80", 2, false),
            entry("dns:_http._tcp.b", 1, true),
            entry("https://10.0.0.1:1", 3, true),
        ];
        let described: Vec<String> = entries.iter().map(Entry::to_string).collect();
        assert_eq!(
            described,
            [
                "127.0.0.1:3000",
                "dns:a:80 (TLS as a) weight 2",
                "dns:_http._tcp.b (backup)",
                "10.0.0.1:1 (TLS as 10.0.0.1) weight 3 (backup)"
            ]
        );
        let drafted = Drafted { name: "a".to_owned(), entries, config: ProxyConfig::new(Vec::new()) };
        let draft = Draft::new(vec![drafted], |mut all| Plan::one(ProxyConfig::clone(&all.remove(0).config)));
        let servers = |ports: &[u16]| {
            let server =
                |port: &u16| proxy::Server::from(ringmill::Address::Ip(([10, 1, 1, 1], *port).into()));
            ports.iter().map(server).collect::<Vec<_>>()
        };
        assert_eq!(draft.names().len(), 2);
        let plan = draft.plan(&[servers(&[80, 81]), servers(&[90])]);
        let all: Vec<_> = plan.upstreams()[0]
            .config
            .upstreams
            .iter()
            .map(|server| {
                let peer = server.peer.as_ref().and_then(|peer| peer.get::<String>());
                format!("{server} {} {} {peer:?}", server.weight, server.is_backup)
            })
            .collect();
        assert_eq!(
            all,
            [
                "127.0.0.1:3000 1 false None",
                "10.1.1.1:80 2 false Some(\"a\")",
                "10.1.1.1:81 2 false Some(\"a\")",
                "10.1.1.1:90 1 true None",
                "10.0.0.1:1 3 true Some(\"10.0.0.1\")"
            ]
        );
    }
}
