//! The topics that a connection subscribes to. Plain data.

use crate::topic::Subscription;

/// What a connection subscribes to. Most have one, and there are many of them: the others are apart.
#[derive(Default)]
pub(super) struct Subscriptions {
    first: Option<Subscription>,
    more: Option<Box<More>>,
}

#[derive(Default)]
struct More {
    list: Vec<Subscription>,
    /// Whose turn it is.
    turn: usize,
}

impl Subscriptions {
    #[inline]
    pub(super) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.more.as_ref().map_or(0, |more| more.list.len())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Subscription> {
        self.first.iter().chain(self.more.iter().flat_map(|more| &more.list))
    }

    pub(super) fn push(&mut self, subscription: Subscription) {
        match &mut self.first {
            None => self.first = Some(subscription),
            Some(_) => self.more.get_or_insert_default().list.push(subscription),
        }
    }

    pub(super) fn retain(&mut self, mut keeps: impl FnMut(&Subscription) -> bool) {
        self.first = self.first.take().filter(&mut keeps);
        if let Some(more) = &mut self.more {
            more.list.retain(keeps);
        }
    }

    /// Each in turn.
    #[inline]
    pub(super) fn next(&mut self) -> Option<&mut Subscription> {
        let Some(more) = &mut self.more else { return self.first.as_mut() };
        let firsts = usize::from(self.first.is_some());
        more.turn = if more.turn + 1 < firsts + more.list.len() { more.turn + 1 } else { 0 };
        if more.turn < firsts { self.first.as_mut() } else { more.list.get_mut(more.turn - firsts) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::{Subscribe, Topics};

    #[test]
    fn each_has_its_turn_whoever_has_left() {
        let hub = Topics::default().hub_of(0, 1);
        let names = |all: &Subscriptions| -> Vec<String> {
            all.iter().map(|subscription| subscription.topic().to_string()).collect()
        };
        let mut all = Subscriptions::default();
        assert!(all.next().is_none());
        for name in ["a", "b", "c"] {
            all.push(hub.subscribe(name, Subscribe::default()).unwrap());
        }
        for gone in ["", "b", "a", "c"] {
            all.retain(|subscription| *subscription.topic() != *gone);
            let expected = names(&all);
            assert_eq!(all.len(), expected.len());
            let mut turns: Vec<String> =
                (0..all.len()).map(|_| all.next().unwrap().topic().to_string()).collect();
            turns.sort();
            assert_eq!(turns, expected);
        }
        assert!(all.next().is_none());
        all.push(hub.subscribe("d", Subscribe::default()).unwrap());
        assert_eq!((names(&all), &*all.next().unwrap().topic()), (vec!["d".to_owned()], "d"));
    }

    #[test]
    fn most_have_one() {
        assert_eq!(size_of::<Subscriptions>(), 24);
    }
}
