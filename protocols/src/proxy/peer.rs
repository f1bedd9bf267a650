//! With whom a server's connections are secured: known to the layer below, and carried by the proxy without a look at it. It lives as
//! long as a plan or an upstream with that server does.

use std::any::Any;
use std::sync::Arc;

/// Whatever the layer below the secured part of a proxy needs to know of a server ([`Proxy::secured`](super::Proxy::secured)). Clones are
/// the same one, and two that were made apart are different: connections of one are none of the other.
#[derive(Clone)]
pub struct Peer(Arc<dyn Any + Send + Sync>);

impl Peer {
    /// One that is like no other.
    pub fn new<T: Send + Sync + 'static>(what: T) -> Peer {
        Peer(Arc::new(what))
    }

    /// What it was made of, where it is of this type.
    pub fn get<T: 'static>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }

    /// How many hold it, this one among them.
    pub fn holders(&self) -> usize {
        Arc::strong_count(&self.0)
    }
}

impl PartialEq for Peer {
    fn eq(&self, other: &Peer) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Peer {}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Peer")
    }
}
