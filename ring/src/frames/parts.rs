//! The row of slices in front of a link: what is small is copied together, what is large is held.

use std::collections::VecDeque;

use crate::buffer::Slice;
use crate::buffer::arena::Arena;

/// How much may wait for a link that is a socket.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct FrameBounds {
    /// Bytes, the lengths in front of frames included.
    pub bytes: usize,
    /// Frames.
    pub frames: usize,
}

/// A payload of at most so many bytes is copied behind its header: with that of ethernet's usual MTU
/// a core carries 12 % more frames than with two parts for each; for larger ones it makes no difference
/// or is a loss (the example `frames`).
pub(super) const COPIED_BYTES_MAX: usize = 1536;

/// The size of a chunk for prefixes, headers and small payloads.
const CHUNK_BYTES: usize = 32 << 10;

/// See the module.
#[derive(Debug)]
pub(super) struct Parts {
    arena: Arena,
    pub(super) slices: VecDeque<Slice>,
}

impl Parts {
    pub(super) fn new() -> Parts {
        Parts {
            arena: Arena::new(CHUNK_BYTES),
            slices: VecDeque::new(),
        }
    }

    /// Adds a frame. `joined`: its first bytes may be in one slice with what is in front of it.
    pub(super) fn push(&mut self, joined: bool, start: [&[u8]; 2], payload: &[Slice]) {
        let [prefix, header] = start;
        let (small, rest) = match payload {
            [first, rest @ ..] if first.len() <= COPIED_BYTES_MAX => (first.bytes(), rest),
            _ => (&[][..], payload),
        };
        let before = self.slices.len();
        self.copy(joined, [prefix, header, small]);
        for slice in rest {
            if slice.len() > COPIED_BYTES_MAX {
                self.slices.push_back(slice.clone());
            } else {
                let begun = self.slices.len() > before;
                self.copy(joined || begun, [slice, &[], &[]]);
            }
        }
    }

    /// Copies what lies in pooled buffers, so that a link that takes nothing keeps none. How many slices
    /// that were.
    pub(super) fn leave_pool(&mut self) -> u64 {
        let mut count = 0;
        for slice in self.slices.iter_mut().filter(|slice| slice.is_pooled()) {
            *slice = Slice::from_vec(slice.to_vec());
            count += 1;
        }
        count
    }

    fn copy(&mut self, joined: bool, parts: [&[u8]; 3]) {
        if parts.iter().all(|part| part.is_empty()) {
            return;
        }
        let last = self.slices.back_mut().filter(|_| joined);
        let piece = self.arena.write(last, parts);
        self.slices.extend(piece);
    }
}
