//! Names of servers, looked up again and again on a thread of its own: what a name means now, and who is told when that changes.
//!
//! An answer holds as long as its TTL says, within limits. Where a lookup fails, or a part of it, what was said last goes on, and it is asked
//! again soon: an address is gone when a name server has said so. Nothing here is on the way of a request.

use super::config::Server;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use ringmill_engine::Address;
use std::cmp::Reverse;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

/// Servers of one name: more are not used.
const SERVERS_MAX: usize = 256;
/// A lookup that failed is made again after this, and one of which a part failed.
const RETRY: Duration = Duration::from_secs(2);
/// All lookups at the start together may take so long.
const START: Duration = Duration::from_secs(10);
/// A question that nobody answers is asked again after this, and given up when it was asked so often again: twice so, as for a kind of address
/// that a name server does not know, is still in time for a start.
const ANSWER: Duration = Duration::from_secs(1);
const AGAIN_MAX: usize = 2;

/// A name that stands for servers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Name {
    /// A host, by A and AAAA, and a port.
    Host(String, u16),
    /// A service, by SRV (RFC 2782), as `_http._tcp.example.com`. Servers of a later priority stand by.
    Service(String),
}

/// How names are looked up.
#[derive(Clone, Debug)]
pub struct LookupOptions {
    /// Whom to ask; nobody for what the system says (`/etc/resolv.conf`).
    pub resolvers: Vec<SocketAddr>,
    /// An answer holds at least so long.
    pub ttl_min: Duration,
    /// And at most so long.
    pub ttl_max: Duration,
}

impl Default for LookupOptions {
    fn default() -> LookupOptions {
        let (ttl_min, ttl_max) = (Duration::from_secs(1), Duration::from_secs(60));
        LookupOptions { resolvers: Vec::new(), ttl_min, ttl_max }
    }
}

/// Names that have been looked up once.
pub struct Lookups {
    runtime: Runtime,
    resolver: TokioResolver,
    names: Vec<Name>,
    answers: Vec<Answer>,
    options: LookupOptions,
    before: Option<Known>,
}

/// Names, and what they are.
#[derive(Clone)]
struct Known {
    names: Vec<Name>,
    answers: Arc<Mutex<Vec<Answer>>>,
}

impl Known {
    fn answer(&self, name: &Name) -> Option<Answer> {
        let at = self.names.iter().position(|known| known == name)?;
        Some(lock(&self.answers)[at].clone())
    }
}

/// Names are looked up until this is dropped.
pub struct Watching {
    known: Known,
    /// Its drop is the sign.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// The kinds of address that are asked for.
const KINDS: [RecordType; 2] = [RecordType::A, RecordType::AAAA];

/// The addresses of a host, of each kind: what was said last, which may be none at all, or `None` where nobody has said anything yet.
type Ips = [Option<Vec<IpAddr>>; KINDS.len()];

/// What a host is.
struct Host {
    ips: Ips,
    ttl: Duration,
    /// Why a part of it is what it was before.
    unknown: Option<String>,
    /// Why there is no address, where there is none.
    problem: String,
}

#[derive(Clone, Default)]
struct Answer {
    servers: Vec<Server>,
    ttl: Duration,
    /// What its hosts are.
    hosts: Vec<(String, Ips)>,
    /// What nobody could tell: there it is what it was before.
    unknown: Option<String>,
}

impl Answer {
    fn host(&self, host: &str) -> Ips {
        self.hosts.iter().find(|(known, _)| known == host).map(|(_, ips)| ips.clone()).unwrap_or_default()
    }

    fn add(&mut self, name: String, host: Host, server: impl Fn(IpAddr) -> Server) {
        self.servers.extend(host.ips.iter().flatten().flatten().map(|ip| server(*ip)));
        self.ttl = self.ttl.min(host.ttl);
        self.unknown = self.unknown.take().or(host.unknown);
        self.hosts.push((name, host.ips));
    }

    /// In an order of its own, since resolvers turn theirs, which is no change. Where an address is in it twice, or there are too many, those
    /// that stand by are left out first.
    fn settle(&mut self) {
        self.servers.sort_by_cached_key(|server| {
            (server.address.to_string(), server.is_backup, Reverse(server.weight))
        });
        self.servers.dedup_by(|one, two| one.address == two.address);
        self.servers.sort_by_key(|server| server.is_backup);
        self.servers.truncate(SERVERS_MAX);
    }

    /// How long it holds.
    fn time(&self, options: &LookupOptions) -> Duration {
        match self.unknown {
            None => self.ttl.min(options.ttl_max).max(options.ttl_min),
            Some(_) => RETRY,
        }
    }
}

impl Lookups {
    /// Looks all of them up. What has no answer now is a mistake, or nobody knows whom to ask.
    pub fn new(names: Vec<Name>, options: LookupOptions) -> Result<Lookups, String> {
        Lookups::with(names, options, None)
    }

    /// Looks up those that were not watched before: the others go on with what they were last.
    pub fn after(names: Vec<Name>, options: LookupOptions, before: &Watching) -> Result<Lookups, String> {
        Lookups::with(names, options, Some(before.known.clone()))
    }

    fn with(names: Vec<Name>, options: LookupOptions, before: Option<Known>) -> Result<Lookups, String> {
        let known = |name: &Name| before.as_ref().and_then(|before| before.answer(name));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("no thread to look names up: {error}"))?;
        let resolver = resolver(&options)?;
        let answers = runtime.block_on(async {
            let all =
                async {
                    // All at once: one that takes long takes no time from the others.
                    let mut asked = Vec::new();
                    for name in &names {
                        let (known, resolver, name) = (known(name), resolver.clone(), name.clone());
                        asked.push(match known {
                            Some(answer) => Ok(answer),
                            None => Err(tokio::spawn(async move {
                                look_up(&resolver, &name, &Answer::default()).await
                            })),
                        });
                    }
                    let mut answers = Vec::new();
                    for answer in asked {
                        answers.push(match answer {
                            Ok(known) => known,
                            Err(asked) => asked.await.map_err(|error| error.to_string())??,
                        });
                    }
                    Ok(answers)
                };
            let late = |_| Err("looking names up takes too long: nobody answers".to_owned());
            tokio::time::timeout(START, all).await.unwrap_or_else(late)
        })?;
        Ok(Lookups { runtime, resolver, names, answers, options, before })
    }

    /// Those that were watched before are what they were when that ended: the others may have taken their time since [`Lookups::after`].
    pub fn catch_up(&mut self) {
        if let Some(before) = self.before.take() {
            for (name, answer) in self.names.iter().zip(&mut self.answers) {
                if let Some(last) = before.answer(name) {
                    *answer = last;
                }
            }
        }
    }

    /// The servers of each name.
    pub fn servers(&self) -> Vec<Vec<Server>> {
        self.answers.iter().map(|answer| answer.servers.clone()).collect()
    }

    /// Goes on looking, on a thread of its own. Who is told gets the servers of all names when those of one have changed.
    pub fn watch(
        self,
        on_change: impl Fn(&[Vec<Server>]) + Send + Sync + 'static,
    ) -> std::io::Result<Watching> {
        let Lookups { runtime, resolver, names, answers, options, .. } = self;
        let (stop, stopped) = oneshot::channel();
        let answers = Arc::new(Mutex::new(answers));
        let known = Known { names: names.clone(), answers: answers.clone() };
        let shared = Arc::new((answers, on_change));
        let thread = std::thread::Builder::new().name("ringmill-dns".into()).spawn(move || {
            for (number, name) in names.into_iter().enumerate() {
                let (resolver, options, shared) = (resolver.clone(), options.clone(), shared.clone());
                runtime.spawn(async move {
                    let first = lock(&shared.0)[number].clone();
                    let tell = |answer: Answer| {
                        let mut answers = lock(&shared.0);
                        let is_other = answers[number].servers != answer.servers;
                        answers[number] = answer;
                        if is_other {
                            let all: Vec<_> = answers.iter().map(|answer| answer.servers.clone()).collect();
                            tracing::info!("{name}: {}", listed(&all[number]));
                            // While the lock is held, so that nobody is told the older one last.
                            (shared.1)(&all);
                        }
                    };
                    follow(&resolver, &name, first, &options, tell).await;
                });
            }
            // Whether it is said or dropped.
            let _ = runtime.block_on(stopped);
        })?;
        Ok(Watching { known, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic was told already.
            let _ = thread.join();
        }
    }
}

/// Looks a name up for ever, each time when the answer before has had its time.
async fn follow(
    resolver: &TokioResolver,
    name: &Name,
    mut last: Answer,
    options: &LookupOptions,
    tell: impl Fn(Answer),
) {
    let (mut time, mut lost) = (last.time(options), None);
    loop {
        tokio::time::sleep(time).await;
        // Whether it is all of it, and why.
        let missed = match look_up(resolver, name, &last).await {
            Ok(answer) => {
                time = answer.time(options);
                last = answer.clone();
                tell(answer);
                last.unknown.clone().map(|problem| (false, problem))
            }
            Err(problem) => {
                time = RETRY;
                Some((true, problem))
            }
        };
        let is_all = missed.as_ref().map(|(is_all, _)| *is_all);
        if let Some((_, problem)) = missed.filter(|_| is_all > lost) {
            tracing::warn!("{problem}: its last answer goes on");
        }
        lost = is_all;
    }
}

fn resolver(options: &LookupOptions) -> Result<TokioResolver, String> {
    let problem = |error: &dyn std::fmt::Display| format!("nobody to look names up with: {error}");
    let mut builder = if options.resolvers.is_empty() {
        TokioResolver::builder_tokio().map_err(|error| problem(&error))?
    } else {
        let server = |address: &SocketAddr| {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = address.port();
                connection
            });
            NameServerConfig::new(address.ip(), true, connections.into())
        };
        let servers = options.resolvers.iter().map(server).collect();
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    let settings = builder.options_mut();
    settings.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    // Whoever asks again wants to know it anew.
    settings.cache_size = 0;
    settings.timeout = settings.timeout.min(ANSWER);
    settings.attempts = settings.attempts.min(AGAIN_MAX);
    builder.build().map_err(|error| problem(&error))
}

/// What a name means now, which was `before`.
async fn look_up(resolver: &TokioResolver, name: &Name, before: &Answer) -> Result<Answer, String> {
    let mut answer = Answer { ttl: Duration::MAX, ..Answer::default() };
    let mut problem = format!("{name} has no address");
    match name {
        Name::Host(host, port) => {
            let found = host_of(resolver, host, &before.host(host)).await;
            problem.clone_from(&found.problem);
            answer.add(host.clone(), found, |ip| Server::from(Address::from(SocketAddr::new(ip, *port))));
        }
        Name::Service(service) => {
            let found = resolver.srv_lookup(service.as_str()).await;
            let found = found.map_err(|error| format!("{name} has no answer: {error}"))?;
            let services = services_of(found.answers());
            let first = services.first().map(|(srv, _)| srv.priority);
            let mut targets = Vec::new();
            for (srv, ttl) in services {
                answer.ttl = answer.ttl.min(ttl);
                // In whatever case it is told this time, it is the same host.
                let (resolver, host) = (resolver.clone(), srv.target.to_lowercase().to_ascii());
                let before = before.host(&host);
                let asked = async move { (host_of(&resolver, &host, &before).await, host) };
                targets.push((srv, tokio::spawn(asked)));
            }
            for (srv, asked) in targets {
                let (found, host) = asked.await.map_err(|error| error.to_string())?;
                // A target that has no address is none: the others are as good as before.
                if found.ips.iter().flatten().flatten().next().is_none() {
                    tracing::debug!("{name}: {}", found.problem);
                    problem.clone_from(&found.problem);
                }
                answer.add(host, found, |ip| Server {
                    weight: u32::from(srv.weight).max(1),
                    is_backup: Some(srv.priority) != first,
                    ..Server::from(Address::from(SocketAddr::new(ip, srv.port)))
                });
            }
        }
    }
    answer.settle();
    if answer.servers.is_empty() { Err(problem) } else { Ok(answer) }
}

/// The services of an answer, first those that are used first: where there are too many, it is the same ones each time that are left.
fn services_of(records: &[Record]) -> Vec<(SRV, Duration)> {
    let service = |record: &Record| match &record.data {
        RData::SRV(srv) => Some((srv.clone(), Duration::from_secs(record.ttl.into()))),
        _ => None,
    };
    let mut services: Vec<(SRV, Duration)> = records.iter().filter_map(service).collect();
    services.sort_by_cached_key(|(srv, _)| (srv.priority, Reverse(srv.weight), srv.target.clone(), srv.port));
    services.truncate(SERVERS_MAX);
    services
}

/// The addresses of this kind in an answer.
fn ips_of(records: &[Record], kind: RecordType) -> Vec<IpAddr> {
    let own = records.iter().filter(|record| record.record_type() == kind);
    let mut ips: Vec<IpAddr> = own.filter_map(|record| record.data.ip_addr()).collect();
    ips.sort_unstable();
    ips.dedup();
    ips.truncate(SERVERS_MAX);
    ips
}

/// What a host is now. Hickory asks for both kinds of address, and says what it has: where one of the two questions fails, the answer to the
/// other comes alone, and where both do, one mistake. So a kind that is not there is asked for by itself, unless there was none before.
async fn host_of(resolver: &TokioResolver, host: &str, before: &Ips) -> Host {
    let found = resolver.lookup_ip(host).await;
    let mut records = found.as_ref().map_or(Vec::new(), |found| found.as_lookup().answers().to_vec());
    // Where there is a list of domains to search, it says in which one it is.
    let query = found.as_ref().ok().and_then(|found| found.as_lookup().message().queries.first());
    let name = query.map_or_else(|| host.to_owned(), |query| query.name().to_ascii());
    let mut unknown = [None, None];
    for ((kind, before), unknown) in KINDS.into_iter().zip(before).zip(&mut unknown) {
        let is_there = records.iter().any(|record| record.record_type() == kind);
        if is_there || before.as_ref().is_some_and(Vec::is_empty) {
            continue;
        }
        match resolver.lookup(name.as_str(), kind).await {
            Ok(again) => records.extend_from_slice(again.answers()),
            Err(error) if error.is_no_records_found() => {}
            Err(error) => *unknown = Some(format!("{host} has no answer for {kind}: {error}")),
        }
    }
    let ips = std::array::from_fn(|at| match unknown[at] {
        None => Some(ips_of(&records, KINDS[at])),
        Some(_) => before[at].clone(),
    });
    // One that has no address now may have one soon.
    let ttl = records.iter().map(|record| Duration::from_secs(record.ttl.into())).min().unwrap_or(RETRY);
    let unknown = unknown.into_iter().flatten().next();
    let problem = match (&unknown, found) {
        (Some(problem), _) => problem.clone(),
        (None, Err(error)) => format!("{host} has no answer: {error}"),
        (None, Ok(_)) => format!("{host} has no address"),
    };
    Host { ips, ttl, unknown, problem }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn listed(servers: &[Server]) -> String {
    servers.iter().map(Server::to_string).collect::<Vec<_>>().join(", ")
}

impl FromStr for Name {
    type Err = String;

    /// `HOST:PORT`, or a service, whose first label begins with an underscore.
    fn from_str(text: &str) -> Result<Name, String> {
        let is_name = |name: &str| {
            let is_good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
            !name.is_empty() && name.len() < 256 && name.bytes().all(is_good) && !name.starts_with('.')
        };
        if text.starts_with('_') && is_name(text) {
            return Ok(Name::Service(text.to_owned()));
        }
        let split = text.rsplit_once(':').filter(|(host, _)| is_name(host));
        let port = split.and_then(|(host, port)| Some((host, port.parse().ok().filter(|port| *port != 0)?)));
        let problem = || format!("{text:?} is neither HOST:PORT nor a service as _http._tcp.example.com");
        port.map(|(host, port)| Name::Host(host.to_owned(), port)).ok_or_else(problem)
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Name::Host(host, port) => write!(f, "dns:{host}:{port}"),
            Name::Service(service) => write!(f, "dns:{service}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_resolver::proto::rr::rdata::A;

    #[test]
    fn names_are_read() {
        let check = |text: &str, expected: Option<Name>| assert_eq!(text.parse().ok(), expected, "{text}");
        check("api.internal:8080", Some(Name::Host("api.internal".to_owned(), 8080)));
        check("api:1", Some(Name::Host("api".to_owned(), 1)));
        check("api.internal.:1", Some(Name::Host("api.internal.".to_owned(), 1)));
        check("_http._tcp.api.internal", Some(Name::Service("_http._tcp.api.internal".to_owned())));
        for none in ["", "api", "api:", "api:0", "api:65536", ":1", "a b:1", "[::1]:1", "a/b:1", ".a:1"] {
            check(none, None);
        }
    }

    #[test]
    fn the_same_servers_are_left_of_too_many_in_whatever_order_they_come() {
        let ip = |n: u16| [10, 0, (n >> 8) as u8, n as u8];
        let record = |data: RData| Record::from_rdata("a.test.".parse().unwrap(), 1, data);
        let mut addresses: Vec<_> = (0..600).map(|n| record(RData::A(A(ip(n).into())))).collect();
        let target = |n: u16| format!("{n}.test.").parse().unwrap();
        let mut services: Vec<_> =
            (0..600).map(|n| record(RData::SRV(SRV::new(n % 2, 1, 80, target(n))))).collect();
        // An address that is there twice, which stands by here and not there.
        let server = |n: u16, weight, is_backup| {
            let address = Address::from(SocketAddr::new(IpAddr::from(ip(n)), 80));
            Server { weight, is_backup, ..Server::from(address) }
        };
        let mut servers: Vec<_> = (0..600).map(|n| server(n, 1, n < 400)).collect();
        servers.extend([server(0, 2, false), server(599, 3, false)]);
        let mut seen = || {
            addresses.rotate_left(101);
            services.rotate_left(101);
            servers.rotate_left(101);
            let mut answer = Answer { servers: servers.clone(), ..Answer::default() };
            answer.settle();
            (ips_of(&addresses, RecordType::A), services_of(&services), answer.servers)
        };
        let first = seen();
        for _ in 0..6 {
            let (ips, services, servers) = seen();
            assert!((&ips, &services, &servers) == (&first.0, &first.1, &first.2));
            assert_eq!([ips.len(), services.len(), servers.len()], [SERVERS_MAX; 3]);
            assert!(services.iter().all(|(srv, _)| srv.priority == 0));
            assert_eq!(servers.iter().filter(|server| !server.is_backup).count(), 201);
            assert!(servers.contains(&server(0, 2, false)) && servers.contains(&server(599, 3, false)));
        }
    }
}
