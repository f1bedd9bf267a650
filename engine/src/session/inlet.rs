//! What arrived for a session and was not consumed, and whether the session may be given any of it. Pure.

use super::unread::Unread;

/// The way in.
pub(crate) struct Inlet {
    /// What was not consumed, or not shown yet.
    pub(crate) kept: Option<Box<Unread>>,
    pub(crate) reading: Reading,
    pub(crate) end: End,
    pub(crate) news: News,
    /// The session is not called with less than this.
    pub(crate) need_bytes: u32,
}

/// Whether the session takes input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    Flowing,
    /// The session asked for a pause, and has a deadline of its own.
    Paused,
    /// It has none: the duplex has set one for it.
    PausedForAWhile,
    /// It goes to another connection, unseen.
    Spliced,
}

/// The end of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// More may come.
    Open,
    /// The peer will send no more.
    Arrived,
    /// The session knows it.
    Told,
}

/// What a session that pauses is told out of its turn: that its peer has ended, whatever of the input is still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    None,
    /// The peer has ended.
    Gone,
    /// The session knows it.
    Told,
}

impl Inlet {
    pub(crate) fn new() -> Inlet {
        Inlet { kept: None, reading: Reading::Flowing, end: End::Open, news: News::None, need_bytes: 0 }
    }

    /// Whether bytes that arrive can be shown to the session where they are.
    #[inline]
    pub(crate) fn takes_in_place(&self, bytes: usize) -> bool {
        self.kept.is_none() && self.reading == Reading::Flowing && bytes >= self.need_bytes as usize
    }

    /// Whether the session asked for a pause.
    #[inline]
    pub(crate) fn is_paused(&self) -> bool {
        matches!(self.reading, Reading::Paused | Reading::PausedForAWhile)
    }

    pub(crate) fn unread_bytes(&self) -> usize {
        self.kept.as_ref().map_or(0, |kept| kept.len())
    }

    /// Whether something is kept that the session is to see.
    #[inline]
    pub(crate) fn is_due(&self) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.is_due)
    }

    /// Whether the peer may send more.
    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        self.end == End::Open
    }
}
