//! Whether the other side of a connection is still there: who is silent while it has streams is asked (PING).

use h2::{Ping, PingPong};
use ringmill_engine::Tick;
use std::task::{Context, Waker};
use std::time::Duration;

pub(super) struct Pings {
    /// Both times, where it is asked at all: silence, and until the answer.
    times: Option<(Duration, Duration)>,
    pings: Option<PingPong>,
    heard: Tick,
    asked: Option<Tick>,
}

impl Pings {
    pub(super) fn new(times: Option<(Duration, Duration)>, now: Tick) -> Pings {
        Pings { times, pings: None, heard: now, asked: None }
    }

    /// From here on it can be asked.
    pub(super) fn begin(&mut self, pings: Option<PingPong>) {
        self.pings = pings;
    }

    /// Something came.
    pub(super) fn hear(&mut self, now: Tick) {
        (self.heard, self.asked) = (now, None);
    }

    /// When [`Pings::look`] is to be called, while there are streams.
    pub(super) fn due(&self) -> Tick {
        let Some((silence, answer)) = self.times.filter(|_| self.pings.is_some()) else { return Tick::NEVER };
        self.asked.map_or(self.heard.after(silence), |asked| asked.after(answer))
    }

    /// Asks, if it is time for that; false if there was no answer.
    pub(super) fn look(&mut self, now: Tick) -> bool {
        if self.due() > now {
            return true;
        }
        if self.asked.is_some() {
            return false;
        }
        if let Some(pings) = &mut self.pings {
            // The answer to the last one, which was taken for a sign of life when it came.
            let _ = pings.poll_pong(&mut Context::from_waker(Waker::noop()));
            let _ = pings.send_ping(Ping::opaque());
        }
        self.asked = Some(now);
        true
    }
}
