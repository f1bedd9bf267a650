//! What must hold between two turns, for the simulator: the worker and its driver agree on what is in flight, and no
//! connection that could go on stands still.

use super::{DatagramSocket, Life, Listener, Worker};
use crate::conn::{Phase, Recv};
use crate::driver::sim::Sim;
use crate::time::Tick;
use crate::token::{Kind, Token};

impl Worker<Sim> {
    pub(crate) fn driver_mut(&mut self) -> &mut Sim {
        &mut self.driver
    }

    /// Panics when a rule is broken. Call it between turns.
    pub(crate) fn check(&self) {
        self.driver.check();
        let expected = self.in_flight();
        assert_eq!(self.driver.in_flight(), expected, "driver and worker differ on what is in flight");
        for (index, _) in &self.conns {
            self.check_connection(index);
        }
        self.datagrams.iter().for_each(DatagramSocket::check);
        let can_accept = self.life == Life::Running && self.may_accept() && !self.has_room;
        let accepts = self.listeners.iter().all(Listener::is_in_flight);
        assert!(!can_accept || accepts, "there is room, and a listener does not accept");
        self.check_generations();
    }

    /// The connections as they are, for the message of a failure.
    pub(crate) fn describe(&self) -> String {
        let mut text =
            format!("{:?} at {:?}, in flight {:?}", self.life, self.shared.now, self.driver.in_flight());
        for (index, conn) in &self.conns {
            text += &format!(
                "\n  connection {index}: service {}, {:?}, receive {:?}, paused {}, held {}, peer ended {}, input {} due {} \
                 need {}, pending {:?}, in flight {} awaited {}, deadlines {:?} {:?}",
                conn.service,
                conn.phase,
                conn.recv,
                conn.paused,
                conn.held,
                conn.peer_eof,
                conn.unread_bytes(),
                conn.input_due,
                conn.need_bytes,
                conn.pending,
                conn.in_flight_bytes,
                conn.awaited,
                conn.deadline,
                conn.stall_deadline
            );
        }
        text
    }

    /// Whether the worker ended without having heard of everything: only when the clock leapt while it was stopping.
    pub(crate) fn has_given_up(&self) -> bool {
        matches!(self.life, Life::Stopping(_)) && !self.is_empty() && self.driver.leaps() > 0
    }

    /// Panics if an ended worker has left anything with its driver.
    pub(crate) fn check_ended(&self) {
        assert!(self.is_empty(), "the worker gave up with connections open: {}", self.describe());
        let left = self.driver.in_flight();
        let is_mailbox = |token: &Token| token.kind() == Kind::Wake;
        assert!(left.iter().all(is_mailbox), "operations are left: {left:?}");
    }

    fn in_flight(&self) -> Vec<Token> {
        let mut all = vec![Token::new(Kind::Wake, 0, 0)];
        for (index, conn) in &self.conns {
            let index = index as u32;
            if conn.is_recv_in_flight() {
                all.push(Token::new(Kind::Recv, conn.generation, index));
            }
            if conn.in_flight_bytes > 0 {
                all.push(Token::new(Kind::Send, conn.generation, index));
            }
        }
        for (index, listener) in self.listeners.iter().enumerate() {
            if listener.is_in_flight() {
                all.push(Token::new(Kind::Accept, 0, index as u32));
            }
        }
        all.extend(self.outbound.tokens());
        for (index, entry) in self.datagrams.iter().enumerate() {
            let (receiving, sending) = entry.in_flight();
            if receiving {
                all.push(Token::new(Kind::RecvDatagrams, 0, index as u32));
            }
            if sending {
                all.push(Token::new(Kind::SendDatagrams, 0, index as u32));
            }
        }
        all.sort_unstable();
        all
    }

    fn check_connection(&self, index: usize) {
        let conn = &self.conns[index];
        let must = |kept: bool, rule: &str| assert!(kept, "{rule}: connection {index}, {:?}", conn.phase);
        must(
            (conn.session == u32::MAX) != (conn.phase == Phase::Open),
            "a session lives while its phase is Open",
        );
        // What the limit allows, and what may come in before a cancel is heard of.
        let pool_bytes = usize::from(self.config.recv_buffers) * self.config.recv_buffer_bytes;
        let unread_max = self.config.input_bytes_max + pool_bytes;
        must(conn.unread_bytes() <= unread_max, "more input is kept than the limit allows");
        let queued_max = self.config.output_bytes_max;
        must(
            conn.phase != Phase::Open || conn.queued_bytes() <= queued_max,
            "more output is queued than the cap",
        );
        let is_queued = self.starved.contains(&(index as u32));
        must(
            conn.recv != Recv::Starved || is_queued,
            "a receive that found no buffer waits to be armed again",
        );
        must(!conn.wants_input() || conn.recv != Recv::Idle, "input is wanted and nothing receives");
        must(conn.pending.is_none() || conn.in_flight_bytes > 0, "output waits and nothing is sent");
        let is_timed = conn.stall_deadline != Tick::NEVER || conn.phase == Phase::Closing;
        must(conn.in_flight_bytes == 0 || is_timed, "a send has a deadline");
        let is_timed = self.timers.keeps(index as u32, conn.next_deadline()) || conn.phase == Phase::Closing;
        must(is_timed, "nobody looks at a deadline in time");
        let token = Token::new(Kind::Send, conn.generation, index as u32);
        let is_silent = conn.in_flight_bytes > 0 && self.driver.is_silent(token);
        must(
            !is_silent || conn.is_at_rest() || self.impatient,
            "somebody waits for a send that nobody tells of",
        );
        match conn.phase {
            Phase::Open => {
                let may_see = !conn.paused && !conn.held;
                let has_input = conn.unread_bytes() >= (conn.need_bytes as usize).max(1);
                must(!(may_see && conn.input_due && has_input), "input is due and nobody looks at it");
                must(!(may_see && conn.peer_eof && !conn.eof_told), "the peer ended and nobody says so");
                must(!conn.held || conn.queued_bytes() > 0, "a connection is held and has no output");
            }
            Phase::Draining => must(conn.queued_bytes() > 0, "nothing is left to flush"),
            Phase::Lingering => must(conn.stall_deadline != Tick::NEVER, "lingering has an end"),
            Phase::Closing => must(conn.is_busy() && conn.cancelled, "closing waits for something cancelled"),
        }
        must(!matches!(self.life, Life::Stopping(_)) || conn.phase != Phase::Open, "a stopped worker serves");
    }

    fn check_generations(&self) {
        let mut all: Vec<u32> = self.conns.iter().map(|(_, conn)| conn.generation).collect();
        all.sort_unstable();
        assert!(all.windows(2).all(|pair| pair[0] != pair[1]), "two connections share a generation");
        assert!(all.last().is_none_or(|last| *last <= self.next_generation), "a generation from the future");
    }
}
