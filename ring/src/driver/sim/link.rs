//! A link that loses, doubles, reorders, delays, damages and cuts frames.

use std::collections::BTreeMap;

use super::Random;

/// What a link does to frames of one direction. Chances are parts of 10,000.
#[derive(Clone, Debug, Default)]
pub struct LinkFaults {
    /// Frames that never arrive.
    pub loss: u32,
    /// Frames that arrive twice.
    pub duplicate: u32,
    /// Frames that arrive up to `reorder_ns` later, behind others.
    pub reorder: u32,
    /// By how much a reordered or doubled frame is late at most.
    pub reorder_ns: u64,
    /// Frames of which one bit arrives changed.
    pub corrupt: u32,
    /// Frames that are cut short.
    pub truncate: u32,
    /// What every frame takes.
    pub delay_ns: u64,
    /// What it takes more at most, without overtaking.
    pub jitter_ns: u64,
    /// Time that each byte takes on the wire, in picoseconds.
    pub byte_ps: u64,
    /// Bytes that may wait for the wire; 0: any number. More are lost.
    pub queue_bytes: u64,
}

/// Frames on their way in one direction.
#[derive(Debug)]
pub struct SimLink {
    faults: LinkFaults,
    random: Random,
    /// What is in front of a frame and not on the wire: never damaged.
    spared: usize,
    flights: BTreeMap<(u64, u64), Vec<u8>>,
    order: u64,
    last_at: u64,
    /// When the wire is free, in picoseconds.
    free_ps: u128,
    /// What became of frames.
    pub counted: LinkCounts,
}

/// What a [`SimLink`] did.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct LinkCounts {
    /// Frames given to it.
    pub sent: u64,
    /// Frames that it lost, for want of room among them.
    pub lost: u64,
    /// Frames that it doubled.
    pub doubled: u64,
    /// Frames that it damaged or cut.
    pub damaged: u64,
}

impl SimLink {
    /// A link; the first `spared` bytes of each frame are no part of what can be damaged.
    #[must_use]
    pub fn new(faults: LinkFaults, random: Random, spared: usize) -> SimLink {
        SimLink {
            faults,
            random,
            spared,
            flights: BTreeMap::new(),
            order: 0,
            last_at: 0,
            free_ps: 0,
            counted: LinkCounts::default(),
        }
    }

    /// Changes what it does from now on.
    pub fn set_faults(&mut self, faults: LinkFaults) {
        self.faults = faults;
    }

    /// A frame leaves.
    pub fn send(&mut self, now: u64, mut frame: Vec<u8>) {
        self.counted.sent += 1;
        let Some(wire_ns) = self.pass_wire(now, frame.len()) else {
            self.counted.lost += 1;
            return;
        };
        let (faults, random) = (&self.faults, &mut self.random);
        if random.chance(faults.loss) {
            self.counted.lost += 1;
            return;
        }
        let jitter = random.below(faults.jitter_ns + 1);
        let mut at = now + wire_ns + faults.delay_ns + jitter;
        if random.chance(faults.reorder) {
            at += random.below(faults.reorder_ns + 1);
        } else {
            self.last_at = self.last_at.max(at);
            at = self.last_at;
        }
        let again = random.chance(faults.duplicate).then(|| {
            let later = random.below(faults.reorder_ns + 1);
            (at + later, frame.clone())
        });
        self.damage(&mut frame);
        self.launch(at, frame);
        if let Some((at, frame)) = again {
            self.counted.doubled += 1;
            self.launch(at, frame);
        }
    }

    /// How long a frame waits for the wire and passes it, in ns; `None` if too much waits already.
    fn pass_wire(&mut self, now: u64, len: usize) -> Option<u64> {
        let now_ps = u128::from(now) * 1000;
        let waiting_ps = self.free_ps.saturating_sub(now_ps);
        let limit_ps = u128::from(self.faults.queue_bytes) * u128::from(self.faults.byte_ps);
        if limit_ps > 0 && waiting_ps > limit_ps {
            return None;
        }
        let takes_ps = len as u128 * u128::from(self.faults.byte_ps);
        self.free_ps = now_ps + waiting_ps + takes_ps;
        Some(((waiting_ps + takes_ps) / 1000) as u64)
    }

    fn damage(&mut self, frame: &mut Vec<u8>) {
        let at_risk = frame.len().saturating_sub(self.spared) as u64;
        if at_risk == 0 {
            return;
        }
        if self.random.chance(self.faults.corrupt) {
            let bit = self.random.below(at_risk * 8) as usize;
            frame[self.spared + bit / 8] ^= 1 << (bit % 8);
            self.counted.damaged += 1;
        }
        if self.random.chance(self.faults.truncate) {
            let kept = self.random.below(at_risk) as usize;
            frame.truncate(self.spared + kept);
            self.counted.damaged += 1;
        }
    }

    fn launch(&mut self, at: u64, frame: Vec<u8>) {
        self.order += 1;
        self.flights.insert((at, self.order), frame);
    }

    /// When the next frame arrives.
    #[must_use]
    pub fn next_at(&self) -> Option<u64> {
        self.flights.first_key_value().map(|(&(at, _), _)| at)
    }

    /// The next frame that has arrived.
    pub fn take(&mut self, now: u64) -> Option<Vec<u8>> {
        let first = self.flights.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    /// Frames on their way.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(faults: LinkFaults, frames: u8) -> Vec<(u64, Vec<u8>)> {
        let mut link = SimLink::new(faults, Random::new(7), 1);
        for number in 0..frames {
            link.send(u64::from(number), vec![number; 10]);
        }
        std::iter::from_fn(|| {
            let at = link.next_at()?;
            link.take(at).map(|frame| (at, frame))
        })
        .collect()
    }

    #[test]
    fn a_clean_link_delays_and_keeps_order() {
        let faults = LinkFaults {
            delay_ns: 1000,
            jitter_ns: 500,
            ..LinkFaults::default()
        };
        let arrived = arrivals(faults, 100);
        assert_eq!(arrived.len(), 100);
        for (number, (at, frame)) in arrived.iter().enumerate() {
            assert_eq!(frame, &vec![number as u8; 10]);
            assert!((1000..=1700).contains(at));
        }
    }

    #[test]
    fn a_bad_link_does_all_that_it_says() {
        let faults = LinkFaults {
            loss: 2000,
            duplicate: 2000,
            reorder: 2000,
            reorder_ns: 1000,
            corrupt: 2000,
            truncate: 2000,
            ..LinkFaults::default()
        };
        let arrived = arrivals(faults, 200);
        let numbers: Vec<u8> = arrived.iter().map(|(_, frame)| frame[0]).collect();
        let missing = (0..200).filter(|n| !numbers.contains(n)).count();
        assert!((20..60).contains(&missing), "{missing} lost");
        assert!(arrived.len() > 200 - missing, "none came twice");
        assert!(!numbers.is_sorted(), "none overtook another");
        assert!(arrived.iter().any(|(_, frame)| frame.len() < 10));
        let changed = |frame: &Vec<u8>| frame.iter().any(|&byte| byte != frame[0]);
        assert!(arrived.iter().any(|(_, frame)| changed(frame)));
    }

    #[test]
    fn a_wire_of_a_rate_holds_a_queue_of_a_length() {
        let faults = LinkFaults {
            byte_ps: 1_000_000,
            queue_bytes: 25,
            ..LinkFaults::default()
        };
        // 10 bytes take 10 µs; three wait behind the first, the rest is lost.
        let arrived = arrivals(faults, 10);
        let times: Vec<u64> = arrived.iter().map(|&(at, _)| at).collect();
        assert_eq!(times, [10_000, 20_000, 30_000]);
    }
}
