//! Connections that may have been reset without a word. With io_uring a reset that comes together with bytes is sometimes not told
//! (seen on Linux 6.18: the socket was closed, and its receive armed). Whoever sends finds out by that; of the others, those
//! that received something are asked once, with one poll(2) for all. Pure: it only knows who is to be asked.

use crate::event::Socket;
use crate::token::Token;

/// A few bytes for each connection, by the index of its tokens.
#[derive(Default)]
pub(super) struct Suspects {
    /// Whose receive goes on; `NONE` where none does.
    sockets: Vec<i32>,
    /// Who received something and has sent nothing since.
    are_suspect: Vec<bool>,
    /// Those of them that were not asked yet; who has sent since is passed by.
    fed: Vec<Token>,
}

const NONE: i32 = -1;

impl Suspects {
    /// A receive is armed.
    pub(super) fn armed(&mut self, token: Token, socket: Socket) {
        let index = token.index() as usize;
        if self.sockets.len() <= index {
            self.sockets.resize(index + 1, NONE);
            self.are_suspect.resize(index + 1, false);
        }
        self.sockets[index] = socket.0;
        self.are_suspect[index] = false;
    }

    /// A receive is over: its socket may be closed from now on, and nobody may ask about it.
    pub(super) fn ended(&mut self, token: Token) {
        if let Some(socket) = self.sockets.get_mut(token.index() as usize) {
            *socket = NONE;
        }
    }

    /// A receive brought bytes, and goes on.
    #[inline]
    pub(super) fn fed(&mut self, token: Token) {
        if let Some(is_suspect) = self.are_suspect.get_mut(token.index() as usize)
            && !std::mem::replace(is_suspect, true)
        {
            self.fed.push(token);
        }
    }

    /// Something is sent on a connection.
    #[inline]
    pub(super) fn sends(&mut self, token: Token) {
        if let Some(is_suspect) = self.are_suspect.get_mut(token.index() as usize) {
            *is_suspect = false;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.fed.is_empty()
    }

    /// Those that are to be asked now: the receive to end where one was reset, and its socket.
    pub(super) fn take(&mut self, into: &mut Vec<(Token, Socket)>) {
        for token in self.fed.drain(..) {
            let index = token.index() as usize;
            let socket = self.sockets[index];
            if std::mem::take(&mut self.are_suspect[index]) && socket != NONE {
                into.push((token, Socket(socket)));
            }
        }
    }
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
    fn nobody_asks_about_a_socket_whose_receive_is_over() {
        let mut suspects = Suspects::default();
        suspects.armed(token(1, 0), Socket(10));
        suspects.fed(token(1, 0));
        suspects.ended(token(1, 0));
        assert_eq!(taken(&mut suspects), []);
        // The slot has a new tenant: what the old one received says nothing of it.
        suspects.armed(token(1, 0), Socket(10));
        suspects.fed(token(1, 0));
        suspects.ended(token(1, 0));
        suspects.armed(token(2, 0), Socket(11));
        assert_eq!(taken(&mut suspects), []);
        suspects.fed(token(2, 0));
        assert_eq!(taken(&mut suspects), [11]);
    }
}
