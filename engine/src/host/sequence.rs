//! The secret of initial sequence numbers (RFC 6528 §3): the key of a keyed hash, which no guest can know.

use std::hash::{BuildHasher, RandomState};

use siphasher::sip::SipHasher13;

/// Hashes as the standard library's `RandomState` does, with keys that can be chosen.
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
}

impl BuildHasher for SequenceSecret {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0, self.1)
    }
}
