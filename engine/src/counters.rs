//! What was moved, refused and dropped, by reason: one block of counters per core.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use towpath_stack::parse::Drop as ParseDrop;

macro_rules! counters {
    ($($name:ident $text:literal,)*) => {
        /// Everything that a core counts besides frames that could not be parsed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Counter {
            $(#[doc = $text] $name,)*
        }

        impl Counter {
            /// All counters, in the order in which they are shown.
            pub const ALL: &'static [Counter] = &[$(Counter::$name,)*];

            /// What it counts, for people.
            pub const fn text(self) -> &'static str {
                match self { $(Counter::$name => $text,)* }
            }
        }
    };
}

counters! {
    FramesIn "frames from the guest",
    FramesOut "frames to the guest",
    BytesUp "payload bytes from the guest taken by host sockets",
    BytesDown "payload bytes from host sockets sent to the guest",
    Batches "batches of completions",
    TcpOpened "TCP connections asked for by the guest",
    TcpConnected "TCP connections that the host side accepted",
    TcpRefused "TCP connections refused by the host side",
    TcpUnreachable "TCP connections to unreachable hosts",
    TcpTimedOut "TCP connects that timed out",
    TcpResetByGuest "TCP connections reset by the guest",
    TcpResetByHost "TCP connections reset by the host side",
    TcpGone "TCP connections given up because the guest fell silent",
    TcpRetransmissions "TCP segments sent again to the guest",
    TcpOutOfOrder "TCP segments from the guest that came out of order",
    GuestsCame "guests that came",
    GuestsLeft "guests that left",
    GuestsStalled "guests dismissed because they took nothing, or left a frame unfinished, for too long",
    UdpOpened "UDP mappings made",
    EchoOpened "ICMP echo ids mapped",
    DatagramsUp "datagrams from the guest handed to the host",
    DatagramsDown "datagrams handed to the guest",
    IcmpErrorsOut "ICMP errors told to the guest",
    IcmpErrorsIn "ICMP errors from the guest about packets to it",
    PathsNarrowed "times that a path to the guest took less than was thought",
    Reassembled "datagrams put together from fragments",
    DnsQueries "DNS queries from the guest",
    DhcpMessages "DHCP messages from the guest",
    FramesSwitched "frames passed from one guest to another",
    LaneOut "frames and messages handed to other cores",
    BufferCopies "slices copied out of pooled buffers for slow readers",
    RefusedTcpLimit "refused: too many TCP connections",
    RefusedTcpPending "refused: the oldest of too many TCP connections that were not open yet",
    RefusedUdpLimit "refused: too many UDP mappings",
    RefusedEchoLimit "refused: too many ICMP echo ids",
    RefusedSockets "refused: the host gave no more sockets",
    RefusedPolicy "refused: the address or port is not open to guests",
    DroppedSource "dropped: a source address that is not the guest's",
    DroppedStation "dropped: a frame for another station of the guest's network",
    DroppedMulticast "dropped: multicast or broadcast",
    DroppedOffload "dropped: an offload header that contradicts its frame",
    DroppedIcmp "dropped: an ICMP message or TCP segment that no flow of ours can use",
    DroppedFragment "dropped: a fragment that could not be reassembled",
    DroppedProtocol "dropped: a protocol other than TCP, UDP and ICMP",
    DroppedTcpSegment "dropped: a TCP segment that its connection did not accept",
    DroppedMemory "dropped: the memory for waiting bytes is used up (not acknowledged, so sent again)",
    DroppedIsolated "dropped: a frame for another guest, from whom it is kept apart",
    DroppedSpoofed "dropped: a source address that is the gateway's, a group's, or just heard at another port",
    DroppedTrespass "dropped: a guest that plays gateway, router or DHCP server for others",
    DroppedFlood "dropped: more broadcast and unknown targets than one guest may send to all",
    DroppedTooLong "dropped: a frame between guests that the other link can't take",
    DroppedFraming "guests dismissed: a frame of no bytes, or longer than the link takes",
    DroppedLinkFull "dropped: too much waits for the guest to take it",
    DroppedLane "dropped: the lane to the owning core was full",
    DroppedSend "dropped: a datagram that the host did not take",
    DroppedIcmpRate "dropped: ICMP errors above the rate limit",
    LostAtEnd "lost: acknowledged bytes that host sockets did not take before the end",
    DroppedAtEnd "dropped: a frame that came while the engine was ending",
    DroppedAsked "dropped: more DNS and DHCP than one guest may ask",
    DroppedService "dropped: DNS or DHCP while the service was busy",
}

const PARSE: usize = ParseDrop::ALL.len();
const COUNTERS: usize = Counter::ALL.len();

/// The counters of one core. Only that core writes; anyone may read.
#[repr(align(128))]
pub struct CoreCounters {
    counters: [AtomicU64; COUNTERS],
    parse: [AtomicU64; PARSE],
}

impl CoreCounters {
    pub(crate) fn new() -> Self {
        Self {
            counters: [const { AtomicU64::new(0) }; COUNTERS],
            parse: [const { AtomicU64::new(0) }; PARSE],
        }
    }

    /// One writer, so a load and a store do: no locked instruction per frame.
    pub(crate) fn add(&self, counter: Counter, n: u64) {
        let cell = &self.counters[counter as usize];
        cell.store(cell.load(Relaxed) + n, Relaxed);
    }

    pub(crate) fn bump(&self, counter: Counter) {
        self.add(counter, 1);
    }

    pub(crate) fn parse_drop(&self, reason: ParseDrop) {
        let cell = &self.parse[reason.index()];
        cell.store(cell.load(Relaxed) + 1, Relaxed);
    }
}

/// The sum over all cores at one moment. `Display` is the table that `-v` prints at exit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Totals {
    counters: [u64; COUNTERS],
    parse: [u64; PARSE],
}

impl Totals {
    pub(crate) fn of<'a>(cores: impl IntoIterator<Item = &'a CoreCounters>) -> Self {
        let mut totals = Self {
            counters: [0; COUNTERS],
            parse: [0; PARSE],
        };
        for core in cores {
            for (sum, cell) in totals.counters.iter_mut().zip(&core.counters) {
                *sum += cell.load(Relaxed);
            }
            for (sum, cell) in totals.parse.iter_mut().zip(&core.parse) {
                *sum += cell.load(Relaxed);
            }
        }
        totals
    }

    /// One counter's value.
    pub fn get(&self, counter: Counter) -> u64 {
        self.counters[counter as usize]
    }

    /// Frames that could not be parsed, for one reason.
    pub fn parse_drops(&self, reason: ParseDrop) -> u64 {
        self.parse[reason.index()]
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &counter in Counter::ALL {
            let value = self.get(counter);
            if value > 0 {
                writeln!(f, "{value:>16}  {}", counter.text())?;
            }
        }
        for &reason in ParseDrop::ALL.iter() {
            let value = self.parse_drops(reason);
            if value > 0 {
                writeln!(f, "{value:>16}  dropped: {}", reason.name())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_sums_and_the_table_shows_what_happened() {
        let (a, b) = (CoreCounters::new(), CoreCounters::new());
        a.add(Counter::FramesIn, 2);
        b.bump(Counter::FramesIn);
        b.parse_drop(ParseDrop::ALL[0]);
        let totals = Totals::of([&a, &b]);
        assert_eq!(totals.get(Counter::FramesIn), 3);
        assert_eq!(totals.parse_drops(ParseDrop::ALL[0]), 1);
        let table = totals.to_string();
        assert_eq!(table.lines().count(), 2, "{table}");
        assert!(table.contains("3  frames from the guest"), "{table}");
    }

    #[test]
    fn counters_index_their_own_place() {
        for (i, &counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(counter as usize, i);
        }
    }
}
