//! Fragments of a few datagrams, in any order, with overlaps and lies, and time that passes.

use std::collections::HashMap;
use std::time::Duration;

use towpath_stack::fragment::{Datagram, Limits, Outcome, Reassembler};
use towpath_stack::parse::{Content, Fragment, IpPacket};
use towpath_stack::{Address, Instant};

use crate::input::Input;

const STEPS_MAX: usize = 500;
const LIMITS: Limits = Limits {
    datagrams_max: 6,
    bytes_max: 20_000,
    timeout_v4: Duration::from_secs(30),
    timeout_v6: Duration::from_secs(60),
};

/// A datagram's name: its IP version and identification.
type Name = (bool, u32);

/// What was sent of a datagram: offset, bytes and whether more follow.
type Sent = (u16, Vec<u8>, bool);

/// See the module.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut now = Instant::from_nanos(1);
    let mut reassembler = Reassembler::new(LIMITS);
    let mut sent: HashMap<Name, Vec<Sent>> = HashMap::new();
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        match input.u8() {
            0..=239 => {
                let name = name(&mut input);
                let (offset, payload, more) = fragment(&mut input);
                let outcome = add(&mut reassembler, now, name, offset, &payload, more);
                let all = sent.entry(name).or_default();
                all.push((offset, payload, more));
                if let Outcome::Complete(datagram) = outcome {
                    check_whole(&datagram, all);
                    sent.remove(&name);
                }
            }
            _ => {
                now = now + Duration::from_secs(input.u8().into());
                reassembler.expire(now, |expired| {
                    assert!(expired.first_header.is_none_or(|header| header == FIRST));
                });
                assert!(reassembler.poll_at().is_none_or(|at| at > now));
            }
        }
        assert!(reassembler.len() <= LIMITS.datagrams_max);
        assert!(reassembler.bytes() <= LIMITS.bytes_max);
        assert_eq!(reassembler.poll_at().is_none(), reassembler.is_empty());
    }
    reassembler.expire(now + LIMITS.timeout_v6, |_| {});
    assert_eq!((reassembler.len(), reassembler.bytes()), (0, 0));
}

const FIRST: &[u8] = b"the packet";

fn name(input: &mut Input<'_>) -> Name {
    let byte = input.u8();
    (byte & 1 == 0, u32::from(byte >> 1) % 8)
}

/// Bytes that go by their place in the datagram, so that overlaps may agree; or not.
fn fragment(input: &mut Input<'_>) -> Sent {
    let shape = input.u8();
    let offset = if shape & 1 == 0 {
        u16::from(input.u8()) * 8
    } else {
        input.u16() & !7
    };
    let more = shape & 2 == 0;
    let len = if shape & 4 == 0 {
        usize::from(input.u8()) * 8
    } else {
        usize::from(input.u16())
    };
    // What the parser lets through.
    let len = len.clamp(1, 65_535 - usize::from(offset));
    let len = if more {
        (len & !7).max(8).min((65_535 - usize::from(offset)) & !7)
    } else {
        len
    };
    let change = if shape & 0xf0 == 0xf0 { shape } else { 0 };
    let byte = |at: usize| (at * 7 + at / 256) as u8 ^ change;
    let from = usize::from(offset);
    (
        offset,
        (from..from + len).map(byte).collect(),
        more && len > 0,
    )
}

fn add(
    reassembler: &mut Reassembler,
    now: Instant,
    (v4, identification): Name,
    offset: u16,
    payload: &[u8],
    more: bool,
) -> Outcome {
    let (source, target) = if v4 {
        (Address::v4([10, 0, 2, 3]), Address::v4([1, 1, 1, 1]))
    } else {
        (Address::v6([0xfd; 16]), Address::v6([0x3e; 16]))
    };
    let fragment = Fragment {
        identification,
        offset,
        more,
        protocol: 17,
        payload,
    };
    let packet = IpPacket {
        source,
        target,
        hop_limit: 64,
        traffic_class: 0,
        dont_fragment: false,
        protocol: 17,
        bytes: FIRST,
        header_len: 0,
        content: Content::Fragment(fragment),
    };
    reassembler.add(now, 0, &packet, &fragment)
}

/// Every byte was sent at its place, and the last one as the last.
fn check_whole(datagram: &Datagram, sent: &[Sent]) {
    let end = datagram.payload.len();
    let of = |(offset, bytes, more): &Sent| (usize::from(*offset), bytes.len(), *more);
    assert!(
        sent.iter()
            .map(of)
            .any(|(at, len, more)| !more && at + len == end)
    );
    let mut known = vec![false; end];
    for (offset, bytes, _) in sent {
        let from = usize::from(*offset);
        for (at, byte) in (from..end).zip(bytes) {
            known[at] |= datagram.payload[at] == *byte;
        }
    }
    assert!(known.iter().all(|known| *known), "a byte that nobody sent");
    assert_eq!(datagram.first_header, FIRST);
}
