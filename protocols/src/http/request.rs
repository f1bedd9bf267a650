//! A request as the handler sees it. It borrows from the input: nothing was copied.

use super::message::{Ascii, Fields, Framing, Head, Method, Version};
use ringmill_engine::Facts;

/// One request with its body.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    head: &'a Head<'a, 'a>,
    body: &'a [u8],
    trailers: &'a [u8],
    facts: Option<&'a Facts>,
}

impl<'a> Request<'a> {
    pub(crate) fn new(
        head: &'a Head<'a, 'a>,
        body: &'a [u8],
        trailers: &'a [u8],
        facts: Option<&'a Facts>,
    ) -> Request<'a> {
        Request { head, body, trailers, facts }
    }

    /// The method.
    pub fn method(&self) -> Method<'a> {
        self.head.method
    }

    /// The target as it was sent.
    pub fn target(&self) -> &'a str {
        self.head.target.as_str()
    }

    /// The same, without a look at whether it is text.
    #[cfg(feature = "tower")]
    pub(crate) fn target_bytes(&self) -> &'a [u8] {
        self.head.target.as_bytes()
    }

    /// The path, percent-encoding and all: starts with `/`; `*` for `OPTIONS *`, empty for CONNECT.
    pub fn path(&self) -> &'a str {
        self.head.path.as_str()
    }

    /// The path as bytes: routing by them saves a check for UTF-8.
    pub fn path_bytes(&self) -> &'a [u8] {
        self.head.path.as_bytes()
    }

    /// What follows the `?`, percent-encoding and all.
    pub fn query(&self) -> Option<&'a str> {
        self.head.query.map(Ascii::as_str)
    }

    /// The pairs of the query in order, percent-encoding and all; a part without `=` has an empty value.
    pub fn query_pairs(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let parts = self.query().unwrap_or("").split('&').filter(|part| !part.is_empty());
        parts.map(|part| part.split_once('=').unwrap_or((part, "")))
    }

    /// The value of the first query pair of this name.
    pub fn query_value(&self, name: &str) -> Option<&'a str> {
        self.query_pairs().find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// The version the client speaks.
    pub fn version(&self) -> Version {
        self.head.version
    }

    /// Host and port of the target: from an absolute target, else from the Host field.
    pub fn host(&self) -> Option<&'a str> {
        self.head.host.map(Ascii::as_str)
    }

    /// All fields in order.
    pub fn fields(&self) -> Fields<'a, 'a> {
        self.head.fields
    }

    /// The value of the first field of this name, in any case.
    pub fn field(&self, name: &str) -> Option<&'a [u8]> {
        self.head.fields.value(name)
    }

    /// Whether the client offers to change the protocol (RFC 9110, 7.8). Answering as usual declines.
    pub fn offers_upgrade(&self) -> bool {
        self.head.upgrade
    }

    /// The body, decoded. Empty in [`Handler::plan`](super::Handler::plan) and for streamed bodies.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// The length the client declared for the body; `None` for no body, and for a chunked one.
    pub fn body_length(&self) -> Option<u64> {
        match self.head.framing {
            Framing::Length(length) => Some(length),
            _ => None,
        }
    }

    /// What the layers below HTTP have learned of the connection: TLS, a proxy in front.
    pub fn facts(&self) -> Option<&'a Facts> {
        self.facts
    }

    /// Whether the request came over TLS: to us, or to a proxy in front that says so ([`Facts::is_secured`]).
    pub fn is_secured(&self) -> bool {
        self.facts.is_some_and(Facts::is_secured)
    }

    /// The certificates that the client showed to us as DER, its own first. They were verified. Empty where it showed none, was not
    /// asked for any, or does not speak TLS to us.
    pub fn client_certificates(&self) -> &'a [Vec<u8>] {
        self.facts.and_then(|facts| facts.secure.as_ref()).map_or(&[], |secure| &secure.client_certificates)
    }

    /// The raw trailer section of a chunked body, its lines checked; usually empty.
    pub fn trailers(&self) -> &'a [u8] {
        self.trailers
    }
}
