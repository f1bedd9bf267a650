//! Listeners of a running engine: some come, others take another protocol, and others go, while everything that is open goes on.

use super::{Handle, WorkerContext};
use crate::address::Address;
use crate::config::ListenOptions;
use crate::error::Error;
use crate::gate::Gate;
use crate::listen::bind;
use crate::listen::patience::Patience;
use crate::listen::unix;
use crate::seam::datagram::Datagram;
use crate::seam::layer::Layer;
use crate::session::service::{Service, Typed};
use crate::worker::{Change, Made, Make, MakeDatagram};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

/// Datagram listeners that an engine has in its life: each has a number of sixteen bits.
const DATAGRAMS_MAX: usize = 60_000;

/// Changes the listeners of a running engine ([`Running::listeners`](crate::Running::listeners)). Clones are the same. Calls may take
/// as long as a turn of the slowest worker.
#[derive(Clone)]
pub struct Listeners(Arc<Mutex<Inner>>);

pub(super) struct Inner {
    pub(super) handle: Handle,
    pub(super) contexts: Vec<WorkerContext>,
    pub(super) orders: Vec<mpsc::Sender<Change>>,
    /// By their numbers on all workers.
    pub(super) open: Vec<Option<Address>>,
    /// The same of datagrams.
    pub(super) open_datagrams: Vec<Option<Address>>,
}

impl Listeners {
    pub(super) fn new(inner: Inner) -> Listeners {
        Listeners(Arc::new(Mutex::new(inner)))
    }

    /// Listens on another address, and says which that is where port 0 was asked for. Sockets are bound, and each worker has its
    /// protocol, before anybody can connect: if anything fails, nobody has noticed.
    pub fn add<P: Layer>(
        &self,
        address: &Address,
        options: ListenOptions,
        factory: impl Fn(&WorkerContext) -> P + Send + Sync + 'static,
    ) -> Result<Address, Error> {
        let mut inner = self.lock();
        inner.make(factory)?;
        let listening = inner.listen(address, options);
        if listening.is_err() {
            inner.order(|| Change::Forget);
        }
        listening
    }

    /// Connections that come to an address from now on are served by another protocol. Says whether anybody listens there.
    pub fn replace<P: Layer>(
        &self,
        address: &Address,
        factory: impl Fn(&WorkerContext) -> P + Send + Sync + 'static,
    ) -> Result<bool, Error> {
        let mut inner = self.lock();
        let Some(number) = inner.find(address) else { return Ok(false) };
        inner.make(factory)?;
        inner.order(|| Change::Replace(number));
        Ok(true)
    }

    /// Connections that come to an address from now on are let in by another gate, or all of them. Who is connected already stays.
    /// Says whether anybody listens there.
    pub fn set_gate(&self, address: &Address, gate: Option<&Gate>) -> bool {
        let inner = self.lock();
        let Some(number) = inner.find(address) else { return false };
        inner.order(|| Change::Gate(number, gate.cloned()));
        true
    }

    /// Listens no more on an address, as [`Listeners::add`] or [`Running::addresses`](crate::Running::addresses) gave it. Who has connected
    /// already is served; one that comes in the very moment in which the kernel closes the socket is reset. Says whether anybody listened
    /// there.
    pub fn remove(&self, address: &Address) -> bool {
        let mut inner = self.lock();
        let Some(number) = inner.find(address) else { return false };
        inner.open[number] = None;
        if let Address::Unix(path) = address {
            inner.handle.unix_paths.remove_one(path);
        }
        inner.order(|| Change::Remove(number));
        true
    }

    /// Serves datagrams on another address, as [`Builder::datagrams`](crate::Builder::datagrams) does, and says which that is where port 0
    /// was asked for.
    pub fn add_datagrams<P: Datagram>(
        &self,
        address: &Address,
        factory: impl Fn(&WorkerContext) -> P + Send + Sync + 'static,
    ) -> Result<Address, Error> {
        self.lock().add_datagrams(address, factory)
    }

    /// Serves datagrams no more on an address: its protocols have so much time to finish ([`Datagram::drain`]). Says whether anybody
    /// served there.
    pub fn remove_datagrams(&self, address: &Address, time: Duration) -> bool {
        let mut inner = self.lock();
        let known = inner.open_datagrams.iter().position(|open| open.as_ref() == Some(address));
        let Some(place) = known else { return false };
        inner.open_datagrams[place] = None;
        inner.order(|| Change::RemoveDatagrams(place, time));
        true
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn too_many(what: &str) -> Error {
    Error::Config { problems: vec![format!("{what} as there can be")] }
}

/// Whether one of two addresses is the other one's, with all others of the same port.
fn overlap(one: &Address, other: &Address) -> bool {
    let (Some(one), Some(other)) = (one.ip(), other.ip()) else { return false };
    let is_any = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && is_any && one.is_ipv4() == other.is_ipv4()
}

impl Inner {
    fn find(&self, address: &Address) -> Option<usize> {
        self.open.iter().position(|open| open.as_ref() == Some(address))
    }

    /// Waits until all workers have said what became of what they were to make.
    fn wait_for(&self, waiting: Vec<mpsc::Receiver<Made>>) -> Result<(), Error> {
        self.ring();
        let made: Vec<Made> =
            waiting.into_iter().map(|is_done| is_done.recv().unwrap_or(Made::Badly)).collect();
        match made.iter().position(|made| *made != Made::Well) {
            None => Ok(()),
            Some(worker) if made[worker] == Made::Badly => Err(Error::Factory { worker }),
            Some(_) => Err(too_many("connections still need as many earlier protocols of its listeners")),
        }
    }

    fn add_datagrams<P: Datagram>(
        &mut self,
        address: &Address,
        factory: impl Fn(&WorkerContext) -> P + Send + Sync + 'static,
    ) -> Result<Address, Error> {
        if self.open_datagrams.contains(&Some(address.clone())) {
            return Err(Error::Config { problems: vec![format!("{address} is listed twice")] });
        }
        if self.open_datagrams.len() >= DATAGRAMS_MAX {
            return Err(too_many("it has had as many listeners of datagrams"));
        }
        let Some(config) = self.contexts.first().map(|context| context.config.clone()) else {
            return Ok(address.clone());
        };
        let is_beside_v4 = self.open_datagrams.iter().flatten().filter_map(Address::ip).any(|open| {
            address.ip().is_some_and(|ip| ip.is_ipv6() && open.is_ipv4() && open.port() == ip.port())
        });
        if !self.open_datagrams.iter().flatten().any(|open| overlap(open, address)) {
            bind::refuse_taken(address, false, is_beside_v4, &Patience::new(config.bind_patience))?;
        }
        let bound = bind::datagrams(address, is_beside_v4, config.datagram_queue_bytes, self.orders.len())?;
        let factory = Arc::new(factory);
        let mut waiting = Vec::new();
        for ((orders, context), socket) in self.orders.iter().zip(&self.contexts).zip(bound.sockets) {
            let (factory, context) = (factory.clone(), context.clone());
            let make: MakeDatagram = Box::new(move || -> Box<dyn Datagram> { Box::new(factory(&context)) });
            let (done, is_done) = mpsc::channel();
            let _ = orders.send(Change::AddDatagrams(socket, make, done));
            waiting.push(is_done);
        }
        let (made, place) = (self.wait_for(waiting), self.open_datagrams.len());
        self.open_datagrams.push(made.is_ok().then(|| bound.address.clone()));
        if made.is_err() {
            self.order(|| Change::RemoveDatagrams(place, Duration::ZERO));
        }
        made.map(|()| bound.address)
    }

    /// Has every worker make a protocol. Where that fails it is forgotten again.
    fn make<P: Layer>(
        &mut self,
        factory: impl Fn(&WorkerContext) -> P + Send + Sync + 'static,
    ) -> Result<(), Error> {
        let factory = Arc::new(factory);
        let mut waiting = Vec::new();
        for (orders, context) in self.orders.iter().zip(&self.contexts) {
            let (factory, context) = (factory.clone(), context.clone());
            let make: Make =
                Box::new(move || -> Box<dyn Service> { Box::new(Typed::new(factory(&context))) });
            let (done, is_done) = mpsc::channel();
            // A worker that has ended says so by dropping the sender.
            let _ = orders.send(Change::Make(make, done));
            waiting.push(is_done);
        }
        self.wait_for(waiting).inspect_err(|_| self.order(|| Change::Forget))
    }

    fn listen(&mut self, address: &Address, options: ListenOptions) -> Result<Address, Error> {
        if let Some(problem) = unix::problem(address, &options) {
            return Err(Error::Config { problems: vec![problem] });
        }
        if self.find(address).is_some() {
            return Err(Error::Config { problems: vec![format!("{address} is listed twice")] });
        }
        let open = self.open.iter().flatten().filter_map(Address::ip);
        let port = address.ip().filter(|ip| ip.is_ipv6() && ip.port() != 0).map(|ip| ip.port());
        let is_beside_v4 = open.into_iter().any(|ip| ip.is_ipv4() && Some(ip.port()) == port);
        let options = ListenOptions { only_v6: options.only_v6 || is_beside_v4, ..options };
        let workers = self.orders.len();
        let patience = Patience::new(
            self.contexts.first().map(|context| context.config.bind_patience).unwrap_or_default(),
        );
        // Where we listen already nobody else can, and our own socket would be found to be in the way.
        if !self.open.iter().flatten().any(|open| overlap(open, address)) {
            bind::refuse_taken(address, true, options.only_v6, &patience)?;
        }
        let (address, sockets) = match address {
            Address::Ip(ip) => {
                let bound = bind::streams(*ip, &options, workers)?;
                bind::listen(&bound, options.backlog)?;
                (bound.address, bound.sockets)
            }
            Address::Unix(_) | Address::Abstract(_) => {
                let (sockets, path) = unix::bind(address, &options, workers, &patience)?;
                path.into_iter().for_each(|path| self.handle.unix_paths.add(path));
                (address.clone(), sockets)
            }
        };
        for (orders, socket) in self.orders.iter().zip(sockets) {
            let _ = orders.send(Change::Add(socket, options.gate.clone()));
        }
        self.ring();
        self.open.push(Some(address.clone()));
        Ok(address)
    }

    fn ring(&self) {
        self.handle.bells.iter().for_each(|bell| bell.order_changes());
    }

    fn order(&self, change: impl Fn() -> Change) {
        for orders in &self.orders {
            let _ = orders.send(change());
        }
        self.ring();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, DriverChoice};
    use crate::dialer::Dialer;
    use crate::engine::Engine;
    use crate::seam::io::Io;
    use crate::seam::protocol::Protocol;
    use crate::seam::step::Step;
    use crate::worker::SERVICES_MAX;
    use std::cell::RefCell;
    use std::io::Read;
    use std::net::{SocketAddr, TcpStream};

    thread_local! {
        /// Dialers that somebody has kept.
        static KEPT: RefCell<Vec<Dialer>> = const { RefCell::new(Vec::new()) };
    }

    /// Greets with its number.
    struct Numbered {
        number: u8,
        keeps_dialer: bool,
    }

    impl Protocol for Numbered {
        type Session = ();

        fn start(&mut self, dialer: Dialer) {
            if self.keeps_dialer {
                KEPT.with_borrow_mut(|kept| kept.push(dialer));
            }
        }

        fn open(&mut self, io: &mut Io<'_>) {
            io.write(&[self.number]);
        }

        fn data(&mut self, (): &mut (), input: &mut [u8], _: &mut Io<'_>) -> Step {
            Step::consumed(input.len())
        }
    }

    fn greeted(address: SocketAddr) -> (TcpStream, u8) {
        let (mut stream, mut number) = (TcpStream::connect(address).unwrap(), [0]);
        stream.read_exact(&mut number).unwrap();
        (stream, number[0])
    }

    #[test]
    fn numbers_of_protocols_are_used_again_once_nobody_needs_them() {
        let config = Config {
            workers: Some(1),
            pin: crate::Pin::Off,
            driver: DriverChoice::Poll,
            ..Config::default()
        };
        let numbered = |number, keeps_dialer| move |_: &WorkerContext| Numbered { number, keeps_dialer };
        let address: Address = "127.0.0.1:0".parse().unwrap();
        let running = Engine::builder().config(config).listen(address, numbered(0, false)).start().unwrap();
        let (listeners, address) = (running.listeners().unwrap(), running.addresses()[0].clone());
        let at = address.ip().unwrap();
        let replace = |number, keeps_dialer| listeners.replace(&address, numbered(number, keeps_dialer));
        // Many more than there are numbers; and one that has a connection keeps its own.
        replace(200, false).unwrap();
        let (held, number) = greeted(at);
        assert_eq!(number, 200);
        for number in 0..SERVICES_MAX as u8 * 5 {
            replace(number, false).unwrap();
            assert_eq!(greeted(at).1, number);
        }
        // Where somebody has the dialer of one, it is not another one's.
        let refused = (0..=SERVICES_MAX as u8).find(|number| replace(*number, true).is_err());
        let Err(error) = replace(0, false) else { panic!("no number is left") };
        assert!(
            refused >= Some(SERVICES_MAX as u8 / 2) && error.to_string().contains("as there can be"),
            "{error}"
        );
        // The last one that was made serves on.
        assert_eq!(greeted(at).1 + 1, refused.unwrap());
        drop(held);
        running.handle().stop();
        running.join().unwrap();
    }
}
