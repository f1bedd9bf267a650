//! recvmmsg(2) and sendmmsg(2) over a batch, with trains (UDP_GRO, UDP_SEGMENT; udp(7)).

use super::{check, last_errno};
use crate::datagram::{Datagrams, ENTRIES_MAX, Entry, SLOT_BYTES};
use crate::event::{Errno, Socket};
use std::net::SocketAddr;

/// Room for one control message that carries an integer: CMSG_SPACE(4), and some.
const CONTROL_BYTES: usize = 32;

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
            let segment = train_segment(header).filter(|segment| *segment > 0).unwrap_or(len);
            batch.entries.push(Entry { peer, start: n * SLOT_BYTES, len, segment });
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
                self.vectors[n] =
                    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
                let name = socket2::SockAddr::from(entry.peer);
                // SAFETY: a socket2 address of an IP address is a sockaddr_storage of `len()` valid bytes.
                self.names[n] = unsafe { name.as_ptr().cast::<libc::sockaddr_storage>().read() };
                let is_train = entry.len > entry.segment;
                let control = if is_train { self.controls[n].set_segment(entry.segment as u16) } else { 0 };
                self.point(n, name.len() as usize, control);
            }
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            // SAFETY: as in `recv`; the kernel only reads.
            let answer = unsafe { libc::sendmmsg(socket.0, self.headers.as_mut_ptr(), count as u32, flags) };
            match check(answer as isize) {
                Ok(sent) => batch.done += sent,
                Err(Errno::EINTR) => {}
                // A full device queue says ENOBUFS, and no readiness follows it: that datagram is lost, as UDP may.
                Err(Errno::EAGAIN) => return Err(Errno::EAGAIN),
                Err(_) => self.send_one_by_one(socket, batch)?,
            }
        }
        Ok(())
    }

    /// The first entry was refused: as a train it may be too much for the route, its datagrams may not be.
    fn send_one_by_one(&mut self, socket: Socket, batch: &mut Datagrams) -> Result<(), Errno> {
        let entry = batch.entries[batch.done];
        let name = socket2::SockAddr::from(entry.peer);
        for range in entry.ranges() {
            let bytes = &batch.arena[range];
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            // SAFETY: the slice and the address live through the call, with their true lengths.
            let answer = unsafe {
                libc::sendto(
                    socket.0,
                    bytes.as_ptr().cast(),
                    bytes.len(),
                    flags,
                    name.as_ptr().cast(),
                    name.len(),
                )
            };
            if answer < 0 {
                // Waiting for room in the middle of a train is not worth a state: the rest is refused.
                let _ = last_errno();
                batch.refused += 1;
            }
        }
        batch.done += 1;
        Ok(())
    }

    /// Makes header `n` point to its own vector, name and control.
    fn point(&mut self, n: usize, name_len: usize, control_len: usize) {
        let header = &mut self.headers[n].msg_hdr;
        header.msg_name = (&raw mut self.names[n]).cast();
        header.msg_namelen = name_len as u32;
        header.msg_iov = &raw mut self.vectors[n];
        header.msg_iovlen = 1;
        header.msg_control = (&raw mut self.controls[n]).cast();
        header.msg_controllen = control_len as _;
        header.msg_flags = 0;
    }
}

impl Control {
    /// Writes one UDP_SEGMENT message and returns its length.
    fn set_segment(&mut self, segment: u16) -> usize {
        // SAFETY: arithmetic.
        let len = unsafe { libc::CMSG_LEN(2) };
        // SAFETY: arithmetic.
        let space = unsafe { libc::CMSG_SPACE(2) };
        let header =
            libc::cmsghdr { cmsg_len: len as _, cmsg_level: libc::IPPROTO_UDP, cmsg_type: libc::UDP_SEGMENT };
        // SAFETY: the buffer is aligned for cmsghdr and longer than CMSG_SPACE(2).
        unsafe { self.0.as_mut_ptr().cast::<libc::cmsghdr>().write(header) };
        let data = size_of::<libc::cmsghdr>();
        self.0[data..data + 2].copy_from_slice(&segment.to_ne_bytes());
        space as usize
    }
}

/// The segment length of a received train, from its UDP_GRO control message.
fn train_segment(header: &libc::msghdr) -> Option<usize> {
    // SAFETY: the header was filled by the kernel and points to the control buffer it wrote.
    let mut message = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !message.is_null() {
        // SAFETY: not null, so CMSG_FIRSTHDR or CMSG_NXTHDR found a whole header inside the buffer.
        let found = unsafe { &*message };
        if found.cmsg_level == libc::IPPROTO_UDP && found.cmsg_type == libc::UDP_GRO {
            // SAFETY: the header is whole, so its data starts inside the buffer.
            let data = unsafe { libc::CMSG_DATA(message) };
            // SAFETY: UDP_GRO carries an int (udp(7)), which may be unaligned.
            let segment = unsafe { data.cast::<i32>().read_unaligned() };
            return usize::try_from(segment).ok();
        }
        // SAFETY: as for CMSG_FIRSTHDR.
        message = unsafe { libc::CMSG_NXTHDR(header, message) };
    }
    None
}

fn address(name: &libc::sockaddr_storage, len: u32) -> Option<SocketAddr> {
    let mut storage = socket2::SockAddrStorage::zeroed();
    // SAFETY: every value of sockaddr_storage is valid, and it is what the storage is made for.
    *unsafe { storage.view_as::<libc::sockaddr_storage>() } = *name;
    // SAFETY: the kernel wrote `len` bytes of an address of the family it names.
    let address = unsafe { socket2::SockAddr::new(storage, len) };
    address.as_socket()
}

/// Asks the kernel to hand trains over as they come. It may not know how; then datagrams come singly.
pub(crate) fn enable_trains(socket: &socket2::Socket) -> bool {
    super::set_option(socket, libc::IPPROTO_UDP, libc::UDP_GRO, 1).is_ok()
}
