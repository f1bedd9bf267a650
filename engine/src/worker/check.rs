//! What must hold between two turns, for the simulator: the worker and its driver agree on what is in flight, and no
//! connection that could go on stands still.

use super::{Life, Listener, Worker};
use crate::conn::{NO_SESSION, Recv};
use crate::driver::sim::Breaking;
use crate::session::inlet::{End, News, Reading};
use crate::session::life::{Ending, Phase};
use crate::session::outlet::{Last, Level};
use crate::time::Tick;
use crate::token::{Kind, Token};

impl Worker<Breaking> {
    pub(crate) fn driver_mut(&mut self) -> &mut Breaking {
        &mut self.driver
    }

    /// Panics when a rule is broken. Call it between turns.
    pub(crate) fn check(&self) {
        self.driver.sim.check();
        let expected = self.in_flight();
        assert_eq!(self.driver.in_flight(), expected, "driver and worker differ on what is in flight");
        for (index, _) in &self.conns {
            self.check_connection(index);
        }
        for slot in self.shared.passes.holders() {
            assert!(self.conns.contains(slot), "who has left is still counted");
        }
        self.datagrams.check();
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
            let duplex = &conn.duplex;
            text += &format!(
                "\n  connection {index}: service {}, {:?}, receive {:?}, sending {}, {:?}, {:?}, end {:?}, input {} due {} \
                 need {}, pending {:?}, last {:?}, deadlines {:?} {:?}",
                conn.link.service,
                duplex.phase,
                conn.recv,
                conn.sending_bytes,
                duplex.inlet.reading,
                duplex.outlet.level,
                duplex.inlet.end,
                duplex.inlet.unread_bytes(),
                duplex.inlet.is_due(),
                duplex.inlet.need_bytes,
                duplex.outlet.pending,
                duplex.outlet.last,
                duplex.deadline,
                conn.stall_deadline
            );
        }
        text
    }

    /// Whether the worker ended without having heard of everything: only when the clock leapt while it was stopping.
    pub(crate) fn has_given_up(&self) -> bool {
        matches!(self.life, Life::Stopping(_)) && !self.is_empty() && self.driver.sim.leaps() > 0
    }

    /// Panics if an ended worker has left anything with its driver.
    pub(crate) fn check_ended(&self) {
        assert!(self.is_empty(), "the worker gave up with connections open: {}", self.describe());
        let left = self.driver.in_flight();
        let is_bell = |token: &Token| token.kind() == Kind::Wake;
        assert!(left.iter().all(is_bell), "operations are left: {left:?}");
    }

    fn in_flight(&self) -> Vec<Token> {
        let mut all = vec![Token::new(Kind::Wake, 0, 0)];
        for (index, conn) in &self.conns {
            let index = index as u32;
            if conn.is_receiving() {
                all.push(Token::new(Kind::Recv, conn.link.generation, index));
            }
            if conn.recv == Recv::Spliced {
                all.push(Token::new(Kind::Splice, conn.link.generation, index));
            }
            if conn.sending_bytes > 0 && !self.splices.has_sink_in_flight(index) {
                all.push(Token::new(Kind::Send, conn.link.generation, index));
            }
        }
        for (index, listener) in self.listeners.iter().enumerate() {
            if listener.is_in_flight() {
                all.push(Token::new(Kind::Accept, 0, index as u32));
            }
        }
        all.extend(self.outbound.tokens());
        all.extend(self.datagrams.tokens());
        all.sort_unstable();
        all
    }

    fn check_connection(&self, index: usize) {
        let conn = &self.conns[index];
        let duplex = &conn.duplex;
        let must = |kept: bool, rule: &str| assert!(kept, "{rule}: connection {index}, {:?}", duplex.phase);
        must((conn.session == NO_SESSION) != duplex.is_open(), "a session lives while its phase is Open");
        // What the limit allows, what is kept for a session that pauses, and what may come in before a cancel is heard of, which
        // may have to wait a turn for room in the queue.
        let pool_bytes = usize::from(self.config.recv_buffers) * self.config.recv_buffer_bytes;
        let unread_bytes = duplex.inlet.unread_bytes();
        let unread_max = self.config.input_bytes_max + self.config.recv_buffer_bytes + 2 * pool_bytes;
        must(unread_bytes <= unread_max, "more input is kept than the limit allows");
        let queued_max = self.config.output_bytes_max;
        must(!duplex.is_open() || conn.queued_bytes() <= queued_max, "more output is queued than the cap");
        let is_queued = self.starved.contains(index as u32);
        must(
            conn.recv != Recv::Starved || is_queued,
            "a receive that found no buffer waits to be armed again",
        );
        let wants_input = conn.wants_input(self.config.recv_buffer_bytes);
        must(!wants_input || conn.recv != Recv::Idle, "input is wanted and nothing receives");
        self.splices.check(index as u32, &self.conns);
        let token = Token::new(Kind::Recv, conn.link.generation, index as u32);
        let is_ending = conn.recv != Recv::Cancelling || self.driver.sim.is_ending(token, conn.link.socket);
        must(is_ending, "what was cancelled goes on");
        let is_sent = conn.sending_bytes > 0;
        must(duplex.outlet.pending.is_none() || is_sent, "output waits and nothing is sent");
        let is_timed = conn.stall_deadline != Tick::NEVER || duplex.phase == Phase::Closing;
        must(!is_sent || is_timed, "a send has a deadline");
        let is_timed =
            self.timers.keeps(index as u32, conn.next_deadline()) || duplex.phase == Phase::Closing;
        must(is_timed, "nobody looks at a deadline in time");
        let token = Token::new(Kind::Send, conn.link.generation, index as u32);
        let is_silent = is_sent && self.driver.sim.is_silent(token);
        must(!is_silent || conn.is_at_rest(), "somebody waits for a send that nobody tells of");
        match duplex.phase {
            Phase::Open => {
                let is_high = duplex.outlet.level == Level::High;
                let may_see = duplex.inlet.reading == Reading::Flowing && !is_high;
                let has_input = unread_bytes >= (duplex.inlet.need_bytes as usize).max(1);
                must(!(may_see && duplex.inlet.is_due() && has_input), "input is due and nobody looks at it");
                let is_untold = duplex.inlet.end == End::Arrived;
                must(!(may_see && is_untold), "the peer ended and nobody says so");
                let is_paused = duplex.inlet.reading != Reading::Flowing;
                must(
                    !(is_paused && duplex.inlet.news == News::Gone),
                    "the peer ended and a session that pauses does not know",
                );
                must(!is_high || conn.queued_bytes() > 0, "a connection is held and has no output");
                let is_untold = duplex.outlet.last == Last::Written;
                must(!is_untold || conn.queued_bytes() > 0, "the last was sent, and the peer is not told");
                let is_told = duplex.outlet.last == Last::Told;
                must(!is_told || self.driver.sim.is_shut(conn.link.socket), "a peer is told of the end");
                let is_flowing = duplex.inlet.reading == Reading::Flowing;
                must(is_flowing || duplex.deadline != Tick::NEVER, "a pause has an end");
            }
            Phase::Draining => must(conn.queued_bytes() > 0, "nothing is left to flush"),
            Phase::Lingering => {
                must(conn.stall_deadline != Tick::NEVER, "lingering has an end");
                let is_told = duplex.ending == Ending::Reset || self.driver.sim.is_shut(conn.link.socket);
                must(is_told, "the peer that is waited for knows that nothing more comes");
            }
            Phase::Closing => {
                must(conn.is_busy() && conn.is_cancelled, "closing waits for something cancelled")
            }
        }
        let is_stopping = matches!(self.life, Life::Stopping(_));
        must(!is_stopping || !duplex.is_open(), "a stopped worker serves");
    }

    fn check_generations(&self) {
        let mut all: Vec<u32> = self.conns.iter().map(|(_, conn)| conn.link.generation).collect();
        all.sort_unstable();
        assert!(all.windows(2).all(|pair| pair[0] != pair[1]), "two connections share a generation");
        assert!(all.last().is_none_or(|last| *last <= self.next_generation), "a generation from the future");
    }
}
