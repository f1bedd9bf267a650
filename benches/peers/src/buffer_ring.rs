//! A provided-buffer ring for io_uring: 256 blocks of 4 KiB that the kernel picks from when data arrives.
//!
//! It never hands out the bytes: the blind responder only counts them, so a block goes straight back. The memory is
//! never freed, because the kernel may write to it for as long as the ring lives.

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

/// Number of blocks; a power of two, as the kernel wants.
pub const BLOCKS: u16 = 256;
pub const BLOCK_BYTES: usize = 4096;
/// The buffer group that receives name.
pub const GROUP: u16 = 0;

/// The entry array must start on a page (io_uring_register_buf_ring(3)).
const PAGE_BYTES: usize = 4096;

pub struct BufferRing {
    entries: NonNull<BufRingEntry>,
    blocks: NonNull<u8>,
    /// Next entry to fill; the kernel sees it only after `publish`.
    tail: u16,
}

impl BufferRing {
    /// Allocates the blocks, registers them as `GROUP` and gives all of them to the kernel.
    pub fn register(submitter: &Submitter<'_>) -> io::Result<Self> {
        let entries = alloc_pages(usize::from(BLOCKS) * size_of::<BufRingEntry>()).cast();
        let blocks = alloc_pages(usize::from(BLOCKS) * BLOCK_BYTES);
        // SAFETY: `entries` is page aligned, holds BLOCKS entries and is never freed, so it outlives any ring.
        unsafe {
            submitter.register_buf_ring_with_flags(entries.as_ptr() as u64, BLOCKS, GROUP, 0)?;
        }
        let mut ring = BufferRing {
            entries,
            blocks,
            tail: 0,
        };
        for block in 0..BLOCKS {
            ring.give_back(block);
        }
        ring.publish();
        Ok(ring)
    }

    /// Puts a block the kernel filled back into the ring; `publish` makes it visible.
    pub fn give_back(&mut self, block: u16) {
        assert!(block < BLOCKS, "a block that was never registered");
        let index = usize::from(self.tail & (BLOCKS - 1));
        // SAFETY: block < BLOCKS, so the offset stays inside the allocation of BLOCKS * BLOCK_BYTES.
        let address = unsafe { self.blocks.add(usize::from(block) * BLOCK_BYTES) };
        // SAFETY: index < BLOCKS; the kernel reads an entry only between its head and the published tail, and this
        // one lies past the tail, so nobody else touches it now.
        let entry = unsafe { self.entries.add(index).as_mut() };
        entry.set_addr(address.as_ptr() as u64);
        entry.set_len(BLOCK_BYTES as u32);
        entry.set_bid(block);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Lets the kernel see every block given back so far. Once a turn is enough.
    pub fn publish(&self) {
        // SAFETY: `entries` is the ring's first entry, initialised to zero at allocation.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: the kernel shares this aligned u16 and reads it atomically; we are its only writer.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

/// Zeroed, page-aligned memory that is never freed.
fn alloc_pages(bytes: usize) -> NonNull<u8> {
    let layout = Layout::from_size_align(bytes, PAGE_BYTES).expect("a small constant size");
    // SAFETY: the layout's size is not zero: both callers pass a product of positive constants.
    let memory = unsafe { alloc_zeroed(layout) };
    NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout))
}
