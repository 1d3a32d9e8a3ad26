//! What happened in a world: always a hash of it, and readable lines when asked for.

use std::fmt::Display;

#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    prints: bool,
}

impl Trace {
    pub(crate) fn new(prints: bool) -> Trace {
        Trace { hash: 0, prints }
    }

    /// Something happened at `now`: `fact` is what of it goes into the hash, `line` what people read.
    pub(crate) fn note<L: Display>(&mut self, now: u64, fact: &[u8], line: impl FnOnce() -> L) {
        self.mix(now);
        for chunk in fact.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
        if self.prints {
            println!("{:>14.6}  {}", now as f64 / 1e9, line());
        }
    }

    fn mix(&mut self, word: u64) {
        self.hash = (self.hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    /// Equal for two runs in which the same happened at the same times.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }
}
