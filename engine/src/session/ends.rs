//! Addresses of sockets, for sessions that ask: they do not change, so the kernel is asked for each once a connection.
//!
//! They are kept beside the connections, most of which have nobody who asks, and each in its slot: the next tenant that asks takes the
//! place.

use crate::address::Address;
use crate::bell::ConnId;
use std::cell::RefCell;

/// What a worker keeps of its connections' addresses.
#[derive(Default)]
pub(crate) struct Ends(RefCell<Vec<Option<Box<Kept>>>>);

struct Kept {
    generation: u32,
    peer: Option<Address>,
    local: Option<Address>,
}

impl Ends {
    /// The other end of a connection.
    pub(crate) fn peer(&self, conn: ConnId, ask: impl FnOnce() -> Option<Address>) -> Option<Address> {
        self.end(conn, |kept| &mut kept.peer, ask)
    }

    /// Our end.
    pub(crate) fn local(&self, conn: ConnId, ask: impl FnOnce() -> Option<Address>) -> Option<Address> {
        self.end(conn, |kept| &mut kept.local, ask)
    }

    fn end(
        &self,
        conn: ConnId,
        which: impl FnOnce(&mut Kept) -> &mut Option<Address>,
        ask: impl FnOnce() -> Option<Address>,
    ) -> Option<Address> {
        let ConnId { index, generation } = conn;
        let (all, index) = (&mut *self.0.borrow_mut(), index as usize);
        if all.len() <= index {
            all.resize_with(index + 1, || None);
        }
        let place = &mut all[index];
        if place.as_ref().is_none_or(|kept| kept.generation != generation) {
            *place = Some(Box::new(Kept { generation, peer: None, local: None }));
        }
        let address = which(place.as_mut()?);
        if address.is_none() {
            *address = ask();
        }
        address.clone()
    }
}
