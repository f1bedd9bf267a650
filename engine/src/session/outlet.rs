//! What a session wrote and nobody has taken yet, and what it is told about that. Pure.

use crate::output::Output;

/// The way out.
pub(crate) struct Outlet {
    pub(crate) pending: Option<Box<Output>>,
    pub(crate) level: Level,
    pub(crate) wish: Wish,
    pub(crate) last: Last,
}

/// How much is queued, here and below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Low,
    /// It was above high water, and is not below low water yet: the session is given no input.
    High,
}

/// Whether the session wants to be told that there is room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    None,
    /// Once it is below low water.
    Drained,
    /// Once all is sent.
    Sent,
}

/// Whether the session has written its last, while it reads on. In this order: from `Written` on there is something to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Last {
    /// It may write more.
    Open,
    /// It has, and whoever is below knows: nothing can be written any more.
    Told,
    /// It has; the end of the stream follows what is queued.
    Written,
    /// It may write more, and what another connection receives goes out here, unseen ([`Io::splice`](crate::Io::splice)).
    Fed,
}

/// The limits of a session's input and output, in bytes. While memory is short, the water marks are lower.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Marks {
    pub(crate) output_low: usize,
    pub(crate) output_high: usize,
    pub(crate) output_max: usize,
    pub(crate) input_max: usize,
}

impl Outlet {
    pub(crate) fn new() -> Outlet {
        Outlet { pending: None, level: Level::Low, wish: Wish::None, last: Last::Open }
    }

    pub(crate) fn pending_bytes(&self) -> usize {
        self.pending.as_ref().map_or(0, |output| output.len())
    }
}

impl Level {
    /// The level where so many bytes are queued.
    pub(crate) fn after(self, queued: usize, marks: &Marks) -> Level {
        let is_high = match self {
            Level::Low => queued >= marks.output_high,
            Level::High => queued > marks.output_low,
        };
        if is_high { Level::High } else { Level::Low }
    }
}
