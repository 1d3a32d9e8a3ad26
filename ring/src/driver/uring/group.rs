//! A provided-buffer group: a [`Pool`] whose free buffers are listed for the kernel in a ring.
//!
//! The ring (`IORING_REGISTER_PBUF_RING`) is an array of entries that we fill at `tail` and the kernel
//! takes from its head. An entry's position follows from the order of filling, so a bundle, which
//! names only its first buffer, continues with the buffers at the following positions.
//!
//! Buffers are taken in the order in which they were listed, so all listed ones take turns. Only as many
//! are listed as hold a few hundred kilobytes at the length that frames have lately: with 64 KiB
//! super-frames four buffers, which stay in the processor's cache, carried 43 Gbit/s where 64 carried 34,
//! while for small frames many buffers save system calls. The rest waits in the pool and is used last.
//!
//! Layout of an entry (`struct io_uring_buf`): addr u64, len u32, bid u16, resv u16; the `resv` of the
//! first entry is the ring's tail, which is the only field the kernel reads while we write it.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::buffer::Slice;
use crate::buffer::pool::Pool;

#[repr(C)]
struct Entry {
    address: u64,
    len: u32,
    buffer: u16,
    tail: u16,
}

const _: () = assert!(size_of::<Entry>() == 16);

/// So many buffers are listed at least, however full they get, and at most, however empty.
const LISTED_MIN: usize = 4;
const LISTED_MAX: usize = 128;

/// Not listed for the kernel.
const NOWHERE: u16 = u16::MAX;

/// See the module.
#[derive(Debug)]
pub(super) struct BufferGroup {
    pool: Pool,
    entries: NonNull<Entry>,
    /// Entries − 1; their number is a power of two.
    mask: u16,
    tail: u16,
    /// Which buffer the entry at a position names.
    buffer_at: Vec<u16>,
    /// At which position a buffer is listed.
    position_of: Vec<u16>,
    listed: usize,
    /// Bytes that the listed buffers are to hold together.
    hot_bytes: usize,
    /// The usual length of what a buffer holds, in 1/8 bytes.
    usual_eighths: usize,
    kept: bool,
}

impl BufferGroup {
    /// Makes the pool and registers its ring under `id`. As many buffers are listed as hold `hot_bytes`
    /// at the length that is usual, and as many are faulted in as hold them when full.
    pub(super) fn new(
        submitter: &Submitter<'_>,
        id: u16,
        count: u16,
        buffer_bytes: u32,
        hot_bytes: usize,
    ) -> io::Result<BufferGroup> {
        let mut group = BufferGroup::unregistered(count, buffer_bytes, hot_bytes)?;
        // SAFETY: the mapping has room for all positions and stays until `drop`, before which
        // the driver unregisters the group or declares it kept.
        unsafe {
            let address = group.entries.as_ptr() as u64;
            let positions = group.buffer_at.len() as u16;
            submitter.register_buf_ring_with_flags(address, positions, id, 0)?;
        }
        group.replenish();
        Ok(group)
    }

    /// Makes pool and ring, of which no kernel knows.
    fn unregistered(count: u16, buffer_bytes: u32, hot_bytes: usize) -> io::Result<BufferGroup> {
        let count = count.clamp(1, 1 << 15);
        let ready = hot_bytes.div_ceil(buffer_bytes as usize);
        let ready = u16::try_from(ready).unwrap_or(u16::MAX);
        let pool = Pool::new(count, buffer_bytes, ready)?;
        let positions = count.next_power_of_two();
        // SAFETY: a new anonymous mapping at an address the kernel chooses aliases nothing.
        let entries = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                usize::from(positions) * size_of::<Entry>(),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::POPULATE,
            )?
        };
        let entries = NonNull::new(entries.cast::<Entry>()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(BufferGroup {
            pool,
            entries,
            mask: positions - 1,
            tail: 0,
            buffer_at: vec![NOWHERE; positions.into()],
            position_of: vec![NOWHERE; count.into()],
            listed: 0,
            hot_bytes,
            usual_eighths: 0,
            kept: false,
        })
    }

    /// The size of a buffer in bytes.
    pub(super) fn buffer_bytes(&self) -> u32 {
        self.pool.buffer_bytes()
    }

    /// Buffers in all.
    pub(super) fn count(&self) -> usize {
        self.pool.count()
    }

    /// Buffers that no slice holds.
    pub(super) fn free(&self) -> usize {
        self.pool.home_count()
    }

    /// Buffers that the kernel may take now.
    pub(super) fn listed(&self) -> usize {
        self.listed
    }

    /// Lists buffers that are home, as many as are to be listed.
    pub(super) fn replenish(&mut self) {
        self.pool.collect_returned();
        let before = self.tail;
        let fitting = self.hot_bytes / (self.usual_eighths / 8).max(1);
        let wanted = fitting.clamp(LISTED_MIN, LISTED_MAX);
        while self.listed < wanted
            && let Some(buffer) = self.pool.take_freed()
        {
            let Some(address) = self.pool.address(buffer) else {
                continue;
            };
            let position = self.tail & self.mask;
            // SAFETY: the position is inside the mapping. The kernel does not look at an entry before
            // the tail passes it, and at most one entry per buffer is listed, so this one is free.
            // Only the fields are written: the `tail` of the first entry is not ours here.
            unsafe {
                let entry = self.entries.add(position.into()).as_ptr();
                (&raw mut (*entry).address).write(address.as_ptr() as u64);
                (&raw mut (*entry).len).write(self.pool.buffer_bytes());
                (&raw mut (*entry).buffer).write(buffer);
            }
            self.buffer_at[usize::from(position)] = buffer;
            self.position_of[usize::from(buffer)] = position;
            self.tail = self.tail.wrapping_add(1);
            self.listed += 1;
        }
        if self.tail != before {
            // SAFETY: the field is inside the mapping, aligned for u16, and shared with the kernel
            // only by atomic accesses.
            let tail = unsafe { AtomicU16::from_ptr(&raw mut (*self.entries.as_ptr()).tail) };
            tail.store(self.tail, Ordering::Release);
        }
    }

    /// The buffer that the kernel filled with `len` bytes. `None` if it names one that it could not
    /// have.
    pub(super) fn take(&mut self, buffer: u16, len: usize) -> Option<Slice> {
        let position = self.position_of.get_mut(usize::from(buffer))?;
        if std::mem::replace(position, NOWHERE) == NOWHERE {
            debug_assert!(
                false,
                "the kernel used buffer {buffer}, which it did not have"
            );
            return None;
        }
        self.listed -= 1;
        self.usual_eighths =
            self.usual_eighths - self.usual_eighths / 8 + len.min(self.buffer_bytes() as usize);
        // SAFETY: the buffer was listed and the kernel has just handed it back with a completion;
        // it is unlisted now, so the kernel does not write it, and it is not in the freed list.
        unsafe { self.pool.lend(buffer, len) }
    }

    /// The buffers of a bundle of `len` bytes that starts with buffer `first`, in order.
    pub(super) fn take_bundle(&mut self, first: u16, len: usize, mut each: impl FnMut(Slice)) {
        let Some(&position) = self.position_of.get(usize::from(first)) else {
            return;
        };
        if position == NOWHERE {
            debug_assert!(
                false,
                "the kernel used buffer {first}, which it did not have"
            );
            return;
        }
        let buffer_bytes = self.pool.buffer_bytes() as usize;
        let mut left = len;
        let mut position = position;
        while left > 0 {
            let Some(slice) = self.take(self.buffer_at[usize::from(position)], left) else {
                return;
            };
            left -= left.min(buffer_bytes);
            each(slice);
            position = position.wrapping_add(1) & self.mask;
        }
    }

    /// Takes back a buffer that the kernel used for nothing.
    pub(super) fn take_unused(&mut self, buffer: u16) {
        drop(self.take(buffer, 0));
    }

    /// The buffer that a kernel would take next.
    #[cfg(test)]
    pub(super) fn next_listed(&self) -> Option<u16> {
        // Bundles may have been told out of order, so the first listed is searched.
        let first = self.tail.wrapping_sub(self.buffer_at.len() as u16);
        (0..=self.mask)
            .map(|at| first.wrapping_add(at) & self.mask)
            .find(|&position| {
                let buffer = self.buffer_at[usize::from(position)];
                buffer != NOWHERE && self.position_of[usize::from(buffer)] == position
            })
            .map(|position| self.buffer_at[usize::from(position)])
    }

    /// Writes to a listed buffer, as a kernel would.
    #[cfg(test)]
    pub(super) fn write(&mut self, buffer: u16, bytes: &[u8]) {
        assert_ne!(self.position_of[usize::from(buffer)], NOWHERE);
        let address = self.pool.address(buffer).unwrap();
        assert!(bytes.len() <= self.buffer_bytes() as usize);
        // SAFETY: a listed buffer is in nobody's slice, and the ring of this test is never entered.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), address.as_ptr(), bytes.len()) };
    }

    /// Keeps all memory for the life of the process: the kernel may still write it.
    pub(super) fn keep(&mut self) {
        self.kept = true;
        self.pool.keep();
    }
}

impl Drop for BufferGroup {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let bytes = (usize::from(self.mask) + 1) * size_of::<Entry>();
        // SAFETY: the mapping is this group's own, and the ring that knew it is closed.
        let _ = unsafe { munmap(self.entries.as_ptr().cast(), bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: u32 = 1000;

    fn group(count: u16, hot_bytes: usize) -> BufferGroup {
        let mut group = BufferGroup::unregistered(count, BYTES, hot_bytes).unwrap();
        group.replenish();
        group
    }

    /// The buffers that a kernel would take next, in order, and how many entries it sees.
    fn listed(group: &BufferGroup) -> Vec<u16> {
        // SAFETY: the mapping is the group's; nobody writes it meanwhile.
        let tail = unsafe { (*group.entries.as_ptr()).tail };
        assert_eq!(tail, group.tail);
        let first = tail.wrapping_sub(group.listed as u16);
        let entries = (0..group.listed as u16).map(|at| {
            let position = first.wrapping_add(at) & group.mask;
            // SAFETY: as above; the position is inside the mapping.
            let entry = unsafe { &*group.entries.add(position.into()).as_ptr() };
            let address = group.pool.address(entry.buffer).unwrap();
            assert_eq!((entry.address, entry.len), (address.as_ptr() as u64, BYTES));
            entry.buffer
        });
        entries.collect()
    }

    fn bundle(group: &mut BufferGroup, first: u16, len: usize) -> Vec<Slice> {
        let mut parts = Vec::new();
        group.take_bundle(first, len, |part| parts.push(part));
        parts
    }

    #[test]
    fn what_is_used_last_is_listed_first() {
        let mut group = group(8, 3 * BYTES as usize);
        assert_eq!(
            listed(&group),
            [0, 1, 2, 3, 4, 5, 6, 7],
            "nothing is known of lengths"
        );
        let slices: Vec<_> = (0..8)
            .map(|buffer| group.take(buffer, BYTES as usize).unwrap())
            .collect();
        assert_eq!((group.listed(), group.free()), (0, 0));
        assert_eq!(listed(&group), []);
        slices.into_iter().for_each(drop);
        group.replenish();
        assert_eq!(listed(&group), [7, 6, 5, 4], "few, when they are full");
        assert_eq!(group.free(), 8);
    }

    #[test]
    fn a_bundle_goes_on_in_the_order_of_the_ring_past_its_end() {
        let mut group = group(4, 1 << 20);
        let parts = bundle(&mut group, 0, 2500);
        let lens: Vec<_> = parts.iter().map(Slice::len).collect();
        assert_eq!(lens, [1000, 1000, 500]);
        drop(parts);
        group.replenish();
        assert_eq!(listed(&group), [3, 2, 1, 0]);
        // Buffer 3 is at the last position, the others are at the first ones.
        let parts = bundle(&mut group, 3, 4000);
        assert_eq!((parts.len(), group.listed()), (4, 0));
        let starts: Vec<_> = parts.iter().map(|part| part.bytes().as_ptr()).collect();
        let expected = [3, 2, 1, 0].map(|at| group.pool.address(at).unwrap().as_ptr().cast_const());
        assert_eq!(starts, expected);
    }

    #[test]
    fn bundles_of_two_receives_may_be_told_in_any_order() {
        let mut group = group(8, 1 << 20);
        let later = bundle(&mut group, 2, 1500);
        let earlier = bundle(&mut group, 0, 1001);
        assert_eq!((later.len(), earlier.len(), group.listed()), (2, 2, 4));
        drop(earlier);
        group.replenish();
        assert_eq!(group.listed(), 6);
        assert_eq!((group.free(), group.count()), (6, 8));
        drop(later);
        assert_eq!(group.free(), 8);
    }

    #[test]
    fn a_bundle_shorter_than_asked_leaves_the_rest_listed() {
        let mut group = group(8, 1 << 20);
        assert_eq!(bundle(&mut group, 0, 1).len(), 1);
        assert_eq!(listed(&group), [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(bundle(&mut group, 1, 0).len(), 0);
        assert_eq!(group.listed(), 7);
        group.take_unused(1);
        group.replenish();
        // It comes last, with the one that was given up before.
        assert_eq!(listed(&group), [2, 3, 4, 5, 6, 7, 1, 0]);
    }

    #[test]
    fn a_length_past_the_buffer_and_a_buffer_that_is_none_are_cut() {
        let mut group = group(4, 1 << 20);
        assert_eq!(group.take(0, 5000).map(|slice| slice.len()), Some(1000));
        assert!(group.take(4, 1).is_none());
        assert_eq!(bundle(&mut group, 9, 100).len(), 0);
        // A bundle of more than there is.
        assert_eq!(bundle(&mut group, 1, 3000).len(), 3);
        assert_eq!(group.listed(), 0);
    }

    #[test]
    fn a_dry_group_recovers_with_buffers_of_other_threads() {
        let mut group = group(4, 1 << 20);
        let parcels: Vec<_> = (0..4)
            .map(|buffer| group.take(buffer, 10).unwrap().into_parcel())
            .collect();
        group.replenish();
        assert_eq!((group.listed(), group.free()), (0, 0));
        std::thread::spawn(move || drop(parcels)).join().unwrap();
        group.replenish();
        assert_eq!((group.listed(), group.free()), (4, 4));
    }

    #[test]
    fn the_ring_goes_round_many_times() {
        // Not a power of two: some positions are unused in each round.
        let mut group = group(5, 1 << 20);
        for _ in 0..40_000 {
            let next = listed(&group);
            assert_eq!(next.len(), 5);
            let parts = bundle(&mut group, next[0], 1500);
            assert_eq!(parts.len(), 2);
            drop(parts);
            group.replenish();
        }
        assert!(
            group.tail < 40_000,
            "the tail itself went round: {}",
            group.tail
        );
    }
}
