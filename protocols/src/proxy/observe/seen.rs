//! What is noted of a request while it is served. Plain data.

use super::ids::Identity;

/// Kept apart from its exchange, which is smaller where nothing is noted.
pub(crate) struct Seen {
    /// What it is called.
    pub(crate) ids: Identity,
}

impl Default for Seen {
    fn default() -> Seen {
        Seen { ids: Identity::none() }
    }
}
