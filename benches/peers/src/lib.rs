//! What the peers share: sockets, the site they serve, HTTP by hand, the blind reply, epoll, datagram batches.
//!
//! Nothing here is used by ringmill itself: a peer that shared code with what it is compared with would share its
//! mistakes as well. `app` alone is also served by it: there the same program is compared on three servers. All unsafe code of this package is in `epoll`, `datagrams`, `buffer_ring` and `net`, plus the
//! few raw calls in the binaries. Read `blind` first, then `src/bin/blind_uring.rs`.

pub mod app;
pub mod blind;
pub mod buffer_ring;
pub mod datagrams;
pub mod epoll;
pub mod handwritten;
pub mod hyper_site;
pub mod net;
pub mod rpc;
pub mod site;
