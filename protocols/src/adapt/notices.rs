//! What a request may be told while it is answered: one value among its extensions, because each of them costs.

use crate::http::{Peer, Shutdown};
use std::sync::Arc;
use std::sync::atomic::{Ordering::Acquire, fence};

/// In the extensions of every request: tells when its client leaves, and when the server drains. Clones are cheap, and may go to other
/// threads.
#[derive(Clone, Debug)]
pub struct Notices(Arc<Both>);

#[derive(Debug)]
struct Both {
    peer: Peer,
    shutdown: Shutdown,
}

impl Notices {
    pub(super) fn new(shutdown: &Shutdown) -> Notices {
        Notices(Arc::new(Both { peer: Peer::default(), shutdown: shutdown.clone() }))
    }

    /// Tells when the client has left: for what a handler has started elsewhere.
    pub fn peer(&self) -> &Peer {
        &self.0.peer
    }

    /// Tells when the server drains: for answers without an end.
    pub fn shutdown(&self) -> &Shutdown {
        &self.0.shutdown
    }

    /// The value for the next request: this one, if nobody else has it and nothing has become of it.
    pub(super) fn renew(&mut self) {
        let is_shared = Arc::strong_count(&self.0) > 1;
        // Whoever had it has let go of it: what they have done to it is seen here.
        fence(Acquire);
        if is_shared || !self.0.peer.is_unused() {
            *self = Notices::new(&self.0.shutdown);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_request_has_its_own() {
        let shutdown = Shutdown::default();
        let mut notices = Notices::new(&shutdown);
        let is_renewed = |notices: &mut Notices| {
            let before = Arc::as_ptr(&notices.0);
            // Or its memory could be used again.
            let _before = Arc::downgrade(&notices.0);
            notices.renew();
            before != Arc::as_ptr(&notices.0)
        };
        assert!(!is_renewed(&mut notices), "nobody had it");
        let kept = notices.clone();
        assert!(is_renewed(&mut notices), "somebody has it");
        kept.peer().leave();
        assert!(kept.peer().is_gone() && !notices.peer().is_gone());
        let peer = notices.peer().clone();
        assert!(is_renewed(&mut notices), "somebody has a part of it");
        drop(peer);
        notices.peer().leave();
        assert!(is_renewed(&mut notices) && !notices.peer().is_gone(), "its client has left");
        shutdown.begin();
        assert!(notices.shutdown().is_shutting_down() && kept.shutdown().is_shutting_down());
    }
}
