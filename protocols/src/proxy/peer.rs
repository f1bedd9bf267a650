//! With whom a server's connections are secured: known to the layer below, and carried by the proxy without a look at it. It lives as
//! long as a plan or an upstream with that server does.

use std::any::Any;
use std::sync::Arc;

/// Whatever the layer below the secured part of a proxy needs to know of a server ([`Proxy::secured`](super::Proxy::secured)). Clones are
/// the same one, and two that were made apart are different: connections of one are none of the other.
#[derive(Clone)]
pub struct Peer {
    what: Arc<dyn Any + Send + Sync>,
    reason: Option<Reason>,
}

type Reason = Arc<dyn Fn() -> Option<String> + Send + Sync>;

impl Peer {
    /// One that is like no other.
    pub fn new<T: Send + Sync + 'static>(what: T) -> Peer {
        Peer { what: Arc::new(what), reason: None }
    }

    /// `reason` says why the last connection with it that could not be secured could not: the log tells it.
    pub fn with_reason(self, reason: impl Fn() -> Option<String> + Send + Sync + 'static) -> Peer {
        Peer { reason: Some(Arc::new(reason)), ..self }
    }

    pub(super) fn reason(&self) -> Option<String> {
        self.reason.as_ref()?()
    }

    /// What it was made of, where it is of this type.
    pub fn get<T: 'static>(&self) -> Option<&T> {
        self.what.downcast_ref()
    }

    /// How many hold it, this one among them.
    pub fn holders(&self) -> usize {
        Arc::strong_count(&self.what)
    }
}

impl PartialEq for Peer {
    fn eq(&self, other: &Peer) -> bool {
        Arc::ptr_eq(&self.what, &other.what)
    }
}

impl Eq for Peer {}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Peer")
    }
}
