//! Whether the client of a request that is being answered is still there.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Relaxed, Ordering::Release, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

/// Tells a handler that its client has left: it ended its stream, or the connection is gone. By default a handler's future is
/// dropped then, so this is for what it has started elsewhere, and for servers where it goes on
/// ([`WhenGone`](super::WhenGone)). Clones are cheap, and may go to other threads.
///
/// It is told while the request waits for its answer; what comes after the answer is not told any more.
#[derive(Clone, Default)]
pub struct Peer(Arc<Shared>);

#[derive(Default)]
struct Shared {
    is_gone: AtomicBool,
    /// Somebody has left, or has waited for that.
    is_used: AtomicBool,
    waiting: Mutex<Vec<Waker>>,
}

impl Peer {
    /// Whether it has left.
    pub fn is_gone(&self) -> bool {
        self.0.is_gone.load(Acquire)
    }

    /// Waits until it has left.
    pub fn gone(&self) -> impl Future<Output = ()> + Send + use<> {
        Gone(self.clone())
    }

    /// It has left.
    pub(crate) fn leave(&self) {
        self.0.is_used.store(true, Relaxed);
        self.0.is_gone.store(true, Release);
        let waiting = std::mem::take(&mut *self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Whether nobody else has it, nobody has waited, and nobody has left: it is as good as new.
    pub(crate) fn is_unused(&self) -> bool {
        let is_shared = Arc::strong_count(&self.0) > 1;
        // Whoever had it has let go of it: what they have done to it is seen here.
        fence(Acquire);
        !is_shared && !self.0.is_used.load(Relaxed)
    }

    /// The value for the next request.
    pub(crate) fn renew(&mut self) {
        if !self.is_unused() {
            *self = Peer::default();
        }
    }
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_gone() { "Peer(gone)" } else { "Peer" })
    }
}

struct Gone(Peer);

impl Future for Gone {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let shared = &self.0.0;
        {
            shared.is_used.store(true, Relaxed);
            let mut waiting = shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                waiting.push(context.waker().clone());
            }
        }
        // Looked at behind that: whoever leaves has either left already, or finds the waker.
        if self.0.is_gone() { Poll::Ready(()) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_told_once_it_leaves() {
        let peer = Peer::default();
        let mut gone = Box::pin(peer.gone());
        let mut context = Context::from_waker(Waker::noop());
        assert!(gone.as_mut().poll(&mut context).is_pending() && !peer.is_gone());
        peer.clone().leave();
        assert!(gone.as_mut().poll(&mut context).is_ready() && peer.is_gone());
    }

    #[test]
    fn the_next_request_has_a_client_of_its_own() {
        let mut peer = Peer::default();
        peer.leave();
        peer.renew();
        assert!(!peer.is_gone());
        let before = peer.clone();
        before.leave();
        peer.renew();
        assert!(!peer.is_gone() && before.is_gone(), "whoever still has it is not told anew");
    }
}
