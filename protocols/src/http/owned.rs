//! A request and a reply that borrow nothing, for handlers that wait: plain data.

pub(crate) mod reply;
pub(super) mod request;
