//! Upstreams of `ringmill proxy`: addresses, and names whose addresses are looked up again and again.

use crate::config::text::Server;
use ringmill::Error;
use ringmill::proxy::{self, LookupOptions, Lookups, Name, Plan, Plans, ProxyConfig, Watching};
use std::net::SocketAddr;
use std::str::FromStr;

/// A server, or a name of several.
#[derive(Clone, Debug)]
pub(crate) enum Upstream {
    Server(Server),
    Name(Name),
}

/// All of them, in the order in which they have numbers; those that stand by are marked.
#[derive(Clone)]
pub(crate) struct Upstreams(pub(crate) Vec<(Upstream, bool)>);

impl Upstreams {
    pub(crate) fn new(upstreams: Vec<Upstream>, backup: Vec<Upstream>) -> Upstreams {
        let marked = |is_backup| move |upstream| (upstream, is_backup);
        Upstreams(
            upstreams.into_iter().map(marked(false)).chain(backup.into_iter().map(marked(true))).collect(),
        )
    }

    pub(crate) fn names(&self) -> Vec<Name> {
        let name = |(upstream, _): &(Upstream, bool)| match upstream {
            Upstream::Name(name) => Some(name.clone()),
            Upstream::Server(_) => None,
        };
        self.0.iter().filter_map(name).collect()
    }

    /// The servers that they are now, where names have these answers, in order.
    pub(crate) fn servers(&self, answers: &[Vec<proxy::Server>]) -> Vec<proxy::Server> {
        let (mut answers, mut all) = (answers.iter(), Vec::new());
        for (upstream, is_backup) in &self.0 {
            let mut servers = match upstream {
                Upstream::Server(server) => vec![proxy::Server::from(server.address.clone())],
                Upstream::Name(_) => answers.next().cloned().unwrap_or_default(),
            };
            servers.iter_mut().for_each(|server| server.is_backup |= is_backup);
            all.append(&mut servers);
        }
        all
    }

    /// A plan with what the names mean now, which changes with them until the second value is dropped.
    pub(crate) fn follow(
        self,
        config: ProxyConfig,
        resolvers: Vec<SocketAddr>,
    ) -> Result<(Plans, Watching), Error> {
        let problem = |problem: String| Error::Config { problems: vec![problem] };
        let options = LookupOptions { resolvers, ..LookupOptions::default() };
        let lookups = Lookups::new(self.names(), options).map_err(problem)?;
        let planned = move |answers: &[Vec<proxy::Server>]| {
            Plan::one(ProxyConfig { upstreams: self.servers(answers), ..config.clone() })
        };
        let plans = Plans::new(planned(&lookups.servers()));
        let published = plans.clone();
        let watching = lookups.watch(move |answers| published.publish(planned(answers)));
        let watching = watching.map_err(|error| problem(format!("no thread to look names up: {error}")))?;
        Ok((plans, watching))
    }
}

impl FromStr for Upstream {
    type Err = String;

    fn from_str(text: &str) -> Result<Upstream, String> {
        match text.strip_prefix("dns:") {
            Some(name) => name.parse().map(Upstream::Name),
            None => text.parse().map(Upstream::Server),
        }
    }
}

impl std::fmt::Display for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Upstream::Server(server) => server.fmt(f),
            Upstream::Name(name) => name.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_for_their_servers() {
        let read = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let upstreams =
            Upstreams::new(read(&["3000", "dns:a:80"]), read(&["dns:_http._tcp.b", "10.0.0.1:1"]));
        let servers = |ports: &[u16]| {
            let server =
                |port: &u16| proxy::Server::from(ringmill::Address::Ip(([10, 1, 1, 1], *port).into()));
            ports.iter().map(server).collect::<Vec<_>>()
        };
        assert_eq!(upstreams.names().len(), 2);
        let all = upstreams.servers(&[servers(&[80, 81]), servers(&[90])]);
        let all: Vec<_> = all.iter().map(|server| format!("{server} {}", server.is_backup)).collect();
        assert_eq!(
            all,
            [
                "127.0.0.1:3000 false",
                "10.1.1.1:80 false",
                "10.1.1.1:81 false",
                "10.1.1.1:90 true",
                "10.0.0.1:1 true"
            ]
        );
        assert!("dns:a".parse::<Upstream>().unwrap_err().contains("HOST:PORT"));
    }
}
