//! Connections that may have been reset without a word. With io_uring a reset that comes together with bytes is sometimes not told
//! (seen on Linux 6.18: the socket was closed, and its receive armed). Whoever sends finds out by that; of the others, those
//! that received something are asked once, a little later, with one poll(2) for all. Pure: it only knows who is to be asked, and when.

use crate::event::Socket;
use crate::time::Tick;
use crate::token::Token;
use std::time::Duration;

/// So long they have to send something: a connection that is in use has sent by then, and only few are left to be asked.
const PATIENCE: Duration = Duration::from_millis(20);

/// A few bytes for each connection, by the index of its tokens, and eight for each receive of the last 20 ms.
pub(super) struct Suspects {
    /// Whose receive goes on; `NONE` where none does.
    sockets: Vec<i32>,
    /// Who received something and has sent nothing since.
    are_suspect: Vec<bool>,
    /// Those of them that were not asked yet; who has sent since is passed by.
    fed: Vec<Token>,
    /// When those are to be asked, once it was said.
    due: Tick,
}

const NONE: i32 = -1;

impl Default for Suspects {
    fn default() -> Suspects {
        Suspects { sockets: Vec::new(), are_suspect: Vec::new(), fed: Vec::new(), due: Tick::NEVER }
    }
}

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

    /// When those there are are to be asked: to be called in each turn.
    pub(super) fn due(&mut self, now: Tick) -> Tick {
        // Where everybody has sent since, nobody is waited for.
        while self.fed.last().is_some_and(|token| !self.are_suspect[token.index() as usize]) {
            self.fed.pop();
        }
        if self.fed.is_empty() {
            self.due = Tick::NEVER;
            return Tick::NEVER;
        }
        if self.due == Tick::NEVER {
            self.due = now.after(PATIENCE);
        }
        self.due
    }

    /// Those that are to be asked: the receive to end where one was reset, and its socket.
    pub(super) fn take(&mut self, into: &mut Vec<(Token, Socket)>) {
        self.due = Tick::NEVER;
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
    fn they_are_asked_together_a_little_later() {
        let mut suspects = Suspects::default();
        let start = Tick(0);
        assert_eq!(suspects.due(start), Tick::NEVER);
        suspects.armed(token(1, 0), Socket(10));
        suspects.fed(token(1, 0));
        let due = suspects.due(start);
        assert_eq!(due, start.after(PATIENCE));
        suspects.armed(token(1, 1), Socket(11));
        suspects.fed(token(1, 1));
        assert_eq!(suspects.due(start.after(PATIENCE / 2)), due);
        assert_eq!(taken(&mut suspects), [10, 11]);
        assert_eq!(suspects.due(due), Tick::NEVER);
        for n in [0, 1] {
            suspects.fed(token(1, n));
        }
        suspects.sends(token(1, 1));
        assert_ne!(suspects.due(due), Tick::NEVER, "the first has sent nothing");
        suspects.sends(token(1, 0));
        assert_eq!(suspects.due(due), Tick::NEVER, "who has sent is not waited for");
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
