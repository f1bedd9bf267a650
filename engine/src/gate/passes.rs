//! The passes of a worker's connections, beside them: most workers have no gate, and their connections are no larger for it.

use super::Pass;

/// By the connection's slot.
#[derive(Default)]
pub(crate) struct Passes(Vec<Option<Pass>>);

impl Passes {
    /// From now on this is the pass of the connection in that slot. The one that it had is given back.
    #[inline]
    pub(crate) fn put(&mut self, slot: u32, pass: Option<Pass>) {
        if pass.is_some() || !self.0.is_empty() {
            self.put_in(slot as usize, pass);
        }
    }

    #[inline(never)]
    fn put_in(&mut self, slot: usize, pass: Option<Pass>) {
        if self.0.len() <= slot && pass.is_some() {
            self.0.resize_with(slot + 1, || None);
        }
        if let Some(place) = self.0.get_mut(slot) {
            *place = pass;
        }
    }

    /// The connection is gone.
    #[inline]
    pub(crate) fn drop(&mut self, slot: u32) {
        self.put(slot, None);
    }

    /// Who has one.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn holders(&self) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().filter(|(_, pass)| pass.is_some()).map(|(slot, _)| slot)
    }
}
