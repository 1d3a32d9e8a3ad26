//! [`Arena`]: where many small pieces of bytes are written one behind the other.
//!
//! # Theory of operation
//!
//! A [`Slice`] is appended to only by its sole holder, which is no help where pieces are handed to
//! the kernel while the next are written. An arena keeps a holder of its chunk and the mark `used`
//! behind everything that was ever handed out of it: nobody sees the bytes behind the mark, so it
//! may write them while the bytes in front are read. A piece that is written right behind another
//! can be joined to it: one slice, one `iovec`.
//!
//! Chunks are used in turn. The oldest comes first, because what is written first is given up first;
//! only if it is still held, a new chunk is allocated. So in the steady state nothing is, and there
//! are as many chunks as hold what is in use at a time. An arena of which nothing is held begins again at the
//! start of its chunk, which is still in the processor's cache.

use std::collections::VecDeque;

use super::slice::Slice;

/// See the module.
#[derive(Debug)]
pub(crate) struct Arena {
    chunk_bytes: usize,
    /// Holds the chunk that is being written; its length is 0.
    chunk: Slice,
    /// Bytes of the chunk that may be in somebody's slice.
    used: usize,
    /// The other chunks, that of longest ago first.
    others: VecDeque<Slice>,
}

impl Arena {
    /// An arena of chunks of so many bytes. Nothing is allocated before something is written.
    pub(crate) fn new(chunk_bytes: usize) -> Arena {
        Arena {
            chunk_bytes,
            chunk: Slice::empty(),
            used: 0,
            others: VecDeque::new(),
        }
    }

    /// Copies the parts one behind the other and right behind `last`, which is made longer if it is
    /// what was written before. Else returns them as a slice.
    pub(crate) fn write(&mut self, last: Option<&mut Slice>, parts: [&[u8]; 3]) -> Option<Slice> {
        let len = parts.iter().map(|part| part.len()).sum();
        if self.chunk.is_sole() {
            self.used = 0;
        }
        if len > self.chunk.pinned_bytes() - self.used {
            self.next_chunk(len);
        }
        let start = self.used;
        for part in parts {
            // SAFETY: all parts fit behind `used`, and what is behind it no other slice shows: slices of
            // this chunk come from below, and none of them is a sole holder that could append.
            unsafe { self.chunk.write_at(self.used, part) };
            self.used += part.len();
        }
        // SAFETY: these bytes were written just now.
        unsafe { self.chunk.join(last, start, len) }
    }

    fn next_chunk(&mut self, bytes: usize) {
        let free = self.others.front().is_some_and(Slice::is_sole);
        let next = if free { self.others.pop_front() } else { None };
        let next = next
            .filter(|chunk| chunk.pinned_bytes() >= bytes)
            .unwrap_or_else(|| Slice::from_vec(Vec::with_capacity(self.chunk_bytes.max(bytes))));
        let full = std::mem::replace(&mut self.chunk, next);
        if full.pinned_bytes() > 0 {
            self.others.push_back(full);
        }
        self.used = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(arena: &mut Arena, bytes: &[u8]) -> Slice {
        arena.write(None, [bytes, b"", b""]).unwrap()
    }

    #[test]
    fn pieces_in_a_row_are_joined() {
        let mut arena = Arena::new(16);
        let mut row = arena.write(None, [b"ab", b"c", b"d"]).unwrap();
        assert!(arena.write(Some(&mut row), [b"e", b"", b"f"]).is_none());
        assert_eq!(row.bytes(), b"abcdef");
        // While the kernel reads what was there before.
        let in_flight = row.clone();
        assert!(arena.write(Some(&mut row), [b"g", b"", b""]).is_none());
        assert_eq!(
            (in_flight.bytes(), row.bytes()),
            (&b"abcdef"[..], &b"abcdefg"[..])
        );
        // Not behind another piece, nor behind one that was cut, nor behind bytes of others.
        let apart = write(&mut arena, b"h");
        let more = arena.write(Some(&mut row), [b"i", b"", b""]);
        assert_eq!(
            (apart.bytes(), more.unwrap().bytes()),
            (&b"h"[..], &b"i"[..])
        );
        let mut foreign = Slice::from_vec(b"x".to_vec());
        let more = arena.write(Some(&mut foreign), [b"j", b"", b""]);
        assert_eq!(
            (foreign.bytes(), more.unwrap().bytes()),
            (&b"x"[..], &b"j"[..])
        );
    }

    #[test]
    fn what_is_given_up_is_used_again_and_what_is_held_is_not() {
        let mut arena = Arena::new(8);
        let first = write(&mut arena, b"12345678");
        let (address, held) = (first.bytes().as_ptr(), first.sub(7..8));
        drop(first);
        let second = write(&mut arena, b"abcdefgh");
        let third = write(&mut arena, b"ABCDEFGH");
        assert_eq!(arena.others.len(), 2);
        drop((second, held));
        let again = write(&mut arena, b"again");
        assert_eq!(again.bytes().as_ptr(), address, "the chunk of longest ago");
        assert_eq!((third.bytes(), arena.others.len()), (&b"ABCDEFGH"[..], 2));
        drop(again);
        assert_eq!(
            write(&mut arena, b"!").bytes().as_ptr(),
            address,
            "from its start"
        );
        assert_eq!(
            write(&mut arena, &[7; 20]).bytes(),
            [7; 20],
            "more than a chunk"
        );
    }
}
