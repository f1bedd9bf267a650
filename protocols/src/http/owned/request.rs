//! A request that is taken out of the input: its bytes, and where in them its parts are. No map of fields is built.

use crate::http::message::{Fields, Method, Slot, Version};
use crate::http::peer::Peer;
use crate::http::request::Request;
use std::cell::RefCell;
use std::ops::Range;

/// One request with its body, which a handler may keep as long as it likes, and may send to another thread.
pub struct OwnedRequest {
    /// There until it is dropped, when it goes to the next request.
    parts: Option<Box<Parts>>,
    peer: Peer,
}

/// Memory of one request.
#[derive(Default)]
struct Parts {
    /// The head as it came, and behind it what is a part of it and did not come so.
    text: Vec<u8>,
    slots: Vec<Slot>,
    body: Vec<u8>,
    trailers: Vec<u8>,
    method: Token,
    target: Range<u32>,
    path: Range<u32>,
    query: Option<Range<u32>>,
    host: Option<Range<u32>>,
    /// As it was sent: the text may be longer.
    head_bytes: usize,
    is_http10: bool,
    offers_upgrade: bool,
    body_length: Option<u64>,
}

enum Token {
    Known(Method<'static>),
    Other(Range<u32>),
}

impl Default for Token {
    fn default() -> Token {
        Token::Known(Method::Get)
    }
}

/// Memory that a thread keeps for the requests to come.
const SPARE_MAX: usize = 64;
/// A request with more memory gives it back.
const SPARE_BYTES_MAX: usize = 16 * 1024;

thread_local! {
    #[expect(clippy::vec_box, reason = "the box is what is used again: it moves to its next owner as it is")]
    static SPARE: RefCell<Vec<Box<Parts>>> = const { RefCell::new(Vec::new()) };
}

impl OwnedRequest {
    pub(in crate::http) fn take(request: &Request<'_>, peer: Peer) -> OwnedRequest {
        let mut parts = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
        parts.fill(request);
        OwnedRequest { parts: Some(parts), peer }
    }

    fn parts(&self) -> &Parts {
        self.parts.as_deref().expect("only dropping takes them")
    }

    /// The method.
    pub fn method(&self) -> Method<'_> {
        match &self.parts().method {
            Token::Known(method) => *method,
            Token::Other(range) => Method::Other(self.parts().str(range)),
        }
    }

    /// The target as it was sent.
    pub fn target(&self) -> &str {
        self.parts().str(&self.parts().target)
    }

    /// The path, percent-encoding and all: starts with `/`; `*` for `OPTIONS *`.
    pub fn path(&self) -> &str {
        self.parts().str(&self.parts().path)
    }

    /// What follows the `?`, percent-encoding and all.
    pub fn query(&self) -> Option<&str> {
        self.parts().query.as_ref().map(|range| self.parts().str(range))
    }

    /// The pairs of the query in order, percent-encoding and all; a part without `=` has an empty value.
    pub fn query_pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        let parts = self.query().unwrap_or("").split('&').filter(|part| !part.is_empty());
        parts.map(|part| part.split_once('=').unwrap_or((part, "")))
    }

    /// The value of the first query pair of this name.
    pub fn query_value(&self, name: &str) -> Option<&str> {
        self.query_pairs().find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// The version the client speaks.
    pub fn version(&self) -> Version {
        if self.parts().is_http10 { Version::Http10 } else { Version::Http11 }
    }

    /// Host and port of the target: from an absolute target, else from the Host field.
    pub fn host(&self) -> Option<&str> {
        self.parts().host.as_ref().map(|range| self.parts().str(range))
    }

    /// All fields in order.
    pub fn fields(&self) -> Fields<'_, '_> {
        let parts = self.parts();
        Fields { text: &parts.text[..parts.head_bytes], slots: &parts.slots }
    }

    /// The value of the first field of this name, in any case.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields().value(name)
    }

    /// Whether the client offers to change the protocol (RFC 9110, 7.8). Answering as usual declines.
    pub fn offers_upgrade(&self) -> bool {
        self.parts().offers_upgrade
    }

    /// The body, decoded.
    pub fn body(&self) -> &[u8] {
        &self.parts().body
    }

    /// The body, without copying it again.
    pub fn into_body(mut self) -> Vec<u8> {
        self.parts.as_mut().map(|parts| std::mem::take(&mut parts.body)).unwrap_or_default()
    }

    /// The length the client declared for the body; `None` for no body, and for a chunked one.
    pub fn body_length(&self) -> Option<u64> {
        self.parts().body_length
    }

    /// The raw trailer section of a chunked body, its lines checked; usually empty.
    pub fn trailers(&self) -> &[u8] {
        &self.parts().trailers
    }

    /// Tells whether the client is still there.
    pub fn peer(&self) -> Peer {
        self.peer.clone()
    }

    /// The memory it takes.
    pub(in crate::http) fn bytes(&self) -> usize {
        self.parts().bytes()
    }
}

impl Drop for OwnedRequest {
    fn drop(&mut self) {
        let Some(mut parts) = self.parts.take().filter(|parts| parts.bytes() <= SPARE_BYTES_MAX) else {
            return;
        };
        // A thread that ends keeps nothing.
        let _ = SPARE.try_with(|spare| {
            let spare = &mut *spare.borrow_mut();
            if spare.len() < SPARE_MAX {
                parts.empty();
                spare.push(parts);
            }
        });
    }
}

impl std::fmt::Debug for OwnedRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method().as_str(), self.target())
    }
}

impl Parts {
    fn fill(&mut self, request: &Request<'_>) {
        let fields = request.fields();
        self.text.extend_from_slice(fields.text);
        self.head_bytes = fields.text.len();
        self.slots.extend_from_slice(fields.slots);
        self.body.extend_from_slice(request.body());
        self.trailers.extend_from_slice(request.trailers());
        self.method = match request.method() {
            Method::Get => Token::Known(Method::Get),
            Method::Head => Token::Known(Method::Head),
            Method::Post => Token::Known(Method::Post),
            Method::Put => Token::Known(Method::Put),
            Method::Delete => Token::Known(Method::Delete),
            Method::Options => Token::Known(Method::Options),
            Method::Patch => Token::Known(Method::Patch),
            Method::Connect => Token::Known(Method::Connect),
            Method::Trace => Token::Known(Method::Trace),
            Method::Other(token) => Token::Other(self.place(fields.text, token.as_bytes())),
        };
        self.target = self.place(fields.text, request.target().as_bytes());
        self.path = self.place(fields.text, request.path_bytes());
        self.query = request.query().map(|query| self.place(fields.text, query.as_bytes()));
        self.host = request.host().map(|host| self.place(fields.text, host.as_bytes()));
        self.is_http10 = request.version() == Version::Http10;
        self.offers_upgrade = request.offers_upgrade();
        self.body_length = request.body_length();
    }

    fn empty(&mut self) {
        self.text.clear();
        self.slots.clear();
        self.body.clear();
        self.trailers.clear();
    }

    /// Where a part of the head is: in the text, or else behind it, like the path of a target that has none.
    fn place(&mut self, head: &[u8], part: &[u8]) -> Range<u32> {
        let at = part.as_ptr().addr().wrapping_sub(head.as_ptr().addr());
        let at = if at <= head.len() && part.len() <= head.len() - at {
            at
        } else {
            self.text.extend_from_slice(part);
            self.text.len() - part.len()
        };
        // A head has at most 64 KiB (`HEAD_BYTES_MAX`), and its parts together are no more than a few of it.
        at as u32..(at + part.len()) as u32
    }

    /// Every part was found to be ASCII.
    fn str(&self, range: &Range<u32>) -> &str {
        let bytes = &self.text[range.start as usize..range.end as usize];
        str::from_utf8(bytes).expect("the parser lets only ASCII through")
    }

    fn bytes(&self) -> usize {
        let slots = self.slots.capacity() * size_of::<Slot>();
        self.text.capacity() + self.body.capacity() + self.trailers.capacity() + slots
    }
}
