//! Answers that are responses of another crate: the status and the body as ours, the fields as that crate writes them.

use super::content::{BodyLength, Source};
use super::intake::Intake;
use super::one::emit;
use super::reply::{Reply, Stage};

/// What fields say that the server would say otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) server: bool,
    pub(crate) date: bool,
    /// The connection ends behind this answer.
    pub(crate) closes: bool,
}

impl Reply<'_> {
    /// Begins an answer, of which nothing is written: field lines are to be appended, and [`Reply::content`] to follow.
    pub(crate) fn head(&mut self, status: u16, said: Said) -> &mut Vec<u8> {
        (self.state.stage, self.state.status, self.state.has_type) = (Stage::Fields, status, true);
        let Said { server, date, closes } = said;
        self.state.keep_alive &= !closes;
        let buffer = self.io.buffer();
        if status == 200 && !server && !date {
            buffer.extend_from_slice(self.preamble.ok());
            return buffer;
        }
        emit::write_status_line(buffer, status);
        for own in self.preamble.some_fields(!server, !date) {
            buffer.extend_from_slice(own);
        }
        buffer
    }

    /// Ends HTTP on this connection with the head that is written: no field frames what follows (RFC 9110, 7.8 and 9.3.6).
    pub(super) fn give_over(&mut self, intake: Box<dyn Intake>, source: Box<dyn Source>) {
        if self.start() {
            self.io.write(b"\r\n");
            self.state.keep_alive = false;
            self.state.stage = Stage::Body(BodyLength::UntilClose);
            self.state.source = Some(source);
            self.state.later.get_or_insert_default().tunnel = Some(intake);
        }
    }
}
