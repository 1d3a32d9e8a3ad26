//! The demonstration's payload: bytes that depend on their position, and a checksum of them that
//! costs less than moving them.

/// Size of the pieces in which payload is made and sent.
pub(crate) const BLOCK: usize = 256 << 10;

/// Fills blocks one after the other; every block differs.
pub(crate) struct Generator {
    block: Vec<u8>,
    number: u64,
}

impl Generator {
    pub(crate) fn new(seed: u64) -> Self {
        let mut state = seed | 1;
        let block = std::iter::repeat_with(|| {
            // xorshift64: no more is asked of it than to be no pattern.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .take(BLOCK / 8)
        .flatten()
        .collect();
        Self { block, number: 0 }
    }

    /// The next block.
    pub(crate) fn next(&mut self) -> &[u8] {
        self.number += 1;
        // One word per 4 KiB page carries the block's number: enough to tell blocks apart, and
        // cheap enough to leave the processor to the network.
        for page in self.block.chunks_exact_mut(4096) {
            page[..8].copy_from_slice(&self.number.to_le_bytes());
        }
        &self.block
    }
}

/// A position-dependent checksum over a stream that arrives in pieces of any size.
#[derive(Default)]
pub(crate) struct Checksum {
    lanes: [u64; 4],
    carry: Vec<u8>,
    bytes: u64,
}

const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
const STEP: usize = 32;

impl Checksum {
    pub(crate) fn update(&mut self, mut data: &[u8]) {
        self.bytes += data.len() as u64;
        if !self.carry.is_empty() {
            let n = data.len().min(STEP - self.carry.len());
            self.carry.extend_from_slice(&data[..n]);
            data = &data[n..];
            if self.carry.len() < STEP {
                return;
            }
            let carry = std::mem::take(&mut self.carry);
            self.step(&carry);
        }
        let mut steps = data.chunks_exact(STEP);
        for step in &mut steps {
            self.step(step);
        }
        self.carry.extend_from_slice(steps.remainder());
    }

    fn step(&mut self, step: &[u8]) {
        for (lane, word) in self.lanes.iter_mut().zip(step.chunks_exact(8)) {
            let word = u64::from_le_bytes(word.try_into().unwrap_or_default());
            *lane = (*lane ^ word).wrapping_mul(MULTIPLIER).rotate_left(29);
        }
    }

    /// The sum of all that came, its length included.
    pub(crate) fn finish(mut self) -> u64 {
        let mut last = std::mem::take(&mut self.carry);
        last.resize(STEP, 0);
        self.step(&last);
        self.lanes.iter().fold(self.bytes, |sum, lane| {
            (sum ^ lane).wrapping_mul(MULTIPLIER)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(data: &[u8], piece: usize) -> u64 {
        let mut sum = Checksum::default();
        data.chunks(piece).for_each(|piece| sum.update(piece));
        sum.finish()
    }

    #[test]
    fn the_sum_depends_on_content_and_order_but_not_on_pieces() {
        let data: Vec<u8> = Generator::new(7).next()[..10_001].to_vec();
        let whole = sum(&data, data.len());
        for piece in [1, 7, 31, 32, 33, 4096] {
            assert_eq!(sum(&data, piece), whole, "in pieces of {piece}");
        }
        let mut flipped = data.clone();
        flipped[5000] ^= 1;
        assert_ne!(sum(&flipped, 64), whole);
        let mut swapped = data.clone();
        swapped.swap(64, 65);
        assert_ne!(sum(&swapped, 64), whole);
        assert_ne!(sum(&data[..10_000], 64), whole);
    }

    #[test]
    fn blocks_differ() {
        let mut generator = Generator::new(1);
        let first = generator.next().to_vec();
        assert_ne!(generator.next(), first);
    }
}
