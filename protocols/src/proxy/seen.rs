//! When something is noted of a request, where anything is to be told of it (`observe/`).

use super::client::{Client, Peer};
use super::observe::Seen;
use super::state::{SPARE_MAX, State};
use crate::http::message::Head;
use ringmill_engine::Io;

impl State {
    /// Notes what a request's head says, where anything is to be noted.
    pub(super) fn look_at(&mut self, client: &mut Client, head: &Head<'_, '_>, io: &Io<'_>) {
        if !self.plan.front.observe.is_wanted() {
            return;
        }
        let Peer { is_trusted, .. } = self.peer(client, io);
        let ids = self.plan.front.observe.ids.identify(&head.fields, is_trusted, &mut self.random);
        let mut seen = self.spare_seen.pop().unwrap_or_default();
        seen.ids = ids;
        self.seen = Some(seen);
    }

    /// Keeps its memory for the next request.
    pub(super) fn forget(&mut self, seen: Option<Box<Seen>>) {
        if let Some(seen) = seen
            && self.spare_seen.len() < SPARE_MAX
        {
            self.spare_seen.push(seen);
        }
    }
}
