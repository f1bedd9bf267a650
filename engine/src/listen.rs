//! Listening sockets: bound for all workers before any of them accepts, and removed with care where they have a file.

pub(crate) mod bind;
pub(crate) mod on;
pub(crate) mod patience;
pub(crate) mod unix;
