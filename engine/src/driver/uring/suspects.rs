//! Connections that may have been reset without a word. With io_uring a reset that comes together with bytes is sometimes not told
//! (seen on Linux 6.18: the socket was closed, and its receive armed). Whoever sends finds out by that; of the others, those
//! that received something are asked once, with one poll(2) for all. Pure: it only knows who is to be asked.

use crate::event::Socket;
use crate::token::Token;

#[derive(Default)]
pub(super) struct Suspects {
    /// The receive on each connection, by the index of its token.
    receives: Vec<Option<Receive>>,
    /// The index for each descriptor.
    indexes: Vec<u32>,
    /// Indexes of those that received something since they were last asked.
    fed: Vec<u32>,
}

#[derive(Clone, Copy)]
struct Receive {
    token: Token,
    socket: Socket,
    is_suspect: bool,
}

impl Suspects {
    /// A receive is armed.
    pub(super) fn armed(&mut self, token: Token, socket: Socket) {
        let index = token.index();
        let receive = Some(Receive { token, socket, is_suspect: false });
        put(&mut self.receives, index as usize, receive, None);
        put(&mut self.indexes, socket.0 as usize, index, u32::MAX);
    }

    /// A receive brought bytes, and goes on.
    #[inline]
    pub(super) fn fed(&mut self, token: Token) {
        if let Some(Some(receive)) = self.receives.get_mut(token.index() as usize)
            && receive.token == token
            && !std::mem::replace(&mut receive.is_suspect, true)
        {
            self.fed.push(token.index());
        }
    }

    /// Something is sent on a connection.
    #[inline]
    pub(super) fn sends(&mut self, token: Token) {
        if let Some(Some(receive)) = self.receives.get_mut(token.index() as usize) {
            receive.is_suspect = false;
        }
    }

    /// A socket is closed: nobody may ask about it any more.
    pub(super) fn closed(&mut self, socket: Socket) {
        let index = self.indexes.get(socket.0 as usize).copied().unwrap_or(u32::MAX);
        if let Some(receive) = self.receives.get_mut(index as usize)
            && receive.is_some_and(|receive| receive.socket == socket)
        {
            *receive = None;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.fed.is_empty()
    }

    /// Those that are to be asked now, and whether to end the receive of one.
    pub(super) fn take(&mut self, into: &mut Vec<(Token, Socket)>) {
        for index in self.fed.drain(..) {
            if let Some(receive) = &mut self.receives[index as usize]
                && std::mem::take(&mut receive.is_suspect)
            {
                into.push((receive.token, receive.socket));
            }
        }
    }
}

fn put<T: Clone>(list: &mut Vec<T>, at: usize, value: T, empty: T) {
    if list.len() <= at {
        list.resize(at + 1, empty);
    }
    list[at] = value;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::Kind;

    fn token(generation: u32, index: u32) -> Token {
        Token::new(Kind::Recv, generation, index)
    }

    fn taken(suspects: &mut Suspects) -> Vec<i32> {
        let mut all = Vec::new();
        suspects.take(&mut all);
        all.iter().map(|(_, socket)| socket.0).collect()
    }

    #[test]
    fn who_received_and_sends_nothing_is_asked_once() {
        let mut suspects = Suspects::default();
        for n in 0..4 {
            suspects.armed(token(1, n), Socket(10 + n as i32));
        }
        for n in [0, 1, 2, 2] {
            suspects.fed(token(1, n));
        }
        suspects.sends(token(1, 1));
        assert_eq!(taken(&mut suspects), [10, 12]);
        assert_eq!(taken(&mut suspects), []);
        suspects.fed(token(1, 3));
        assert_eq!(taken(&mut suspects), [13]);
    }

    #[test]
    fn nobody_asks_about_a_socket_that_is_closed_or_has_a_new_owner() {
        let mut suspects = Suspects::default();
        suspects.armed(token(1, 0), Socket(10));
        suspects.fed(token(1, 0));
        suspects.closed(Socket(10));
        assert_eq!(taken(&mut suspects), []);
        // The descriptor comes back in another slot, the slot with another descriptor.
        suspects.armed(token(2, 5), Socket(10));
        suspects.armed(token(3, 0), Socket(11));
        suspects.fed(token(1, 0));
        suspects.fed(token(2, 5));
        suspects.closed(Socket(99));
        assert_eq!(taken(&mut suspects), [10]);
        suspects.fed(token(3, 0));
        suspects.closed(Socket(10));
        assert_eq!(taken(&mut suspects), [11]);
    }
}
