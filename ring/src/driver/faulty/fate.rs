//! What happens to the next frame: drawn from a seed, the same for the same row of frames.

use std::fmt;

use super::plan::{FaultPlan, Faults};
use crate::driver::sim::Random;

/// Draws the fate of each frame of one direction.
///
/// Every frame takes the same count of random numbers, so that the fate of the hundredth frame
/// does not depend on what the ones before it were, nor on how often another fault strikes.
#[derive(Clone, Debug)]
pub struct Fates {
    faults: Faults,
    random: Random,
}

impl Fates {
    /// Of frames from the guest.
    #[must_use]
    pub fn up(plan: &FaultPlan) -> Fates {
        Fates {
            faults: plan.up,
            random: Random::new(plan.seed),
        }
    }

    /// Of frames to the guest.
    #[must_use]
    pub fn down(plan: &FaultPlan) -> Fates {
        Fates {
            faults: plan.down,
            // Far from where `up` begins.
            random: Random::new(plan.seed ^ 0x5bd1_e995_9e37_79b9),
        }
    }

    /// What happens to the next frame.
    pub fn draw(&mut self) -> Fate {
        let faults = self.faults;
        let [
            loss,
            duplicate,
            reorder,
            gap,
            jitter,
            corrupt,
            truncate,
            place,
        ] = std::array::from_fn(|_| self.random.next());
        let flipped = faults.corrupt.takes(corrupt);
        let cut = faults.truncate.takes(truncate);
        Fate {
            copies: match (faults.loss.takes(loss), faults.duplicate.takes(duplicate)) {
                (true, _) => 0,
                (false, false) => 1,
                (false, true) => 2,
            },
            behind: match faults.reorder.takes(reorder) {
                true => 1 + (gap % u64::from(faults.gap_frames)) as u32,
                false => 0,
            },
            delay_ns: faults.delay_ns + jitter % (faults.jitter_ns + 1),
            damage: (flipped || cut).then_some(Damage {
                flipped,
                cut,
                place,
            }),
        }
    }
}

/// What happens to one frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Fate {
    /// How often it arrives: 0, 1 or 2 times.
    pub copies: u32,
    /// How many later frames pass it. A link without more frames lets it go after a time.
    pub behind: u32,
    /// How much later it comes, in ns.
    pub delay_ns: u64,
    /// What is done to its bytes.
    pub damage: Option<Damage>,
}

/// What is done to the bytes of a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Damage {
    /// One bit is flipped.
    pub flipped: bool,
    /// The end is cut off.
    pub cut: bool,
    place: u64,
}

impl Damage {
    /// Flips a bit behind the first `spared` bytes.
    pub fn flip(&self, bytes: &mut [u8], spared: usize) {
        let bytes = bytes.get_mut(spared..).unwrap_or_default();
        if !bytes.is_empty() {
            let bit = self.place % (bytes.len() as u64 * 8);
            bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
        }
    }

    /// Cuts off at least one byte, and nothing of the first `spared`.
    pub fn cut(&self, bytes: &mut Vec<u8>, spared: usize) {
        let rest = bytes.len().saturating_sub(spared);
        if rest > 0 {
            bytes.truncate(spared + (self.place % rest as u64) as usize);
        }
    }
}

/// What was done to the frames of one direction.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FaultCounts {
    /// Frames that came to the link.
    pub frames: u64,
    /// Frames that were lost on purpose.
    pub lost: u64,
    /// Frames that arrived twice.
    pub duplicated: u64,
    /// Frames that others were let pass.
    pub reordered: u64,
    /// Frames with a flipped bit.
    pub corrupted: u64,
    /// Frames that were cut.
    pub truncated: u64,
    /// Frames that were lost because those under way took all the memory that they may.
    pub overflowed: u64,
}

impl FaultCounts {
    /// Adds what others counted.
    pub fn add(&mut self, other: &FaultCounts) {
        let FaultCounts {
            frames,
            lost,
            duplicated,
            reordered,
            corrupted,
            truncated,
            overflowed,
        } = other;
        self.frames += frames;
        self.lost += lost;
        self.duplicated += duplicated;
        self.reordered += reordered;
        self.corrupted += corrupted;
        self.truncated += truncated;
        self.overflowed += overflowed;
    }
}

impl fmt::Display for FaultCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "of {} frames {} lost, {} duplicated, {} reordered, {} corrupted, {} truncated, \
             {} overflowed",
            self.frames,
            self.lost,
            self.duplicated,
            self.reordered,
            self.corrupted,
            self.truncated,
            self.overflowed
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fates(plan: &str) -> (Fates, Fates) {
        let plan = plan.parse().unwrap();
        (Fates::up(&plan), Fates::down(&plan))
    }

    fn draw(mut fates: Fates, count: usize) -> Vec<Fate> {
        (0..count).map(|_| fates.draw()).collect()
    }

    #[test]
    fn the_seed_decides() {
        let all = "loss=10%,duplicate=10%,reorder=10%,corrupt=10%,truncate=10%,jitter=1ms";
        let seeded = |seed: u64| fates(&format!("{all},seed={seed}"));
        assert_eq!(draw(seeded(1).0, 1000), draw(seeded(1).0, 1000));
        assert_ne!(draw(seeded(1).0, 1000), draw(seeded(2).0, 1000));
        assert_ne!(draw(seeded(1).0, 1000), draw(seeded(1).1, 1000));
    }

    #[test]
    fn one_fault_does_not_move_another() {
        let lost = |plan| {
            let fates = draw(fates(plan).0, 1000);
            fates
                .iter()
                .map(|fate| fate.copies == 0)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            lost("loss=10%"),
            lost("loss=10%,duplicate=50%,reorder=50%,corrupt=50%")
        );
    }

    #[test]
    fn shares_are_kept() {
        let (up, down) = fates("loss=10%,duplicate=20%,down.corrupt=30%,reorder=40%,gap=4");
        for fates in [draw(up.clone(), 10_000), draw(down.clone(), 10_000)] {
            let count = |chosen: fn(&Fate) -> bool| fates.iter().filter(|f| chosen(f)).count();
            assert!((900..1100).contains(&count(|fate| fate.copies == 0)));
            assert!((1700..1900).contains(&count(|fate| fate.copies == 2)));
            assert!((3800..4200).contains(&count(|fate| fate.behind > 0)));
            assert_eq!(fates.iter().map(|fate| fate.behind).max(), Some(4));
        }
        let damaged = |fates: Fates| {
            draw(fates, 10_000)
                .iter()
                .filter(|f| f.damage.is_some())
                .count()
        };
        assert_eq!(damaged(up), 0);
        assert!((2800..3200).contains(&damaged(down)));
    }

    #[test]
    fn delay_and_jitter_add_up() {
        let fates = draw(fates("delay=1ms,jitter=500us").0, 1000);
        let delays = fates.iter().map(|fate| fate.delay_ns);
        assert!(
            delays
                .clone()
                .all(|delay| (1_000_000..=1_500_000).contains(&delay))
        );
        assert!(delays.max() > Some(1_450_000));
    }

    #[test]
    fn damage_spares_what_it_is_told_to() {
        for place in 0..1000 {
            let damage = Damage {
                flipped: true,
                cut: true,
                place,
            };
            let mut bytes = vec![0; 20];
            damage.flip(&mut bytes, 14);
            assert_eq!(bytes[..14], [0; 14]);
            assert_eq!(bytes.iter().map(|byte| byte.count_ones()).sum::<u32>(), 1);
            damage.cut(&mut bytes, 14);
            assert!((14..20).contains(&bytes.len()));
            damage.flip(&mut bytes[..14], 14);
            damage.cut(&mut bytes, 30);
            assert!((14..20).contains(&bytes.len()));
        }
    }
}
