//! Replies that give a connection to another protocol (RFC 9110, 7.8), or ask for that.

use super::field::is_field;
use super::one::emit;
use super::reply::{Reply, ReplyState, Stage};
use super::request::Request;
use super::successor::Successor;

/// What answers the requests of one path instead of the handler, before their bodies are read. Its answer is the last of the
/// connection, or gives it to somebody else.
pub(crate) trait Endpoint {
    fn answer(&mut self, request: &Request<'_>, reply: &mut Reply<'_>);
}

/// Who answers the requests of one path.
pub(super) struct Route {
    pub(super) path: Box<[u8]>,
    pub(super) endpoint: Box<dyn Endpoint>,
}

impl Reply<'_> {
    /// Answers 101 (RFC 9110, 15.2.2) and gives the connection to `successor`, with whatever has come behind the request. `protocol` is
    /// what the field Upgrade says; fields that cannot stand in a reply ([`Reply::field`]) are left out. Only for a client that has
    /// offered it ([`Request::offers_upgrade`]), whose request has arrived in full, and instead of writing an answer.
    pub fn switch(&mut self, protocol: &str, fields: &[(&str, &str)], successor: impl Successor + 'static) {
        if self.state.http10 || self.state.head_only || !self.may_be_put_off() {
            tracing::error!("101 cannot answer this request, or comes behind another answer: ignored");
            return;
        }
        self.state.status = 101;
        self.start();
        for (name, value) in fields.iter().chain(&[("upgrade", protocol)]) {
            if is_field(name, value) {
                emit::write_field(self.io.buffer(), name, value);
            }
        }
        self.io.write(b"connection: upgrade\r\n\r\n");
        self.state.stage = Stage::Switched;
        self.state.later.get_or_insert_default().successor = Some(Box::new(successor));
    }

    /// Answers 426: what is here speaks `protocol` (RFC 9110, 15.5.22). With more fields, as [`Reply::field`] takes them.
    pub fn require_upgrade(&mut self, protocol: &str, fields: &[(&str, &str)]) {
        if self.state.stage == Stage::Unsent {
            self.status(426).field("upgrade", protocol);
            // Upgrade is one hop's business (RFC 9110, 7.8), which Connection has to say. Of two Connection fields both count.
            self.io.write(b"connection: upgrade\r\n");
            for (name, value) in fields {
                self.field(name, value);
            }
        }
        self.text("426 Upgrade Required\n");
    }
}

impl ReplyState {
    /// Whether the connection is not HTTP's any more.
    pub(super) fn is_switched(&self) -> bool {
        self.stage == Stage::Switched
    }

    /// Who goes on with it.
    pub(super) fn into_successor(self) -> Option<Box<dyn Successor>> {
        self.later.and_then(|later| later.successor)
    }
}
