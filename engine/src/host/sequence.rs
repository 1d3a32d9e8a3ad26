//! Initial sequence numbers (RFC 6528 §3): a keyed hash of the connection's addresses and ports, plus a
//! clock that advances once every 4 µs. Data goes faster than that clock, so a connection that takes the
//! place of one in TIME-WAIT begins beyond what that one has used (RFC 9293 §3.6.1).

use std::hash::{BuildHasher, Hash, Hasher, RandomState};

use siphasher::sip::SipHasher13;
use towpath_stack::Instant;
use towpath_stack::flow::FlowKey;
use towpath_stack::tcp::seq::SequenceNumber;

/// Sequence numbers left free between a connection in TIME-WAIT and the one that takes its place.
const SUCCESSOR_GAP: u32 = 64 << 10;

/// The key, which no guest can know.
#[derive(Clone, Copy)]
pub(crate) struct SequenceSecret(u64, u64);

impl SequenceSecret {
    /// A new one, from the standard library's random keys.
    pub(crate) fn random() -> Self {
        let keys = RandomState::new();
        Self(keys.hash_one(0_u8), keys.hash_one(1_u8))
    }

    /// Always the same, for a world that can be replayed.
    pub(crate) const fn known(key: u64) -> Self {
        Self(key, key.rotate_left(32))
    }

    /// The initial sequence number of a connection that begins now; `used` is the end of the sequence
    /// numbers of one in TIME-WAIT whose place it takes.
    pub(crate) fn initial(self, key: &FlowKey, now: Instant, used: Option<SequenceNumber>) -> u32 {
        let clock = (now.as_nanos() / 4_000) as u32;
        let mut hasher = SipHasher13::new_with_keys(self.0, self.1);
        key.hash(&mut hasher);
        let fresh = SequenceNumber((hasher.finish() as u32).wrapping_add(clock));
        used.map_or(fresh, |used| fresh.max(used + SUCCESSOR_GAP)).0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use towpath_stack::Address;

    #[test]
    fn numbers_differ_by_connection_and_secret_and_move_with_time() {
        let secret = SequenceSecret::random();
        let key = |guest_port| FlowKey {
            guest: 0,
            protocol: towpath_stack::flow::Protocol::Tcp,
            guest_address: Address::v4([10, 0, 0, 3]),
            remote_address: Address::v4([192, 0, 2, 1]),
            guest_port,
            remote_port: 80,
        };
        let at = |port, micros: u64| {
            secret.initial(&key(port), Instant::from_nanos(micros * 1_000), None)
        };
        assert_eq!(at(1, 400).wrapping_sub(at(1, 0)), 100);
        assert_ne!(at(1, 0), at(2, 0));
        let other = SequenceSecret::random();
        assert_ne!(at(1, 0), other.initial(&key(1), Instant::ZERO, None));
        // In the place of a connection that sent much in a short time, and of one that sent little.
        let first = SequenceNumber(at(1, 0));
        for (used, begins_anew) in [(first + 1_000_000, true), (first - 1_000_000, false)] {
            let next = secret.initial(&key(1), Instant::ZERO, Some(used));
            assert!(SequenceNumber(next).after(used));
            assert_eq!(next != first.0, begins_anew);
        }
    }
}
