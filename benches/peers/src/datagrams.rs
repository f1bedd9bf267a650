//! Batches of datagrams: recvmmsg and sendmmsg over memory that is laid out once.
//!
//! It never copies a payload and never allocates after `new`. Used by `blind_udp`, which echoes in place.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Distance between payloads. Not a power of two: equal low address bits would put all first lines of a batch into
/// the same few sets of the L1 cache.
const STRIDE_BYTES: usize = PAYLOAD_BYTES_MAX + 64;

/// Longer datagrams are cut.
const PAYLOAD_BYTES_MAX: usize = 2048;

/// A fixed number of datagrams with their addresses. The memory is leaked: a batch lives as long as the process.
pub struct Batch {
    headers: *mut libc::mmsghdr,
    vectors: *mut libc::iovec,
    capacity: usize,
    /// Entries whose lengths differ from the full size and must be restored before the next receive.
    used: usize,
}

impl Batch {
    pub fn new(capacity: usize) -> Self {
        let payloads = vec![0u8; capacity * STRIDE_BYTES].leak().as_mut_ptr();
        // SAFETY: all three are plain C structs for which all-zero bytes are valid values.
        let (vector, header, name): (libc::iovec, libc::mmsghdr, libc::sockaddr_storage) =
            unsafe { std::mem::zeroed() };
        let vectors = vec![vector; capacity].leak().as_mut_ptr();
        let headers = vec![header; capacity].leak().as_mut_ptr();
        let names = vec![name; capacity].leak().as_mut_ptr();
        for index in 0..capacity {
            // SAFETY: index < capacity, the length of all four leaked arrays, of which we hold the only pointers.
            unsafe {
                (*vectors.add(index)).iov_base = payloads.add(index * STRIDE_BYTES).cast();
                let header = &mut (*headers.add(index)).msg_hdr;
                header.msg_iov = vectors.add(index);
                header.msg_iovlen = 1;
                header.msg_name = names.add(index).cast();
            }
        }
        Batch {
            headers,
            vectors,
            capacity,
            used: capacity,
        }
    }

    /// Receives up to `capacity` datagrams and returns how many; `flags` as in recvmmsg(2).
    pub fn recv(&mut self, socket: BorrowedFd<'_>, flags: libc::c_int) -> io::Result<usize> {
        for index in 0..self.used {
            self.set_length(index, PAYLOAD_BYTES_MAX);
            // SAFETY: used <= capacity, so the entry exists; no system call is using it.
            unsafe {
                (*self.headers.add(index)).msg_hdr.msg_namelen =
                    size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            }
        }
        self.used = 0;
        // SAFETY: `headers` holds `capacity` entries that point into memory of this batch, which is never freed.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers,
                self.capacity as libc::c_uint,
                flags,
                std::ptr::null_mut(),
            )
        };
        if count < 0 {
            return Err(io::Error::last_os_error());
        }
        let count = count as usize;
        for index in 0..count {
            // SAFETY: the kernel returned count <= capacity filled entries.
            let length = unsafe { (*self.headers.add(index)).msg_len } as usize;
            self.set_length(index, length);
        }
        Ok(count)
    }

    /// Sends the datagrams `first..end` with their present lengths; returns how many the kernel took.
    pub fn send(&mut self, socket: BorrowedFd<'_>, first: usize, end: usize) -> io::Result<usize> {
        assert!(first <= end && end <= self.capacity);
        // SAFETY: first..end lies within `headers`, whose entries point into memory of this batch.
        let count = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                self.headers.add(first),
                (end - first) as libc::c_uint,
                libc::MSG_NOSIGNAL,
            )
        };
        if count < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(count as usize)
    }

    /// Sets the length that `send` sends.
    fn set_length(&mut self, index: usize, length: usize) {
        assert!(index < self.capacity && length <= PAYLOAD_BYTES_MAX);
        self.used = self.used.max(index + 1);
        // SAFETY: index < capacity, and no system call is using the entry while we hold `&mut self`.
        unsafe { (*self.vectors.add(index)).iov_len = length };
    }
}
