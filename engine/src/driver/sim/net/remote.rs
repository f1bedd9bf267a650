//! Remote addresses that the worker connects to, and how each answers.

use super::super::OutKind;
use super::{Kind, Net, Peer, Stream, WINDOW_BYTES, World};
use crate::address::Address;
use crate::event::{Errno, Socket};
use std::collections::{HashMap, VecDeque};

/// What an address does with whoever connects to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The connection is made; [`Net::take_connection`] has its other end.
    Accept,
    /// The attempt fails at once.
    Fail(Errno),
    /// Nothing, until another answer is set.
    Silence,
}

/// By address. One that was never set refuses.
#[derive(Default)]
pub(super) struct Remotes(HashMap<Address, Remote>);

struct Remote {
    answer: Answer,
    connected: VecDeque<Socket>,
}

impl Net {
    /// Sets how an address answers, also those who wait already.
    pub fn set_remote(&self, address: Address, answer: Answer) {
        let mut world = self.0.borrow_mut();
        let remote = world.remotes.0.entry(address);
        remote.or_insert(Remote { answer, connected: VecDeque::new() }).answer = answer;
    }

    /// The other end of the oldest connection to an address that was not taken yet.
    pub fn take_connection(&self, address: &Address) -> Option<Peer> {
        let socket = self.0.borrow_mut().remotes.0.get_mut(address)?.connected.pop_front()?;
        Some(Peer { net: self.clone(), socket })
    }
}

impl World {
    pub(in crate::driver::sim) fn stream_socket(&mut self) -> Socket {
        self.add(Kind::Stream(Stream { window: WINDOW_BYTES, ..Stream::default() }))
    }

    /// Whether an operation that gives something away would come to an end now.
    pub(in crate::driver::sim) fn can_end(&self, socket: Socket, kind: &OutKind) -> bool {
        match kind {
            OutKind::Connect(address) => self.answers(address),
            OutKind::Send(..) | OutKind::Datagrams(_) => self.has_room(socket),
        }
    }

    fn answers(&self, address: &Address) -> bool {
        self.remotes.0.get(address).is_none_or(|remote| remote.answer != Answer::Silence)
    }

    pub(in crate::driver::sim) fn connect(
        &mut self,
        socket: Socket,
        address: &Address,
    ) -> Result<u32, Errno> {
        let Some(remote) = self.remotes.0.get_mut(address) else { return Err(Errno::ECONNREFUSED) };
        match remote.answer {
            Answer::Accept => {
                remote.connected.push_back(socket);
                Ok(0)
            }
            Answer::Fail(errno) => Err(errno),
            // Set while an answer was on its way already.
            Answer::Silence => Err(Errno::ETIMEDOUT),
        }
    }
}
