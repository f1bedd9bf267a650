//! Choosing the driver, starting the threads, binding when all of them are made, and handing over the sockets.

use super::job::{Choice, Job, Protocols, Sockets};
use super::later::{Inner, Listeners};
use super::{Builder, DatagramClients, DatagramListener, Stream};
use super::{Handle, Running, ServiceFactory, WorkerContext};
use crate::address::Address;
use crate::bell::Bell;
use crate::config::{Config, DriverChoice, ListenOptions, Pin, cpu_ranges};
use crate::driver::uring;
use crate::error::{Error, step};
#[cfg(feature = "tokio")]
use crate::host::TokioOptions;
use crate::listen::bind::{self, Bound};
use crate::listen::patience::Patience;
use crate::listen::unix::{self, UnixPaths};
use crate::stats::Stats;
use crate::sys;
use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};

/// Descriptors that connections leave for everything else.
const RESERVED_DESCRIPTORS: u64 = 64;
/// Fewer connections a worker than this are worth a warning: a browser alone opens six to a host.
const CONNECTIONS_FEW: u64 = 64;

pub(super) fn start(builder: Builder) -> Result<Running, Error> {
    #[cfg(feature = "tokio")]
    let tokio = host_options(&builder)?;
    let Builder { config, streams, datagrams, outbound, datagram_clients, problem, .. } = builder;
    problem.map_or(Ok(()), Err)?;
    config.check()?;
    let is_client = !outbound.is_empty() || !datagram_clients.is_empty();
    if streams.is_empty() && datagrams.is_empty() && !is_client {
        let problems = vec!["nothing to listen on: add a listener".to_owned()];
        return Err(Error::Config { problems });
    }
    let workers = config.workers.unwrap_or_else(available_cpus);
    let cpus = assign_cpus(&config.pin, workers)?;
    let (choice, driver_reason) = choose_driver(config.driver)?;

    let problems: Vec<String> =
        streams.iter().filter_map(|stream| unix::problem(&stream.address, &stream.options)).collect();
    if !problems.is_empty() {
        return Err(Error::Config { problems });
    }
    let listeners = ToBind {
        streams: without_overlaps(streams, |stream| &stream.address, |stream| stream.options.only_v6)?,
        datagrams: without_overlaps(datagrams, |listener| &listener.address, |_| false)?,
    };
    // Said before the factories do their work.
    listeners.refuse_taken(&Patience::new(config.bind_patience))?;

    let stats = Stats::new(workers);
    let mut bells = Vec::with_capacity(workers);
    for worker in 0..workers {
        let step = "opening its event counter";
        bells.push(Arc::new(Bell::new().map_err(|source| Error::Worker { worker, step, source })?));
    }
    let handle =
        Handle { bells: bells.clone().into(), stats: stats.clone(), unix_paths: UnixPaths::default() };
    let mut running = Running {
        handle,
        addresses: Vec::new(),
        datagram_addresses: Vec::new(),
        driver: choice.name(),
        driver_reason,
        cpus: cpus.clone(),
        threads: Vec::new(),
        starts: Vec::new(),
        listeners: None,
    };
    // A pipe has two descriptors.
    let others = listeners.backlog() + 2 * u64::from(config.splice_pipes);
    let connections_max = config.connections_max.unwrap_or_else(|| connections_max(workers, others));
    let config = Arc::new(Config { connections_max: Some(connections_max), ..config });
    let (mut contexts, mut orders) = (Vec::with_capacity(workers), Vec::with_capacity(workers));
    let (prepared, all_prepared) = mpsc::channel();
    for (index, bell) in bells.into_iter().enumerate() {
        let context =
            WorkerContext { index, workers, cpu: cpus[index], stats: stats.clone(), config: config.clone() };
        contexts.push(context.clone());
        let (order, changes) = mpsc::channel();
        orders.push(order);
        let protocols = listeners.protocols(&outbound, &datagram_clients);
        let job = Job {
            context,
            connections_max,
            protocols,
            bell,
            changes,
            choice,
            #[cfg(feature = "tokio")]
            tokio: tokio.clone(),
        };
        let prepared = prepared.clone();
        let (start, started) = mpsc::channel();
        running.starts.push(start);
        let handle = running.handle.clone();
        let thread = std::thread::Builder::new().name(format!("ringmill-{index}")).spawn(move || {
            // One worker less would serve only part of the clients: whichever fails, all end.
            let mut others = StopUnlessDisarmed(Some(handle));
            let ended = job.run(prepared, &started);
            if ended.is_ok() {
                others.0 = None;
            }
            ended
        });
        let at = step::THREAD;
        running.threads.push(thread.map_err(|source| Error::Worker { worker: index, step: at, source })?);
    }
    drop(prepared);
    // A worker that fails says so by dropping its sender; its error is in its thread's result.
    let clients: BTreeMap<usize, Vec<Address>> = all_prepared.iter().collect();
    if clients.len() < workers {
        running.join_threads()?;
        return Ok(running);
    }

    // Making all that took its time: somebody else may have come.
    let patience = Patience::new(config.bind_patience);
    listeners.refuse_taken(&patience)?;
    let all_sockets = listeners.bind(&mut running, &config, clients.into_values(), &patience)?;
    let open = running.addresses.iter().cloned().map(Some).collect();
    let open_datagrams: Vec<_> = running.datagram_addresses.iter().cloned().map(Some).collect();
    let handle = running.handle.clone();
    running.listeners = Some(Listeners::new(Inner { handle, contexts, orders, open, open_datagrams }));
    for (start, sockets) in running.starts.drain(..).zip(all_sockets) {
        // A worker that has ended meanwhile has told the others, and its error is in its thread's result.
        let _ = start.send(sockets);
    }
    Ok(running)
}

/// How workers are hosted, if they are.
#[cfg(feature = "tokio")]
fn host_options(builder: &Builder) -> Result<Option<TokioOptions>, Error> {
    let problem = match &builder.tokio {
        Some(options) => options.problem(),
        None if builder.has_async_factories => {
            Some("an async factory needs a runtime: add `tokio` to the builder".to_owned())
        }
        None => None,
    };
    problem.map_or(Ok(()), |problem| Err(Error::Config { problems: vec![problem] }))?;
    Ok(builder.tokio.clone())
}

/// What is to be bound. Each comes with whether it leaves IPv4 to another.
struct ToBind {
    streams: Vec<(Stream, bool)>,
    datagrams: Vec<(DatagramListener, bool)>,
}

impl ToBind {
    fn refuse_taken(&self, patience: &Patience) -> Result<(), Error> {
        for (stream, only_v6) in self.streams.iter().filter(|(stream, _)| stream.bound.is_none()) {
            bind::refuse_taken(&stream.address, true, *only_v6, patience)?;
        }
        for (listener, only_v6) in &self.datagrams {
            bind::refuse_taken(&listener.address, false, *only_v6, patience)?;
        }
        Ok(())
    }

    /// Connections that may wait for one worker.
    fn backlog(&self) -> u64 {
        self.streams.iter().map(|(stream, _)| u64::try_from(stream.options.backlog).unwrap_or(0)).sum()
    }

    /// The factories of one worker.
    fn protocols(&self, outbound: &[Arc<ServiceFactory>], clients: &[DatagramClients]) -> Protocols {
        Protocols {
            streams: self.streams.iter().map(|(stream, _)| stream.factory.clone()).collect(),
            datagrams: self.datagrams.iter().map(|(listener, _)| listener.factory.clone()).collect(),
            outbound: outbound.to_vec(),
            datagram_clients: clients.to_vec(),
        }
    }

    /// Binds everything, for all workers. Listening comes last: where something cannot be had, nobody has connected yet. Unix
    /// sockets listen as soon as they are bound (see `unix`), so they come just before.
    fn bind(
        self,
        running: &mut Running,
        config: &Config,
        clients: impl Iterator<Item = Vec<Address>>,
        patience: &Patience,
    ) -> Result<Vec<Sockets>, Error> {
        let workers = running.threads.len();
        let mut all: Vec<Sockets> = (0..workers).map(|_| Sockets::default()).collect();
        let queue_bytes = config.datagram_queue_bytes;
        for (listener, only_v6) in self.datagrams {
            let bound = bind::datagrams(&listener.address, only_v6, queue_bytes, workers)?;
            running.datagram_addresses.push(bound.address);
            share_out(bound.sockets, |worker, socket| all[worker].datagrams.push(socket));
        }
        let mut streams = Vec::with_capacity(self.streams.len());
        for (Stream { address, bound, options, .. }, only_v6) in self.streams {
            let options = ListenOptions { only_v6, ..options };
            let bound = match (address, bound) {
                (Address::Ip(ip), Some(listener)) => bind::share(ip, listener, &options, workers)?,
                (Address::Ip(ip), None) => bind::streams(ip, &options, workers)?,
                (address, _) => Bound { address, sockets: Vec::new() },
            };
            streams.push((bound, options));
        }
        // Behind the listeners: a port that the system chooses is none of theirs.
        for (worker, addresses) in clients.enumerate() {
            for address in addresses {
                all[worker].datagram_clients.push(bind::own_datagrams(&address, queue_bytes)?);
            }
        }
        for (unix, options) in streams.iter_mut().filter(|(bound, _)| bound.address.ip().is_none()) {
            let (sockets, path) = unix::bind(&unix.address, options, workers, patience)?;
            unix.sockets = sockets;
            path.into_iter().for_each(|path| running.handle.unix_paths.add(path));
        }
        for (bound, options) in streams {
            if bound.address.ip().is_some() {
                bind::listen(&bound, options.backlog)?;
            }
            running.addresses.push(bound.address);
            share_out(bound.sockets, |worker, socket| {
                all[worker].streams.push((socket, options.gate.clone()))
            });
        }
        Ok(all)
    }
}

/// Refuses an address that is listed twice, and says which IPv6 listeners must leave IPv4 to one of their own: those
/// that have an IPv4 listener beside them on the same port.
fn without_overlaps<T>(
    all: Vec<T>,
    address: impl Fn(&T) -> &Address,
    only_v6: impl Fn(&T) -> bool,
) -> Result<Vec<(T, bool)>, Error> {
    let addresses: Vec<Address> = all.iter().map(|one| address(one).clone()).collect();
    for (n, one) in addresses.iter().enumerate() {
        let any_port = one.ip().is_some_and(|ip| ip.port() == 0);
        if !any_port && addresses[..n].contains(one) {
            return Err(Error::Config { problems: vec![format!("{one} is listed twice")] });
        }
    }
    let beside_v4 =
        |port| addresses.iter().filter_map(Address::ip).any(|ip| ip.is_ipv4() && ip.port() == port);
    let with_only_v6 = |one: T| {
        let port = address(&one).ip().filter(|ip| ip.is_ipv6() && ip.port() != 0).map(|ip| ip.port());
        let only_v6 = only_v6(&one) || port.is_some_and(beside_v4);
        (one, only_v6)
    };
    Ok(all.into_iter().map(with_only_v6).collect())
}

/// Stops the engine when it is dropped, by a return or a panic.
struct StopUnlessDisarmed(Option<Handle>);

impl Drop for StopUnlessDisarmed {
    fn drop(&mut self) {
        if let Some(handle) = &self.0 {
            handle.stop();
        }
    }
}

fn share_out(sockets: Vec<socket2::Socket>, mut give: impl FnMut(usize, socket2::Socket)) {
    for (worker, socket) in sockets.into_iter().enumerate() {
        give(worker, socket);
    }
}

fn available_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The connections of a worker that the limit of descriptors leaves room for.
fn connections_max(workers: usize, others: u64) -> usize {
    let descriptors = sys::descriptor_limit().min(1 << 31);
    let connections = connections_of(descriptors / workers as u64, others);
    if connections < CONNECTIONS_FEW {
        tracing::warn!(
            descriptors,
            workers,
            "only {connections} connection(s) a worker are served at once, as the limit of descriptors has it: \
             raise `ulimit -n` (LimitNOFILE= in a unit)"
        );
    }
    connections as usize
}

/// A share of descriptors less what else takes some: these others are pipes, and what one turn may accept beyond the limit. Of a small share most is for
/// connections all the same: running out of descriptors does no harm, accepting pauses then.
fn connections_of(share: u64, others: u64) -> u64 {
    let reserved = (RESERVED_DESCRIPTORS + others).min(share / 4);
    (share - reserved).max(1)
}

fn assign_cpus(pin: &Pin, workers: usize) -> Result<Vec<Option<usize>>, Error> {
    let allowed: Vec<usize> =
        core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect();
    let list = match pin {
        Pin::Off => return Ok(vec![None; workers]),
        // More workers than CPUs: pinning two to one CPU would be worse than leaving it to the scheduler.
        Pin::Auto if workers > allowed.len() => return Ok(vec![None; workers]),
        Pin::Auto => &allowed,
        Pin::List(list) => list,
    };
    let missing: Vec<usize> = list.iter().copied().filter(|cpu| !allowed.contains(cpu)).collect();
    if !missing.is_empty() {
        let (missing, allowed) = (cpu_ranges(&missing), cpu_ranges(&allowed));
        let problem = format!("cannot pin to CPU {missing}: this process may use {allowed}");
        return Err(Error::Config { problems: vec![problem] });
    }
    Ok((0..workers).map(|worker| Some(list[worker % list.len()])).collect())
}

/// The environment variable that decides where the program leaves the choice to us.
const DRIVER_VARIABLE: &str = "RINGMILL_DRIVER";

/// Decides once, by trying; the second value says why, for the log.
fn choose_driver(asked: DriverChoice) -> Result<(Choice, String), Error> {
    // Set and empty is unset, as compose files and units expect.
    let (choice, by) = match std::env::var_os(DRIVER_VARIABLE).filter(|text| !text.is_empty()) {
        Some(text) if asked == DriverChoice::Auto => {
            let bad = |problem| Error::Config { problems: vec![format!("{DRIVER_VARIABLE}: {problem}")] };
            (text.to_string_lossy().parse().map_err(bad)?, format!("{DRIVER_VARIABLE} asks for it"))
        }
        _ => (asked, "asked for".to_owned()),
    };
    match choice {
        DriverChoice::Poll => Ok((Choice::Poll, by)),
        DriverChoice::Uring => match uring::probe() {
            Ok(abilities) => Ok((Choice::Uring(abilities), by)),
            Err(reason) => Err(Error::Driver { driver: "uring", reason }),
        },
        DriverChoice::Auto | DriverChoice::Probe => Ok(match uring::probe() {
            Ok(abilities) => (Choice::Uring(abilities), "io_uring works here".to_owned()),
            Err(reason) => (Choice::Poll, format!("no io_uring: {reason}")),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_of_a_share_of_descriptors_is_for_connections() {
        let check = |share, backlog, expected| assert_eq!(connections_of(share, backlog), expected);
        check(524_288, 4096, 524_288 - 64 - 4096);
        check(1024, 128, 1024 - 64 - 128);
        check(1024, 4096, 768);
        check(64, 4096, 48);
        check(3, 4096, 3);
        check(0, 0, 1);
        check(1024, 0, 960);
    }
}
