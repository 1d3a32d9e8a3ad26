//! TCP's header and options (RFC 9293 §3.1), read into and written from a [`Segment`].
//!
//! ```text
//! 0         2         4          8     12              14       16         18       20
//! | source  | target  | sequence | ack | off/4   flags | window | checksum | urgent | options …
//! ```

use zerocopy::byteorder::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::tcp::segment::{Ecn, Flags, Options, SackBlocks, Segment, Timestamps};
use crate::tcp::seq::SequenceNumber;

/// Length in bytes of a header without options.
pub const HEADER_LEN: usize = 20;
/// Length in bytes of the longest header.
pub const HEADER_MAX: usize = 60;
/// Offset of the checksum field in bytes.
pub const CHECKSUM_OFFSET: usize = 16;

const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const SACK: u8 = 5;
const TIMESTAMPS: u8 = 8;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    source_port: U16,
    target_port: U16,
    sequence: U32,
    acknowledgment: U32,
    data_offset: u8,
    flags: u8,
    window: U16,
    checksum: U16,
    urgent: U16,
}

/// Why a segment can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Shorter than 20 bytes.
    Truncated,
    /// The data offset is below 20 bytes or beyond the segment's end.
    BadOffset,
}

/// Reads a header, its checksum verified beforehand or after; also returns its length in bytes
/// with options. The ECN field, which is in the IP header, is the caller's to fill in. Options that are malformed end the reading of options, no more.
pub fn parse(bytes: &[u8]) -> Result<(Segment, usize), Error> {
    let (header, _) = Header::ref_from_prefix(bytes).map_err(|_| Error::Truncated)?;
    let header_len = usize::from(header.data_offset >> 4) * 4;
    if header_len < HEADER_LEN {
        return Err(Error::BadOffset);
    }
    let options = bytes.get(HEADER_LEN..header_len).ok_or(Error::BadOffset)?;
    let segment = Segment {
        source_port: header.source_port.get(),
        target_port: header.target_port.get(),
        sequence: SequenceNumber(header.sequence.get()),
        acknowledgment: SequenceNumber(header.acknowledgment.get()),
        flags: Flags(header.flags),
        window: header.window.get(),
        urgent: header.urgent.get(),
        options: parse_options(options),
        ecn: Ecn::NotCapable,
    };
    Ok((segment, header_len))
}

fn parse_options(bytes: &[u8]) -> Options {
    // What an established connection's segments carry: two NOPs and timestamps (RFC 7323 §A).
    if let Ok(bytes) = <&[u8; 12]>::try_from(bytes)
        && let [NOP, NOP, TIMESTAMPS, 10, a, b, c, d, e, f, g, h] = *bytes
    {
        let value = u32::from_be_bytes([a, b, c, d]);
        let echo = u32::from_be_bytes([e, f, g, h]);
        return Options {
            timestamps: Some(Timestamps { value, echo }),
            ..Options::default()
        };
    }
    parse_any_options(bytes)
}

fn parse_any_options(mut bytes: &[u8]) -> Options {
    let mut options = Options::default();
    // RFC 9293 §3.1: a list that ends with END or with the header; MUST-7: a length that is
    // illegal must not harm.
    while let [kind, rest @ ..] = bytes {
        match *kind {
            END => break,
            NOP => {
                bytes = rest;
                continue;
            }
            _ => {}
        }
        let Some(&len) = rest.first() else { break };
        let Some((option, behind)) = bytes.split_at_checked(usize::from(len)) else {
            break;
        };
        match *option {
            [MSS, _, a, b] => options.mss = Some(u16::from_be_bytes([a, b])),
            // RFC 7323 §2.3: a shift above 14 is used as 14.
            [WINDOW_SCALE, _, shift] => options.window_scale = Some(shift.min(14)),
            [SACK_PERMITTED, _] => options.sack_permitted = true,
            [TIMESTAMPS, _, a, b, c, d, e, f, g, h] => {
                let value = u32::from_be_bytes([a, b, c, d]);
                let echo = u32::from_be_bytes([e, f, g, h]);
                options.timestamps = Some(Timestamps { value, echo });
            }
            [SACK, _, ref blocks @ ..] => options.sack = parse_sack(blocks),
            [_, _, ..] => {}
            // A length of 0 or 1 would not lead on.
            _ => break,
        }
        bytes = behind;
    }
    options
}

fn parse_sack(bytes: &[u8]) -> SackBlocks {
    let mut sack = SackBlocks::NONE;
    let (edges, _) = bytes.as_chunks::<8>();
    for &[a, b, c, d, e, f, g, h] in edges {
        let left = SequenceNumber(u32::from_be_bytes([a, b, c, d]));
        let right = SequenceNumber(u32::from_be_bytes([e, f, g, h]));
        if !sack.push(left, right) {
            break;
        }
    }
    sack
}

/// Writes a header with its options, checksum field zero, and returns its length in bytes, a
/// multiple of 4; 0 when `out` is too short (60 bytes always do). SACK blocks that find no room
/// behind the other options are left out, the last first.
pub fn emit(segment: &Segment, out: &mut [u8]) -> usize {
    let mut options = OptionWriter {
        bytes: [NOP; 40],
        len: 0,
    };
    options.write(&segment.options);
    emit_with(segment, &options.bytes[..options.len], out)
}

#[inline(always)]
fn emit_with(segment: &Segment, options: &[u8], out: &mut [u8]) -> usize {
    let header_len = HEADER_LEN + options.len();
    let Some(out) = out.get_mut(..header_len) else {
        return 0;
    };
    let header = Header {
        source_port: U16::new(segment.source_port),
        target_port: U16::new(segment.target_port),
        sequence: U32::new(segment.sequence.0),
        acknowledgment: U32::new(segment.acknowledgment.0),
        data_offset: ((header_len / 4) << 4) as u8,
        flags: segment.flags.0,
        window: U16::new(segment.window),
        checksum: U16::ZERO,
        urgent: U16::new(segment.urgent),
    };
    let (fixed, rest) = out.split_at_mut(HEADER_LEN);
    fixed.copy_from_slice(header.as_bytes());
    rest.copy_from_slice(options);
    header_len
}

/// Options, each padded to a multiple of 4 bytes by NOPs in front of it.
struct OptionWriter {
    bytes: [u8; 40],
    len: usize,
}

impl OptionWriter {
    fn write(&mut self, options: &Options) {
        let Options {
            mss,
            window_scale,
            sack_permitted,
            timestamps,
            sack,
        } = options;
        if let Some(mss) = mss {
            let [a, b] = mss.to_be_bytes();
            self.put([MSS, 4, a, b]);
        }
        match (timestamps, sack_permitted) {
            (Some(timestamps), permitted) => {
                self.put(if *permitted {
                    [SACK_PERMITTED, 2, TIMESTAMPS, 10]
                } else {
                    [NOP, NOP, TIMESTAMPS, 10]
                });
                self.put(timestamps.value.to_be_bytes());
                self.put(timestamps.echo.to_be_bytes());
            }
            (None, true) => self.put([NOP, NOP, SACK_PERMITTED, 2]),
            (None, false) => {}
        }
        if let Some(shift) = window_scale {
            self.put([NOP, WINDOW_SCALE, 3, *shift]);
        }
        let room = (self.bytes.len() - self.len).saturating_sub(4) / 8;
        let blocks = sack.as_slice();
        let blocks = &blocks[..blocks.len().min(room)];
        if !blocks.is_empty() {
            self.put([NOP, NOP, SACK, (2 + 8 * blocks.len()) as u8]);
            for (left, right) in blocks {
                self.put(left.0.to_be_bytes());
                self.put(right.0.to_be_bytes());
            }
        }
    }

    fn put(&mut self, word: [u8; 4]) {
        if let Some(room) = self.bytes.get_mut(self.len..self.len + 4) {
            room.copy_from_slice(&word);
            self.len += 4;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn seq(n: u32) -> SequenceNumber {
        SequenceNumber(n)
    }

    #[test]
    fn syn_golden_bytes_both_ways() {
        let segment = Segment {
            source_port: 40_000,
            target_port: 443,
            sequence: seq(0x0102_0304),
            acknowledgment: seq(0),
            flags: Flags::SYN,
            window: 64_240,
            urgent: 0,
            options: Options {
                mss: Some(1460),
                window_scale: Some(7),
                sack_permitted: true,
                timestamps: Some(Timestamps {
                    value: 0x0a0b_0c0d,
                    echo: 0,
                }),
                sack: SackBlocks::NONE,
            },
            ..Segment::default()
        };
        // The order in which Linux writes them.
        let golden = [
            0x9c, 0x40, 0x01, 0xbb, 1, 2, 3, 4, 0, 0, 0, 0, 0xa0, 0x02, 0xfa, 0xf0, 0, 0, 0,
            0, //
            2, 4, 0x05, 0xb4, 4, 2, 8, 10, 0x0a, 0x0b, 0x0c, 0x0d, 0, 0, 0, 0, 1, 3, 3, 7,
        ];
        let mut out = [0xee; HEADER_MAX];
        assert_eq!(emit(&segment, &mut out), 40);
        assert_eq!(out[..40], golden);
        assert_eq!(parse(&golden), Ok((segment, 40)));
    }

    #[test]
    fn sack_blocks_share_the_room_with_timestamps() {
        let mut sack = SackBlocks::NONE;
        for n in 0..4 {
            sack.push(seq(n * 100), seq(n * 100 + 50));
        }
        let mut segment = Segment {
            flags: Flags::ACK,
            ..Segment::default()
        };
        segment.options.sack = sack;
        let mut out = [0; HEADER_MAX];
        assert_eq!(emit(&segment, &mut out), 56);
        assert_eq!(parse(&out), Ok((segment, 56)));

        segment.options.timestamps = Some(Timestamps { value: 1, echo: 2 });
        assert_eq!(emit(&segment, &mut out), 60);
        let (read, _) = parse(&out).unwrap();
        assert_eq!(read.options.sack.as_slice(), &sack.as_slice()[..3]);
        assert_eq!(read.options.timestamps, segment.options.timestamps);
    }

    #[test]
    fn offsets_are_checked() {
        let mut bytes = [0; 24];
        assert_eq!(parse(&bytes[..19]), Err(Error::Truncated));
        bytes[12] = 0x40;
        assert_eq!(parse(&bytes), Err(Error::BadOffset));
        bytes[12] = 0x70;
        assert_eq!(parse(&bytes), Err(Error::BadOffset));
        bytes[12] = 0x60;
        assert_eq!(parse(&bytes).unwrap().1, 24);
    }

    #[test]
    fn short_buffers_are_left_alone() {
        let mut out = [0xee; 19];
        assert_eq!(emit(&Segment::default(), &mut out), 0);
        assert_eq!(out, [0xee; 19]);
    }

    #[test]
    fn malformed_options_end_the_list() {
        let mss = [2, 4, 0x05, 0xb4];
        let read = |tail: &[u8]| {
            let mut bytes = Vec::from(mss);
            bytes.extend(tail);
            parse_options(&bytes)
        };
        let only_mss = Options {
            mss: Some(1460),
            ..Options::default()
        };
        assert_eq!(read(&[0, 4, 2, 0]), only_mss, "after the end");
        assert_eq!(read(&[8, 0, 4, 2]), only_mss, "length 0");
        assert_eq!(read(&[8, 1, 4, 2]), only_mss, "length 1");
        assert_eq!(read(&[8, 10, 1, 1]), only_mss, "beyond the header");
        assert_eq!(read(&[1, 1, 1, 8]), only_mss, "no length");
        assert_eq!(read(&[4, 3, 0, 1]), only_mss, "wrong length for its kind");
        let known = Options {
            sack_permitted: true,
            ..only_mss
        };
        assert_eq!(
            read(&[254, 6, 1, 2, 3, 4, 4, 2]),
            known,
            "unknown ones are skipped"
        );
        assert_eq!(parse_options(&[3, 3, 200, 0]).window_scale, Some(14));
    }

    fn any_segment() -> impl Strategy<Value = Segment> {
        let options = (
            prop::option::of(any::<u16>()),
            prop::option::of(0_u8..=14),
            any::<bool>(),
            prop::option::of((any::<u32>(), any::<u32>())),
            prop::collection::vec((any::<u32>(), any::<u32>()), 0..=2),
        );
        (any::<[u8; 16]>(), any::<u8>(), options).prop_map(|(b, flags, options)| {
            let (mss, window_scale, sack_permitted, timestamps, blocks) = options;
            let mut sack = SackBlocks::NONE;
            // With the options of a SYN there is room for one block.
            for (left, right) in blocks.into_iter().take(if mss.is_some() { 1 } else { 2 }) {
                sack.push(seq(left), seq(right));
            }
            let timestamps = timestamps.map(|(value, echo)| Timestamps { value, echo });
            Segment {
                source_port: u16::from_be_bytes([b[0], b[1]]),
                target_port: u16::from_be_bytes([b[2], b[3]]),
                sequence: seq(u32::from_be_bytes([b[4], b[5], b[6], b[7]])),
                acknowledgment: seq(u32::from_be_bytes([b[8], b[9], b[10], b[11]])),
                flags: Flags(flags),
                window: u16::from_be_bytes([b[12], b[13]]),
                urgent: u16::from_be_bytes([b[14], b[15]]),
                options: Options {
                    mss,
                    window_scale,
                    sack_permitted,
                    timestamps,
                    sack,
                },
                ..Segment::default()
            }
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(segment in any_segment()) {
            let mut out = [0; HEADER_MAX];
            let len = emit(&segment, &mut out);
            prop_assert_eq!(parse(&out[..len]), Ok((segment, len)));
        }

        #[test]
        fn any_bytes_are_read_or_refused(
            mut bytes in prop::collection::vec(any::<u8>(), 0..80),
            offset in 0_u8..16,
        ) {
            if let Some(byte) = bytes.get_mut(12) {
                *byte = offset << 4;
            }
            if let Ok((_, len)) = parse(&bytes) {
                prop_assert!((HEADER_LEN..=bytes.len().min(HEADER_MAX)).contains(&len));
            }
        }

        #[test]
        fn any_options_are_read(
            bytes in prop::collection::vec(
                prop::sample::select(std::vec![0_u8, 1, 2, 3, 4, 5, 8, 10, 18]), 0..=40,
            ),
        ) {
            let options = parse_options(&bytes);
            prop_assert!(options.window_scale.is_none_or(|shift| shift <= 14));
        }
    }
}
