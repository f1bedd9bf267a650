//! A reply as a value: what a handler that waits gives back. The server writes it when it is there.

use crate::http::content::Source;
use crate::http::date::KnownType;
use crate::http::field::is_field;
#[cfg(feature = "tower")]
use crate::http::intake::Intake;
use crate::http::one::emit;
use bytes::Bytes;

/// The answer of a handler that waits: status, fields, body. Each method gives it back, so that calls chain.
///
/// Server, Date, Connection and the framing fields are the server's business. An answer without a body has an empty one.
#[must_use = "the handler gives it back"]
pub struct OwnedReply {
    pub(crate) status: u16,
    /// Field lines, checked.
    pub(crate) fields: Vec<u8>,
    pub(crate) has_type: bool,
    pub(crate) closes: bool,
    pub(crate) body: Body,
}

/// What follows the head.
pub(crate) enum Body {
    Known(KnownType, Bytes),
    Whole(Bytes),
    Source(Option<u64>, Box<dyn Source>),
    /// The connection is given over: what comes in goes to the one, and the other makes what goes out.
    #[cfg(feature = "tower")]
    Tunnel(Box<dyn Intake>, Box<dyn Source>),
}

impl Default for OwnedReply {
    fn default() -> OwnedReply {
        OwnedReply::new()
    }
}

impl OwnedReply {
    /// A 200 with an empty body.
    pub fn new() -> OwnedReply {
        let (fields, body) = (Vec::new(), Body::Whole(Bytes::new()));
        OwnedReply { status: 200, fields, has_type: false, closes: false, body }
    }

    /// Sets the status, 200 to 599; any other is ignored and logged.
    pub fn status(mut self, status: u16) -> OwnedReply {
        if (200..600).contains(&status) {
            self.status = status;
        } else {
            tracing::warn!(status, "a reply's status is not one: ignored");
        }
        self
    }

    /// Adds a field. A name that is not a token, a value with control bytes, and fields that are the server's
    /// business are ignored and logged: a peer's data cannot split a reply.
    pub fn field(mut self, name: &str, value: &str) -> OwnedReply {
        if is_field(name, value) {
            self.has_type |= name.eq_ignore_ascii_case("content-type");
            emit::write_field(&mut self.fields, name, value);
        } else {
            tracing::warn!(name, "a reply's field is malformed or the server's business: ignored");
        }
        self
    }

    /// Sets Content-Type.
    pub fn content_type(self, media_type: &str) -> OwnedReply {
        self.field("content-type", media_type)
    }

    /// A text, as `text/plain` unless a type was set. A `String` is not copied.
    pub fn text(self, text: impl Into<Bytes>) -> OwnedReply {
        self.with(Body::Known(KnownType::Text, text.into()))
    }

    /// JSON that is already serialised, as `application/json` unless a type was set.
    pub fn json(self, json: impl Into<Bytes>) -> OwnedReply {
        self.with(Body::Known(KnownType::Json, json.into()))
    }

    /// A body. A `Vec` is not copied.
    pub fn body(self, bytes: impl Into<Bytes>) -> OwnedReply {
        self.with(Body::Whole(bytes.into()))
    }

    /// A body that `source` makes as the client reads it: of `length` bytes, or chunked.
    pub fn stream(self, length: Option<u64>, source: impl Source + 'static) -> OwnedReply {
        self.with(Body::Source(length, Box::new(source)))
    }

    /// Closes the connection after this reply.
    pub fn close(mut self) -> OwnedReply {
        self.closes = true;
        self
    }

    fn with(self, body: Body) -> OwnedReply {
        OwnedReply { body, ..self }
    }
}
