//! What the parsers of both versions of the header answer with. Plain data.

use ringmill_engine::{Address, Proxied};

/// What a header says. Nothing, where it leaves the kernel's addresses as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// The client.
    pub(super) peer: Option<Address>,
    /// Where the client connected to.
    pub(super) local: Option<Address>,
    pub(super) proxied: Option<Proxied>,
}

/// What the first bytes of a connection are.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "it lives for one call, once in a connection")]
pub(super) enum Outcome {
    /// A header of so many bytes.
    Complete(usize, Told),
    /// The start of one; nothing can be said before so many bytes are there.
    Partial(usize),
    /// Something else.
    Missing,
    /// A header that breaks a rule.
    Malformed(&'static str),
}
