//! What a topic's home does with a carrier: which topics it hears, what arrives, and where something was missed. Pure, as the core is.
//!
//! A topic is heard from its first subscriber in the process on, and for a while after the last one has left, so that who comes back has
//! missed nothing. In front of what is heard anew lies a cut.

use super::core::{Core, Outside};
use super::counters::Live;
use super::inbox::Restart;
use super::message::{Frame, Publication};
use super::one::{Hearing, Role};
use super::place::Place;
use ringmill_engine::Tick;
use std::sync::Arc;

impl Core {
    /// Somebody wants a topic whose home is here, since so many epochs had ended: it is heard.
    pub(super) fn hear(&mut self, index: usize, is_new: bool, since: u64, outside: Outside<'_>) {
        let Some(carrier) = outside.carrier else { return };
        let Role::Home { hearing, .. } = self.topics[index].role else { return };
        let was_heard = hearing != Hearing::Not;
        if !was_heard && !is_new {
            // While it is not heard: the cut may take the room of the topic's own messages, and a topic that is idle, as it still looks,
            // is not let go of again.
            self.cut(index, outside);
        }
        let topic = &mut self.topics[index];
        let next = topic.log.next();
        let Role::Home { hearing, restarts, heard_from, .. } = &mut topic.role else { return };
        *hearing = Hearing::Wanted;
        // Somebody else may have wanted it earlier.
        *restarts = if was_heard { since.min(*restarts) } else { since };
        if !was_heard {
            *heard_from = next;
            carrier.subscribe(&topic.name);
        }
    }

    /// What arrives from here on was asked for by the last who did. What came since then was on its way from before: a cut follows it.
    pub(super) fn begin(&mut self, name: &Arc<str>, outside: Outside<'_>) {
        let Some(index) = self.heard(name) else { return };
        let topic = &self.topics[index];
        if let Role::Home { heard_from, .. } = topic.role
            && heard_from != topic.log.next()
        {
            self.cut(index, outside);
        }
    }

    /// Nobody wants a topic whose home is here any more: whether it is not heard from now on, but a while later.
    pub(super) fn linger(&mut self, index: usize, outside: Outside<'_>) -> bool {
        let has_room = self.topics.len() <= outside.options.topics_max && !outside.options.linger.is_zero();
        let topic = &mut self.topics[index];
        let Role::Home { hearing, .. } = &mut topic.role else { return false };
        match hearing {
            Hearing::Not => return false,
            Hearing::Wanted if has_room => *hearing = Hearing::Lingers(None),
            Hearing::Lingers(_) => {}
            Hearing::Wanted => {
                *hearing = Hearing::Not;
                if let Some(carrier) = outside.carrier {
                    carrier.unsubscribe(&topic.name);
                }
                return false;
            }
        }
        true
    }

    /// Ends what has lingered for long enough; whether something still does.
    pub(super) fn end_lingering(&mut self, now: Tick, outside: Outside<'_>) -> bool {
        let mut is_lingering = false;
        let mut over = Vec::new();
        for (index, topic) in &mut self.topics {
            let Role::Home { hearing: hearing @ Hearing::Lingers(_), .. } = &mut topic.role else { continue };
            match *hearing {
                Hearing::Lingers(Some(since)) if now.since(since) >= outside.options.linger => {
                    *hearing = Hearing::Not;
                    if let Some(carrier) = outside.carrier {
                        carrier.unsubscribe(&topic.name);
                    }
                    over.push(index);
                    continue;
                }
                Hearing::Lingers(None) => *hearing = Hearing::Lingers(Some(now)),
                _ => {}
            }
            is_lingering = true;
        }
        for index in over {
            self.forget_if_idle(index, outside);
        }
        is_lingering
    }

    /// A message that was carried here. What is not heard any more may still arrive, and is nobody's.
    pub(super) fn arrive(&mut self, name: &Arc<str>, publication: Publication, outside: Outside<'_>) {
        if let Some(index) = self.heard(name) {
            self.put(index, publication, outside);
        }
    }

    /// Something of a topic was missed.
    pub(super) fn miss(&mut self, name: &Arc<str>, outside: Outside<'_>) {
        if let Some(index) = self.heard(name) {
            self.cut(index, outside);
        }
    }

    /// Something was missed of whatever topic was heard before: another epoch begins.
    pub(super) fn restart(&mut self, restart: Restart, outside: Outside<'_>) {
        self.epoch = restart.epoch;
        let mut cut = Vec::new();
        for (index, topic) in &mut self.topics {
            match topic.role {
                // What was asked for after that has missed nothing, unless something came that was on its way from before.
                Role::Home { hearing, heard_from, restarts, .. }
                    if hearing != Hearing::Not
                        && restarts > restart.number
                        && heard_from == topic.log.next() =>
                {
                    topic.log.follow(restart.epoch);
                }
                Role::Home { .. } => cut.push(index),
                Role::Mirror { .. } => {}
            }
        }
        for index in cut {
            // One that went away because another one's message took its room is cut by being forgotten.
            if self.topics.contains(index) {
                self.cut(index, outside);
            }
        }
    }

    fn heard(&self, name: &Arc<str>) -> Option<usize> {
        let index = *self.names.get(name)?;
        let Role::Home { hearing, .. } = &self.topics[index].role else { return None };
        (*hearing != Hearing::Not).then_some(index)
    }

    /// Lays a cut into a topic whose home is here.
    fn cut(&mut self, index: usize, outside: Outside<'_>) {
        let place = Place { epoch: self.epoch, offset: self.topics[index].log.next() };
        Live::add(&outside.live.cuts, 1);
        self.spread(index, Arc::new(Frame::cut(place)), outside);
    }
}
