//! Sessions, without sockets: the way in and the way out, the life, and every rule on when a session is called. Pure: nothing
//! here knows a driver, a socket or a clock. Start with `duplex.rs`.

pub(crate) mod calls;
pub(crate) mod duplex;
pub(crate) mod ends;
pub(crate) mod inlet;
pub(crate) mod life;
pub(crate) mod outlet;
pub(crate) mod service;
pub(crate) mod shared;
#[cfg(test)]
mod tests;
pub(crate) mod unread;
pub(crate) mod upper;
