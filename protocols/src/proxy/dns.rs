//! Names of servers, looked up again and again on a thread of its own: what a name means now, and who is told when that changes.
//!
//! An answer holds as long as its TTL says, within limits. Where a lookup fails, the last good answer goes on. Nothing here is on the
//! way of a request.

use super::config::Server;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use ringmill_engine::Address;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

/// Servers of one name: more are not used.
const SERVERS_MAX: usize = 256;
/// A lookup that failed is made again after this.
const RETRY: Duration = Duration::from_secs(2);
/// All lookups at the start together may take so long.
const START: Duration = Duration::from_secs(10);

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
}

/// Names are looked up until this is dropped.
pub struct Watching {
    names: Vec<Name>,
    answers: Arc<Mutex<Vec<Answer>>>,
    /// Its drop is the sign.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Clone)]
struct Answer {
    servers: Vec<Server>,
    ttl: Duration,
}

impl Lookups {
    /// Looks all of them up. What has no answer now is a mistake, or nobody knows whom to ask.
    pub fn new(names: Vec<Name>, options: LookupOptions) -> Result<Lookups, String> {
        Lookups::with(names, options, |_| None)
    }

    /// Looks up those that were not watched before: the others go on with what they were last.
    pub fn after(names: Vec<Name>, options: LookupOptions, before: &Watching) -> Result<Lookups, String> {
        let answers = lock(&before.answers).clone();
        let known = |name: &Name| before.names.iter().position(|known| known == name);
        Lookups::with(names, options, |name| known(name).map(|at| answers[at].clone()))
    }

    fn with(
        names: Vec<Name>,
        options: LookupOptions,
        known: impl Fn(&Name) -> Option<Answer>,
    ) -> Result<Lookups, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("no thread to look names up: {error}"))?;
        let resolver = resolver(&options)?;
        let answers = runtime.block_on(async {
            let all = async {
                // All at once: one that takes long takes no time from the others.
                let mut asked = Vec::new();
                for name in &names {
                    let (known, resolver, name) = (known(name), resolver.clone(), name.clone());
                    asked.push(match known {
                        Some(answer) => Ok(answer),
                        None => Err(tokio::spawn(async move { look_up(&resolver, &name).await })),
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
        Ok(Lookups { runtime, resolver, names, answers, options })
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
        let Lookups { runtime, resolver, names, answers, options } = self;
        let (stop, stopped) = oneshot::channel();
        let answers = Arc::new(Mutex::new(answers));
        let (shared, watched) = (Arc::new((answers.clone(), on_change)), names.clone());
        let thread = std::thread::Builder::new().name("ringmill-dns".into()).spawn(move || {
            for (number, name) in names.into_iter().enumerate() {
                let (resolver, options, shared) = (resolver.clone(), options.clone(), shared.clone());
                runtime.spawn(async move {
                    let ttl = lock(&shared.0)[number].ttl;
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
                    follow(&resolver, &name, ttl, &options, tell).await;
                });
            }
            // Whether it is said or dropped.
            let _ = runtime.block_on(stopped);
        })?;
        Ok(Watching { names: watched, answers, stop: Some(stop), thread: Some(thread) })
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
    first: Duration,
    options: &LookupOptions,
    tell: impl Fn(Answer),
) {
    let (mut ttl, mut is_lost) = (first, false);
    loop {
        tokio::time::sleep(ttl.min(options.ttl_max).max(options.ttl_min)).await;
        match look_up(resolver, name).await {
            Ok(answer) => {
                (ttl, is_lost) = (answer.ttl, false);
                tell(answer);
            }
            Err(problem) => {
                if !std::mem::replace(&mut is_lost, true) {
                    tracing::warn!("{problem}: its last answer goes on");
                }
                ttl = RETRY;
            }
        }
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
    builder.build().map_err(|error| problem(&error))
}

async fn look_up(resolver: &TokioResolver, name: &Name) -> Result<Answer, String> {
    let mut answer = Answer { servers: Vec::new(), ttl: Duration::MAX };
    match name {
        Name::Host(host, port) => {
            let (ips, ttl) = host_of(resolver, host).await?;
            let server = |ip| Server::from(Address::from(SocketAddr::new(ip, *port)));
            answer = Answer { servers: ips.into_iter().map(server).collect(), ttl };
        }
        Name::Service(service) => {
            let found = resolver.srv_lookup(service.as_str()).await;
            let found = found.map_err(|error| format!("{name} has no answer: {error}"))?;
            let records = found.answers().iter();
            let services: Vec<_> = records
                .filter_map(|record| match &record.data {
                    RData::SRV(srv) => Some((srv.clone(), record.ttl)),
                    _ => None,
                })
                .take(SERVERS_MAX)
                .collect();
            let first = services.iter().map(|(srv, _)| srv.priority).min();
            let mut targets = Vec::new();
            for (srv, ttl) in services {
                answer.ttl = answer.ttl.min(Duration::from_secs(ttl.into()));
                let (resolver, host) = (resolver.clone(), srv.target.to_utf8());
                targets.push((srv, tokio::spawn(async move { host_of(&resolver, &host).await })));
            }
            let mut dead = None;
            for (srv, found) in targets {
                // A target that has no address is none: the others are as good as before.
                match found.await.unwrap_or_else(|error| Err(error.to_string())) {
                    Ok((ips, ttl)) => {
                        let server = |ip| Server {
                            weight: u32::from(srv.weight).max(1),
                            is_backup: Some(srv.priority) != first,
                            ..Server::from(Address::from(SocketAddr::new(ip, srv.port)))
                        };
                        answer.servers.extend(ips.into_iter().map(server));
                        answer.ttl = answer.ttl.min(ttl);
                    }
                    Err(problem) => {
                        answer.ttl = answer.ttl.min(RETRY);
                        dead = Some(problem);
                    }
                }
            }
            if let Some(problem) = dead {
                if answer.servers.is_empty() {
                    return Err(problem);
                }
                tracing::debug!("{name}: left out: {problem}");
            }
        }
    }
    // Resolvers turn the order; that is no change.
    answer.servers.sort_by_cached_key(|server| server.address.to_string());
    answer.servers.dedup_by(|one, two| one.address == two.address);
    answer.servers.truncate(SERVERS_MAX);
    if answer.servers.is_empty() { Err(format!("{name} has no address")) } else { Ok(answer) }
}

/// The addresses of a host, and how long they hold.
async fn host_of(resolver: &TokioResolver, host: &str) -> Result<(Vec<IpAddr>, Duration), String> {
    let found = resolver.lookup_ip(host).await.map_err(|error| format!("{host} has no answer: {error}"))?;
    let ttl = found.as_lookup().answers().iter().map(|record| record.ttl).min().unwrap_or(0);
    Ok((found.iter().take(SERVERS_MAX).collect(), Duration::from_secs(ttl.into())))
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
}
