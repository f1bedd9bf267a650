//! Whether the server is about to end: for answers that would go on for as long as it lets them.

use std::collections::BTreeMap;
use std::future::IntoFuture;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Release};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Tells handlers that the server drains. What has an end is waited for anyway; streams of events, long polls and WebSockets have
/// none, and are cut when the time of the drain is over, unless they end by themselves once this is told.
///
/// Clones are cheap, and may go to other threads. Awaiting one waits for the drain.
#[derive(Clone, Default)]
pub struct Shutdown(Arc<Shared>);

#[derive(Default)]
struct Shared {
    has_begun: AtomicBool,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    wakers: BTreeMap<u64, Waker>,
    last_id: u64,
}

impl Shutdown {
    /// Whether the server drains.
    pub fn is_shutting_down(&self) -> bool {
        self.0.has_begun.load(Acquire)
    }

    /// Waits until it does.
    pub fn begun(&self) -> Begun {
        Begun { shutdown: self.clone(), id: None }
    }

    /// It drains.
    pub(crate) fn begin(&self) {
        if !self.0.has_begun.swap(true, Release) {
            let waiting = std::mem::take(&mut self.waiting().wakers);
            waiting.into_values().for_each(Waker::wake);
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl IntoFuture for Shutdown {
    type Output = ();
    type IntoFuture = Begun;

    fn into_future(self) -> Begun {
        Begun { shutdown: self, id: None }
    }
}

impl std::fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_shutting_down() { "Shutdown(begun)" } else { "Shutdown" })
    }
}

/// Waits until the server drains.
#[derive(Debug)]
pub struct Begun {
    shutdown: Shutdown,
    /// Of its waker, while it waits: whoever does not wait any more leaves nothing behind.
    id: Option<u64>,
}

impl Future for Begun {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        {
            let mut waiting = this.shutdown.waiting();
            let id = *this.id.get_or_insert_with(|| {
                waiting.last_id += 1;
                waiting.last_id
            });
            waiting.wakers.entry(id).or_insert_with(|| context.waker().clone()).clone_from(context.waker());
        }
        // Looked at behind that: whoever begins has either begun already, or finds the waker.
        if this.shutdown.is_shutting_down() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            let waker = self.shutdown.waiting().wakers.remove(&id);
            // Not under the lock: a waker that goes may take others that wait with it.
            drop(waker);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_told_and_who_does_not_leaves_nothing() {
        let shutdown = Shutdown::default();
        let mut context = Context::from_waker(Waker::noop());
        let (mut one, mut two) = (shutdown.begun(), shutdown.clone().into_future());
        assert!(Pin::new(&mut one).poll(&mut context).is_pending());
        assert!(Pin::new(&mut two).poll(&mut context).is_pending());
        assert_eq!(shutdown.waiting().wakers.len(), 2);
        drop(two);
        assert_eq!(shutdown.waiting().wakers.len(), 1);
        assert!(!shutdown.is_shutting_down());
        shutdown.begin();
        assert!(shutdown.is_shutting_down() && Pin::new(&mut one).poll(&mut context).is_ready());
        assert!(Pin::new(&mut shutdown.begun()).poll(&mut context).is_ready(), "also who comes later");
        drop(one);
        assert!(shutdown.waiting().wakers.is_empty());
    }
}
