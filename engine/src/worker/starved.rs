//! Connections that found no receive buffer, in the order in which they are armed again. Pure.

use std::collections::VecDeque;

/// First come those that got nothing: a few peers that send without end use up all buffers in every turn, and would keep
/// everybody else waiting.
#[derive(Default)]
pub(super) struct Starved {
    waiting: VecDeque<u32>,
    /// Those of this turn that had received something before.
    fed: VecDeque<u32>,
}

impl Starved {
    pub(super) fn push(&mut self, index: u32, is_fed: bool) {
        let queue = if is_fed { &mut self.fed } else { &mut self.waiting };
        queue.push_back(index);
    }

    /// The turn is over: who had received something waits behind the others.
    pub(super) fn end_turn(&mut self) {
        self.waiting.append(&mut self.fed);
    }

    /// The next to be armed.
    pub(super) fn pop(&mut self) -> Option<u32> {
        self.waiting.pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.fed.is_empty()
    }

    #[cfg(any(test, feature = "sim"))]
    pub(super) fn contains(&self, index: u32) -> bool {
        self.waiting.contains(&index) || self.fed.contains(&index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_got_nothing_comes_first_and_nobody_is_forgotten() {
        let mut starved = Starved::default();
        starved.push(1, true);
        starved.push(2, false);
        starved.push(3, true);
        starved.end_turn();
        assert_eq!(starved.pop(), Some(2));
        starved.push(4, false);
        starved.push(2, true);
        starved.end_turn();
        assert_eq!(std::iter::from_fn(|| starved.pop()).collect::<Vec<_>>(), [1, 3, 4, 2]);
        assert!(starved.is_empty());
    }
}
