//! Fixed-size receive buffers: one arena, and a move-only handle for each buffer in it.
//!
//! A buffer is either *home* (free, or lent to the kernel through the ring) or *out* (named by exactly
//! one [`Block`]). The pool keeps a bit for each buffer and is the only place that turns arena memory into a
//! slice, so a buffer that the kernel may write can never be read, whatever a completion claims
//! (some kernels flag a buffer on an error without attaching one). Where to read next: `event.rs`.
#![allow(unsafe_code)]

use std::io::IoSliceMut;
use std::ptr::NonNull;

/// The arena and who owns which buffer of it.
pub struct Pool {
    arena: NonNull<u8>,
    block_bytes: usize,
    count: u16,
    /// Buffers that nobody holds, most recently used last. Unused while the ring holds them.
    free: Vec<u16>,
    out: Vec<bool>,
    /// The kernel may still write to it: never free it.
    leaked: bool,
}

/// One received piece of bytes, in place in its buffer. Move it into
/// [`Op::Provide`](crate::event::Op::Provide) to return the buffer.
pub struct Block {
    start: NonNull<u8>,
    len: u32,
    id: u16,
}

/// The most buffers that are lent for one call.
const LENT_MAX: usize = 8;
/// The alignment of the arena: a page, so that buffers do not straddle more pages than they must.
const ARENA_ALIGN: usize = 4096;

impl Pool {
    /// Takes the memory for `count` buffers of `block_bytes` each. Panics if either is zero or the arena
    /// would not fit the address space: both come from a checked `Config`.
    pub fn new(count: u16, block_bytes: usize) -> Pool {
        let layout = Pool::layout(count, block_bytes);
        // SAFETY: the layout has a non-zero size, as `layout` asserts.
        let arena = unsafe { std::alloc::alloc_zeroed(layout) };
        let Some(arena) = NonNull::new(arena) else { std::alloc::handle_alloc_error(layout) };
        Pool {
            arena,
            block_bytes,
            count,
            free: (0..count).rev().collect(),
            out: vec![false; usize::from(count)],
            leaked: false,
        }
    }

    fn layout(count: u16, block_bytes: usize) -> std::alloc::Layout {
        assert!(count > 0 && block_bytes > 0, "a pool without buffers");
        let bytes = usize::from(count).checked_mul(block_bytes).expect("the arena fits the address space");
        std::alloc::Layout::from_size_align(bytes, ARENA_ALIGN).expect("the arena fits the address space")
    }

    /// The number of buffers.
    pub fn count(&self) -> u16 {
        self.count
    }

    /// The size of each buffer in bytes.
    pub fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    /// Panics unless each buffer is free, or out, and not both: for a driver that keeps none for the kernel.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn check(&self) {
        assert_eq!(self.free.len() + self.out_count(), usize::from(self.count), "a buffer has no owner");
        let mut is_free = vec![false; usize::from(self.count)];
        for id in &self.free {
            assert!(!self.out[usize::from(*id)], "buffer {id} is free and out");
            assert!(!std::mem::replace(&mut is_free[usize::from(*id)], true), "buffer {id} is free twice");
        }
    }

    /// The number of buffers that are out.
    pub fn out_count(&self) -> usize {
        self.out.iter().filter(|out| **out).count()
    }

    /// Lends a free buffer to a driver that fills buffers itself: `fill` writes into the whole buffer and says how many
    /// bytes are valid. `None` when every buffer is out; otherwise what `fill` returned, after `tell` got the block if it
    /// was `Ok` and more than zero.
    pub(crate) fn fill<E>(
        &mut self,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, E>,
        tell: impl FnOnce(Block),
    ) -> Option<Result<usize, E>> {
        let id = self.free.pop()?;
        // SAFETY: `id` is in the list of free buffers no more.
        let filled = fill(unsafe { self.lend(id) });
        match filled {
            Ok(len) if len > 0 => {
                self.out[usize::from(id)] = true;
                let len = len.min(self.block_bytes);
                tell(Block { start: self.start(id), len: len as u32, id });
                Some(Ok(len))
            }
            _ => {
                self.free.push(id);
                Some(filled)
            }
        }
    }

    /// As [`fill`](Pool::fill) with at most `max` and [`LENT_MAX`] buffers, into which `fill` writes from the first on. It
    /// says how many bytes that were in all, and `tell` gets a block for every buffer with bytes in it.
    pub(crate) fn fill_many<E>(
        &mut self,
        max: usize,
        fill: impl FnOnce(&mut [IoSliceMut<'_>]) -> Result<usize, E>,
        mut tell: impl FnMut(Block),
    ) -> Option<Result<usize, E>> {
        let lent = self.free.len().min(max).min(LENT_MAX);
        if lent == 0 {
            return None;
        }
        let mut buffers: [IoSliceMut<'_>; LENT_MAX] = std::array::from_fn(|_| IoSliceMut::new(&mut []));
        for (buffer, id) in buffers.iter_mut().zip(self.free[self.free.len() - lent..].iter().rev()) {
            // SAFETY: `id` is in the list of free buffers once, and nobody else looks at that list until `fill` is over.
            *buffer = IoSliceMut::new(unsafe { self.lend(*id) });
        }
        let bytes = match fill(&mut buffers[..lent]) {
            Ok(bytes) => bytes.min(lent * self.block_bytes),
            Err(error) => return Some(Err(error)),
        };
        let mut left = bytes;
        while left > 0 {
            let id = self.free.pop().expect("it was lent from the end of the list");
            self.out[usize::from(id)] = true;
            let len = left.min(self.block_bytes);
            left -= len;
            tell(Block { start: self.start(id), len: len as u32, id });
        }
        Some(Ok(bytes))
    }

    /// The memory of a buffer that is not out.
    ///
    /// # Safety
    /// The buffer is free, and lent to nobody else while the slice lives.
    unsafe fn lend<'l>(&self, id: u16) -> &'l mut [u8] {
        assert!(!self.out[usize::from(id)], "a free buffer that is out: the pool is used by two drivers");
        // SAFETY: as the caller says, no block, no kernel and no other slice names this memory; it lies inside the arena,
        // which was zeroed at start and lives as long as the pool.
        unsafe { std::slice::from_raw_parts_mut(self.start(id).as_ptr(), self.block_bytes) }
    }

    /// Takes a buffer that the kernel says it filled with `len` bytes. `None` if that buffer is not the
    /// kernel's to give: the completion lied, and nothing may be read.
    pub(crate) fn claim(&mut self, id: u16, len: usize) -> Option<Block> {
        if id >= self.count || self.out[usize::from(id)] || len > self.block_bytes {
            return None;
        }
        self.out[usize::from(id)] = true;
        Some(Block { start: self.start(id), len: len as u32, id })
    }

    /// Never frees the memory.
    pub(crate) fn leak(&mut self) {
        self.leaked = true;
    }

    /// Takes a block back and makes its buffer free.
    pub fn give(&mut self, block: Block) {
        let id = self.release(block);
        self.free.push(id);
    }

    /// Takes a block back for a driver that hands the buffer to the kernel; returns its id.
    pub(crate) fn release(&mut self, block: Block) -> u16 {
        assert!(
            block.start == self.start(block.id) && self.out[usize::from(block.id)],
            "a block of another pool"
        );
        self.out[usize::from(block.id)] = false;
        block.id
    }

    /// Where buffer `id` starts, for the entry that lends it to the kernel.
    pub(crate) fn start(&self, id: u16) -> NonNull<u8> {
        assert!(id < self.count);
        // SAFETY: id < count, so the offset is inside the one allocation of the arena.
        unsafe { self.arena.add(usize::from(id) * self.block_bytes) }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if self.leaked || self.out_count() > 0 {
            // A block or the kernel still names this memory: leaking it is safe, freeing it is not.
            return;
        }
        // SAFETY: allocated in `new` with this layout; no block is out, and the driver closes its ring
        // before it drops the pool, so the kernel does not hold the memory either.
        unsafe { std::alloc::dealloc(self.arena.as_ptr(), Pool::layout(self.count, self.block_bytes)) }
    }
}

impl std::ops::Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: a block is made only by `fill` and `claim`, for memory inside the arena that was zeroed
        // at start; the pool's bit keeps everybody else away until the block is given back, and
        // the arena is not freed while a block is out.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len as usize) }
    }
}

impl std::ops::DerefMut for Block {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`; and a block cannot be copied, so the one that is borrowed here is the only name of its
        // memory.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len as usize) }
    }
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Block({}, {} bytes)", self.id, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn take(pool: &mut Pool, bytes: &[u8]) -> Option<Block> {
        let mut block = None;
        let write = |buffer: &mut [u8]| {
            buffer[..bytes.len()].copy_from_slice(bytes);
            Ok::<usize, ()>(bytes.len())
        };
        pool.fill(write, |filled| block = Some(filled));
        block
    }

    #[test]
    fn one_call_fills_several_buffers_in_order() {
        let mut pool = Pool::new(4, 2);
        // The blocks of one call that has at most `max` buffers for the bytes.
        let take_many = |pool: &mut Pool, max, mut bytes: &[u8]| {
            let mut blocks = Vec::new();
            let write = |buffers: &mut [IoSliceMut<'_>]| {
                Ok::<usize, ()>(buffers.iter_mut().map(|buffer| bytes.read(buffer).unwrap()).sum())
            };
            pool.fill_many(max, write, |block| blocks.push(block)).unwrap().unwrap();
            blocks
        };
        let text = |blocks: &[Block]| {
            blocks.iter().map(|block| str::from_utf8(block).unwrap().to_owned()).collect::<Vec<_>>()
        };
        let first = take(&mut pool, b"ab").unwrap();
        let two = take_many(&mut pool, 2, b"cdefg");
        assert_eq!(text(&two), ["cd", "ef"], "no more buffers than asked for");
        let last = take_many(&mut pool, 9, b"hij");
        assert_eq!(text(&last), ["hi"], "no more than there are");
        assert!(pool.fill_many(1, |_| Ok::<usize, ()>(1), |_| unreachable!()).is_none());
        pool.give(first);
        two.into_iter().for_each(|block| pool.give(block));
        assert_eq!(text(&take_many(&mut pool, 3, b"klm")), ["kl", "m"]);
        assert_eq!(pool.out_count(), 3, "a buffer without bytes stays free");
        assert_eq!(pool.fill_many(1, |_| Err(7), |_| unreachable!()), Some(Err(7)));
        pool.check();
    }

    #[test]
    fn buffers_run_out_and_come_back() {
        let mut pool = Pool::new(2, 64);
        let (a, b) = (take(&mut pool, b"one").unwrap(), take(&mut pool, b"two").unwrap());
        assert!(take(&mut pool, b"three").is_none());
        assert_eq!((&a[..], &b[..]), (&b"one"[..], &b"two"[..]));
        pool.give(a);
        assert_eq!(&take(&mut pool, b"four").unwrap()[..], b"four");
        pool.give(b);
        assert_eq!(pool.out_count(), 1);
    }

    #[test]
    fn a_completion_cannot_claim_what_is_out() {
        let mut pool = Pool::new(2, 64);
        let block = pool.claim(1, 10).unwrap();
        assert!(pool.claim(1, 10).is_none(), "already out");
        assert!(pool.claim(2, 10).is_none(), "no such buffer");
        assert!(pool.claim(0, 65).is_none(), "longer than a buffer");
        pool.give(block);
        assert!(pool.claim(1, 64).is_some());
    }

    #[test]
    fn nothing_is_out_after_a_failed_or_empty_fill() {
        let mut pool = Pool::new(1, 64);
        assert_eq!(pool.fill(|_| Err(7), |_| unreachable!()), Some(Err(7)));
        assert_eq!(pool.fill(|_| Ok::<usize, u8>(0), |_| unreachable!()), Some(Ok(0)));
        assert_eq!(pool.out_count(), 0);
    }

    #[test]
    fn a_block_outlives_its_pool() {
        let mut pool = Pool::new(1, 64);
        let block = take(&mut pool, b"still here").unwrap();
        drop(pool);
        assert_eq!(&block[..], b"still here");
    }

    #[test]
    #[should_panic(expected = "a block of another pool")]
    fn a_block_of_another_pool_is_our_bug() {
        let (mut a, mut b) = (Pool::new(1, 64), Pool::new(1, 64));
        let block = take(&mut a, b"x").unwrap();
        b.give(block);
    }
}
