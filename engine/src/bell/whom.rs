//! Whom a bell is rung for. Pure.

/// Names one connection of one worker, also after it is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// What a worker is to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whom {
    /// The session of this connection, if it is still the same one.
    Conn(ConnId),
    /// The protocol value of this service.
    Service(u16),
    /// The protocol value of this number behind datagram sockets.
    Datagrams(u16),
    /// The worker itself: it has orders.
    Worker,
}
