//! Listeners that come, change and go while the worker runs. Orders come by a channel, and the bell says that there are some.
//!
//! All workers get the same orders in the same sequence, so that a listener has the same number everywhere. A protocol is made
//! first, on this thread; only when all workers have theirs is it given a socket, or takes another protocol's place. What is
//! open goes on with the protocol that it has.

use super::{Life, Worker};
use crate::driver::Driver;
use crate::event::Socket;
use crate::gate::Gate;
use crate::seam::datagram::{Datagram, DatagramIo};
use crate::seam::io::Io;
use crate::seam::layer::{Call, Notice, Origin};
use crate::seam::step::Step;
use crate::session::calls::Panicked;
use crate::session::life::CloseReason;
use crate::session::service::Service;
use crate::session::shared::Shared;
use std::net::SocketAddr;
use std::os::fd::IntoRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::Duration;

/// What makes a protocol on the worker's thread.
pub(crate) type Make = Box<dyn FnOnce() -> Box<dyn Service> + Send>;

/// The same of a datagram protocol.
pub(crate) type MakeDatagram = Box<dyn FnOnce() -> Box<dyn Datagram> + Send>;

/// One order.
pub(crate) enum Change {
    /// Make a protocol, start it, and say what became of it.
    Make(Make, mpsc::Sender<Made>),
    /// What was made listens here, behind this gate.
    Add(socket2::Socket, Option<Gate>),
    /// This listener asks another gate from now on.
    Gate(usize, Option<Gate>),
    /// What was made takes the connections of this listener from now on.
    Replace(usize),
    /// What was made is not needed: it failed elsewhere.
    Forget,
    /// This listener accepts what has queued up, and is closed.
    Remove(usize),
    /// Make a datagram protocol for this socket, start it, and say what became of it.
    AddDatagrams(socket2::Socket, MakeDatagram, mpsc::Sender<Made>),
    /// The protocol behind this socket is to finish, within this time.
    RemoveDatagrams(usize, Duration),
}

/// What became of a protocol that was to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Made {
    Well,
    /// Its factory failed, or the worker ends.
    Badly,
    /// So many are in use that there is no number for it.
    TooMany,
}

/// Protocols that a worker has at a time, those of listeners that are gone among them as long as they have connections. A number has sixteen bits.
#[cfg(not(test))]
const SERVICES_MAX: usize = 60_000;
#[cfg(test)]
pub(crate) const SERVICES_MAX: usize = 20;

/// Where a worker finds its orders.
#[derive(Default)]
pub(super) struct Changes {
    orders: Option<mpsc::Receiver<Change>>,
    /// The protocol that was made last, until it has its place.
    made: Option<u16>,
    /// Protocols without a listener, which may still have connections.
    retired: Vec<u16>,
    /// Numbers of protocols that are gone.
    free: Vec<u16>,
}

impl<D: Driver> Worker<D> {
    /// From now on it follows these orders.
    pub(crate) fn take_changes_from(&mut self, orders: mpsc::Receiver<Change>) {
        self.changes.orders = Some(orders);
    }

    pub(super) fn follow_changes(&mut self) {
        let Some(orders) = self.changes.orders.take() else { return };
        for change in orders.try_iter() {
            match change {
                Change::Make(make, done) => {
                    // Who asked may have given up.
                    let _ = done.send(self.make_service(make));
                }
                Change::Add(socket, gate) => {
                    let made = self.changes.made.take().expect("it was made before");
                    self.push_listener(Socket(socket.into_raw_fd()), gate, made);
                    let index = self.listeners.len() - 1;
                    match self.life {
                        Life::Running if self.may_accept() => self.arm_accept(index),
                        Life::Running => {}
                        Life::Draining(_) | Life::Stopping(_) => self.close_listeners(),
                    }
                }
                Change::Gate(index, gate) => self.listeners[index].set_gate(gate),
                Change::Replace(index) => {
                    let made = self.changes.made.take().expect("it was made before");
                    let before = self.listeners[index].replace_service(made);
                    self.changes.retired.push(before);
                }
                // None was made where there was no number for it.
                Change::Forget => self.changes.retired.extend(self.changes.made.take()),
                Change::Remove(index) => {
                    self.changes.retired.push(self.listeners[index].service());
                    self.remove_listener(index);
                }
                Change::AddDatagrams(socket, make, done) => {
                    let made = catch_unwind(AssertUnwindSafe(make));
                    let is_made = made.is_ok();
                    let protocol = made.unwrap_or_else(|_| Box::new(Gone));
                    self.join_datagrams(Socket(socket.into_raw_fd()), protocol);
                    let _ = done.send(self.outcome(is_made));
                }
                Change::RemoveDatagrams(place, time) => self.remove_datagrams(place, time),
            }
        }
        self.changes.orders = Some(orders);
        self.drop_retired();
    }

    /// Where it cannot be made another one stands in its place.
    fn make_service(&mut self, make: Make) -> Made {
        let number = match self.changes.free.pop() {
            Some(number) => number,
            None if self.services.len() < SERVICES_MAX => {
                self.services.push(Box::new(Gone));
                (self.services.len() - 1) as u16
            }
            None => return Made::TooMany,
        };
        let made = catch_unwind(AssertUnwindSafe(make));
        let is_made = made.is_ok();
        self.services[usize::from(number)] = made.unwrap_or_else(|_| Box::new(Gone));
        self.changes.made = Some(number);
        self.start_service(number);
        self.outcome(is_made)
    }

    fn outcome(&self, is_made: bool) -> Made {
        if is_made && self.life == Life::Running { Made::Well } else { Made::Badly }
    }

    /// Frees protocols that nobody needs any more, and their numbers.
    fn drop_retired(&mut self) {
        let mut retired = std::mem::take(&mut self.changes.retired);
        retired.retain(|service| {
            let is_needed = self.conns.iter().any(|(_, conn)| conn.link.service == *service)
                || self.outbound.is_connecting(*service)
                || self.parked.iter().any(|parked| parked.service == *service)
                || self
                    .listeners
                    .iter()
                    .any(|listener| !listener.is_closed() && listener.service() == *service);
            if is_needed {
                return true;
            }
            self.services[usize::from(*service)] = Box::new(Gone);
            let held = self.outbound.set_held(*service, 0);
            self.shared.memory.change(held, 0);
            // What it asked for last, or somebody may still ask for in its name, would be another one's.
            let is_free = self.outbound.release(*service) && self.shared.requests.is_empty();
            if is_free {
                self.changes.free.push(*service);
            }
            !is_free
        });
        self.changes.retired = retired;
    }
}

/// In the place of a protocol that is gone. It has no session, and whoever rings for it is heard by nobody.
struct Gone;

impl Service for Gone {
    fn open(&mut self, _: Origin, _: &mut Io<'_>) -> Result<u32, Panicked> {
        Err(Panicked)
    }

    fn call(&mut self, _: u32, _: Call<'_>, _: &mut Io<'_>) -> Result<Step, Panicked> {
        Ok(Step::close())
    }

    fn close(&mut self, _: u32, _: CloseReason, _: &mut Shared) -> Result<(), Panicked> {
        Ok(())
    }

    fn notice(&mut self, _: Notice) -> Result<(), Panicked> {
        Ok(())
    }
}

impl Datagram for Gone {
    fn datagram(&mut self, _: SocketAddr, _: &[u8], _: &mut DatagramIo<'_>) {}
}
