//! Frames on a byte stream: each behind its length.
//!
//! # Theory of operation
//!
//! Both directions are pure logic over [slices](crate::Slice), and both are made so that a system call moves many
//! frames and nothing is done per frame but to look at it.
//!
//! [`FrameReader`] is given what a receive brought, a large buffer with many frames in a row, and
//! yields each frame as a part of that buffer. Only a frame that the end of a buffer cuts is copied.
//!
//! [`FrameWriter`] is the bounded queue of frames on their way out. A length, a frame's header and a
//! small payload are copied one behind the other, so that small frames in a row are one slice; a
//! large payload stays where it is. One send takes as many slices as a driver takes.

mod reader;
mod writer;

pub use crate::frames::parts::FrameBounds;
pub use reader::{FrameReader, FramingError};
pub use writer::FrameWriter;

/// How a frame's length is written in front of it.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Framing {
    /// 16 bits, little-endian: vpnkit's protocol once its hello is over.
    Le16,
    /// 32 bits, big-endian: QEMU's `-netdev stream` and `-netdev socket`, passt, gvproxy, libkrun.
    Be32,
}

/// The longest prefix.
const PREFIX_BYTES_MAX: usize = 4;

impl Framing {
    /// How many bytes the length takes.
    #[must_use]
    pub const fn prefix_bytes(self) -> usize {
        match self {
            Framing::Le16 => 2,
            Framing::Be32 => 4,
        }
    }

    /// The length that the first bytes say; `None` if they are too few.
    #[inline]
    fn read(self, bytes: &[u8]) -> Option<u32> {
        match self {
            Framing::Le16 => bytes
                .first_chunk()
                .map(|len| u16::from_le_bytes(*len).into()),
            Framing::Be32 => bytes.first_chunk().map(|len| u32::from_be_bytes(*len)),
        }
    }

    /// Writes a length to the front of `prefix`; `None` if it is more than the prefix can say.
    #[inline]
    fn write(self, len: usize, prefix: &mut [u8; PREFIX_BYTES_MAX]) -> Option<&[u8]> {
        match self {
            Framing::Le16 => prefix[..2].copy_from_slice(&u16::try_from(len).ok()?.to_le_bytes()),
            Framing::Be32 => *prefix = u32::try_from(len).ok()?.to_be_bytes(),
        }
        Some(&prefix[..self.prefix_bytes()])
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::buffer::Slice;
    use crate::frames::FrameBounds;

    const FRAME_MAX: usize = 6000;

    fn framing() -> impl Strategy<Value = Framing> {
        prop_oneof![Just(Framing::Le16), Just(Framing::Be32)]
    }

    /// A frame's header and the parts of its payload.
    fn frame() -> impl Strategy<Value = (Vec<u8>, Vec<Vec<u8>>)> {
        let part = prop_oneof![vec(any::<u8>(), 0..20), vec(any::<u8>(), 1400..1700)];
        (vec(any::<u8>(), 1..100), vec(part, 0..4))
    }

    proptest! {
        /// Whatever the sends take and the receives bring: the frames that go in come out.
        #[test]
        fn frames_cross_a_stream_that_is_cut_anywhere(
            framing in framing(),
            frames in vec(frame(), 1..40),
            cuts in vec((1usize..3000, 1usize..3000, any::<bool>()), 1..40),
        ) {
            let bounds = FrameBounds { bytes: 20_000, frames: 20 };
            let mut writer = FrameWriter::new(framing, bounds);
            let mut reader = FrameReader::new(framing, FRAME_MAX);
            let whole = |(header, parts): &(Vec<u8>, Vec<Vec<u8>>)| {
                let mut frame = header.clone();
                parts.iter().for_each(|part| frame.extend(part));
                frame
            };
            let (mut pushed, mut got, mut held) = (0, Vec::new(), Vec::new());
            for &(taken, received, hold) in cuts.iter().cycle() {
                // Frames are pushed while others are under way.
                let in_flight = writer.batch().to_vec();
                while let Some((header, parts)) = frames.get(pushed) {
                    let parts: Vec<_> = parts.iter().cloned().map(Slice::from_vec).collect();
                    if !writer.push(header, &parts) {
                        break;
                    }
                    pushed += 1;
                }
                prop_assert!(writer.queued_bytes() <= bounds.bytes);
                prop_assert!(in_flight.len() <= crate::driver::SEND_SLICES_MAX);
                let mut bytes = in_flight.concat();
                bytes.truncate(taken);
                writer.advance(bytes.len());
                for piece in bytes.chunks(received) {
                    let mut data = Slice::from_vec(piece.to_vec());
                    while let Some(frame) = reader.next(&mut data) {
                        let frame = frame.unwrap();
                        got.push(frame.to_vec());
                        held.extend(hold.then_some((got.len() - 1, frame)));
                    }
                    prop_assert!(data.is_empty());
                }
                if pushed == frames.len() && writer.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(&got, &frames.iter().map(whole).collect::<Vec<_>>());
            prop_assert!(!reader.is_partial());
            prop_assert_eq!(writer.queued_bytes(), 0);
            // What was held did not change.
            for (at, frame) in &held {
                prop_assert_eq!(frame.bytes(), &got[*at]);
            }
        }

        /// Any bytes are frames, an error, or the start of a frame; the same however they are cut.
        #[test]
        fn any_bytes_are_read_the_same_however_they_are_cut(
            framing in framing(),
            bytes in vec(prop_oneof![3 => 0u8..3, 1 => any::<u8>()], 0..600),
            pieces in vec(1usize..50, 1..20),
        ) {
            let mut outcomes = [vec![bytes.len().max(1)], pieces].map(|pieces| {
                let mut reader = FrameReader::new(framing, FRAME_MAX);
                let (mut rest, mut outcome) = (&bytes[..], Vec::new());
                for &piece in pieces.iter().cycle() {
                    let (piece, behind) = rest.split_at(piece.min(rest.len()));
                    let mut data = Slice::from_vec(piece.to_vec());
                    while let Some(frame) = reader.next(&mut data) {
                        outcome.push(frame.map(|frame| frame.to_vec()));
                    }
                    rest = behind;
                    if rest.is_empty() {
                        break;
                    }
                }
                (outcome, reader.is_partial())
            });
            // An error comes again with each piece.
            for (outcome, _) in &mut outcomes {
                let good = outcome.iter().take_while(|frame| frame.is_ok()).count();
                outcome.truncate(good + 1);
            }
            prop_assert_eq!(&outcomes[0], &outcomes[1]);
        }
    }
}
