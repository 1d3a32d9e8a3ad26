//! A pool: buffers of one size in one mapping, lent out as [`Slice`]s, owned by one thread.
//!
//! # Theory of operation
//!
//! A buffer is in exactly one of two places:
//!
//! * **home**: nobody holds a [`Slice`] of it. It is either listed for the kernel (the driver put it
//!   into a buffer ring and the kernel may write it at any moment) or waits in the freed list until
//!   the driver lists it again;
//! * **lent**: at least one `Slice` holds it. The kernel does not know it.
//!
//! That is the whole safety argument: memory that the kernel may write is never reachable through a
//! `Slice`, because [`Pool::lend`] is called only for a buffer that the kernel has just handed back,
//! and [`Pool::take_freed`] yields only buffers without a holder.
//!
//! The count of holders is an ordinary integer: a `Slice` is not `Send`, so all holders of a buffer
//! are on one thread. To cross threads a buffer must have one holder, which becomes a
//! [`Parcel`](super::Parcel); the right to touch the count goes with it. A buffer that once travelled is
//! marked `away`, and its last holder, wherever it is, puts its index into `returns`, a lock-free
//! queue with one place per buffer (an index is in there at most once, so it is never full), which
//! the owner empties in `collect_returned`.
//!
//! The freed list is a stack: what was used last is lent first, while it is still in the processor's cache.
//! So most of a large pool may never be touched; only the first buffers are faulted in at creation (a page
//! fault costs microseconds). The mapping lives until
//! the [`Pool`] is dropped *and* no buffer is lent; if one still is, the memory stays for the life of
//! the process, because its holder may be on any thread.

use std::cell::Cell;
use std::io;
use std::ptr::NonNull;

use crossbeam::queue::ArrayQueue;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use super::slice::Slice;

const NONE: u32 = u32::MAX;

/// The book-keeping of one buffer, pooled or on the heap. Its address is stable while lent.
pub(crate) struct Block {
    /// Holders: slices and parcels. 0 = home.
    pub(super) holders: Cell<u32>,
    /// It has travelled as a parcel: the last holder gives it back through `returns`.
    pub(super) away: Cell<bool>,
    pub(super) base: NonNull<u8>,
    pub(super) capacity: u32,
    index: u32,
    /// The next in the freed list of the pool.
    next: Cell<u32>,
    pub(super) home: Option<NonNull<Shelf>>,
}

/// What the blocks of a pool point back to.
pub(crate) struct Shelf {
    blocks: Vec<Block>,
    freed: Cell<u32>,
    lent: Cell<u32>,
    returns: ArrayQueue<u32>,
    base: NonNull<u8>,
    mapped_bytes: usize,
}

impl Block {
    /// Book-keeping for memory that comes from a vector's allocation.
    pub(super) fn on_heap(base: NonNull<u8>, capacity: u32) -> Block {
        Block {
            holders: Cell::new(1),
            away: Cell::new(false),
            base,
            capacity,
            index: 0,
            next: Cell::new(NONE),
            home: None,
        }
    }
}

impl Shelf {
    /// Takes back a buffer whose last holder is gone. Called on the owning thread unless the
    /// block is `away`, and then on any.
    pub(super) fn give_back(&self, block: &Block) {
        debug_assert_eq!(block.holders.get(), 0);
        if block.away.get() {
            let mut index = block.index;
            // One place per buffer: a push can only fail while another thread is between two steps
            // of its pop.
            while let Err(back) = self.returns.push(index) {
                index = back;
                std::hint::spin_loop();
            }
        } else {
            block.next.set(self.freed.get());
            self.freed.set(block.index);
            self.lent.set(self.lent.get() - 1);
        }
    }
}

/// The owner's side of a pool.
#[derive(Debug)]
pub(crate) struct Pool {
    shelf: NonNull<Shelf>,
    buffer_bytes: u32,
}

impl Pool {
    /// Maps `count` buffers of `buffer_bytes` bytes each and faults in the first `ready`. All are freed
    /// at first, in ascending order.
    pub(crate) fn new(count: u16, buffer_bytes: u32, ready: u16) -> io::Result<Pool> {
        let mapped_bytes = count.max(1) as usize * buffer_bytes.max(1) as usize;
        // SAFETY: a new anonymous mapping at an address the kernel chooses aliases nothing.
        let base = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                mapped_bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )?
        };
        let ready_bytes = ready.min(count) as usize * buffer_bytes as usize;
        // SAFETY: the range is the start of the mapping made just now. A kernel that does not know the
        // advice (before 5.14) faults the pages in when they are used.
        let _ = unsafe { madvise(base, ready_bytes, Advice::LinuxPopulateWrite) };
        let base = NonNull::new(base.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let shelf = NonNull::from(Box::leak(Box::new(Shelf {
            blocks: Vec::with_capacity(count.into()),
            freed: Cell::new(NONE),
            lent: Cell::new(0),
            returns: ArrayQueue::new(count.max(1).into()),
            base,
            mapped_bytes,
        })));
        let blocks = (0..u32::from(count)).map(|index| Block {
            holders: Cell::new(0),
            away: Cell::new(false),
            // SAFETY: index < count, so the offset stays inside the mapping of count buffers.
            base: unsafe { base.add(index as usize * buffer_bytes as usize) },
            capacity: buffer_bytes,
            index,
            next: Cell::new(if index + 1 < u32::from(count) {
                index + 1
            } else {
                NONE
            }),
            home: Some(shelf),
        });
        // SAFETY: the shelf was leaked just now and nobody else knows its address.
        unsafe { (*shelf.as_ptr()).blocks.extend(blocks) };
        let pool = Pool {
            shelf,
            buffer_bytes,
        };
        pool.shelf().freed.set(if count == 0 { NONE } else { 0 });
        Ok(pool)
    }

    /// How many buffers there are.
    pub(crate) fn count(&self) -> usize {
        self.shelf().blocks.len()
    }

    /// The size of each buffer in bytes.
    pub(crate) fn buffer_bytes(&self) -> u32 {
        self.buffer_bytes
    }

    /// How many buffers no slice holds (parcels dropped elsewhere count once they were collected).
    pub(crate) fn home_count(&self) -> usize {
        self.count() - self.shelf().lent.get() as usize
    }

    /// Where buffer `index` starts, or `None` if there is no such buffer.
    pub(crate) fn address(&self, index: u16) -> Option<NonNull<u8>> {
        self.shelf()
            .blocks
            .get(usize::from(index))
            .map(|block| block.base)
    }

    /// Makes a slice of the first `len` bytes (at most the buffer) of buffer `index`.
    /// `None` if there is no such buffer or somebody holds it already.
    ///
    /// # Safety
    ///
    /// The kernel (or whoever else wrote the buffer) must be done with it, and the buffer must not
    /// be in the freed list.
    pub(crate) unsafe fn lend(&self, index: u16, len: usize) -> Option<Slice> {
        let shelf = self.shelf();
        let block = shelf.blocks.get(usize::from(index))?;
        if block.holders.get() != 0 {
            debug_assert!(false, "buffer {index} is lent already");
            return None;
        }
        block.holders.set(1);
        shelf.lent.set(shelf.lent.get() + 1);
        let len = len.min(block.capacity as usize) as u32;
        Some(Slice::of_block(NonNull::from(block), block.base, len))
    }

    /// The next buffer that has no holder and is not listed, if any. The caller lists it.
    pub(crate) fn take_freed(&self) -> Option<u16> {
        let shelf = self.shelf();
        let first = shelf.freed.get();
        let block = shelf.blocks.get(first as usize)?;
        debug_assert_eq!(block.holders.get(), 0);
        shelf.freed.set(block.next.get());
        Some(first as u16)
    }

    /// Takes the buffers into the freed list whose last holder was on another thread.
    pub(crate) fn collect_returned(&self) {
        let shelf = self.shelf();
        while let Some(index) = shelf.returns.pop() {
            if let Some(block) = shelf.blocks.get(index as usize) {
                debug_assert!(block.away.get() && block.holders.get() == 0);
                block.away.set(false);
                shelf.give_back(block);
            }
        }
    }

    /// Keeps the memory for the life of the process: somebody else may still use it.
    pub(crate) fn keep(&self) {
        let lent = &self.shelf().lent;
        lent.set(lent.get() + 1);
    }

    fn shelf(&self) -> &Shelf {
        // SAFETY: the shelf is freed only by `drop`, which has the pool exclusively; only its owner
        // thread (`Pool` is not `Send`) reads or writes its cells.
        unsafe { self.shelf.as_ref() }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.collect_returned();
        let shelf = self.shelf();
        if shelf.lent.get() != 0 {
            // Somebody holds a slice or a parcel: the memory stays for the process.
            return;
        }
        // SAFETY: nothing is lent, so no slice or parcel points to the shelf or the mapping, and the
        // shelf came from `Box::leak`. The driver stopped the kernel before dropping its pools.
        unsafe {
            let shelf = Box::from_raw(self.shelf.as_ptr());
            let _ = munmap(shelf.base.as_ptr().cast(), shelf.mapped_bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(pool: &Pool) -> Vec<u16> {
        pool.collect_returned();
        std::iter::from_fn(|| pool.take_freed()).collect()
    }

    fn lend(pool: &Pool, index: u16, len: usize) -> Slice {
        // SAFETY: the tests list no buffer for any kernel, and lend only what they took.
        unsafe { pool.lend(index, len) }.expect("a home buffer can be lent")
    }

    #[test]
    fn a_new_pool_frees_all_its_buffers_in_order() {
        let pool = Pool::new(4, 4096, 1).unwrap();
        assert_eq!(drain(&pool), [0, 1, 2, 3]);
        assert_eq!(pool.home_count(), 4);
        assert_eq!(drain(&pool), [] as [u16; 0]);
    }

    #[test]
    fn the_last_holder_frees_the_buffer() {
        let pool = Pool::new(2, 4096, 1).unwrap();
        drain(&pool);
        let slice = lend(&pool, 1, 100);
        let clone = slice.clone();
        let part = clone.sub(10..20);
        assert_eq!(pool.home_count(), 1);
        drop(slice);
        drop(clone);
        assert_eq!(drain(&pool), [] as [u16; 0]);
        drop(part);
        assert_eq!(drain(&pool), [1]);
        assert_eq!(pool.home_count(), 2);
    }

    #[test]
    fn a_parcel_dropped_on_another_thread_comes_home() {
        let pool = Pool::new(3, 4096, 1).unwrap();
        drain(&pool);
        let parcels: Vec<_> = (0..3)
            .map(|index| lend(&pool, index, 8).into_parcel())
            .collect();
        assert_eq!(pool.home_count(), 0);
        std::thread::spawn(move || {
            for parcel in parcels {
                let slice = Slice::from(parcel);
                let clone = slice.clone();
                drop(slice);
                assert_eq!(clone.len(), 8);
            }
        })
        .join()
        .unwrap();
        let mut home = drain(&pool);
        home.sort_unstable();
        assert_eq!(home, [0, 1, 2]);
        assert_eq!(pool.home_count(), 3);
        // And it can be lent and freed the ordinary way again.
        drop(lend(&pool, 2, 1));
        assert_eq!(drain(&pool), [2]);
    }

    #[test]
    fn parcels_may_outlive_their_pool() {
        let pool = Pool::new(1, 4096, 1).unwrap();
        drain(&pool);
        let parcel = lend(&pool, 0, 64).into_parcel();
        drop(pool);
        let slice = Slice::from(parcel);
        assert_eq!(slice.bytes(), [0; 64]);
    }

    #[test]
    fn buffers_go_round_between_threads_without_loss() {
        let pool = Pool::new(8, 64, 1).unwrap();
        let (to_other, from_home) = std::sync::mpsc::channel::<crate::Parcel>();
        let other =
            std::thread::spawn(move || from_home.iter().map(|p| Slice::from(p).len()).sum());
        let mut sent = 0;
        while sent < 10_000 {
            pool.collect_returned();
            match pool.take_freed() {
                Some(index) => {
                    to_other.send(lend(&pool, index, 1).into_parcel()).unwrap();
                    sent += 1;
                }
                None => std::thread::yield_now(),
            }
        }
        drop(to_other);
        let received: usize = other.join().unwrap();
        assert_eq!(received, 10_000);
        assert_eq!(drain(&pool).len(), 8);
        assert_eq!(pool.home_count(), 8);
    }

    #[test]
    fn a_lent_buffer_is_not_lent_again() {
        let pool = Pool::new(1, 64, 1).unwrap();
        drain(&pool);
        // SAFETY: no kernel knows these buffers.
        assert!(unsafe { pool.lend(7, 1) }.is_none(), "no such buffer");
        let held = lend(&pool, 0, 1000);
        assert_eq!(held.len(), 64, "a slice never exceeds its buffer");
    }
}
