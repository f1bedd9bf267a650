//! The fields of a response that frame its body or end its connection (RFC 9112, 6 and 9.3). Pure.

use crate::http::message::Span;
use crate::http::one::syntax::content_length;
use crate::http::reject::Reject;

/// What these fields say, as they come by. They are judged when the whole head is there.
#[derive(Default)]
pub(super) struct Known {
    length: Option<Span>,
    coding: Option<Span>,
    repeated: Option<Reject>,
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) upgrade: bool,
}

impl Known {
    /// Notes a field. First letter and length rule out nearly all names at once.
    #[inline(always)]
    pub(super) fn note(&mut self, text: &[u8], name: Span, value: Span) {
        let name = name.of(text);
        if matches!((name[0] | 0x20, name.len()), (b'c', 10 | 14) | (b't', 17)) {
            self.note_rare(text, name, value);
        }
    }

    #[inline(never)]
    fn note_rare(&mut self, text: &[u8], name: &[u8], value: Span) {
        if is(name, b"content-length") {
            self.repeated = self.repeated.or(self.length.replace(value).map(|_| Reject::LengthRepeated));
        } else if is(name, b"transfer-encoding") {
            self.repeated = self.repeated.or(self.coding.replace(value).map(|_| Reject::CodingRepeated));
        } else if is(name, b"connection") {
            for option in value.of(text).split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                self.close |= is(option, b"close");
                self.keep_alive |= is(option, b"keep-alive");
                self.upgrade |= is(option, b"upgrade");
            }
        }
    }

    /// What Content-Length says, and whether the body comes in chunks.
    pub(super) fn framing(&self, text: &[u8]) -> Result<(Option<u64>, bool), Reject> {
        if let Some(repeated) = self.repeated {
            return Err(repeated);
        }
        if self.coding.is_some_and(|coding| !coding.of(text).eq_ignore_ascii_case(b"chunked")) {
            return Err(Reject::CodingUnknown);
        }
        let length = self.length.map(|length| content_length(length.of(text))).transpose()?;
        match (length, self.coding.is_some()) {
            (Some(_), true) => Err(Reject::LengthAndCoding),
            framing => Ok(framing),
        }
    }
}

/// Whether a text is this one, which is in lower case, in any case. All of it is looked at: without a way out after each byte the bytes
/// are compared together.
#[inline(always)]
fn is<const N: usize>(text: &[u8], pattern: &[u8; N]) -> bool {
    let Some(text) = text.as_array::<N>() else { return false };
    let mut difference = 0;
    for (byte, wanted) in text.iter().zip(pattern) {
        difference |= byte.to_ascii_lowercase() ^ wanted;
    }
    difference == 0
}
