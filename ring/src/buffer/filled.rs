//! [`FilledPool`]: a pool whose buffers are filled by this process, for drivers without a ring.

use std::io;

use super::pool::Pool;
use super::slice::Slice;

/// Buffers of one size that are lent out as [`Slice`]s after a function of the caller has filled
/// them. The pool, its slices and its parcels are those of the ring, so they cost the same.
#[derive(Debug)]
pub struct FilledPool(Pool);

impl FilledPool {
    /// Maps and faults in `count` buffers of `buffer_bytes` bytes each.
    ///
    /// # Errors
    ///
    /// What `mmap(2)` says.
    pub fn new(count: u16, buffer_bytes: u32) -> io::Result<FilledPool> {
        Pool::new(count, buffer_bytes, count).map(FilledPool)
    }

    /// As [`new`](Self::new), but only the first `ready` buffers are faulted in.
    pub(crate) fn with_ready(count: u16, buffer_bytes: u32, ready: u16) -> io::Result<FilledPool> {
        Pool::new(count, buffer_bytes, ready).map(FilledPool)
    }

    /// A free buffer, to be filled at leisure. `None` when all are held.
    pub(crate) fn blank(&self) -> Option<Blank> {
        let index = self.0.take_freed().or_else(|| {
            self.0.collect_returned();
            self.0.take_freed()
        })?;
        let all = self.0.buffer_bytes() as usize;
        // SAFETY: nobody writes the buffer, and `take_freed` took it off the freed list.
        unsafe { self.0.lend(index, all) }.map(Blank)
    }

    /// The size of each buffer in bytes.
    pub(crate) fn buffer_bytes(&self) -> u32 {
        self.0.buffer_bytes()
    }

    /// Takes a free buffer, has its first `len` bytes (at most all) filled, and lends them. What
    /// `fill` leaves alone is what the buffer's last use left there, at first zeroes. `None` when all buffers are
    /// held; `fill` is not called then.
    pub fn lend(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) -> Option<Slice> {
        self.0.collect_returned();
        let index = self.0.take_freed()?;
        let len = len.min(self.0.buffer_bytes() as usize);
        let base = self.0.address(index)?;
        // SAFETY: a freed buffer has no holder, and no kernel knows the buffers of this pool, so its
        // bytes are this function's alone until it is lent; they are mapped and were zeroed by the
        // kernel. (A `fill` that panics leaves the buffer unused for good, which is safe.)
        fill(unsafe { std::slice::from_raw_parts_mut(base.as_ptr(), len) });
        // SAFETY: nobody writes the buffer any more, and `take_freed` took it off the freed list.
        unsafe { self.0.lend(index, len) }
    }

    /// Takes back the buffers that parcels of other threads gave back.
    pub fn collect(&mut self) {
        self.0.collect_returned();
    }

    /// How many buffers no slice holds. (One that a parcel gave back counts from the next
    /// [`lend`](Self::lend) or [`collect`](Self::collect) on.)
    #[must_use]
    pub fn free(&self) -> usize {
        self.0.home_count()
    }

    /// How many buffers there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.count()
    }
}

/// A buffer that nobody else holds or sees. Dropped, it is free again.
#[derive(Debug)]
pub(crate) struct Blank(Slice);

impl Blank {
    /// All of the buffer: what its last use left there, at first zeroes.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the slice was made for this value alone, is never shown to others before `filled`,
        // and no kernel knows the buffers of this pool.
        unsafe { self.0.bytes_mut() }
    }

    /// The first `len` bytes (at most all), which nobody changes any more.
    pub(crate) fn filled(self, len: usize) -> Slice {
        let mut slice = self.0;
        slice.truncate(len);
        slice
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_filled_lent_and_filled_again() {
        let mut pool = FilledPool::new(2, 4096).unwrap();
        let first = pool.lend(3, |bytes| bytes.copy_from_slice(b"abc")).unwrap();
        let second = pool.lend(5000, |bytes| bytes.fill(7)).unwrap();
        assert_eq!((first.bytes(), second.len()), (&b"abc"[..], 4096));
        assert_eq!((pool.free(), pool.count()), (0, 2));
        assert!(pool.lend(1, |_| panic!("no buffer to fill")).is_none());
        drop(first);
        assert_eq!(pool.free(), 1);
        let again = pool.lend(2, |bytes| bytes[0] = b'x').unwrap();
        assert_eq!(again.bytes(), b"xb", "what is not written stays");
    }
    #[test]
    fn a_blank_is_filled_or_given_back() {
        let pool = FilledPool::with_ready(2, 4096, 1).unwrap();
        let mut blank = pool.blank().unwrap();
        let unused = pool.blank().unwrap();
        assert!(pool.blank().is_none());
        blank.bytes_mut()[..3].copy_from_slice(b"abc");
        let slice = blank.filled(3);
        assert_eq!((slice.bytes(), pool.free()), (&b"abc"[..], 0));
        drop(unused);
        assert_eq!(pool.free(), 1);
        let part = slice.sub(1..2);
        drop(slice);
        assert_eq!((part.bytes(), pool.free()), (&b"b"[..], 1));
    }
}
