//! The ring's own calls: entering it by its registered descriptor, and the ring of provided buffers.

use crate::event::Errno;
use crate::pool::{Block, Pool};
use io_uring::{IoUring, squeue, types};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// How the ring is entered: by its index in the thread's table where the kernel has one, which saves looking
/// the descriptor up on each call.
pub(crate) struct Entrance {
    ring_fd: i32,
    fd: i32,
    flags: u32,
}

const REGISTER_RING_FDS: libc::c_long = 20;
const UNREGISTER_RING_FDS: libc::c_long = 21;
const ENTER_REGISTERED_RING: u32 = 1 << 4;

#[repr(C)]
struct RegisterRing {
    offset: u32,
    resv: u32,
    data: u64,
}

#[repr(C)]
struct GetEventsArg {
    sigmask: u64,
    sigmask_size: u32,
    min_wait_usec: u32,
    timespec: u64,
}

/// A submission, of which the library has no name for `optlen`. For a multishot receive it is what that brings in all (Linux 6.17), where `len`,
/// for which the library has a name, limits a single one of its receives.
#[repr(C)]
struct Submission {
    before: [u64; 5],
    buffer: u32,
    optlen: u32,
    after: [u64; 2],
}

const _: () = assert!(size_of::<squeue::Entry>() == size_of::<Submission>());
const _: () = assert!(align_of::<squeue::Entry>() == align_of::<Submission>());

/// Ends a multishot receive once it has brought so many bytes; zero is without an end.
pub(crate) fn limit_bytes(entry: &mut squeue::Entry, bytes: u32) {
    let entry = std::ptr::from_mut(entry).cast::<Submission>();
    // SAFETY: an entry is the kernel's structure and nothing else (`repr(C)`), all numbers, for which any bits are good; the two have the
    // same size and alignment, as is asserted above. The borrow that the pointer comes from is exclusive, and is not used meanwhile.
    let submission = unsafe { &mut *entry };
    submission.optlen = bytes;
}

impl Entrance {
    pub(crate) fn new(ring: &IoUring) -> Entrance {
        let fd = ring.as_raw_fd();
        let mut register = RegisterRing { offset: u32::MAX, resv: 0, data: fd as u64 };
        // SAFETY: the call reads and writes one local struct with the layout of io_uring_rsrc_update.
        let answer = unsafe {
            libc::syscall(libc::SYS_io_uring_register, fd, REGISTER_RING_FDS, &raw mut register, 1)
        };
        if answer == 1 {
            Entrance { ring_fd: fd, fd: register.offset as i32, flags: ENTER_REGISTERED_RING }
        } else {
            Entrance { ring_fd: fd, fd, flags: 0 }
        }
    }

    /// Gives the index back: as long as the thread's table has the ring, closing its descriptor does not close it.
    /// To be called on the thread that made the value, before the ring is dropped.
    pub(crate) fn unregister(&mut self) {
        if self.flags == 0 {
            return;
        }
        let mut register = RegisterRing { offset: self.fd as u32, resv: 0, data: 0 };
        // SAFETY: as in `new`; the ring's descriptor is still open.
        unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                self.ring_fd,
                UNREGISTER_RING_FDS,
                &raw mut register,
                1,
            )
        };
        (self.fd, self.flags) = (self.ring_fd, 0);
    }

    /// Submits `to_submit` entries, runs the deferred work, and waits until `want` completions are there, or at
    /// most for `timeout`.
    pub(crate) fn enter(&self, to_submit: u32, want: u32, timeout: Option<Duration>) -> Result<usize, Errno> {
        let flags = self.flags | io_uring::EnterFlags::GETEVENTS.bits();
        let Some(timeout) = timeout else {
            return self.call(to_submit, want, flags, std::ptr::null(), 0);
        };
        let time = types::Timespec::from(timeout);
        let arg = GetEventsArg {
            sigmask: 0,
            sigmask_size: 0,
            min_wait_usec: 0,
            timespec: std::ptr::from_ref(&time) as u64,
        };
        let flags = flags | io_uring::EnterFlags::EXT_ARG.bits();
        self.call(to_submit, want, flags, &raw const arg, size_of::<GetEventsArg>())
    }

    fn call(
        &self,
        to_submit: u32,
        want: u32,
        flags: u32,
        arg: *const GetEventsArg,
        arg_size: usize,
    ) -> Result<usize, Errno> {
        // SAFETY: `arg` is null or, with its size and EXT_ARG, a struct with the layout of io_uring_getevents_arg,
        // which like the timespec it points to lives through the call. Submitted entries are sound by the
        // contract of `Uring::push`.
        let answer = unsafe {
            libc::syscall(libc::SYS_io_uring_enter, self.fd, to_submit, want, flags, arg, arg_size)
        };
        super::check(answer as isize)
    }
}

/// The ring through which free buffers are lent to the kernel.
pub(crate) struct BufferRing {
    entries: std::ptr::NonNull<types::BufRingEntry>,
    mask: u16,
    tail: u16,
    published: u16,
    /// The kernel may still read it: never free it.
    leaked: bool,
}

impl BufferRing {
    /// The only group of buffers.
    pub(crate) const GROUP: u16 = 0;

    /// Makes the ring and lends every buffer of the pool.
    pub(crate) fn register(ring: &IoUring, pool: &Pool) -> Result<BufferRing, std::io::Error> {
        let count = pool.count();
        let layout = BufferRing::layout(count);
        // SAFETY: the layout has a non-zero size: a pool has at least one buffer.
        let memory = unsafe { std::alloc::alloc_zeroed(layout) };
        let Some(entries) = std::ptr::NonNull::new(memory.cast()) else {
            std::alloc::handle_alloc_error(layout)
        };
        let mut buffers = BufferRing { entries, mask: count - 1, tail: 0, published: 0, leaked: false };
        let address = entries.as_ptr() as u64;
        // SAFETY: the memory is page-aligned, has `count` entries, and outlives the ring: the driver drops its ring
        // first (field order in `Uring`).
        let registered =
            unsafe { ring.submitter().register_buf_ring_with_flags(address, count, BufferRing::GROUP, 0) };
        registered?;
        for id in 0..count {
            buffers.lend(pool, id);
        }
        buffers.publish();
        Ok(buffers)
    }

    /// Never frees the memory: a receive could not be ended before the ring was.
    pub(crate) fn leak(&mut self) {
        self.leaked = true;
    }

    /// Takes a block back from its reader and lends its buffer again.
    pub(crate) fn give(&mut self, pool: &mut Pool, block: Block) {
        let id = pool.release(block);
        self.lend(pool, id);
    }

    /// Lends a buffer that is home. It counts from the next `publish` on.
    pub(crate) fn lend(&mut self, pool: &Pool, id: u16) {
        let slot = usize::from(self.tail & self.mask);
        // SAFETY: the slot is inside the ring's memory, as the mask sees to.
        let mut entry = unsafe { self.entries.add(slot) };
        // SAFETY: nobody else has a reference to the entry, and the kernel does not read it before `publish` moves
        // the tail past it. The tail itself shares the first entry's reserved field, which is not written here.
        let entry = unsafe { entry.as_mut() };
        entry.set_addr(pool.start(id).as_ptr() as u64);
        entry.set_len(pool.block_bytes() as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Shows the kernel what was lent. Once a turn is enough.
    pub(crate) fn publish(&mut self) {
        if self.published == self.tail {
            return;
        }
        self.published = self.tail;
        // SAFETY: `tail` only computes the address of the tail inside the first entry.
        let tail = unsafe { types::BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: the address is valid and aligned for a u16 as long as the ring's memory is; the kernel reads it
        // with acquire ordering.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    fn layout(count: u16) -> std::alloc::Layout {
        let bytes = usize::from(count) * size_of::<types::BufRingEntry>();
        std::alloc::Layout::from_size_align(bytes, 4096).expect("a ring of at most 32768 entries")
    }
}

impl Drop for BufferRing {
    fn drop(&mut self) {
        if self.leaked {
            return;
        }
        // SAFETY: allocated in `register` with this layout; the ring that the kernel knew it by is closed.
        unsafe { std::alloc::dealloc(self.entries.as_ptr().cast(), BufferRing::layout(self.mask + 1)) }
    }
}
