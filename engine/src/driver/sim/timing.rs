//! When simulated operations may complete, when a turn comes back, and leaps of the clock.

use super::chaos::{Fault, fire};
use super::rng::Rng;
use super::{InputKind, Side, Sim};
use crate::driver::Wait;
use crate::event::Socket;
use crate::sys;
use crate::time::Tick;
use std::cmp::Reverse;
use std::time::Duration;

/// What the clock may leap ahead, in nanoseconds: beyond every timeout of the engine.
const LEAP_MAX_NS: u64 = 120_000_000_000;

impl Sim {
    /// Gives a time to every operation that could complete and has none yet.
    pub(super) fn plan(&mut self) {
        let world = self.world.borrow();
        let delay_max = self.chaos.delay_max.as_nanos() as u64;
        let (rng, due, now) = (&mut self.rng, &mut self.due, self.now);
        let mut plan = |rng: &mut Rng, number, socket: Socket, side| {
            due.push(Reverse((Tick(now.0 + rng.up_to(delay_max)), rng.next(), number, socket, side)));
        };
        for (socket, input) in self.inputs.iter_mut().filter(|(_, input)| !input.is_due) {
            let can = input.is_cancelled
                || match &input.kind {
                    InputKind::Watch => {
                        let raised = sys::is_counter_raised(*socket);
                        let spurious = !raised && self.chaos.hits(Fault::SpuriousWake, rng);
                        if spurious {
                            fire(Fault::SpuriousWake);
                        }
                        raised || spurious
                    }
                    InputKind::Splice(pipe) => pipe.can_move(*socket, &world),
                    _ => world.has_input(*socket),
                };
            if can {
                input.is_due = true;
                plan(rng, input.number, *socket, Side::In);
            }
        }
        for (socket, out) in self.outputs.iter_mut().filter(|(_, out)| !out.is_due) {
            if out.is_cancelled || world.can_end(*socket, &out.kind) {
                out.is_due = true;
                plan(rng, out.number, *socket, Side::Out);
            }
        }
    }

    /// When this turn comes back, if nothing comes between.
    pub(super) fn end_of(&mut self, wait: Wait, has_events: bool, was_owing: bool) -> Tick {
        let next = self.due.peek().map(|Reverse((at, ..))| *at);
        // With submissions left the kernel is asked again at once.
        let is_hurried = has_events || was_owing || !self.queued.is_empty();
        match (wait, next) {
            _ if is_hurried => self.now,
            (Wait::Poll, _) | (Wait::Forever, None) => self.now,
            (Wait::Until(until), None) => self.now.max(until),
            (Wait::Until(until), Some(next)) => self.now.max(next.min(until)),
            (Wait::Forever, Some(next)) => self.now.max(next),
        }
    }

    pub(super) fn leap(&mut self) {
        if self.hits_and_fires(Fault::ClockLeap) {
            self.leaps += 1;
            self.now = Tick(self.now.0 + self.rng.up_to(LEAP_MAX_NS));
        }
        if self.hits_and_fires(Fault::WallLeap) {
            self.wall_offset = Duration::from_secs(1_600_000_000 + self.rng.up_to(200_000_000));
        }
    }
}
