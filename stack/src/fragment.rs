//! Reassembly of fragmented packets of both IP versions, bounded.
//!
//! Fragments of a datagram share guest, addresses, identification and, in IPv4, the protocol
//! (RFC 791 §3.2, RFC 8200 §4.5). A datagram in assembly is one buffer and a sorted list of the
//! disjoint ranges that it holds so far; it is whole when one range spans from 0 to the end that
//! the last fragment told. In order, as fragments usually come, each appends to the buffer and
//! extends the one range.
//!
//! **Overlaps** drop the whole datagram, of either version: nobody sends them but to fool
//! somebody (RFC 5722 §4, RFC 8200 §4.5). A fragment whose bytes are all there already, and the
//! same, is taken for a duplicate made by the network and ignored, as RFC 8200 §4.5 allows. A
//! dropped datagram's later fragments are dropped as well until its time is over.
//!
//! **Bounds**: datagrams in assembly, bytes in all of them, ranges per datagram, and time. When one
//! of the first two is reached, the oldest datagram of the guest that has the most makes room: a guest that
//! floods with fragments throws out its own.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::time::Duration;

use crate::build::may_report;
use crate::parse::{Fragment, IpPacket};
use crate::{Address, Instant};

/// Disjoint ranges of one datagram at most: an honest sender's are few, whatever the order.
const RANGES_MAX: usize = 64;
/// What a datagram counts for beside its bytes when it is asked which guest has the most: as much as the
/// least fragment of an honest sender holds (RFC 791 §3.2: every link takes 68 bytes).
const OVERHEAD: usize = 48;
/// Bytes of the first fragment's packet that are kept to be quoted: an ICMPv6 error holds no more.
const QUOTE_MAX: usize = 1280;

/// The ECN field of a traffic class, and its value in a packet that a router marked (RFC 3168 §5).
const CONGESTED: u8 = 3;

/// Bounds of a [`Reassembler`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Datagrams in assembly.
    pub datagrams_max: usize,
    /// Bytes in all of them.
    pub bytes_max: usize,
    /// How long a datagram of IPv4 may take from its first fragment on.
    pub timeout_v4: Duration,
    /// How long a datagram of IPv6 may take.
    pub timeout_v6: Duration,
}

impl Default for Limits {
    /// 64 datagrams, 4 MiB, 30 s for IPv4 (RFC 1122 §3.3.2 wants a fixed value; Linux has this
    /// one) and 60 s for IPv6 (RFC 8200 §4.5).
    fn default() -> Self {
        Self {
            datagrams_max: 64,
            bytes_max: 4 << 20,
            timeout_v4: Duration::from_secs(30),
            timeout_v6: Duration::from_secs(60),
        }
    }
}

/// A reassembled datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Whose it is.
    pub guest: u16,
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub target: Address,
    /// What the payload begins with: a transport protocol, or an extension header of IPv6.
    pub protocol: u8,
    /// TTL or hop limit of the first fragment.
    pub hop_limit: u8,
    /// The TOS byte or traffic class of the first fragment, marked as congested (CE) if it may be and
    /// any fragment was (RFC 3168 §5.3).
    pub traffic_class: u8,
    /// The transport packet, for [`parse_transport`](crate::parse::parse_transport).
    pub payload: Vec<u8>,
    /// The packet of the first fragment from its IP header on, up to 1280 bytes, for quoting.
    pub first_header: Vec<u8>,
}

/// What became of a fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was kept; more are to come.
    Pending,
    /// It was the last one missing.
    Complete(Datagram),
    /// It was dropped.
    Dropped(Reason),
}

/// Why a fragment was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It was there already.
    Duplicate,
    /// It overlaps another one; the datagram is dropped.
    Overlap,
    /// It contradicts another one about where the datagram ends; the datagram is dropped.
    BadEnd,
    /// The datagram would be too long, or has too many holes; it is dropped.
    TooMany,
    /// It belongs to a datagram that was dropped.
    Condemned,
    /// It alone is beyond the bytes that may be held.
    NoRoom,
}

/// A datagram whose time ran out.
#[derive(Clone, Copy, Debug)]
pub struct Expired<'a> {
    /// Whose it was.
    pub guest: u16,
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub target: Address,
    /// The packet of the first fragment from its IP header on, for an ICMP "fragment reassembly
    /// time exceeded"; `None` when none is sent: the first fragment never came (RFC 1122 §3.3.2,
    /// RFC 8200 §4.5), or no error may be sent about it.
    pub first_header: Option<&'a [u8]>,
}

/// Datagrams in assembly, the oldest first.
#[derive(Debug)]
pub struct Reassembler {
    limits: Limits,
    assemblies: VecDeque<Assembly>,
    bytes: usize,
    evicted: u64,
}

/// What the fragments of a datagram share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    guest: u16,
    source: Address,
    target: Address,
    identification: u32,
    /// 0 for IPv6: there it is not part of the key.
    protocol: u8,
}

#[derive(Debug)]
struct Assembly {
    key: Key,
    expires: Instant,
    /// Dropped; remembered so that its other fragments don't begin it anew.
    condemned: bool,
    /// A fragment was marked (CE).
    congested: bool,
    /// Length in bytes, known from the last fragment.
    end: Option<usize>,
    payload: Vec<u8>,
    /// Disjoint, sorted, never adjacent.
    ranges: Vec<(u16, u32)>,
    first: Option<First>,
}

/// What only the first fragment tells.
#[derive(Debug)]
struct First {
    protocol: u8,
    hop_limit: u8,
    traffic_class: u8,
    header: Vec<u8>,
    /// Whether an ICMP error may be sent about it.
    reportable: bool,
}

impl Reassembler {
    /// Nothing in assembly.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            assemblies: VecDeque::new(),
            bytes: 0,
            evicted: 0,
        }
    }

    /// Datagrams in assembly.
    pub fn len(&self) -> usize {
        self.assemblies.len()
    }

    /// Whether nothing is in assembly.
    pub fn is_empty(&self) -> bool {
        self.assemblies.is_empty()
    }

    /// Bytes held in all.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Datagrams that were thrown out to make room, since the start.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Takes a fragment of a guest's packet.
    pub fn add(
        &mut self,
        now: Instant,
        guest: u16,
        packet: &IpPacket<'_>,
        fragment: &Fragment<'_>,
    ) -> Outcome {
        let (source, target) = (packet.source, packet.target);
        let protocol = if source.is_v4() { fragment.protocol } else { 0 };
        let identification = fragment.identification;
        let key = Key {
            guest,
            source,
            target,
            identification,
            protocol,
        };
        // Time that ran out counts even when nobody called `expire` yet.
        let found = self
            .assemblies
            .iter()
            .rposition(|a| a.key == key && a.expires > now);
        let index = match found {
            Some(index) => index,
            None => self.begin(now, key),
        };
        let Some(assembly) = self.assemblies.get_mut(index) else {
            return Outcome::Dropped(Reason::NoRoom);
        };
        let before = assembly.bytes();
        let result = assembly.add(packet, fragment);
        self.bytes = self.bytes - before + assembly.bytes();
        match result {
            Ok(false) => self.make_room(key),
            Ok(true) => match self.assemblies.remove(index) {
                Some(whole) => {
                    self.bytes -= whole.bytes();
                    whole
                        .finish()
                        .map_or(Outcome::Dropped(Reason::BadEnd), Outcome::Complete)
                }
                None => Outcome::Dropped(Reason::NoRoom),
            },
            Err(reason) => Outcome::Dropped(reason),
        }
    }

    /// When [`expire`](Self::expire) has something to do next.
    pub fn poll_at(&self) -> Option<Instant> {
        self.assemblies
            .iter()
            .map(|assembly| assembly.expires)
            .min()
    }

    /// Drops the datagrams whose time ran out, telling each that was not dropped before.
    pub fn expire(&mut self, now: Instant, mut on_expired: impl FnMut(Expired<'_>)) {
        let bytes = &mut self.bytes;
        self.assemblies.retain(|assembly| {
            if assembly.expires > now {
                return true;
            }
            *bytes -= assembly.bytes();
            if !assembly.condemned {
                let Key {
                    guest,
                    source,
                    target,
                    identification: _,
                    protocol: _,
                } = assembly.key;
                let first = assembly.first.as_ref().filter(|first| first.reportable);
                let first_header = first.map(|first| &first.header[..]);
                on_expired(Expired {
                    guest,
                    source,
                    target,
                    first_header,
                });
            }
            false
        });
    }

    fn begin(&mut self, now: Instant, key: Key) -> usize {
        if self.assemblies.len() >= self.limits.datagrams_max.max(1) {
            self.evict();
        }
        let v4 = key.source.is_v4();
        let timeout = if v4 {
            self.limits.timeout_v4
        } else {
            self.limits.timeout_v6
        };
        self.assemblies.push_back(Assembly {
            key,
            expires: now + timeout,
            condemned: false,
            congested: false,
            end: None,
            payload: Vec::new(),
            ranges: Vec::new(),
            first: None,
        });
        self.assemblies.len() - 1
    }

    /// Evicts until the bytes are within their bound; the datagram at work may be hit as well.
    fn make_room(&mut self, at_work: Key) -> Outcome {
        let mut outcome = Outcome::Pending;
        while self.bytes > self.limits.bytes_max {
            match self.evict() {
                Some(key) if key == at_work => outcome = Outcome::Dropped(Reason::NoRoom),
                Some(_) => {}
                None => break,
            }
        }
        outcome
    }

    /// Throws out the oldest datagram of the guest that has the most bytes, counting each datagram for some.
    fn evict(&mut self) -> Option<Key> {
        let weight = |guest: u16| -> usize {
            let own = self.assemblies.iter().filter(|a| a.key.guest == guest);
            own.map(|assembly| assembly.bytes() + OVERHEAD).sum()
        };
        let index = (0..self.assemblies.len())
            .max_by_key(|&index| (weight(self.assemblies[index].key.guest), Reverse(index)))?;
        let oldest = self.assemblies.remove(index)?;
        self.bytes -= oldest.bytes();
        self.evicted += u64::from(!oldest.condemned);
        Some(oldest.key)
    }
}

impl Assembly {
    /// Bytes that it holds.
    fn bytes(&self) -> usize {
        self.payload.len() + self.first.as_ref().map_or(0, |first| first.header.len())
    }

    /// Puts a fragment in its place; says whether the datagram is whole.
    fn add(&mut self, packet: &IpPacket<'_>, fragment: &Fragment<'_>) -> Result<bool, Reason> {
        if self.condemned {
            return Err(Reason::Condemned);
        }
        let result = self.place(fragment);
        match result {
            Ok(()) => {
                self.congested |= packet.traffic_class & CONGESTED == CONGESTED;
                if fragment.offset == 0 {
                    let quote = packet.bytes.get(..QUOTE_MAX).unwrap_or(packet.bytes);
                    self.first = Some(First {
                        protocol: fragment.protocol,
                        hop_limit: packet.hop_limit,
                        traffic_class: packet.traffic_class,
                        header: Vec::from(quote),
                        reportable: may_report(packet),
                    });
                }
                Ok(self
                    .end
                    .is_some_and(|end| self.ranges[..] == [(0, end as u32)]))
            }
            Err(Reason::Duplicate) => Err(Reason::Duplicate),
            Err(reason) => {
                self.condemned = true;
                self.payload = Vec::new();
                self.ranges = Vec::new();
                self.first = None;
                Err(reason)
            }
        }
    }

    fn place(&mut self, fragment: &Fragment<'_>) -> Result<(), Reason> {
        let from = usize::from(fragment.offset);
        let to = from + fragment.payload.len();
        if to > 65_535 {
            return Err(Reason::TooMany);
        }
        // The end is told once and nothing lies behind it.
        let held = self.payload.len();
        match self.end {
            Some(end) if to > end || (!fragment.more && to != end) => return Err(Reason::BadEnd),
            None if !fragment.more && held > to => return Err(Reason::BadEnd),
            _ => {}
        }
        self.insert(fragment.offset, to as u32, fragment.payload)?;
        if !fragment.more {
            self.end = Some(to);
        }
        if held < from {
            self.payload.resize(from, 0);
        }
        if from == self.payload.len() {
            self.payload.extend_from_slice(fragment.payload);
        } else if let Some(room) = self.payload.get_mut(from..to) {
            room.copy_from_slice(fragment.payload);
        }
        Ok(())
    }

    /// Enters a range, joined to its neighbours where they touch.
    fn insert(&mut self, from: u16, to: u32, bytes: &[u8]) -> Result<(), Reason> {
        let start = u32::from(from);
        // The first range that ends behind our start.
        let at = self.ranges.partition_point(|&(_, end)| end <= start);
        if let Some(&(next, end)) = self.ranges.get(at) {
            let next = u32::from(next);
            if next < to {
                let held = self.payload.get(start as usize..to as usize);
                let duplicate = next <= start && to <= end && held == Some(bytes);
                return Err(if duplicate {
                    Reason::Duplicate
                } else {
                    Reason::Overlap
                });
            }
        }
        let joins_next = self
            .ranges
            .get(at)
            .is_some_and(|&(next, _)| u32::from(next) == to);
        let joins_last = at > 0 && self.ranges[at - 1].1 == start;
        match (joins_last, joins_next) {
            (true, true) => {
                self.ranges[at - 1].1 = self.ranges[at].1;
                self.ranges.remove(at);
            }
            (true, false) => self.ranges[at - 1].1 = to,
            (false, true) => self.ranges[at].0 = from,
            (false, false) if self.ranges.len() >= RANGES_MAX => return Err(Reason::TooMany),
            (false, false) => self.ranges.insert(at, (from, to)),
        }
        Ok(())
    }

    fn finish(self) -> Option<Datagram> {
        let Key {
            guest,
            source,
            target,
            identification: _,
            protocol: _,
        } = self.key;
        let First {
            protocol,
            hop_limit,
            mut traffic_class,
            header,
            reportable: _,
        } = self.first?;
        if self.congested && traffic_class & CONGESTED != 0 {
            traffic_class |= CONGESTED;
        }
        Some(Datagram {
            guest,
            source,
            target,
            protocol,
            hop_limit,
            traffic_class,
            payload: self.payload,
            first_header: header,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::Content;
    use proptest::prelude::*;
    use std::vec;

    const NOW: Instant = Instant::from_nanos(1_000_000_000);

    fn addresses(v4: bool) -> (Address, Address) {
        if v4 {
            (Address::v4([10, 0, 2, 3]), Address::v4([1, 1, 1, 1]))
        } else {
            (Address::v6([0xfd; 16]), Address::v6([0x3e; 16]))
        }
    }

    fn bytes(range: core::ops::Range<usize>) -> Vec<u8> {
        range.map(|n| (n * 7 + n / 256) as u8).collect()
    }

    /// Adds a fragment of the datagram `id` of guest 1.
    fn add_bytes(
        reassembler: &mut Reassembler,
        which: (bool, u32),
        from: usize,
        payload: &[u8],
        more: bool,
    ) -> Outcome {
        add_of_guest(reassembler, 1, which, from, payload, more)
    }

    fn add_of_guest(
        reassembler: &mut Reassembler,
        guest: u16,
        (v4, id): (bool, u32),
        from: usize,
        payload: &[u8],
        more: bool,
    ) -> Outcome {
        let (source, target) = addresses(v4);
        let fragment = Fragment {
            identification: id,
            offset: from as u16,
            more,
            protocol: 17,
            payload,
        };
        let packet = IpPacket {
            source,
            target,
            hop_limit: 60 + (from / 8 % 100) as u8,
            traffic_class: 3,
            dont_fragment: false,
            protocol: 17,
            bytes: b"the first packet",
            header_len: 20,
            content: Content::Fragment(fragment),
        };
        reassembler.add(NOW, guest, &packet, &fragment)
    }

    fn add(r: &mut Reassembler, which: (bool, u32), from: usize, to: usize, more: bool) -> Outcome {
        add_bytes(r, which, from, &bytes(from..to), more)
    }

    fn whole(outcome: Outcome) -> Datagram {
        match outcome {
            Outcome::Complete(datagram) => datagram,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_marked_fragment_marks_the_whole() {
        // RFC 3168 §5.3, unless the first says that nothing of it understands marks.
        for (classes, whole_class) in [([0xb8, 0xb8], 0xb8), ([2, 3], 3), ([3, 2], 3), ([0, 3], 0)]
        {
            let mut r = Reassembler::new(Limits::default());
            let mut outcome = Outcome::Pending;
            for (i, traffic_class) in classes.into_iter().enumerate() {
                let payload = [i as u8; 8];
                let fragment = Fragment {
                    identification: 1,
                    offset: 8 * i as u16,
                    more: i == 0,
                    protocol: 6,
                    payload: &payload,
                };
                let (source, target) = addresses(true);
                let packet = IpPacket {
                    source,
                    target,
                    hop_limit: 64,
                    traffic_class,
                    dont_fragment: false,
                    protocol: 6,
                    bytes: b"",
                    header_len: 20,
                    content: Content::Fragment(fragment),
                };
                outcome = r.add(NOW, 1, &packet, &fragment);
            }
            assert_eq!(whole(outcome).traffic_class, whole_class);
        }
    }

    #[test]
    fn in_order_and_in_reverse() {
        for v4 in [true, false] {
            let mut r = Reassembler::new(Limits::default());
            let which = (v4, 1);
            assert_eq!(add(&mut r, which, 0, 1480, true), Outcome::Pending);
            assert_eq!(add(&mut r, which, 1480, 2960, true), Outcome::Pending);
            let datagram = whole(add(&mut r, which, 2960, 3001, false));
            assert_eq!(datagram.payload, bytes(0..3001));
            assert_eq!((datagram.source, datagram.target), addresses(v4));
            assert_eq!((datagram.guest, datagram.protocol), (1, 17));
            assert_eq!((datagram.hop_limit, datagram.traffic_class), (60, 3));
            assert_eq!(datagram.first_header, b"the first packet");

            assert_eq!(add(&mut r, which, 2960, 3001, false), Outcome::Pending);
            assert_eq!(add(&mut r, which, 1480, 2960, true), Outcome::Pending);
            let datagram = whole(add(&mut r, which, 0, 1480, true));
            assert_eq!(datagram.payload, bytes(0..3001));
            assert_eq!(datagram.hop_limit, 60);
            assert!(r.is_empty());
            assert_eq!(r.bytes(), 0);
        }
    }

    #[test]
    fn datagrams_do_not_mix() {
        let mut r = Reassembler::new(Limits::default());
        for which in [(true, 1), (true, 2), (false, 1)] {
            assert_eq!(add(&mut r, which, 0, 8, true), Outcome::Pending);
        }
        assert_eq!(r.len(), 3);
        for which in [(true, 1), (true, 2), (false, 1)] {
            assert_eq!(
                whole(add(&mut r, which, 8, 20, false)).payload,
                bytes(0..20)
            );
        }
    }

    #[test]
    fn duplicates_are_ignored() {
        let mut r = Reassembler::new(Limits::default());
        add(&mut r, (true, 1), 0, 16, true);
        add(&mut r, (true, 1), 24, 32, true);
        for (from, to) in [(0, 16), (24, 32)] {
            let again = add(&mut r, (true, 1), from, to, true);
            assert_eq!(again, Outcome::Dropped(Reason::Duplicate));
        }
        add(&mut r, (true, 1), 16, 24, true);
        assert_eq!(
            whole(add(&mut r, (true, 1), 32, 33, false)).payload,
            bytes(0..33)
        );
    }

    #[test]
    fn overlaps_drop_the_datagram() {
        for (from, to) in [(8, 24), (0, 40), (24, 48), (8, 16)] {
            let mut r = Reassembler::new(Limits::default());
            add(&mut r, (false, 1), 0, 16, true);
            add(&mut r, (false, 1), 32, 48, true);
            let overlap = add_bytes(&mut r, (false, 1), from, &vec![0xee; to - from], true);
            assert_eq!(overlap, Outcome::Dropped(Reason::Overlap), "{from}..{to}");
            assert_eq!(r.bytes(), 0);
            let rest = add(&mut r, (false, 1), 16, 32, true);
            assert_eq!(rest, Outcome::Dropped(Reason::Condemned));
        }
    }

    #[test]
    fn contradicting_ends_drop_the_datagram() {
        let bad_end = Outcome::Dropped(Reason::BadEnd);
        let mut r = Reassembler::new(Limits::default());
        add(&mut r, (true, 1), 16, 20, false);
        assert_eq!(add(&mut r, (true, 1), 24, 32, true), bad_end);
        add(&mut r, (true, 2), 16, 20, false);
        assert_eq!(add(&mut r, (true, 2), 8, 12, false), bad_end);
        add(&mut r, (true, 3), 16, 32, true);
        assert_eq!(add(&mut r, (true, 3), 8, 16, false), bad_end);
    }

    #[test]
    fn bounds_hold() {
        let limits = Limits {
            datagrams_max: 4,
            bytes_max: 10_000,
            ..Limits::default()
        };
        let mut r = Reassembler::new(limits);
        for id in 0..10 {
            add(&mut r, (true, id), 0, 8, true);
            assert!(r.len() <= 4);
        }
        assert_eq!(r.evicted(), 6);
        // The oldest of the four is the first to go for want of bytes.
        assert_eq!(add(&mut r, (true, 9), 8, 9_976, true), Outcome::Pending);
        assert!(r.bytes() <= 10_000 && r.len() < 4);
        assert_eq!(add(&mut r, (true, 9), 9_976, 9_984, true), Outcome::Pending);
        let beyond = add(&mut r, (true, 9), 9_984, 10_024, true);
        assert_eq!(beyond, Outcome::Dropped(Reason::NoRoom));
        assert_eq!(r.bytes(), 0);
    }

    #[test]
    fn a_guest_that_floods_throws_out_its_own() {
        for bytes_max in [1 << 20, 20_000] {
            let limits = Limits {
                datagrams_max: 8,
                bytes_max,
                ..Limits::default()
            };
            let mut r = Reassembler::new(limits);
            let mut send = |guest, id, from: usize, to: usize, more| {
                add_of_guest(&mut r, guest, (true, id), from, &bytes(from..to), more)
            };
            for id in 0..3 {
                assert_eq!(send(1, id, 0, 800, true), Outcome::Pending);
            }
            for id in 0..1000 {
                send(2, id, 0, 8_000, true);
            }
            for id in 0..3 {
                whole(send(1, id, 800, 900, false));
            }
        }
    }

    #[test]
    fn holes_are_bounded() {
        let mut r = Reassembler::new(Limits::default());
        for n in 0..RANGES_MAX {
            assert_eq!(
                add(&mut r, (true, 1), n * 16, n * 16 + 8, true),
                Outcome::Pending
            );
        }
        let one_more = add(
            &mut r,
            (true, 1),
            RANGES_MAX * 16,
            RANGES_MAX * 16 + 8,
            true,
        );
        assert_eq!(one_more, Outcome::Dropped(Reason::TooMany));
    }

    #[test]
    fn time_runs_out() {
        let mut r = Reassembler::new(Limits::default());
        assert_eq!(r.poll_at(), None);
        add(&mut r, (false, 1), 0, 8, true);
        add(&mut r, (true, 2), 8, 16, true);
        let v4_ends = NOW + Duration::from_secs(30);
        let v6_ends = NOW + Duration::from_secs(60);
        assert_eq!(r.poll_at(), Some(v4_ends));
        r.expire(NOW + Duration::from_secs(29), |_| panic!("too early"));
        let mut told = vec![];
        r.expire(v4_ends, |e| {
            told.push((e.source, e.first_header.map(Vec::from)))
        });
        assert_eq!(
            told,
            [(addresses(true).0, None)],
            "its first fragment never came"
        );
        assert_eq!(r.poll_at(), Some(v6_ends));
        told.clear();
        r.expire(v6_ends, |e| {
            told.push((e.source, e.first_header.map(Vec::from)))
        });
        assert_eq!(
            told,
            [(addresses(false).0, Some(Vec::from(b"the first packet")))]
        );
        assert!(r.is_empty());
        assert_eq!(r.bytes(), 0);
    }

    #[test]
    fn no_error_is_sent_about_what_went_to_many_or_is_an_error() {
        let many = Address::v4([224, 0, 0, 1]);
        let one = addresses(true).1;
        for (target, protocol, kind, reported) in [
            (one, 17, 0, true),
            (many, 17, 0, false),
            (one, 1, 8, true),
            (one, 1, 3, false),
        ] {
            let fragment = Fragment {
                identification: 1,
                offset: 0,
                more: true,
                protocol,
                payload: &[kind; 8],
            };
            let packet = IpPacket {
                source: addresses(true).0,
                target,
                hop_limit: 64,
                traffic_class: 0,
                dont_fragment: false,
                protocol,
                bytes: b"the first packet",
                header_len: 20,
                content: Content::Fragment(fragment),
            };
            let mut r = Reassembler::new(Limits::default());
            r.add(NOW, 1, &packet, &fragment);
            let mut told = vec![];
            r.expire(NOW + Duration::from_secs(30), |e| {
                told.push(e.first_header.is_some())
            });
            assert_eq!(told, [reported], "{target} {protocol} {kind}");
        }
    }

    proptest! {
        #[test]
        fn any_order_gives_the_datagram(
            len in 17_usize..4000,
            step in 1_usize..60,
            order in any::<u64>(),
            v4 in any::<bool>(),
        ) {
            // At most RANGES_MAX holes, whatever the order.
            let step = (step * 8).max(len.div_ceil(RANGES_MAX).next_multiple_of(8));
            let mut cuts: Vec<_> = (0..len).step_by(step).map(|f| (f, len.min(f + step))).collect();
            cuts.sort_by_key(|&(from, _)| {
                (from as u64 + 1).wrapping_mul(order | 1).rotate_left(17)
            });
            let mut r = Reassembler::new(Limits::default());
            let mut result = None;
            for (n, &(from, to)) in cuts.iter().enumerate() {
                match add(&mut r, (v4, 7), from, to, to < len) {
                    Outcome::Complete(datagram) => {
                        prop_assert_eq!(n, cuts.len() - 1);
                        result = Some(datagram.payload);
                    }
                    other => prop_assert_eq!(other, Outcome::Pending),
                }
            }
            prop_assert_eq!(result, Some(bytes(0..len)));
            prop_assert_eq!(r.bytes(), 0);
        }

        #[test]
        fn hostile_fragments_stay_within_bounds(
            fragments in prop::collection::vec(
                (0_u32..6, 0_usize..8191, 1_usize..3000, any::<bool>()), 1..200,
            ),
        ) {
            let limits = Limits { datagrams_max: 4, bytes_max: 100_000, ..Limits::default() };
            let mut r = Reassembler::new(limits);
            for (id, offset, len, more) in fragments {
                add_bytes(&mut r, (true, id), offset * 8, &vec![1; len], more);
                prop_assert!(r.len() <= 4);
                prop_assert!(r.bytes() <= 100_000);
                let held: usize = r.assemblies.iter().map(Assembly::bytes).sum();
                prop_assert_eq!(r.bytes(), held);
            }
        }

        /// Whatever comes in whatever order, the answer is that of a map from places to bytes.
        #[test]
        fn a_datagram_is_what_a_map_of_bytes_says(
            fragments in prop::collection::vec(
                (0_usize..24, 1_usize..6, any::<bool>(), 0_usize..8, 0_u8..20), 1..40,
            ),
            v4 in any::<bool>(),
        ) {
            let mut r = Reassembler::new(Limits::default());
            let mut model = Model::default();
            for (from, len, more, odd, change) in fragments {
                let (from, len) = (from * 8, len * 8);
                // Only a last fragment may have an odd length.
                let len = if more { len } else { len - odd };
                let mut payload = bytes(from..from + len);
                if change == 0 {
                    payload[0] ^= 1;
                }
                let outcome = add_bytes(&mut r, (v4, 1), from, &payload, more);
                let outcome = match outcome {
                    Outcome::Complete(datagram) => Ok(Some(datagram.payload)),
                    Outcome::Pending => Ok(None),
                    Outcome::Dropped(reason) => Err(reason),
                };
                prop_assert_eq!(outcome, model.add(from, &payload, more));
            }
        }
    }

    /// A datagram in assembly, as simply as it can be said.
    #[derive(Default)]
    struct Model {
        bytes: std::collections::BTreeMap<usize, u8>,
        end: Option<usize>,
        condemned: bool,
    }

    impl Model {
        fn add(
            &mut self,
            from: usize,
            payload: &[u8],
            more: bool,
        ) -> Result<Option<Vec<u8>>, Reason> {
            if self.condemned {
                return Err(Reason::Condemned);
            }
            let to = from + payload.len();
            let ends_at = (!more).then_some(to);
            let last = self.bytes.last_key_value().map_or(0, |(at, _)| at + 1);
            let contradicts = match (self.end, ends_at) {
                (Some(end), Some(other)) => end != other,
                (Some(end), None) => to > end,
                (None, Some(end)) => last > end,
                (None, None) => false,
            };
            if contradicts {
                self.condemned = true;
                return Err(Reason::BadEnd);
            }
            let held = |at: usize| self.bytes.get(&at).copied();
            if (from..to).any(|at| held(at).is_some()) {
                let same = payload
                    .iter()
                    .zip(from..)
                    .all(|(&byte, at)| held(at) == Some(byte));
                self.condemned = !same;
                return Err(if same {
                    Reason::Duplicate
                } else {
                    Reason::Overlap
                });
            }
            self.bytes.extend((from..to).zip(payload.iter().copied()));
            self.end = self.end.or(ends_at);
            if self.end != Some(self.bytes.len()) {
                return Ok(None);
            }
            Ok(Some(std::mem::take(self).bytes.into_values().collect()))
        }
    }
}
