//! Who may make a handshake now. A handshake is the one long step of CPU in a worker: hundreds that begin at once would keep all
//! other connections waiting. So a turn of the worker has a budget for them; who comes when it is spent waits in a queue, and
//! is woken later, first come, first served: each time as many as the budget is enough for. What is woken from a call comes
//! at the end of the turn, what is woken from a wake with the next turn; so one turn may spend the budget about twice.
//! Pure: the clock and the waking are the caller's.

use ringmill_engine::Tick;
use std::collections::VecDeque;
use std::time::Duration;

/// The budget and the queue of a worker's handshakes; `I` names a connection.
#[derive(Debug)]
pub(super) struct Turns<I> {
    budget: Duration,
    /// The turn that the next two are about: all calls of a turn see one time.
    now: Tick,
    /// That turn is not told of all that has happened: who comes last waits for all turns before it, so they are kept short.
    is_behind: bool,
    spent: Duration,
    begun: u32,
    /// Who waits, the oldest first; who has gone leaves a gap.
    queue: VecDeque<Option<I>>,
    /// The number of the first in the queue. Who has a smaller one was woken.
    first: u64,
    /// How many were woken and have not come yet.
    woken: usize,
    /// What a handshake costs, averaged over the last few.
    cost: Duration,
}

/// The weight of the newest cost, as a divisor.
const COST_WEIGHT: u32 = 8;

impl<I: Copy> Turns<I> {
    pub(super) fn new(budget: Duration) -> Turns<I> {
        Turns {
            budget,
            now: Tick::NEVER,
            is_behind: false,
            spent: Duration::ZERO,
            begun: 0,
            queue: VecDeque::new(),
            first: 0,
            woken: 0,
            cost: Duration::ZERO,
        }
    }

    /// Whether somebody may begin now who has not waited. The first of a turn may, whatever it will cost.
    pub(super) fn may_begin(&mut self, now: Tick, is_behind: bool) -> bool {
        if self.now != now {
            (self.now, self.spent, self.begun) = (now, Duration::ZERO, 0);
        }
        self.is_behind = is_behind;
        let has_budget = self.begun == 0 || (self.spent < self.budget && !is_behind);
        has_budget && self.queue.is_empty() && self.woken == 0
    }

    /// Somebody has begun, and it cost so much.
    pub(super) fn spend(&mut self, cost: Duration) {
        self.begun += 1;
        self.spent += cost;
        self.cost = (self.cost * (COST_WEIGHT - 1) + cost) / COST_WEIGHT;
    }

    /// Waits, under the number that this returns.
    pub(super) fn enter(&mut self, id: I, wake: impl FnMut(I)) -> u64 {
        self.queue.push_back(Some(id));
        self.wake_next(wake);
        self.first + self.queue.len() as u64 - 1
    }

    /// Was woken and has come.
    pub(super) fn come(&mut self, number: u64, is_behind: bool, wake: impl FnMut(I)) {
        self.is_behind = is_behind;
        self.leave(number, wake);
    }

    /// Does not wait any more: has come, or is gone.
    pub(super) fn leave(&mut self, number: u64, wake: impl FnMut(I)) {
        match number.checked_sub(self.first) {
            Some(at) => self.queue[at as usize] = None,
            None => self.woken -= 1,
        }
        self.wake_next(wake);
    }

    /// Wakes as many as the budget of a turn is enough for, once those before have come; one, while the turns are to be short.
    fn wake_next(&mut self, mut wake: impl FnMut(I)) {
        if self.woken > 0 {
            return;
        }
        let cost = self.cost.max(Duration::from_micros(1));
        let enough = (self.budget.as_nanos() / cost.as_nanos()).clamp(1, 1000) as usize;
        let enough = if self.is_behind { 1 } else { enough };
        while self.woken < enough
            && let Some(waiting) = self.queue.pop_front()
        {
            self.first += 1;
            if let Some(id) = waiting {
                self.woken += 1;
                wake(id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_turn_has_a_budget_and_its_first_handshake_is_free() {
        let mut turns = Turns::<u32>::new(2 * MS);
        for expected in [true, true, false, false] {
            assert_eq!(turns.may_begin(Tick(1), false), expected);
            if expected {
                turns.spend(MS);
            }
        }
        assert!(turns.may_begin(Tick(2), false));
        turns.spend(100 * MS);
        assert!(!turns.may_begin(Tick(2), false));
        assert!(turns.may_begin(Tick(3), false));
    }

    #[test]
    fn who_waits_is_woken_in_order_and_nobody_overtakes() {
        let mut turns = Turns::new(MS);
        (0..50).for_each(|_| turns.spend(MS / 2));
        let mut woken = Vec::new();
        let numbers: Vec<u64> = (0..5).map(|id| turns.enter(id, |id| woken.push(id))).collect();
        // One when it came, alone in the queue.
        assert_eq!(woken, [0]);
        assert!(!turns.may_begin(Tick(9), false));
        turns.leave(numbers[0], |id| woken.push(id));
        assert_eq!(woken, [0, 1, 2]);
        turns.leave(numbers[1], |id| woken.push(id));
        assert_eq!(woken, [0, 1, 2], "one of them is still to come");
        turns.leave(numbers[2], |id| woken.push(id));
        assert_eq!(woken, [0, 1, 2, 3, 4]);
        turns.leave(numbers[3], |id| woken.push(id));
        turns.leave(numbers[4], |id| woken.push(id));
        assert!(turns.may_begin(Tick(10), false));
    }

    #[test]
    fn who_begins_while_much_waits_is_one_a_turn() {
        let mut turns = Turns::new(10 * MS);
        (0..50).for_each(|_| turns.spend(MS));
        assert!(turns.may_begin(Tick(1), true));
        turns.spend(MS);
        assert!(!turns.may_begin(Tick(1), true));
        let mut woken = Vec::new();
        let numbers: Vec<u64> = (0..30).map(|id| turns.enter(id, |id| woken.push(id))).collect();
        assert_eq!(woken, [0]);
        turns.come(numbers[0], true, |id| woken.push(id));
        assert_eq!(woken, [0, 1]);
        turns.come(numbers[1], false, |id| woken.push(id));
        assert_eq!(woken.len(), 12, "all is seen: as many as the budget is enough for");
    }

    #[test]
    fn who_is_gone_keeps_nobody_waiting() {
        let mut turns = Turns::new(Duration::ZERO);
        let mut woken = Vec::new();
        let numbers: Vec<u64> = (0..5).map(|id| turns.enter(id, |id| woken.push(id))).collect();
        // In the queue, and woken.
        for gone in [1, 2, 0] {
            turns.leave(numbers[gone], |id| woken.push(id));
        }
        assert_eq!(woken, [0, 3]);
        for gone in [4, 3] {
            turns.leave(numbers[gone], |id| woken.push(id));
        }
        assert_eq!(woken, [0, 3]);
        assert!(turns.may_begin(Tick(1), false));
    }
}
