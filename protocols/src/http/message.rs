//! The words in which a message is told, whatever version of HTTP it came in: the head of a request with its method,
//! target and fields, and how its body ends.
//!
//! Plain data that borrows from the input. It is made by the parser of a version (`one/head.rs`), which has checked it:
//! nothing here looks at syntax.

use std::fmt;

/// One request head that kept every rule.
#[derive(Clone, Copy, Debug)]
pub struct Head<'h, 'b> {
    /// The method.
    pub method: Method<'b>,
    /// The request target as sent: visible ASCII without `#`.
    pub target: Ascii<'b>,
    /// The raw path: begins with `/`; `*` for the asterisk-form, empty for CONNECT. Still percent-encoded.
    pub path: Ascii<'b>,
    /// The raw query after the first `?`. Still percent-encoded.
    pub query: Option<Ascii<'b>>,
    /// The version.
    pub version: Version,
    /// Host and port of the target URI: the absolute-form's, else the Host field's. Always there on HTTP/1.1.
    pub host: Option<Ascii<'b>>,
    /// All header fields in order.
    pub fields: Fields<'h, 'b>,
    /// Whether the target is absolute and its scheme `https`. Who takes such a request must look at whether the connection is
    /// secured (RFC 9110 section 7.4).
    pub is_https: bool,
    /// How the body is framed.
    pub framing: Framing,
    /// Whether the connection may serve another request (RFC 9112 section 9.3).
    pub keep_alive: bool,
    /// Whether Connection names `upgrade` on HTTP/1.1 (RFC 9110 section 7.8).
    pub upgrade: bool,
    /// What the client waits for.
    pub expect: Expect,
}

/// A request method (RFC 9110 section 9). Case-sensitive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the variants are the methods' own names")]
pub enum Method<'b> {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Patch,
    Connect,
    Trace,
    /// Any other token.
    Other(&'b str),
}

impl<'b> Method<'b> {
    /// Names the method a token stands for.
    #[inline]
    pub(super) fn from_token(token: &'b [u8]) -> Method<'b> {
        match token {
            b"GET" => Method::Get,
            b"POST" => Method::Post,
            b"HEAD" => Method::Head,
            b"PUT" => Method::Put,
            b"DELETE" => Method::Delete,
            b"OPTIONS" => Method::Options,
            b"PATCH" => Method::Patch,
            b"CONNECT" => Method::Connect,
            b"TRACE" => Method::Trace,
            other => Method::Other(str::from_utf8(other).expect("a token is ASCII")),
        }
    }

    /// The method as it stands in the request line.
    pub fn as_str(self) -> &'b str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
            Method::Options => "OPTIONS",
            Method::Patch => "PATCH",
            Method::Connect => "CONNECT",
            Method::Trace => "TRACE",
            Method::Other(token) => token,
        }
    }
}

/// The two versions this server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// How the length of the request's body is known (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No body: neither Content-Length nor Transfer-Encoding came.
    None,
    /// Content-Length in bytes; zero is possible.
    Length(u64),
    /// Transfer-Encoding: chunked.
    Chunked,
}

/// What the client expects before it sends the body (RFC 9110 section 10.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nothing, or the request is HTTP/1.0, where 100-continue is ignored.
    None,
    /// A 100 (Continue) before the body.
    Continue,
}

/// Bytes that were found to be ASCII. They become text only for those who ask: checking them once more costs
/// more than all the parser does for a short one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ascii<'b>(pub(super) &'b [u8]);

impl<'b> Ascii<'b> {
    /// The bytes.
    pub fn as_bytes(self) -> &'b [u8] {
        self.0
    }

    /// The bytes as text.
    pub fn as_str(self) -> &'b str {
        str::from_utf8(self.0).expect("the parser lets only ASCII through")
    }
}

/// One header field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'b> {
    /// The name as sent: a token, to be compared without regard to case.
    pub name: &'b [u8],
    /// The value without outer white space. It may hold obs-text (bytes from 0x80), but no control byte other
    /// than HTAB.
    pub value: &'b [u8],
}

/// The header fields of one head, in order.
#[derive(Clone, Copy)]
pub struct Fields<'h, 'b> {
    pub(super) text: &'b [u8],
    pub(super) slots: &'h [Slot],
}

impl<'h, 'b> Fields<'h, 'b> {
    /// The head that they stand in, from its first byte to its last.
    #[cfg(feature = "tower")]
    pub(crate) fn text(&self) -> &'b [u8] {
        self.text
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// All fields in order, repeated ones each for itself.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Field<'b>> + use<'h, 'b> {
        let text = self.text;
        self.slots.iter().map(move |slot| Field { name: slot.name.of(text), value: slot.value.of(text) })
    }

    /// The value of the first field of this name, in any case.
    pub fn value(&self, name: &str) -> Option<&'b [u8]> {
        self.iter().find(|field| field.name.eq_ignore_ascii_case(name.as_bytes())).map(|field| field.value)
    }
}

impl fmt::Debug for Fields<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// The most header fields one head can have, whatever the limits say.
pub const FIELDS_MAX: usize = 100;

/// Where one field stands in its head.
#[derive(Clone, Copy)]
pub(super) struct Slot {
    pub(super) name: Span,
    pub(super) value: Span,
}

/// Room for the places of one head's fields. It borrows nothing: make one per worker and use it for every
/// head.
#[derive(Clone)]
pub struct Slots(pub(super) [Slot; FIELDS_MAX]);

impl Slots {
    /// Makes empty room, 800 bytes.
    pub const fn new() -> Slots {
        const NOWHERE: Span = Span { at: 0, end: 0 };
        Slots([Slot { name: NOWHERE, value: NOWHERE }; FIELDS_MAX])
    }
}

impl Default for Slots {
    fn default() -> Self {
        Slots::new()
    }
}

/// The most bytes one head can have, whatever the limits say: slots hold offsets of 16 bits.
pub const HEAD_BYTES_MAX: usize = u16::MAX as usize;

/// Part of a head, as offsets into it. They fit: a head has at most [`HEAD_BYTES_MAX`] bytes.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub(super) at: u16,
    pub(super) end: u16,
}

impl Span {
    #[inline(always)]
    pub(super) fn new(at: usize, end: usize) -> Span {
        Span { at: at as u16, end: end as u16 }
    }

    /// The bytes that the span covers in the text it was made for.
    #[inline(always)]
    pub(super) fn of(self, text: &[u8]) -> &[u8] {
        &text[usize::from(self.at)..usize::from(self.end)]
    }
}
