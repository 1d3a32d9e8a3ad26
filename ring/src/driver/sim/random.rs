//! Numbers from a seed.

/// SplitMix64. Its numbers never change with a release of some crate, so a seed that once found a
/// bug finds it for ever.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// A sequence of a seed for one purpose: what is taken for another does not change it.
    #[must_use]
    pub fn named(seed: u64, purpose: &str, number: u64) -> Random {
        let name = purpose.bytes().fold(number, |name, byte| {
            (name ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Random(Random(seed).next() ^ Random(name).next())
    }

    /// Another sequence, which does not change this one however much is taken from it.
    #[must_use]
    pub fn branch(&mut self) -> Random {
        Random(self.next())
    }

    /// All 64 bits.
    #[expect(clippy::should_implement_trait, reason = "it has no end to iterate to")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// In `0..end`; 0 if that is empty.
    pub fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    /// In `first..=last`.
    pub fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last.saturating_sub(first).saturating_add(1))
    }

    /// True so many times in 10,000.
    pub fn chance(&mut self, per_10_000: u32) -> bool {
        per_10_000 > 0 && self.below(10_000) < u64::from(per_10_000)
    }

    /// One of them.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_sequence() {
        let mut random = Random::new(1234567);
        // The reference values of SplitMix64 for this seed.
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
        for _ in 0..1000 {
            assert!(random.below(7) < 7);
            assert!((3..=5).contains(&random.between(3, 5)));
            assert!(!random.chance(0) && random.chance(10_000));
        }
        assert_eq!(random.below(0), 0);
    }
}
