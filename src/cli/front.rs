//! `ringmill serve --config`: a reverse proxy by a file, from start to end; and what becomes of it when the file changes.
//!
//! A change is prepared on the thread of signals: the file is read and checked, certificates are loaded, sockets bound, protocols made.
//! Only then the plan is published. Whatever fails before that leaves everything as it was.

use super::access_log::{LogWriter, open};
use super::https::watched;
use super::run::run;
use super::signals::{Orders, Reload};
use super::upstream_stats::UpstreamStats;
use crate::config::{Known, Listen, Settled, Source, StartOnly};
use ringmill::http::Server;
use ringmill::layer::proxy::Prefixed;
use ringmill::proxy::{Flowing, Flows, Lookups, Plans, Proxy, Relaying, Watching};
use ringmill::{
    Address, Builder, Engine, Error, Gate, Layer, ListenOptions, Listeners, Tls, TlsPeer, TlsStore,
    WorkerContext,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How often files of certificates are looked at.
const CERTIFICATES: Duration = Duration::from_secs(10);

/// Serves by a file until a signal ends it.
pub(super) fn serve(path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let descriptors = ringmill::raise_descriptor_limit();
    // Before anybody can see that we run: who sees it may rely on the handlers.
    let orders = Orders::listen()?;
    let (settled, known) = super::check::settled(path)?;
    let Settled { engine, drain, watch, listen, draft, lookups, access_log, server, .. } = settled;
    let writer = LogWriter::new(known.access_log.clone());
    if let Some((target, format)) = access_log {
        writer.direct(open(&target)?, format)?;
    }
    let lookups = draft.look_up(lookups, None)?;
    let plans = Plans::new(draft.first(lookups.as_ref()));
    let names = draft.watch(lookups, &plans)?;
    let mut builder = outbound(Engine::builder().config(engine), &plans);
    let mut current = Vec::new();
    for (place, listen) in listen.into_iter().enumerate() {
        let listening = Listening::new(listen, place, None)?;
        let address = listening.address.clone();
        builder = match &listening.flowing {
            Some(flowing) => builder.datagrams(address, flows(flowing, &plans)),
            None => stack(&listening, &plans, Start(builder, address)),
        };
        current.push(listening);
    }
    if let Some(stats) = &server.stats {
        let (address, plans) = (stats.value.clone(), plans.clone());
        builder = builder.listen(address, move |worker| {
            Server::new(UpstreamStats { plans: plans.clone(), stats: worker.stats.clone() })
        });
    }
    let running = builder.start()?;
    let (mut streams, mut datagrams) = (running.addresses().iter(), running.datagram_addresses().iter());
    for listening in &mut current {
        let addresses = if listening.flowing.is_some() { &mut datagrams } else { &mut streams };
        addresses.next().into_iter().for_each(|address| listening.address.clone_from(address));
    }
    // Behind all others, if it is there.
    let stats = streams.next();
    let Some(listeners) = running.listeners() else { return Ok(running.join()?) };
    let mut says: Vec<String> = current.iter().map(Listening::says).collect();
    says.extend(stats.map(|address| format!("stats of upstreams on {address}")));
    let stamp = Stamp::of(path);
    let (path, log) = (path.to_owned(), writer.clone());
    let mut front = Front { path, known, plans, names, listeners, current, server, stamp, log, drain };
    let reload = Reload { every: watch, run: Box::new(move |is_ordered| front.look(is_ordered)) };
    run(running, orders, drain, descriptors, Some(reload), Some(writer), |_| {
        says.iter().for_each(|line| tracing::info!("{line}"))
    })?;
    Ok(())
}

/// Adds what opens connections with upstreams, plain ones and those that are secured.
pub(super) fn outbound(builder: Builder, plans: &Plans) -> Builder {
    let (plain, secured) = (plans.clone(), plans.clone());
    let builder = builder.outbound(move |worker| Proxy::outbound(&plain, worker));
    builder.outbound(move |worker| {
        let (proxy, plans) = (Proxy::secured(&secured, worker), secured.clone());
        Tls::client(proxy, move |tag| plans.peer_of(tag)?.get::<TlsPeer>().cloned())
    })
}

/// What is served now.
struct Front {
    path: PathBuf,
    known: Known,
    plans: Plans,
    /// Names that are looked up.
    names: Option<Watching>,
    listeners: Listeners,
    /// In the order of the file.
    current: Vec<Listening>,
    server: StartOnly,
    /// Of the file, when it was last read.
    stamp: Option<Stamp>,
    log: LogWriter,
    /// So long flows of a listener that is gone may go on.
    drain: Duration,
}

struct Listening {
    listen: Listen,
    /// Where it stands in the file.
    place: usize,
    store: Option<Arc<TlsStore>>,
    /// It is there as long as the listener, so that nobody is forgotten whose connections are counted.
    gate: Gate,
    /// Where datagrams go that come there.
    flowing: Option<Flowing>,
    /// Where it is: port 0 has become a real one.
    address: Address,
}

/// What passes the datagrams of a listener on.
fn flows(flowing: &Flowing, plans: &Plans) -> impl Fn(&WorkerContext) -> Flows + Send + Sync + 'static {
    let (flowing, plans) = (flowing.clone(), plans.clone());
    move |worker| Flows::new(&plans, worker, &flowing)
}

impl Listening {
    /// What is needed for a listener, which may be there already as another one.
    fn new(listen: Listen, place: usize, before: Option<&Listening>) -> Result<Listening, Error> {
        let gate = match before {
            Some(before) => before.gate.with_rules(listen.rules.clone()),
            None => Gate::new(listen.rules.clone()),
        };
        let address = before.map_or(&listen.address, |before| &before.address).clone();
        let store = match before.filter(|before| before.differs_in_rules(&listen)) {
            Some(before) => before.store.clone(),
            None => listen.tls_config().map(|config| watched(config, CERTIFICATES)).transpose()?,
        };
        let before = before.and_then(|before| before.flowing.clone());
        let flowing = before.or_else(|| listen.flow_rules(&gate).map(Flowing::new));
        Ok(Listening { store, gate, flowing, address, listen, place })
    }

    /// Whether another one has its socket.
    fn is_at(&self, other: &Listen) -> bool {
        self.listen.address == other.address && self.listen.udp.is_some() == other.udp.is_some()
    }

    /// Listens no more.
    fn remove(&self, front: &Front) {
        match &self.flowing {
            Some(_) => front.listeners.remove_datagrams(&self.address, front.drain),
            None => front.listeners.remove(&self.address),
        };
    }

    /// Whether another one is the same but for who may come in, at most.
    fn differs_in_rules(&self, other: &Listen) -> bool {
        *other == Listen { rules: other.rules.clone(), ..self.listen.clone() }
    }

    /// The gate that the listener asks, if it does.
    fn gate_before(&self) -> Option<&Gate> {
        Some(&self.gate).filter(|_| !self.listen.rules.is_open() && self.listen.proxies.is_empty())
    }

    /// The gate that is asked behind the header of a proxy.
    fn gate_behind(&self) -> Option<&Gate> {
        Some(&self.gate).filter(|_| !self.listen.rules.is_open() && !self.listen.proxies.is_empty())
    }

    fn says(&self) -> String {
        match &self.store {
            None if self.flowing.is_some() => format!("datagrams on {}", self.address),
            None => format!("listening on {}", self.address),
            Some(store) => format!("TLS on {}; certificates: {}", self.address, store.summary()),
        }
    }
}

impl Front {
    /// Follows the file where that was ordered, or where it has changed.
    fn look(&mut self, is_ordered: bool) {
        let stamp = Stamp::of(&self.path);
        if !is_ordered && (stamp.is_none() || stamp == self.stamp) {
            return;
        }
        self.stamp = stamp;
        let followed = self.follow();
        let path = self.path.display();
        match followed {
            Ok(changed) if changed.is_empty() => tracing::info!("{path} was read again; all listeners stay"),
            Ok(changed) => tracing::info!("{path} was read again; {}", changed.join(", ")),
            Err(problem) => {
                tracing::error!("{path} cannot be followed, so what held before holds on: {problem}")
            }
        }
    }

    /// What changed about listeners, in words.
    fn follow(&mut self) -> Result<Vec<String>, String> {
        let source = Source::open(&self.path)?;
        let settled = source.settle(&mut self.known);
        let settled = settled.map_err(|problems| format!("\n{}", problems.render(&source)))?;
        let changed = settled.server.differs_in(&self.server);
        if !changed.is_empty() {
            return Err(format!("{} changed, which needs a restart", changed.join(", ")));
        }
        let Settled { draft, lookups, listen, access_log, .. } = settled;
        let mut lookups = draft.look_up(lookups, self.names.as_ref())?;
        let access_log = access_log.map(|(target, format)| Ok::<_, String>((open(&target)?, format)));
        let access_log = access_log.transpose()?;
        let mut left = std::mem::take(&mut self.current);
        let prepared = self.prepare(listen, &mut left);
        let (stay, changed, new) = match prepared {
            Ok(prepared) => prepared,
            Err((before, problem)) => {
                self.current = before;
                return Err(problem);
            }
        };
        let mut says = Vec::new();
        if let Some((file, format)) = access_log
            && let Err(problem) = self.log.direct(file, format)
        {
            tracing::error!("{problem}");
        }
        // Nobody publishes the plan before behind this one, and what was learned until now is in it.
        self.names = None;
        lookups.iter_mut().for_each(Lookups::catch_up);
        self.plans.publish(draft.first(lookups.as_ref()));
        match draft.watch(lookups, &self.plans) {
            Ok(names) => self.names = names,
            Err(error) => tracing::error!("names are not looked up until the next change: {error}"),
        }
        self.current = stay.into_iter().map(|(place, listening)| Listening { place, ..listening }).collect();
        for listening in self.current.iter().filter_map(|listening| listening.store.as_ref()) {
            // It says itself what is new, or wrong.
            let _ = listening.reload();
        }
        for (old, listening) in changed {
            if let Some(flowing) = &listening.flowing {
                listening.listen.flow_rules(&listening.gate).into_iter().for_each(|rules| flowing.set(rules));
                says.push(format!("{} changes", listening.address));
                self.current.push(listening);
                continue;
            }
            let sink = Replace(&self.listeners, &listening.address);
            // Without proxies its protocol knows nothing of lists.
            let keeps_protocol =
                listening.listen.proxies.is_empty() && old.differs_in_rules(&listening.listen);
            let done = if keeps_protocol { Ok(true) } else { stack(&listening, &self.plans, sink) };
            match done {
                Ok(_) => {
                    self.listeners.set_gate(&listening.address, listening.gate_before());
                    says.push(format!("{} changes", listening.address));
                    self.current.push(listening);
                }
                Err(error) => {
                    tracing::error!("{} stays as it was: {error}", listening.address);
                    self.current.push(Listening { place: listening.place, ..old });
                }
            }
        }
        says.extend(new.iter().map(Listening::says));
        self.current.extend(new);
        for gone in left {
            gone.remove(self);
            says.push(format!("{} is closed", gone.address));
        }
        self.current.sort_by_key(|listening| listening.place);
        Ok(says)
    }

    /// Sorts what is asked for into what stays, what changes and what is new, which listens already. What is left of `left` is not
    /// asked for any more. If anything fails, all is as it was: the error has it.
    fn prepare(
        &self,
        asked: Vec<Listen>,
        left: &mut Vec<Listening>,
    ) -> Result<Prepared, (Vec<Listening>, String)> {
        let (mut stay, mut changed, mut new) = (Vec::new(), Vec::new(), Vec::new());
        let mut others = Vec::new();
        // Several may have the same address, with port 0: first those are found that are as they were.
        for (place, listen) in asked.into_iter().enumerate() {
            match left.iter().position(|old| old.listen == listen) {
                Some(at) => stay.push((place, left.remove(at))),
                None => others.push((place, listen)),
            }
        }
        for (place, listen) in others {
            let old = left.iter().position(|old| old.is_at(&listen));
            let made = Listening::new(listen, place, old.map(|at| &left[at])).and_then(|mut listening| {
                if old.is_none() {
                    listening.address = match &listening.flowing {
                        Some(flowing) => {
                            self.listeners.add_datagrams(&listening.address, flows(flowing, &self.plans))?
                        }
                        None => stack(&listening, &self.plans, Add(&self.listeners, &listening.address))?,
                    };
                }
                Ok(listening)
            });
            let made = made.map_err(|error| error.to_string());
            match (made, old) {
                (Ok(made), Some(at)) => changed.push((left.remove(at), made)),
                (Ok(made), None) => new.push(made),
                (Err(problem), _) => {
                    new.iter().for_each(|listening: &Listening| listening.remove(self));
                    let stay = stay.into_iter().map(|(_, old)| old).chain(left.drain(..));
                    let mut before: Vec<_> = stay.chain(changed.into_iter().map(|(old, _)| old)).collect();
                    before.sort_by_key(|listening| listening.place);
                    return Err((before, problem));
                }
            }
        }
        Ok((stay, changed, new))
    }
}

/// What stays, and where in the file it stands now; what changes (as it is, and as it will be); and what is new.
type Prepared = (Vec<(usize, Listening)>, Vec<(Listening, Listening)>, Vec<Listening>);

/// Who takes what makes the protocols of a listener.
trait Sink {
    type Taken;

    fn take<L: Layer>(
        self,
        gate: Option<&Gate>,
        factory: impl Fn(&WorkerContext) -> L + Send + Sync + 'static,
    ) -> Self::Taken;
}

/// An engine that has not started.
struct Start(Builder, Address);
/// One that runs.
struct Add<'a>(&'a Listeners, &'a Address);
/// The same; somebody listens there.
struct Replace<'a>(&'a Listeners, &'a Address);

impl Sink for Start {
    type Taken = Builder;

    fn take<L: Layer>(
        self,
        gate: Option<&Gate>,
        factory: impl Fn(&WorkerContext) -> L + Send + Sync + 'static,
    ) -> Builder {
        self.0.listen_with(self.1, behind(gate), factory)
    }
}

impl Sink for Add<'_> {
    type Taken = Result<Address, Error>;

    fn take<L: Layer>(
        self,
        gate: Option<&Gate>,
        factory: impl Fn(&WorkerContext) -> L + Send + Sync + 'static,
    ) -> Result<Address, Error> {
        self.0.add(self.1, behind(gate), factory)
    }
}

impl Sink for Replace<'_> {
    type Taken = Result<bool, Error>;

    /// Its gate is changed apart from its protocol.
    fn take<L: Layer>(
        self,
        _: Option<&Gate>,
        factory: impl Fn(&WorkerContext) -> L + Send + Sync + 'static,
    ) -> Result<bool, Error> {
        self.0.replace(self.1, factory)
    }
}

fn behind(gate: Option<&Gate>) -> ListenOptions {
    ListenOptions { gate: gate.cloned(), ..ListenOptions::default() }
}

/// What stands on each other behind an address.
fn stack<S: Sink>(listening: &Listening, plans: &Plans, sink: S) -> S::Taken {
    let listen = &listening.listen;
    let (plans, https_port, proxies) = (plans.clone(), listen.https_port, listen.proxies.clone());
    let (before, behind) = (listening.gate_before(), listening.gate_behind().cloned());
    let named = |relaying| Relaying { listener: listen.address.to_string(), ..relaying };
    let relaying = listen.tcp.clone().map(named);
    let proxy = move |worker: &WorkerContext| {
        let proxy = Proxy::listening(&plans, worker).with_https_port(https_port);
        match &relaying {
            Some(relaying) => proxy.with_relaying(relaying.clone()),
            None => proxy,
        }
    };
    match (listening.store.clone(), proxies.is_empty()) {
        (None, true) => sink.take(before, proxy),
        (None, false) => sink.take(before, move |worker| {
            Prefixed::new(proxy(worker), proxies.clone()).with_gate(behind.clone())
        }),
        (Some(store), true) => sink.take(before, move |worker| Tls::new(proxy(worker), store.clone())),
        (Some(store), false) => sink.take(before, move |worker| {
            let secured = Tls::new(proxy(worker), store.clone());
            Prefixed::new(secured, proxies.clone()).with_gate(behind.clone())
        }),
    }
}

/// What tells that a file has changed: device, inode, size, time.
#[derive(PartialEq, Eq)]
struct Stamp(u64, u64, u64, i64, i64);

impl Stamp {
    fn of(path: &Path) -> Option<Stamp> {
        use std::os::unix::fs::MetadataExt;
        let file = std::fs::metadata(path).ok()?;
        Some(Stamp(file.dev(), file.ino(), file.size(), file.mtime(), file.mtime_nsec()))
    }
}
