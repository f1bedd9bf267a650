//! Topics whose homes are other workers: what a mirror asks for, and how its log follows the home's. Pure, as the core is.
//!
//! A mirror is there while it has subscribers. It is sent what follows its first question, and asks again where something is missing.

use super::core::{Core, Outside};
use super::inbox::{History, Wish};
use super::message::Frame;
use super::one::Role;
use super::options::Start;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Core {
    pub(super) fn mirror(&mut self, name: &Arc<str>, outside: Outside<'_>) -> usize {
        let first = self.questions + 1;
        let (index, is_new) = self.topic(name, || Role::Mirror { first, asked: 0, answered: 0 });
        if is_new {
            self.ask(index, outside);
            // The home does the same, but maybe after what is published here next.
            if let Some(carrier) = outside.carrier {
                carrier.subscribe(name);
            }
        }
        index
    }

    /// With the answer to which question it is known where a subscriber starts that is about to come; sees that it is asked.
    pub(super) fn question(&mut self, index: usize, start: Start, outside: Outside<'_>) -> u64 {
        let topic = &self.topics[index];
        let is_beyond = topic.is_beyond(start);
        // The mirror was made for this one.
        let is_new = topic.subscribers.is_empty();
        match topic.role {
            Role::Home { .. } => 0,
            Role::Mirror { first, .. } if is_new || !is_beyond => first,
            Role::Mirror { asked, .. } => {
                self.ask(index, outside);
                asked + 1
            }
        }
    }

    /// A worker wants a topic whose home is here, or does not any more.
    pub(super) fn grant(&mut self, worker: usize, name: &Arc<str>, wish: Wish, outside: Outside<'_>) {
        match wish {
            Wish::From { question, offset, restarts } => {
                let index = self.wanted(name, restarts, outside);
                let topic = &mut self.topics[index];
                if let Role::Home { interested, .. } = &mut topic.role
                    && !interested.contains(&worker)
                {
                    interested.push(worker);
                }
                let (frames, end) = (topic.log.since(offset), topic.log.end());
                outside.inboxes[worker].history(name, History { question, frames, end });
            }
            Wish::Nothing => {
                let Some(&index) = self.names.get(name) else { return };
                if let Role::Home { interested, .. } = &mut self.topics[index].role {
                    interested.retain(|other| *other != worker);
                }
                self.forget_if_idle(index, outside);
            }
        }
    }

    /// A message from a topic's home.
    pub(super) fn deliver(&mut self, name: &Arc<str>, frame: Arc<Frame>, outside: Outside<'_>) {
        let Some(&index) = self.names.get(name) else { return };
        let topic = &self.topics[index];
        let (offset, next) = (frame.place().offset, topic.log.next());
        match topic.role {
            Role::Mirror { answered: 1.., .. } if offset == next => self.append(index, frame, outside),
            Role::Mirror { answered: 1.., .. } if offset > next => self.ask(index, outside),
            // It is here already, or comes with the history that was asked for.
            _ => {}
        }
    }

    /// What a mirror asked for.
    pub(super) fn fill(
        &mut self,
        name: &Arc<str>,
        History { question, frames, end }: History,
        outside: Outside<'_>,
    ) {
        let Some(&index) = self.names.get(name) else { return };
        let topic = &mut self.topics[index];
        let Role::Mirror { first, answered, .. } = &mut topic.role else { return };
        if question < *first {
            return;
        }
        let is_first = std::mem::replace(answered, question) == 0;
        let first = end.next - frames.len() as u64;
        if is_first || first > topic.log.next() {
            // What lies between is lost to everybody here, and each is told.
            let (messages, bytes) = (topic.log.len(), topic.log.bytes());
            topic.log.jump(first, end);
            self.messages -= messages;
            self.bytes -= bytes;
            self.touch(index);
        }
        for frame in frames {
            if frame.place().offset == self.topics[index].log.next() {
                self.append(index, frame, outside);
            }
        }
        let topic = &mut self.topics[index];
        topic.log.follow(end.epoch);
        // Now it is known where some are, or that they cannot go on, which they are to be told. Nobody else has anything to look at.
        let slots: Vec<usize> = topic.waiting.keys().copied().collect();
        for slot in slots {
            if topic.cursor(slot) != Some(None) {
                topic.wake_one(slot, outside.dialer);
            }
        }
        if topic.waiting.values().any(|(_, until)| *until > question) {
            self.ask(index, outside);
        }
    }

    /// Asks a topic's home for what follows, unless the answer is on its way.
    pub(super) fn ask(&mut self, index: usize, outside: Outside<'_>) {
        let topic = &mut self.topics[index];
        let Role::Mirror { asked, answered, .. } = &mut topic.role else { return };
        if asked != answered {
            return;
        }
        self.questions += 1;
        *asked = self.questions;
        let offset = if *answered > 0 { topic.log.next() } else { 0 };
        let restarts = outside.restarts.load(Ordering::Relaxed);
        let wish = Wish::From { question: *asked, offset, restarts };
        let home = (outside.home_of)(&topic.name);
        outside.inboxes[home].wish(outside.worker, &topic.name, wish);
    }
}
