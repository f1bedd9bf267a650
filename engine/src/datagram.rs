//! A batch of datagrams on its way in or out. Plain data: the system calls are in `sys/datagrams.rs`.
//!
//! The kernel hands bulk traffic over in trains: several datagrams of one length in one buffer (GRO), and takes
//! them so (GSO). An entry therefore has a segment length; readers see single datagrams in any case.

pub(crate) mod sockets;

use crate::event::Errno;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

/// Room for one receive: the largest UDP payload, or a GRO train, fits.
pub(crate) const SLOT_BYTES: usize = 65_536;
/// The largest payload of a UDP datagram over IPv4 in bytes.
pub const DATAGRAM_BYTES_MAX: usize = 65_507;
/// Entries of one batch.
pub(crate) const ENTRIES_MAX: usize = 64;
/// Entries that may wait to be sent: what a full batch of trains can be answered with, datagram by datagram.
const QUEUED_ENTRIES_MAX: usize = ENTRIES_MAX * TRAIN_LEN_MAX;
/// Bytes that may wait to be sent.
const QUEUED_BYTES_MAX: usize = 2 * ENTRIES_MAX * SLOT_BYTES;
/// Datagrams in one train (UDP_MAX_SEGMENTS of the kernel before 6.9).
const TRAIN_LEN_MAX: usize = 64;
/// Longer datagrams would not fit a common MTU of 1500 and are sent one by one.
const TRAIN_SEGMENT_BYTES_MAX: usize = 1_432;

/// One of our addresses, as the other end of a datagram. The port is the socket's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Local {
    pub(crate) ip: IpAddr,
    /// The interface that a link-local address belongs to. 0 for every other: answers follow the route, which need not
    /// be the way that the question came.
    pub(crate) interface: u32,
}

impl Local {
    /// `None` for what no datagram can come from.
    pub(crate) fn new(ip: IpAddr, interface: u32) -> Option<Local> {
        let canonical = ip.to_canonical();
        let is_link_local = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        (!canonical.is_unspecified() && !canonical.is_multicast())
            .then_some(Local { ip, interface: if is_link_local { interface } else { 0 } })
    }

    pub(crate) fn from_address(address: SocketAddr) -> Option<Local> {
        let interface = if let SocketAddr::V6(address) = address { address.scope_id() } else { 0 };
        Local::new(address.ip(), interface)
    }

    pub(crate) fn to_address(self, port: u16) -> SocketAddr {
        match self.ip {
            IpAddr::V4(ip) => (ip, port).into(),
            IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, self.interface).into(),
        }
    }
}

/// Datagrams with their peers.
#[derive(Default)]
pub struct Datagrams {
    pub(crate) arena: Vec<u8>,
    pub(crate) entries: Vec<Entry>,
    /// Entries from the front that are done: sent, or refused for good.
    pub(crate) done: usize,
    /// Datagrams the kernel refused for good (too long, unreachable).
    pub(crate) refused: u32,
    /// What the kernel last said of the way to their peer while it took them.
    pub(crate) failure: Option<Errno>,
    /// The socket they are for is connected: it knows their peer.
    pub(crate) is_connected: bool,
    count: usize,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) peer: SocketAddr,
    /// Received: the address that was asked, where the socket is told it. To be sent: where it leaves from; without one
    /// the route decides.
    pub(crate) local: Option<Local>,
    pub(crate) start: usize,
    pub(crate) len: usize,
    /// The length of each datagram of a train; the last may be shorter. Equal to `len` for a single one.
    pub(crate) segment: usize,
}

impl Entry {
    /// The datagrams of the entry as ranges of the arena. A zero-length datagram is one range.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = std::ops::Range<usize>> + use<> {
        let (start, end, segment) = (self.start, self.start + self.len, self.segment.max(1));
        let count = self.len.div_ceil(segment).max(1);
        (0..count).map(move |n| start + n * segment..(start + (n + 1) * segment).min(end))
    }
}

impl Datagrams {
    /// A batch to receive into: one slot of 64 KiB for each entry. The memory is touched as it is used.
    pub fn for_receiving() -> Datagrams {
        Datagrams { arena: vec![0; SLOT_BYTES * ENTRIES_MAX], ..Datagrams::default() }
    }

    /// Appends a datagram, as part of a train where it continues one. `false`, and nothing happens, when it
    /// is longer than [`DATAGRAM_BYTES_MAX`].
    pub fn push(&mut self, peer: SocketAddr, bytes: &[u8]) -> bool {
        self.push_from(None, peer, bytes)
    }

    /// [`Datagrams::push`], to leave from one of our addresses.
    pub(crate) fn push_from(&mut self, local: Option<Local>, peer: SocketAddr, bytes: &[u8]) -> bool {
        if bytes.len() > DATAGRAM_BYTES_MAX {
            return false;
        }
        let start = self.arena.len();
        self.arena.extend_from_slice(bytes);
        self.count += 1;
        if let Some(last) = self.entries.last_mut()
            && last.extends_to(local, peer, bytes.len())
        {
            last.len += bytes.len();
        } else {
            self.entries.push(Entry { peer, local, start, len: bytes.len(), segment: bytes.len() });
        }
        true
    }

    /// How many datagrams were pushed.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether nothing was pushed.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// What it takes while it waits.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.arena.len() + self.count * size_of::<Entry>()
    }

    /// The memory in it.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.arena.capacity() + self.entries.capacity() * size_of::<Entry>()
    }

    /// Whether no further datagram should be pushed before the batch is sent: the answers to a whole batch fit, and
    /// some more.
    pub(crate) fn is_full(&self) -> bool {
        self.entries.len() >= QUEUED_ENTRIES_MAX || self.arena.len() >= QUEUED_BYTES_MAX
    }

    /// Empties a batch that was sent.
    pub(crate) fn reset_sent(&mut self) {
        self.arena.clear();
        self.arena.shrink_to(SLOT_BYTES * 8);
        self.reset_received();
    }

    /// Empties a batch that was received; the slots stay.
    pub(crate) fn reset_received(&mut self) {
        self.entries.clear();
        self.done = 0;
        self.refused = 0;
        self.failure = None;
        self.count = 0;
    }

    /// Calls `each` with every datagram.
    pub fn for_each(&self, mut each: impl FnMut(SocketAddr, &[u8])) {
        self.for_each_with_local(|peer, _, bytes| each(peer, bytes));
    }

    /// [`Datagrams::for_each`], with our addresses.
    pub(crate) fn for_each_with_local(&self, mut each: impl FnMut(SocketAddr, Option<Local>, &[u8])) {
        for entry in &self.entries {
            for range in entry.ranges() {
                each(entry.peer, entry.local, &self.arena[range]);
            }
        }
    }
}

impl Entry {
    fn extends_to(&self, local: Option<Local>, peer: SocketAddr, len: usize) -> bool {
        let whole = self.segment > 0 && self.len.is_multiple_of(self.segment);
        self.peer == peer
            && self.local == local
            && whole
            && len > 0
            && len <= self.segment
            && self.segment <= TRAIN_SEGMENT_BYTES_MAX
            && self.len / self.segment < TRAIN_LEN_MAX
            && self.len + len <= DATAGRAM_BYTES_MAX
    }
}

impl std::fmt::Debug for Datagrams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Datagrams({} entries, {} done)", self.entries.len(), self.done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn read(batch: &Datagrams) -> Vec<(u16, Vec<u8>)> {
        let mut all = Vec::new();
        batch.for_each(|from, bytes| all.push((from.port(), bytes.to_vec())));
        all
    }

    #[test]
    fn trains_read_as_the_datagrams_that_were_pushed() {
        let mut batch = Datagrams::default();
        let pushed: Vec<(u16, Vec<u8>)> = [(1, 5), (1, 5), (1, 3), (1, 3), (2, 3), (2, 0), (2, 3), (2, 4)]
            .iter()
            .map(|&(port, len)| (port, vec![len as u8; len]))
            .collect();
        for (port, bytes) in &pushed {
            assert!(batch.push(peer(*port), bytes));
        }
        assert_eq!(read(&batch), pushed);
        // 5,5,3 | 3 | 3 (other peer) | 0 | 3 | 4 (longer than the train's segment)
        assert_eq!(batch.entries.len(), 6);
        assert_eq!(batch.len(), 8);
    }

    #[test]
    fn a_train_leaves_from_one_address() {
        let mut batch = Datagrams::default();
        let local = |last: u8| Local::new(IpAddr::from([127, 0, 0, last]), 0);
        for (from, entries) in
            [(None, 1), (None, 1), (local(1), 2), (local(1), 2), (local(2), 3), (local(1), 4), (None, 5)]
        {
            assert!(batch.push_from(from, peer(1), b"same"));
            assert_eq!(batch.entries.len(), entries, "{from:?}");
        }
    }

    #[test]
    fn only_link_local_addresses_keep_their_interface_and_nothing_leaves_from_a_group() {
        let check = |address: &str, expected: Option<&str>| {
            let address: SocketAddr = address.parse().unwrap();
            let local = Local::from_address(address).map(|local| local.to_address(address.port()));
            assert_eq!(local, expected.map(|expected| expected.parse().unwrap()), "{address}");
        };
        check("127.0.0.2:7", Some("127.0.0.2:7"));
        check("[::1%3]:7", Some("[::1]:7"));
        check("[2001:db8::1%3]:7", Some("[2001:db8::1]:7"));
        check("[fe80::1%3]:7", Some("[fe80::1%3]:7"));
        check("[::ffff:127.0.0.2]:7", Some("[::ffff:127.0.0.2]:7"));
        for nobody in [
            "0.0.0.0:7",
            "[::]:7",
            "[::ffff:0.0.0.0]:7",
            "224.0.0.1:7",
            "[ff02::1%3]:7",
            "[::ffff:224.0.0.1]:7",
        ] {
            check(nobody, None);
        }
    }

    #[test]
    fn trains_are_bounded_and_long_datagrams_travel_alone() {
        let mut batch = Datagrams::default();
        for _ in 0..TRAIN_LEN_MAX + 1 {
            batch.push(peer(1), &[7; 10]);
        }
        assert_eq!(batch.entries.len(), 2);
        let mut batch = Datagrams::default();
        batch.push(peer(1), &[0; 2000]);
        batch.push(peer(1), &[0; 2000]);
        assert_eq!(batch.entries.len(), 2);
        assert!(batch.push(peer(1), &[0; DATAGRAM_BYTES_MAX]));
        assert!(!batch.push(peer(1), &[0; DATAGRAM_BYTES_MAX + 1]));
    }
}
