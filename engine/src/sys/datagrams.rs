//! recvmmsg(2) and sendmmsg(2) over a batch, with trains (UDP_GRO, UDP_SEGMENT; udp(7)) and our own addresses
//! (IP_PKTINFO, ip(7); IPV6_PKTINFO, ipv6(7)).

use super::{check, last_errno};
use crate::datagram::{Datagrams, ENTRIES_MAX, Entry, Local, SLOT_BYTES};
use crate::event::{Errno, Socket};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::IntoRawFd;

/// Room for all control messages of one datagram or train: an IPv6 socket that received over IPv4 gets all three.
const CONTROL_BYTES: usize =
    space_bytes::<i32>() + space_bytes::<libc::in_pktinfo>() + space_bytes::<libc::in6_pktinfo>();

/// What a control message that carries a `T` takes.
const fn space_bytes<T>() -> usize {
    // SAFETY: arithmetic.
    unsafe { libc::CMSG_SPACE(size_of::<T>() as u32) as usize }
}

/// The arrays that the calls need. Filled anew before each call: nothing in them outlives it.
pub(crate) struct Transfer {
    headers: Vec<libc::mmsghdr>,
    vectors: Vec<libc::iovec>,
    names: Vec<libc::sockaddr_storage>,
    controls: Vec<Control>,
}

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL_BYTES]);

// CMSG_SPACE rounds up to the alignment of a header, so headers that follow each other are aligned like the first.
const _: () = assert!(align_of::<Control>().is_multiple_of(align_of::<libc::cmsghdr>()));

impl Transfer {
    pub(crate) fn new() -> Transfer {
        // SAFETY: all-zero is a valid mmsghdr, iovec and sockaddr_storage: null pointers, zero lengths,
        // family unspecified.
        let (header, vector, name) = unsafe { std::mem::zeroed() };
        Transfer {
            headers: vec![header; ENTRIES_MAX],
            vectors: vec![vector; ENTRIES_MAX],
            names: vec![name; ENTRIES_MAX],
            controls: vec![Control([0; CONTROL_BYTES]); ENTRIES_MAX],
        }
    }

    /// Receives up to a batch without waiting; returns the number of entries.
    pub(crate) fn recv(&mut self, socket: Socket, batch: &mut Datagrams) -> Result<usize, Errno> {
        batch.reset_received();
        assert!(batch.arena.len() >= SLOT_BYTES * ENTRIES_MAX, "a batch that was made for receiving");
        for (n, slot) in batch.arena.chunks_exact_mut(SLOT_BYTES).take(ENTRIES_MAX).enumerate() {
            self.vectors[n] = libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: SLOT_BYTES };
            self.point(n, size_of::<libc::sockaddr_storage>(), CONTROL_BYTES);
        }
        let count = ENTRIES_MAX as u32;
        // SAFETY: every header points to its own vector, name and control in `self`, with their true lengths, and
        // every vector to its own slot of the arena; all of them live through the call.
        let answer = unsafe {
            libc::recvmmsg(
                socket.0,
                self.headers.as_mut_ptr(),
                count,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let received = check(answer as isize)?;
        for n in 0..received {
            let (header, len) = (&self.headers[n].msg_hdr, self.headers[n].msg_len as usize);
            if header.msg_flags & libc::MSG_TRUNC != 0 {
                continue;
            }
            let Some(peer) = address(&self.names[n], header.msg_namelen) else { continue };
            let Received { segment, local } = control_messages(header, peer);
            let segment = segment.filter(|segment| *segment > 0).unwrap_or(len);
            batch.entries.push(Entry { peer, local, start: n * SLOT_BYTES, len, segment });
        }
        Ok(received)
    }

    /// Sends what is left of the batch without waiting. `EAGAIN` when the socket takes no more for now;
    /// datagrams that the kernel refuses are counted and passed over.
    pub(crate) fn send(&mut self, socket: Socket, batch: &mut Datagrams) -> Result<(), Errno> {
        while batch.done < batch.entries.len() {
            let entries = &batch.entries[batch.done..];
            let count = entries.len().min(ENTRIES_MAX);
            for (n, entry) in entries.iter().take(count).enumerate() {
                let bytes = &batch.arena[entry.start..entry.start + entry.len];
                self.fill(n, entry, bytes, batch.is_connected);
            }
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            // SAFETY: as in `recv`; the kernel only reads.
            let answer = unsafe { libc::sendmmsg(socket.0, self.headers.as_mut_ptr(), count as u32, flags) };
            match check(answer as isize) {
                Ok(sent) => batch.done += sent,
                Err(Errno::EINTR) => {}
                // A full device queue says ENOBUFS, and no readiness follows it: that datagram is lost, as UDP may.
                Err(Errno::EAGAIN) => return Err(Errno::EAGAIN),
                // On a connected socket it may be the answer to an earlier datagram, and has nothing to do with this one.
                Err(errno) => {
                    batch.failure = Some(errno).filter(|errno| errno.is_of_peer()).or(batch.failure);
                    self.send_one_by_one(socket, batch)?;
                }
            }
        }
        Ok(())
    }

    /// The first entry was refused: as a train it may be too much for the route, its datagrams may not be.
    fn send_one_by_one(&mut self, socket: Socket, batch: &mut Datagrams) -> Result<(), Errno> {
        let entry = batch.entries[batch.done];
        for range in entry.ranges() {
            self.fill(0, &entry, &batch.arena[range], batch.is_connected);
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            // SAFETY: as in `send`, with the first header alone.
            let answer = unsafe { libc::sendmsg(socket.0, &raw const self.headers[0].msg_hdr, flags) };
            if answer < 0 {
                // Waiting for room in the middle of a train is not worth a state: the rest is refused.
                let _ = last_errno();
                batch.refused += 1;
            }
        }
        batch.done += 1;
        Ok(())
    }

    /// Makes message `n` of the bytes, to the entry's peer: as a train where they are longer than one segment.
    fn fill(&mut self, n: usize, entry: &Entry, bytes: &[u8], is_connected: bool) {
        self.vectors[n] = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let name = socket2::SockAddr::from(entry.peer);
        // SAFETY: a socket2 address of an IP address is a sockaddr_storage of `len()` valid bytes.
        self.names[n] = unsafe { name.as_ptr().cast::<libc::sockaddr_storage>().read() };
        let (control, mut filled) = (&mut self.controls[n], 0);
        if bytes.len() > entry.segment {
            filled = control.append(filled, libc::IPPROTO_UDP, libc::UDP_SEGMENT, entry.segment as u16);
        }
        if let Some(local) = entry.local {
            filled = control.append_local(filled, local);
        }
        // With a name the kernel would look up the route of a connected socket again.
        let name_len = if is_connected { 0 } else { name.len() as usize };
        self.point(n, name_len, filled);
    }

    /// Makes header `n` point to its own vector, name and control.
    fn point(&mut self, n: usize, name_len: usize, control_len: usize) {
        let header = &mut self.headers[n].msg_hdr;
        header.msg_name = if name_len == 0 { std::ptr::null_mut() } else { (&raw mut self.names[n]).cast() };
        header.msg_namelen = name_len as u32;
        header.msg_iov = &raw mut self.vectors[n];
        header.msg_iovlen = 1;
        header.msg_control = (&raw mut self.controls[n]).cast();
        header.msg_controllen = control_len as _;
        header.msg_flags = 0;
    }
}

impl Control {
    /// Writes the message that makes a datagram leave from an address of ours.
    fn append_local(&mut self, filled: usize, local: Local) -> usize {
        // To a peer over IPv4 an IPv6 socket sends as an IPv4 socket does.
        match local.ip.to_canonical() {
            IpAddr::V4(ip) => {
                let unset = libc::in_addr { s_addr: 0 };
                let ipi_spec_dst = libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) };
                let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst, ipi_addr: unset };
                self.append(filled, libc::IPPROTO_IP, libc::IP_PKTINFO, info)
            }
            IpAddr::V6(ip) => {
                let ipi6_addr = libc::in6_addr { s6_addr: ip.octets() };
                let info = libc::in6_pktinfo { ipi6_addr, ipi6_ifindex: local.interface };
                self.append(filled, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info)
            }
        }
    }

    /// Writes a control message behind the `filled` bytes of those before it; returns how many are filled now.
    fn append<T: Copy>(&mut self, filled: usize, level: i32, kind: i32, value: T) -> usize {
        let space = space_bytes::<T>();
        let room = &mut self.0[filled..filled + space];
        // SAFETY: arithmetic.
        let len = unsafe { libc::CMSG_LEN(size_of::<T>() as u32) };
        let header = libc::cmsghdr { cmsg_len: len as _, cmsg_level: level, cmsg_type: kind };
        let message = room.as_mut_ptr().cast::<libc::cmsghdr>();
        // SAFETY: the room holds a header and a `T`; it starts at a multiple of a header's alignment, because the buffer
        // does and `filled` is a sum of CMSG_SPACEs.
        unsafe { message.write(header) };
        // SAFETY: the header is inside the room.
        let data = unsafe { libc::CMSG_DATA(message) };
        // SAFETY: behind the header the room has CMSG_LEN(size of `T`) bytes in all; `T` need not be aligned.
        unsafe { data.cast::<T>().write_unaligned(value) };
        filled + space
    }
}

/// What control messages said of a received datagram or train.
#[derive(Default)]
struct Received {
    /// The length of each datagram of a train.
    segment: Option<usize>,
    /// The address of ours that was asked.
    local: Option<Local>,
}

fn control_messages(header: &libc::msghdr, peer: SocketAddr) -> Received {
    let mut received = Received::default();
    // SAFETY: the header was filled by the kernel and points to the control buffer it wrote.
    let mut message = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !message.is_null() {
        // SAFETY: not null, so CMSG_FIRSTHDR or CMSG_NXTHDR found a whole header inside the buffer.
        let found = unsafe { &*message };
        match (found.cmsg_level, found.cmsg_type) {
            (libc::IPPROTO_UDP, libc::UDP_GRO) => {
                // SAFETY: as above, and UDP_GRO carries an int (udp(7)).
                let segment = unsafe { value::<i32>(found) };
                received.segment = segment.and_then(|segment| usize::try_from(segment).ok());
            }
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                // SAFETY: as above, and IP_PKTINFO carries an in_pktinfo (ip(7)).
                let info = unsafe { value::<libc::in_pktinfo>(found) };
                // Not `ipi_addr`, the destination in the header: that may be a broadcast or multicast address.
                let ip = info.map(|info| Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes()));
                let like_peer =
                    |ip: Ipv4Addr| if peer.is_ipv6() { ip.to_ipv6_mapped().into() } else { ip.into() };
                received.local = ip.and_then(|ip| Local::new(like_peer(ip), 0));
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                // SAFETY: as above, and IPV6_PKTINFO carries an in6_pktinfo (RFC 3542, 6.2).
                let info = unsafe { value::<libc::in6_pktinfo>(found) };
                let told = info.map(|info| (Ipv6Addr::from(info.ipi6_addr.s6_addr), info.ipi6_ifindex));
                // What came over IPv4 has an IP_PKTINFO as well, which knows more.
                if let Some((ip, interface)) = told.filter(|(ip, _)| ip.to_ipv4_mapped().is_none()) {
                    received.local = Local::new(ip.into(), interface);
                }
            }
            _ => {}
        }
        // SAFETY: as for CMSG_FIRSTHDR.
        message = unsafe { libc::CMSG_NXTHDR(header, message) };
    }
    received
}

/// What a control message carries; `None` if it was cut.
///
/// # Safety
///
/// The header is one that CMSG_FIRSTHDR or CMSG_NXTHDR found, and every pattern of bits is a valid `T`.
unsafe fn value<T: Copy>(message: &libc::cmsghdr) -> Option<T> {
    // SAFETY: arithmetic.
    let len = unsafe { libc::CMSG_LEN(size_of::<T>() as u32) };
    if message.cmsg_len < len as _ {
        return None;
    }
    // SAFETY: the header is whole, so its data starts inside the buffer.
    let data = unsafe { libc::CMSG_DATA(message) };
    // SAFETY: the kernel wrote `cmsg_len` bytes, which is enough for a `T`; it may be unaligned.
    Some(unsafe { data.cast::<T>().read_unaligned() })
}

fn address(name: &libc::sockaddr_storage, len: u32) -> Option<SocketAddr> {
    let mut storage = socket2::SockAddrStorage::zeroed();
    // SAFETY: every value of sockaddr_storage is valid, and it is what the storage is made for.
    *unsafe { storage.view_as::<libc::sockaddr_storage>() } = *name;
    // SAFETY: the kernel wrote `len` bytes of an address of the family it names.
    let address = unsafe { socket2::SockAddr::new(storage, len) };
    address.as_socket()
}

/// A datagram socket that is connected to `peer`, from whatever address and port the kernel chooses.
pub(crate) fn flow_socket(peer: SocketAddr) -> Result<Socket, Errno> {
    let kind = socket2::Type::DGRAM.nonblocking();
    let made = socket2::Socket::new(socket2::Domain::for_address(peer), kind, None).and_then(|socket| {
        socket.connect(&peer.into())?;
        // Without trains datagrams come one by one: slower and as correct.
        enable_trains(&socket);
        Ok(Socket(socket.into_raw_fd()))
    });
    made.map_err(|error| Errno::from_io(&error))
}

/// Asks the kernel to hand trains over as they come. It may not know how; then datagrams come singly.
pub(crate) fn enable_trains(socket: &socket2::Socket) -> bool {
    super::set_option(socket, libc::IPPROTO_UDP, libc::UDP_GRO, 1).is_ok()
}

/// Asks the kernel to tell with each datagram which of our addresses was asked: for a socket that is bound to all of
/// them.
pub(crate) fn enable_local(socket: &socket2::Socket, is_ipv6: bool) -> std::io::Result<()> {
    if is_ipv6 {
        super::set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
    }
    // An IPv6 socket that takes IPv4 as well is told in both forms, and only this one has the address that answers a
    // broadcast.
    super::set_option(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)
}
