//! What a protocol sees of the engine: its traits, what it may do during a call, and what it answers.

pub(crate) mod datagram;
pub(crate) mod facts;
pub(crate) mod io;
pub(crate) mod layer;
pub(crate) mod names;
pub(crate) mod protocol;
pub(crate) mod step;
