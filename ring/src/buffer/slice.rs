//! [`Slice`]: a counted handle on some bytes of a buffer; [`Parcel`]: one that may cross threads.

use std::borrow::Borrow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, Range};
use std::ptr::NonNull;

use super::pool::Block;

/// A handle on bytes that nobody changes: a part of a pooled buffer, of a heap buffer, or static.
///
/// Cloning and splitting count a holder, without atomics; the last holder gives the buffer back to
/// its pool, which hands it to the kernel again at the next wait of the driver. Not `Send`: use
/// [`Slice::into_parcel`].
pub struct Slice {
    start: NonNull<u8>,
    len: u32,
    /// `None`: static bytes.
    block: Option<NonNull<Block>>,
    not_send: PhantomData<*const u8>,
}

impl Slice {
    /// No bytes, no buffer.
    #[must_use]
    pub const fn empty() -> Slice {
        Slice {
            start: NonNull::dangling(),
            len: 0,
            block: None,
            not_send: PhantomData,
        }
    }

    /// Bytes that live for ever. At most 4 GiB − 1 of them are taken.
    #[must_use]
    pub fn from_static(bytes: &'static [u8]) -> Slice {
        let len = bytes.len().min(u32::MAX as usize) as u32;
        Slice {
            start: NonNull::from(bytes).cast(),
            len,
            block: None,
            not_send: PhantomData,
        }
    }

    /// Bytes on the heap, owned by the slice. Spare capacity is used by [`Slice::try_append`].
    /// At most 4 GiB − 1 of them are taken.
    #[must_use]
    pub fn from_vec(mut bytes: Vec<u8>) -> Slice {
        if bytes.capacity() == 0 {
            return Slice::empty();
        }
        if bytes.capacity() > u32::MAX as usize {
            bytes.truncate(u32::MAX as usize);
            bytes.shrink_to_fit();
            if bytes.capacity() > u32::MAX as usize {
                return Slice::empty();
            }
        }
        let mut bytes = std::mem::ManuallyDrop::new(bytes);
        let (len, capacity) = (bytes.len() as u32, bytes.capacity() as u32);
        let Some(base) = NonNull::new(bytes.as_mut_ptr()) else {
            return Slice::empty();
        };
        let block = NonNull::from(Box::leak(Box::new(Block::on_heap(base, capacity))));
        Slice::of_block(block, base, len)
    }

    /// A slice of a block whose holder count already includes it.
    pub(super) fn of_block(block: NonNull<Block>, start: NonNull<u8>, len: u32) -> Slice {
        Slice {
            start,
            len,
            block: Some(block),
            not_send: PhantomData,
        }
    }

    /// The bytes.
    #[must_use]
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: start..start+len lies in the buffer of `block`, is initialised, and stays
        // allocated while this holder exists; nobody writes it: the kernel does not know lent
        // buffers and `try_append` writes only behind the bytes of a sole holder.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len as usize) }
    }

    /// How many bytes there are.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there are no bytes.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the bytes lie in a pool's buffer, which somebody waits to get back.
    #[must_use]
    pub fn is_pooled(&self) -> bool {
        self.block().is_some_and(|block| block.home.is_some())
    }

    /// How many bytes of memory this slice keeps from being reused: its whole buffer.
    #[must_use]
    pub fn pinned_bytes(&self) -> usize {
        self.block().map_or(0, |block| block.capacity as usize)
    }

    /// Takes the first `n` bytes (at most all) off the front and returns them.
    #[must_use]
    pub fn split_to(&mut self, n: usize) -> Slice {
        let front = self.sub(0..n);
        self.advance(n);
        front
    }

    /// Drops the first `n` bytes (at most all).
    #[inline]
    pub fn advance(&mut self, n: usize) {
        let n = n.min(self.len());
        // SAFETY: n ≤ len, so the result is within the bytes or one past their end.
        self.start = unsafe { self.start.add(n) };
        self.len -= n as u32;
    }

    /// Keeps at most the first `n` bytes.
    #[inline]
    pub fn truncate(&mut self, n: usize) {
        self.len = n.min(self.len()) as u32;
    }

    /// Another holder of the bytes in `range`, cut to what there is.
    #[must_use]
    pub fn sub(&self, range: Range<usize>) -> Slice {
        let mut part = self.clone();
        part.truncate(range.end);
        part.advance(range.start);
        part
    }

    /// Copies `bytes` behind this slice's own if it is the only holder of its buffer and the
    /// buffer has room there. Returns whether it did; all or nothing.
    pub fn try_append(&mut self, bytes: &[u8]) -> bool {
        let Some(block) = self.block() else {
            return bytes.is_empty();
        };
        let offset = self.start.as_ptr() as usize - block.base.as_ptr() as usize;
        let end = offset + self.len();
        if block.holders.get() != 1 || bytes.len() > block.capacity as usize - end {
            return bytes.is_empty();
        }
        // SAFETY: end + bytes.len() ≤ capacity, so the target is inside the buffer; this is the only
        // holder, so no one else can see it, and `&mut self` keeps `bytes` from being of this buffer.
        unsafe {
            std::ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                block.base.as_ptr().add(end),
                bytes.len(),
            );
        }
        self.len += bytes.len() as u32;
        true
    }

    /// Makes it fit to cross threads. The only holder of a buffer travels with it; if there are
    /// other holders, the bytes are copied to the heap first.
    #[must_use]
    pub fn into_parcel(self) -> Parcel {
        let Some(block) = self.block() else {
            return Parcel(self);
        };
        if block.holders.get() > 1 {
            return Parcel(Slice::from_vec(self.bytes().to_vec()));
        }
        block.away.set(true);
        Parcel(self)
    }

    /// Whether nobody else holds the buffer.
    pub(super) fn is_sole(&self) -> bool {
        self.block().is_some_and(|block| block.holders.get() == 1)
    }

    /// Copies bytes into the buffer, from `at` on, whatever the slice shows of it.
    ///
    /// # Safety
    ///
    /// The bytes fit the buffer, and no slice shows what they overwrite or can append to it.
    pub(super) unsafe fn write_at(&self, at: usize, bytes: &[u8]) {
        let Some(block) = self.block() else {
            debug_assert!(bytes.is_empty(), "there is no buffer to write to");
            return;
        };
        debug_assert!(at + bytes.len() <= block.capacity as usize);
        // SAFETY: the caller vouches for the range; `bytes` is visible, so it is no part of it.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), block.base.as_ptr().add(at), bytes.len());
        }
    }

    /// Shows `len` bytes of the buffer from `at` on: in `last`, if that ends there, else in a slice.
    ///
    /// # Safety
    ///
    /// The bytes are in the buffer, are initialised, and nobody changes them.
    pub(super) unsafe fn join(
        &self,
        last: Option<&mut Slice>,
        at: usize,
        len: usize,
    ) -> Option<Slice> {
        let block = self.block()?;
        // SAFETY: the caller vouches for the range.
        let start = unsafe { block.base.add(at) };
        if let Some(last) = last
            && last.block == self.block
            // SAFETY: one past a slice's bytes is inside its buffer or one past that.
            && unsafe { last.start.add(last.len()) } == start
        {
            last.len += len as u32;
            return None;
        }
        let mut shown = self.clone();
        (shown.start, shown.len) = (start, len as u32);
        Some(shown)
    }

    /// The bytes, to be changed.
    ///
    /// # Safety
    ///
    /// Nobody else holds the buffer, and no kernel knows it.
    pub(super) unsafe fn bytes_mut(&mut self) -> &mut [u8] {
        debug_assert!(self.is_sole());
        // SAFETY: start..start+len lies in the buffer of `block` and is initialised; the caller vouches
        // that nobody else sees or writes it while `self` is borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len as usize) }
    }

    fn block(&self) -> Option<&Block> {
        // SAFETY: a block lives while it has a holder, and this slice is one.
        self.block.map(|block| unsafe { block.as_ref() })
    }
}

impl Clone for Slice {
    #[inline]
    fn clone(&self) -> Slice {
        if let Some(block) = self.block() {
            block.holders.set(block.holders.get() + 1);
        }
        Slice {
            start: self.start,
            len: self.len,
            block: self.block,
            not_send: PhantomData,
        }
    }
}

impl Drop for Slice {
    #[inline]
    fn drop(&mut self) {
        let Some(block) = self.block() else { return };
        let holders = block.holders.get();
        debug_assert!(holders > 0, "a buffer was freed twice");
        block.holders.set(holders - 1);
        if holders > 1 {
            return;
        }
        match block.home {
            // SAFETY: a shelf outlives all lent blocks, and this block is lent until given back.
            Some(shelf) => unsafe { shelf.as_ref() }.give_back(block),
            None => {
                // SAFETY: heap blocks come from `from_vec`, which leaked the box and took base and
                // capacity from a vector; no holder is left. The length does not matter for bytes.
                unsafe {
                    drop(Vec::from_raw_parts(
                        block.base.as_ptr(),
                        0,
                        block.capacity as usize,
                    ));
                    if let Some(block) = self.block {
                        drop(Box::from_raw(block.as_ptr()));
                    }
                }
            }
        }
    }
}

impl Default for Slice {
    fn default() -> Slice {
        Slice::empty()
    }
}

impl Deref for Slice {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.bytes()
    }
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

impl Borrow<[u8]> for Slice {
    fn borrow(&self) -> &[u8] {
        self.bytes()
    }
}

impl PartialEq for Slice {
    fn eq(&self, other: &Slice) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Slice {}

impl From<Vec<u8>> for Slice {
    fn from(bytes: Vec<u8>) -> Slice {
        Slice::from_vec(bytes)
    }
}

impl From<Parcel> for Slice {
    fn from(parcel: Parcel) -> Slice {
        parcel.0
    }
}

impl fmt::Debug for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slice({} bytes", self.len)?;
        if self.is_pooled() {
            write!(f, ", pooled")?;
        }
        write!(f, ")")
    }
}

/// Bytes on their way to another thread. Dropping it on any thread gives the buffer home.
#[derive(Debug)]
pub struct Parcel(Slice);

// SAFETY: a parcel's slice is the only holder of its block (or holds static bytes), so its thread has
// the block to itself; a pooled block is marked `away`, so that the last holder gives it back through
// the lock-free queue, the one part of the shelf that other threads touch. The queue, and whatever
// moves the parcel between threads, order the accesses.
unsafe impl Send for Parcel {}

impl Parcel {
    /// How many bytes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_advance_truncate_cut_to_what_there_is() {
        let mut slice = Slice::from_vec((0..10).collect());
        let front = slice.split_to(3);
        assert_eq!(
            (front.bytes(), slice.bytes()),
            (&[0, 1, 2][..], &[3, 4, 5, 6, 7, 8, 9][..])
        );
        slice.advance(2);
        slice.truncate(3);
        assert_eq!(slice.bytes(), [5, 6, 7]);
        assert_eq!(slice.sub(1..2).bytes(), [6]);
        assert_eq!(slice.sub(2..100).bytes(), [7]);
        assert!(slice.sub(9..12).is_empty());
        let rest = slice.split_to(100);
        assert_eq!(rest.len(), 3);
        assert!(slice.is_empty());
        slice.advance(1);
        assert!(slice.bytes().is_empty());
    }

    #[test]
    fn append_needs_a_sole_holder_and_room() {
        let mut vec = Vec::with_capacity(8);
        vec.extend_from_slice(b"abcd");
        let mut slice = Slice::from_vec(vec);
        let clone = slice.clone();
        assert!(!slice.try_append(b"e"), "shared");
        drop(clone);
        assert!(slice.try_append(b"ef"));
        slice.advance(1);
        assert!(!slice.try_append(b"ghi"), "more than the room");
        assert!(slice.try_append(b"gh"));
        assert_eq!(slice.bytes(), b"bcdefgh");
        assert!(!slice.try_append(b"i"));
        assert!(slice.try_append(b""));
        assert!(!Slice::from_static(b"x").try_append(b"y"));
    }

    #[test]
    fn append_overwrites_only_bytes_nobody_can_see() {
        let mut slice = Slice::from_vec(b"0123456789".to_vec());
        let tail = slice.sub(5..10);
        slice.truncate(5);
        assert!(!slice.try_append(b"ab"), "the tail has another holder");
        drop(tail);
        assert!(slice.try_append(b"ab"));
        assert_eq!(slice.bytes(), b"01234ab");
    }

    #[test]
    fn a_shared_slice_is_copied_into_its_parcel() {
        let slice = Slice::from_vec(vec![7; 5]);
        let parcel = slice.clone().into_parcel();
        assert_eq!((parcel.bytes(), slice.bytes()), (&[7; 5][..], &[7; 5][..]));
        assert_ne!(parcel.bytes().as_ptr(), slice.bytes().as_ptr());
        let address = slice.bytes().as_ptr();
        let parcel = slice.into_parcel();
        assert_eq!(
            parcel.bytes().as_ptr(),
            address,
            "the only holder travels without a copy"
        );
    }

    #[test]
    fn empty_and_static_slices_need_no_buffer() {
        assert!(Slice::default().bytes().is_empty());
        assert!(Slice::from_vec(Vec::new()).is_empty());
        let slice = Slice::from_static(b"hello");
        assert_eq!(slice.clone().into_parcel().bytes(), b"hello");
        assert!(!slice.is_pooled());
        assert_eq!(slice.pinned_bytes(), 0);
    }
}
