//! [`FrameReader`]: from the bytes of receives to frames.

use std::error::Error;
use std::fmt;

use super::{Framing, PREFIX_BYTES_MAX};
use crate::buffer::Slice;

/// A cut frame is given so much memory at first. Its length is only a promise: it gets more as it comes, at
/// most twice what has come.
const FIRST_BYTES: usize = 4096;

/// Why a stream of frames can't be read on: what follows is at no known place.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum FramingError {
    /// A frame of no bytes.
    Empty,
    /// A frame longer than the link takes.
    TooLong {
        /// The length in bytes.
        len: u32,
        /// The most that is taken.
        max: usize,
    },
}

impl fmt::Display for FramingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FramingError::Empty => write!(f, "a frame of 0 bytes"),
            FramingError::TooLong { len, max } => {
                write!(
                    f,
                    "a frame of {len} bytes, more than the {max} that are taken"
                )
            }
        }
    }
}

impl Error for FramingError {}

/// Takes a stream apart into frames. See the module above.
///
/// A frame that is cut by the end of what was received is put together in memory of the reader's own,
/// which is used again for the next such frame if nobody holds the last one any more. So a waiting
/// half never keeps a receive buffer.
#[derive(Debug)]
pub struct FrameReader {
    framing: Framing,
    frame_max: usize,
    /// A prefix that is not complete yet.
    prefix: [u8; PREFIX_BYTES_MAX],
    prefix_len: usize,
    /// The length of the frame in `cut`; 0: there is none.
    cut_len: usize,
    /// The start of a frame; else what was the last cut frame.
    cut: Slice,
    failed: Option<FramingError>,
}

impl FrameReader {
    /// A reader at the start of a stream whose frames have at most `frame_max` bytes.
    #[must_use]
    pub fn new(framing: Framing, frame_max: usize) -> FrameReader {
        FrameReader {
            framing,
            frame_max,
            prefix: [0; PREFIX_BYTES_MAX],
            prefix_len: 0,
            cut_len: 0,
            cut: Slice::empty(),
            failed: None,
        }
    }

    /// Takes the next frame off the front of `data`, what came on the stream. `None`: more must come, and
    /// `data` is empty now. Call it again until then. After an error all that comes is that error again.
    ///
    /// # Errors
    ///
    /// [`FramingError`]; `data` is empty then, and the stream is of no more use.
    #[inline]
    pub fn next(&mut self, data: &mut Slice) -> Option<Result<Slice, FramingError>> {
        let prefix_bytes = self.framing.prefix_bytes();
        if !self.is_partial()
            && self.failed.is_none()
            && let Some(len) = self.framing.read(data)
            && let Ok(len) = self.checked(len)
            && data.len() - prefix_bytes >= len
        {
            data.advance(prefix_bytes);
            return Some(Ok(data.split_to(len)));
        }
        self.next_cut(data)
    }

    /// Whether a part of a frame has come, of which the rest has not.
    #[must_use]
    #[inline]
    pub fn is_partial(&self) -> bool {
        self.prefix_len > 0 || self.cut_len > 0
    }

    /// A frame that is not wholly in `data`, or not there at all, or wrong.
    #[cold]
    fn next_cut(&mut self, data: &mut Slice) -> Option<Result<Slice, FramingError>> {
        if data.is_empty() {
            return None;
        }
        let outcome = match self.failed {
            Some(error) => Err(error),
            None => self.collect(data),
        };
        if let Err(error) = outcome {
            self.failed = Some(error);
            (self.prefix_len, self.cut_len, self.cut) = (0, 0, Slice::empty());
            *data = Slice::empty();
        }
        outcome
            .map(|whole| whole.then(|| self.cut.clone()))
            .transpose()
    }

    /// Collects prefix and frame. Whether the frame is whole.
    fn collect(&mut self, data: &mut Slice) -> Result<bool, FramingError> {
        if self.cut_len == 0 {
            let missing = self.framing.prefix_bytes() - self.prefix_len;
            let part = data.split_to(missing);
            self.prefix[self.prefix_len..][..part.len()].copy_from_slice(&part);
            self.prefix_len += part.len();
            let Some(len) = self.framing.read(&self.prefix[..self.prefix_len]) else {
                return Ok(false);
            };
            self.cut_len = self.checked(len)?;
            self.prefix_len = 0;
            self.cut.truncate(0);
        }
        let missing = self.cut_len - self.cut.len();
        self.append(&data[..missing.min(data.len())]);
        data.advance(missing);
        let whole = self.cut.len() == self.cut_len;
        if whole {
            self.cut_len = 0;
        }
        Ok(whole)
    }

    fn append(&mut self, part: &[u8]) {
        if self.cut.try_append(part) {
            return;
        }
        // There is too little room, or somebody holds the last frame.
        let len = self.cut.len() + part.len();
        let capacity = (2 * len).max(FIRST_BYTES).min(self.frame_max);
        let mut larger = Vec::with_capacity(capacity);
        larger.extend_from_slice(&self.cut);
        larger.extend_from_slice(part);
        self.cut = Slice::from_vec(larger);
    }

    #[inline]
    fn checked(&self, len: u32) -> Result<usize, FramingError> {
        match len as usize {
            0 => Err(FramingError::Empty),
            bytes if bytes > self.frame_max => Err(FramingError::TooLong {
                len,
                max: self.frame_max,
            }),
            bytes => Ok(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(bytes: &[u8]) -> Slice {
        Slice::from_vec(bytes.to_vec())
    }

    fn frames(reader: &mut FrameReader, data: &[u8]) -> Vec<Result<Vec<u8>, FramingError>> {
        let mut data = slice(data);
        let frames = std::iter::from_fn(|| reader.next(&mut data));
        let frames = frames.map(|frame| frame.map(|frame| frame.to_vec()));
        frames.take(100).collect()
    }

    #[test]
    fn golden_bytes_of_both_framings() {
        let mut reader = FrameReader::new(Framing::Le16, 1518);
        assert_eq!(
            frames(&mut reader, b"\x03\x00abc\x01\x00d"),
            [Ok(b"abc".to_vec()), Ok(b"d".to_vec())]
        );
        let mut reader = FrameReader::new(Framing::Be32, 1518);
        assert_eq!(
            frames(&mut reader, b"\x00\x00\x00\x03abc\x00\x00\x00\x01d"),
            [Ok(b"abc".to_vec()), Ok(b"d".to_vec())]
        );
        assert!(!reader.is_partial());
    }

    #[test]
    fn whole_frames_are_parts_of_what_was_received() {
        let mut reader = FrameReader::new(Framing::Le16, 1518);
        let mut data = slice(b"\x02\x00ab\x02\x00cd\x02\x00e");
        let start = data.bytes().as_ptr();
        let first = reader.next(&mut data).unwrap().unwrap();
        let second = reader.next(&mut data).unwrap().unwrap();
        assert_eq!(first.bytes().as_ptr(), start.wrapping_add(2));
        assert_eq!(second.bytes().as_ptr(), start.wrapping_add(6));
        assert!(reader.next(&mut data).is_none());
        assert!(reader.is_partial() && data.is_empty());
        assert_eq!(frames(&mut reader, b"f"), [Ok(b"ef".to_vec())]);
        assert!(!reader.is_partial());
    }

    #[test]
    fn a_wrong_length_is_refused_and_stays_so() {
        let too_long = FramingError::TooLong {
            len: 1519,
            max: 1518,
        };
        for (bytes, error) in [
            (&b"\x00\x00\x00\x00"[..], FramingError::Empty),
            (&b"\x00\x00\x05\xef"[..], too_long),
        ] {
            for cut in 0..3 {
                let mut reader = FrameReader::new(Framing::Be32, 1518);
                assert_eq!(frames(&mut reader, &bytes[..cut]), []);
                assert_eq!(reader.is_partial(), cut > 0);
                assert_eq!(frames(&mut reader, &bytes[cut..]), [Err(error)]);
                assert_eq!(frames(&mut reader, b"\x00\x00\x00\x01x"), [Err(error)]);
                assert!(!reader.is_partial());
            }
        }
        let text = too_long.to_string();
        assert!(text.contains("1519") && text.contains("1518"), "{text}");
    }

    #[test]
    fn a_promised_length_gets_memory_as_it_comes() {
        let mut reader = FrameReader::new(Framing::Be32, 1 << 30);
        assert_eq!(frames(&mut reader, b"\x3f\xff\xff\xff."), []);
        assert_eq!(reader.cut.pinned_bytes(), FIRST_BYTES);
        assert_eq!(frames(&mut reader, &[0; 10_000]), []);
        assert_eq!(reader.cut.pinned_bytes(), 20_002);
        // Nor more than any frame of the link needs.
        let mut reader = FrameReader::new(Framing::Be32, 1518);
        assert_eq!(frames(&mut reader, b"\x00\x00\x05\xee."), []);
        assert_eq!(reader.cut.pinned_bytes(), 1518);
    }

    #[test]
    fn memory_of_a_cut_frame_is_used_again_once_nobody_holds_it() {
        let mut reader = FrameReader::new(Framing::Le16, 1518);
        let mut cut_frame = |byte: u8| {
            assert_eq!(frames(&mut reader, &[2, 0, byte]), []);
            reader.next(&mut slice(&[byte])).unwrap().unwrap()
        };
        let first = cut_frame(1);
        let address = first.bytes().as_ptr();
        let second = cut_frame(2);
        assert_eq!((first.bytes(), second.bytes()), (&[1, 1][..], &[2, 2][..]));
        let other = second.bytes().as_ptr();
        assert_ne!(address, other);
        drop(second);
        assert_eq!(cut_frame(3).bytes().as_ptr(), other);
    }
}
