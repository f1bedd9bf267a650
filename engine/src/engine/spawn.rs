//! Choosing the driver, starting the threads, and telling whoever asked when all of them run.

use super::bind;
use super::{Builder, DatagramClients, DatagramFactory, Handle, Running, ServiceFactory, WorkerContext};
use crate::address::Address;
use crate::config::{Config, DriverChoice, ListenOptions, Pin};
use crate::driver::Driver;
use crate::driver::poll::Poll;
use crate::driver::uring::{self, Abilities, Uring};
use crate::error::Error;
use crate::event::{Errno, Socket};
use crate::mailbox::Mailbox;
use crate::stats::Stats;
use crate::sys;
use crate::worker::Worker;
use std::os::fd::IntoRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};

/// Descriptors that connections leave for everything else.
const RESERVED_DESCRIPTORS: u64 = 64;

pub(super) fn start(builder: Builder) -> Result<Running, Error> {
    let Builder { config, streams, datagrams, outbound, datagram_clients, problem } = builder;
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

    let streams = without_overlaps(streams, |stream| &stream.address, |stream| stream.options.only_v6)?;
    let datagrams = without_overlaps(datagrams, |listener| &listener.address, |_| false)?;
    for (stream, only_v6) in &streams {
        bind::refuse_shared_port(&stream.address, true, *only_v6)?;
    }
    for (listener, only_v6) in &datagrams {
        bind::refuse_shared_port(&listener.address, false, *only_v6)?;
    }

    // Everything is bound before anything runs.
    let mut shares: Vec<Share> = (0..workers).map(|_| Share::default()).collect();
    let (mut addresses, mut datagram_addresses, mut unix_paths) = (Vec::new(), Vec::new(), Vec::new());
    for (stream, only_v6) in streams {
        let options = ListenOptions { only_v6, ..stream.options };
        let bound = bind::streams(&stream.address, &options, workers)?;
        unix_paths.extend(bound.unix_path);
        addresses.push(bound.address.clone());
        share_out(bound.sockets, |worker, socket| {
            shares[worker].streams.push((socket, stream.factory.clone()))
        });
    }
    for (listener, only_v6) in datagrams {
        let bound = bind::datagrams(&listener.address, only_v6, config.datagram_queue_bytes, workers)?;
        datagram_addresses.push(bound.address.clone());
        share_out(bound.sockets, |worker, socket| {
            shares[worker].datagrams.push((socket, listener.factory.clone()))
        });
    }

    for share in &mut shares {
        share.outbound.clone_from(&outbound);
        share.datagram_clients.clone_from(&datagram_clients);
    }

    let stats = Stats::new(workers);
    let mut mailboxes = Vec::with_capacity(workers);
    for worker in 0..workers {
        let mailbox = Mailbox::new(config.mailbox_messages_max);
        let step = "opening its mailbox";
        mailboxes.push(Arc::new(mailbox.map_err(|source| Error::Worker { worker, step, source })?));
    }
    let handle = Handle { mailboxes: mailboxes.clone().into(), stats: stats.clone() };
    let mut running = Running {
        handle,
        addresses,
        datagram_addresses,
        driver: choice.name(),
        driver_reason,
        cpus: cpus.clone(),
        threads: Vec::new(),
        unix_paths,
    };
    let connections_max = config.connections_max.unwrap_or_else(|| connections_max(workers));
    let config = Arc::new(Config { connections_max: Some(connections_max), ..config });
    let (ready, all_ready) = mpsc::channel();
    for (index, (share, mailbox)) in shares.into_iter().zip(mailboxes).enumerate() {
        let context =
            WorkerContext { index, workers, cpu: cpus[index], stats: stats.clone(), config: config.clone() };
        let job = Job { context, connections_max, share, mailbox, choice };
        let ready = ready.clone();
        let handle = running.handle.clone();
        let thread = std::thread::Builder::new().name(format!("ringmill-{index}")).spawn(move || {
            // One worker less would serve only part of the clients: whichever fails, all end.
            let mut others = StopUnlessDisarmed(Some(handle));
            let ended = job.run(ready);
            if ended.is_ok() {
                others.0 = None;
            }
            ended
        });
        let step = "spawning a thread";
        running.threads.push(thread.map_err(|source| Error::Worker { worker: index, step, source })?);
    }
    drop(ready);
    // A worker that fails says so by dropping its sender; its error is in its thread's result.
    if all_ready.iter().count() < workers {
        running.handle.stop();
        running.join_threads()?;
    }
    Ok(running)
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

/// One worker's sockets with the factories of their protocols.
#[derive(Default)]
struct Share {
    streams: Vec<(socket2::Socket, Arc<ServiceFactory>)>,
    datagrams: Vec<(socket2::Socket, Arc<DatagramFactory>)>,
    outbound: Vec<Arc<ServiceFactory>>,
    datagram_clients: Vec<DatagramClients>,
}

fn share_out(sockets: Vec<socket2::Socket>, mut give: impl FnMut(usize, socket2::Socket)) {
    for (worker, socket) in sockets.into_iter().enumerate() {
        give(worker, socket);
    }
}

/// Everything a worker's thread needs.
struct Job {
    context: WorkerContext,
    connections_max: usize,
    share: Share,
    mailbox: Arc<Mailbox>,
    choice: Choice,
}

#[derive(Clone, Copy)]
enum Choice {
    Uring(Abilities),
    Poll,
}

impl Choice {
    fn name(self) -> &'static str {
        match self {
            Choice::Uring(_) => "uring",
            Choice::Poll => "poll",
        }
    }
}

impl Job {
    fn run(self, ready: mpsc::Sender<()>) -> Result<(), Error> {
        let worker = self.context.index;
        if let Some(id) = self.context.cpu
            && !core_affinity::set_for_current(core_affinity::CoreId { id })
        {
            tracing::warn!(
                worker,
                cpu = id,
                "cannot be pinned to this CPU: it runs where the scheduler likes"
            );
        }
        let (buffers, bytes) = (self.context.config.recv_buffers, self.context.config.recv_buffer_bytes);
        let failed = |step| move |source| Error::Worker { worker, step, source };
        match self.choice {
            Choice::Uring(abilities) => {
                let driver = Uring::new(abilities, buffers, bytes).map_err(failed("setting up its ring"))?;
                self.serve(driver, ready)
            }
            Choice::Poll => {
                let driver = Poll::new(buffers, bytes).map_err(failed("opening epoll"))?;
                self.serve(driver, ready)
            }
        }
    }

    fn serve(self, driver: impl Driver, ready: mpsc::Sender<()>) -> Result<(), Error> {
        let index = self.context.index;
        let stats = self.context.stats.worker(index);
        stats.started(sys::thread_id());
        // All protocols are made before any socket is handed over: a failure here closes them all.
        let streams = make_all(index, &self.context, self.share.streams)?;
        let datagrams = make_all(index, &self.context, self.share.datagrams)?;
        let outbound: Vec<_> = self.share.outbound.into_iter().map(|factory| ((), factory)).collect();
        let outbound = make_all(index, &self.context, outbound)?;
        let mut clients = Vec::new();
        let queue_bytes = self.context.config.datagram_queue_bytes;
        for DatagramClients { address, factory } in self.share.datagram_clients {
            let made = catch_unwind(AssertUnwindSafe(|| factory(&self.context)));
            for protocol in made.map_err(|_| Error::Factory { worker: index })? {
                clients.push((bind::own_datagrams(&address, queue_bytes)?, protocol));
            }
        }
        let mut worker = Worker::new(
            driver,
            Config::clone(&self.context.config),
            self.connections_max,
            self.mailbox,
            stats.clone(),
        );
        for (socket, service) in streams {
            worker.add_listener(Socket(socket.into_raw_fd()), service);
        }
        for (socket, protocol) in datagrams.into_iter().chain(clients) {
            worker.add_datagrams(Socket(socket.into_raw_fd()), protocol);
        }
        for ((), service) in outbound {
            worker.add_outbound(service);
        }
        // Nobody may wait for us any more: then there is nobody to tell.
        let _ = ready.send(());
        drop(ready);
        let ended = worker.run();
        stats.stopped();
        ended.map_err(|Errno(errno)| Error::Stopped {
            worker: index,
            source: std::io::Error::from_raw_os_error(errno),
        })
    }
}

type Factory<T> = dyn Fn(&WorkerContext) -> Box<T> + Send + Sync;

fn make_all<S, T: ?Sized>(
    worker: usize,
    context: &WorkerContext,
    share: Vec<(S, Arc<Factory<T>>)>,
) -> Result<Vec<(S, Box<T>)>, Error> {
    let make = |(socket, factory): (S, Arc<Factory<T>>)| {
        let made = catch_unwind(AssertUnwindSafe(|| factory(context)));
        made.map(|made| (socket, made)).map_err(|_| Error::Factory { worker })
    };
    share.into_iter().map(make).collect()
}

fn available_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The descriptors this process may have, divided by its workers.
fn connections_max(workers: usize) -> usize {
    let share = sys::descriptor_limit().min(1 << 31) / workers as u64;
    share.saturating_sub(RESERVED_DESCRIPTORS).max(1) as usize
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
    let missing: Vec<String> =
        list.iter().filter(|cpu| !allowed.contains(cpu)).map(|cpu| format!("CPU {cpu}")).collect();
    if !missing.is_empty() {
        let problem =
            format!("cannot pin to {}: this process may use {}", missing.join(", "), Pin::List(allowed));
        return Err(Error::Config { problems: vec![problem] });
    }
    Ok((0..workers).map(|worker| Some(list[worker % list.len()])).collect())
}

/// The environment variable that decides where the program leaves the choice to us.
const DRIVER_VARIABLE: &str = "RINGMILL_DRIVER";

/// Decides once, by trying; the second value says why, for the log.
fn choose_driver(asked: DriverChoice) -> Result<(Choice, String), Error> {
    let (choice, by) = match std::env::var(DRIVER_VARIABLE) {
        Ok(text) if asked == DriverChoice::Auto => {
            let bad = |problem| Error::Config { problems: vec![format!("{DRIVER_VARIABLE}: {problem}")] };
            (text.parse().map_err(bad)?, format!("{DRIVER_VARIABLE} asks for it"))
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
