//! The ledger of one worker's memory, and how short it is. Pure.
//!
//! Counted are receive buffers, queued output, unconsumed input, and what sessions say they hold
//! (`Io::hold`): all that peers can make grow besides the number of connections, which has its own limit.
//! What is done about it is in `worker/pressure.rs`.

/// How short of memory a worker is. Each step includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pressure {
    None,
    /// From three quarters of the budget on: accept nothing, keep no spare buffers, let connections queue less.
    StopAccepting,
    /// From seven eighths on: idle connections are asked to close.
    CloseIdle,
    /// The budget is used up: requests are refused, and who needs more input kept is closed.
    Refuse,
}

/// What one worker's buffers hold, in bytes.
pub(crate) struct Memory {
    used: usize,
    max: usize,
    pressure: Pressure,
}

impl Memory {
    pub(crate) fn new(max: usize) -> Memory {
        Memory { used: 0, max, pressure: Pressure::None }
    }

    /// What took `from` bytes takes `to` now.
    #[inline]
    pub(crate) fn change(&mut self, from: usize, to: usize) {
        debug_assert!(from <= self.used, "more memory given back than was taken");
        self.used = self.used - from + to;
    }

    pub(crate) fn used(&self) -> usize {
        self.used
    }

    #[inline]
    pub(crate) fn is_exhausted(&self) -> bool {
        self.used >= self.max
    }

    /// Whether there is any pressure, as of the last [`Memory::judge`].
    #[inline]
    pub(crate) fn is_short(&self) -> bool {
        self.pressure != Pressure::None
    }

    /// Finds out how short memory is now; returns what was found before, and now. A shortage ends only below five eighths,
    /// so that it does not come and go with every buffer.
    #[inline]
    pub(crate) fn judge(&mut self) -> (Pressure, Pressure) {
        let eighth = self.max / 8;
        let now = if self.used < eighth * if self.is_short() { 5 } else { 6 } {
            Pressure::None
        } else if self.used < eighth * 7 {
            Pressure::StopAccepting
        } else if self.used < self.max {
            Pressure::CloseIdle
        } else {
            Pressure::Refuse
        };
        (std::mem::replace(&mut self.pressure, now), now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_rises_in_steps() {
        let check_after = |before, used, expected| {
            let mut memory = Memory { pressure: before, ..Memory::new(800) };
            memory.change(0, used);
            assert_eq!(memory.judge(), (before, expected), "{used}");
            assert_eq!(memory.is_short(), expected != Pressure::None);
            assert_eq!(memory.is_exhausted(), expected == Pressure::Refuse);
        };
        let check = |used, expected| check_after(Pressure::None, used, expected);
        check(0, Pressure::None);
        check(599, Pressure::None);
        check(600, Pressure::StopAccepting);
        check(699, Pressure::StopAccepting);
        check(700, Pressure::CloseIdle);
        check(799, Pressure::CloseIdle);
        check(800, Pressure::Refuse);
        check(usize::MAX / 2, Pressure::Refuse);
        check_after(Pressure::Refuse, 500, Pressure::StopAccepting);
        check_after(Pressure::Refuse, 499, Pressure::None);
    }

    #[test]
    fn a_change_is_a_difference() {
        let mut memory = Memory::new(100);
        memory.change(0, 30);
        memory.change(30, 50);
        memory.change(50, 10);
        assert_eq!(memory.used(), 10);
    }
}
