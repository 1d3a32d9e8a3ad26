//! Cutting and merging are each other's opposite.

use std::io::IoSlice;

use proptest::prelude::*;

use super::cut::{GROWTH_MAX, cut};
use super::framing::Framing;
use super::merge::Run;
use super::packet::{Layout, VIRTIO_BYTES, VirtioHeader};

/// A super-frame as a kernel hands it to a TAP, with its header.
fn super_frame(is_ipv4: bool, is_tcp: bool, size: u16, payload: &[u8]) -> (VirtioHeader, Vec<u8>) {
    let mut frame = vec![0x02; 12];
    if is_ipv4 {
        frame.extend([0x08, 0x00, 0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64]);
        frame.extend([if is_tcp { 6 } else { 17 }, 0, 0]);
        frame.extend([10, 0, 0, 1, 10, 0, 0, 2]);
    } else {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0]);
        frame.extend([if is_tcp { 6 } else { 17 }, 64]);
        frame.extend([0xfd; 32]);
    }
    let transport = frame.len();
    frame.extend([0x10, 0x00, 0x20, 0x00]);
    if is_tcp {
        // Near the end of the numbers; a timestamp as the option.
        frame.extend([
            0xff, 0xff, 0xff, 0x00, 0, 0, 0, 9, 0x80, 0x18, 1, 2, 0, 0, 0, 0,
        ]);
        frame.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    } else {
        frame.extend([0, 0, 0, 0]);
    }
    let header_length = frame.len();
    frame.extend(payload);
    let layout = Layout {
        is_ipv4,
        is_tcp,
        transport,
        payload: header_length,
        end: frame.len(),
    };
    layout.set_length(&mut frame, payload.len());
    layout.set_partial_checksum(&mut frame, payload.len());
    let header = VirtioHeader {
        flags: VirtioHeader::NEEDS_CHECKSUM,
        kind: match (is_tcp, is_ipv4) {
            (true, true) => VirtioHeader::TCPV4,
            (true, false) => VirtioHeader::TCPV6,
            (false, _) => VirtioHeader::UDP,
        },
        header_length: header_length as u16,
        size,
        checksum_start: transport as u16,
        checksum_offset: layout.checksum_offset() as u16,
    };
    (header, frame)
}

/// The frames that a super-frame is cut into.
fn cut_up(framing: Framing, header: VirtioHeader, frame: &[u8]) -> Vec<Vec<u8>> {
    let prefix = framing.prefix_bytes();
    let mut room = vec![0xee; prefix];
    room.extend(frame);
    room.resize(room.len() + GROWTH_MAX, 0xee);
    let used = cut(framing, header, &mut room, frame.len()).expect("a super-frame");
    let mut stream = &room[..used];
    let mut frames = Vec::new();
    while !stream.is_empty() {
        let at = framing.first_frame(stream, 65_535);
        let at = at.expect("in step").expect("whole");
        frames.push(stream[at.clone()].to_vec());
        stream = &stream[at.end..];
    }
    frames
}

/// What the guest's kernel is given for these frames.
fn merge_all(frames: &[Vec<u8>]) -> Vec<(VirtioHeader, Vec<u8>)> {
    let mut written = Vec::new();
    let mut keep = |parts: &[IoSlice<'_>]| {
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.to_vec()).collect();
        let (header, frame) = bytes.split_first_chunk::<VIRTIO_BYTES>().expect("a header");
        written.push((VirtioHeader::read(*header), frame.to_vec()));
        Ok(())
    };
    let buffer = frames.concat();
    let mut run = Run::default();
    let mut start = 0;
    for frame in frames {
        let at = start..start + frame.len();
        start = at.end;
        if !run.add(&buffer, &at) {
            run.finish(&buffer, &mut keep).unwrap();
            assert!(run.add(&buffer, &at), "each can begin a run");
        }
    }
    run.finish(&buffer, &mut keep).unwrap();
    written
}

proptest! {
    #[test]
    fn what_is_cut_is_merged_again(
        is_ipv4: bool,
        is_tcp: bool,
        vpnkit: bool,
        size in 100_u16..1500,
        payload in proptest::collection::vec(any::<u8>(), 1..20_000),
    ) {
        let framing = if vpnkit { Framing::Vpnkit } else { Framing::Qemu };
        let (header, whole) = super_frame(is_ipv4, is_tcp, size, &payload);
        let frames = cut_up(framing, header, &whole);
        prop_assert_eq!(frames.len(), payload.len().div_ceil(size.into()));
        for frame in &frames {
            let layout = Layout::of(frame).unwrap();
            prop_assert!(layout.has_right_checksum(frame));
            prop_assert!(layout.end - layout.payload <= size.into());
            prop_assert_eq!(layout.end, frame.len());
        }
        let merged = merge_all(&frames);
        prop_assert_eq!(merged.len(), 1);
        let (again, frame) = &merged[0];
        if frames.len() > 1 {
            prop_assert_eq!((again, frame), (&header, &whole));
        } else {
            prop_assert_eq!(again.flags, VirtioHeader::CHECKSUM_IS_RIGHT);
            prop_assert_eq!(frame, &frames[0]);
        }
    }

    #[test]
    fn a_changed_bit_is_never_merged(
        is_ipv4: bool,
        is_tcp: bool,
        size in 100_u16..1500,
        bit: usize,
    ) {
        let payload = vec![7; 4 * usize::from(size)];
        let (header, whole) = super_frame(is_ipv4, is_tcp, size, &payload);
        let mut frames = cut_up(Framing::Qemu, header, &whole);
        let layout = Layout::of(&frames[1]).unwrap();
        // Within the transport's header or the payload.
        let bits = (layout.end - layout.transport) * 8;
        let at = layout.transport * 8 + bit % bits;
        frames[1][at / 8] ^= 1 << (at % 8);
        let buffer = frames.concat();
        let mut run = Run::default();
        prop_assert!(run.add(&buffer, &(0..frames[0].len())));
        let second = frames[0].len()..frames[0].len() + frames[1].len();
        prop_assert!(!run.add(&buffer, &second));
    }

    #[test]
    fn any_frame_is_looked_at_without_a_panic(
        mut frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100), 1..4),
        is_ipv4: bool,
    ) {
        for frame in &mut frames {
            if let Some(ethertype) = frame.get_mut(12..16) {
                let start = if is_ipv4 { [8, 0, 0x45, 0] } else { [0x86, 0xdd, 0x60, 0] };
                ethertype.copy_from_slice(&start);
            }
        }
        let buffer = frames.concat();
        let mut run = Run::default();
        let mut start = 0;
        for frame in &frames {
            run.add(&buffer, &(start..start + frame.len()));
            start += frame.len();
        }
    }
}

#[test]
fn a_lone_checksum_is_completed() {
    let (mut header, frame) = super_frame(true, true, 0, b"some bytes");
    header.kind = 0;
    let frames = cut_up(Framing::Qemu, header, &frame);
    let layout = Layout::of(&frames[0]).unwrap();
    assert!(layout.has_right_checksum(&frames[0]));
}

#[test]
fn segments_of_other_flows_stay_apart() {
    let (header, whole) = super_frame(true, true, 1000, &[1; 3000]);
    let one = cut_up(Framing::Qemu, header, &whole);
    let (header, mut whole) = super_frame(true, true, 1000, &[1; 3000]);
    // The other port.
    whole[35] = 0x99;
    let other = cut_up(Framing::Qemu, header, &whole);
    let mixed = [&one[0], &one[1], &other[0], &other[1], &one[2]].map(Vec::clone);
    let sizes: Vec<usize> = merge_all(&mixed)
        .iter()
        .map(|(_, frame)| frame.len())
        .collect();
    assert_eq!(sizes, [2066, 2066, 1066]);
}
