//! One direction of a faulty link: what comes in, what passes as it is, what waits in the line.

use super::fate::{Fates, FaultCounts};
use super::line::Line;
use super::wire;
use crate::buffer::Slice;
use crate::driver::LinkId;

/// How many bytes may be under way in one direction. At 10 Gbit/s that is a delay of 50 ms.
const LINE_BYTES_MAX: usize = 64 << 20;

/// One direction.
#[derive(Debug)]
pub(super) struct Way {
    fates: Fates,
    line: Line<(LinkId, Slice)>,
    counts: FaultCounts,
}

impl Way {
    pub(super) fn new(fates: Fates) -> Way {
        Way {
            fates,
            line: Line::new(LINE_BYTES_MAX),
            counts: FaultCounts::default(),
        }
    }

    pub(super) fn counts(&self) -> FaultCounts {
        self.counts
    }

    /// Decides about a frame, of which `copy` makes one of its own. Says how often the frame passes
    /// now as it is. Call [`Way::leave`] after it.
    pub(super) fn enter(
        &mut self,
        now: u64,
        link: LinkId,
        offload_header: bool,
        copy: impl FnOnce() -> Vec<u8>,
    ) -> u32 {
        let fate = self.fates.draw();
        self.counts.frames += 1;
        match fate.copies {
            0 => {
                self.counts.lost += 1;
                return 0;
            }
            1 => {}
            _ => self.counts.duplicated += 1,
        }
        let late = fate.delay_ns > 0 || fate.behind > 0 || !self.line.is_open();
        if !late && fate.damage.is_none() {
            for _ in 0..fate.copies {
                self.line.passed();
            }
            return fate.copies;
        }
        let mut frame = copy();
        if let Some(damage) = fate.damage
            && wire::damage(&mut frame, offload_header, &damage)
        {
            self.counts.corrupted += u64::from(damage.flipped);
            self.counts.truncated += u64::from(damage.cut);
        }
        self.counts.reordered += u64::from(fate.behind > 0);
        let (frame, due_at) = (Slice::from_vec(frame), now + fate.delay_ns);
        // Of a frame that is held back and comes twice, one is in time.
        for behind in [fate.behind, 0].into_iter().take(fate.copies as usize) {
            let entry = (link, frame.clone());
            if self.line.push(due_at, behind, frame.len(), entry).is_err() {
                self.counts.overflowed += 1;
            }
        }
        0
    }

    /// The next frame that leaves.
    pub(super) fn leave(&mut self, now: u64) -> Option<(LinkId, Slice)> {
        self.line.pop(now)
    }

    /// When the next frame leaves if none comes before.
    pub(super) fn next_at(&self) -> Option<u64> {
        self.line.next_at()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::faulty::FaultPlan;

    const LINK: LinkId = LinkId(0);

    /// Sends frames numbered from 0 through, one each nanosecond, and then waits for the last.
    fn through(plan: &str, count: u16) -> (Vec<u16>, FaultCounts) {
        let plan: FaultPlan = plan.parse().unwrap();
        let mut way = Way::new(Fates::up(&plan));
        let number = |frame: Slice| u16::from_be_bytes([frame[14], frame[15]]);
        let mut out = Vec::new();
        for n in 0..count {
            let frame = [&[0; 12][..], &[8, 0], &n.to_be_bytes()].concat();
            let now = u64::from(n);
            let passes = way.enter(now, LINK, false, || frame.clone());
            out.extend((0..passes).map(|_| n));
            while let Some((_, frame)) = way.leave(now) {
                out.push(number(frame));
            }
        }
        while let Some(now) = way.next_at() {
            while let Some((_, frame)) = way.leave(now) {
                out.push(number(frame));
            }
        }
        (out, way.counts())
    }

    fn all(count: u16) -> Vec<u16> {
        (0..count).collect()
    }

    #[test]
    fn without_faults_frames_pass_as_they_are() {
        let plan = FaultPlan::default();
        let mut way = Way::new(Fates::down(&plan));
        let passes = way.enter(0, LINK, true, || unreachable!("nothing is copied"));
        assert_eq!((passes, way.leave(0), way.next_at()), (1, None, None));
    }

    #[test]
    fn lost_frames_are_missing_and_doubled_ones_come_twice() {
        let (mut out, counts) = through("loss=10%,duplicate=10%", 1000);
        let came = out.len() as u64;
        assert_eq!(came, 1000 - counts.lost + counts.duplicated);
        out.dedup();
        assert_eq!(out.len() as u64, 1000 - counts.lost);
        assert!(out.is_sorted());
        assert!((70..130).contains(&counts.lost) && (70..130).contains(&counts.duplicated));
    }

    #[test]
    fn reordered_frames_come_later_and_all_come() {
        for plan in ["reorder=10%", "reorder=10%,delay=1us,jitter=1us"] {
            let (mut out, counts) = through(plan, 1000);
            let out_of_order = out.windows(2).filter(|pair| pair[0] > pair[1]).count();
            assert!(
                (50..=counts.reordered).contains(&(out_of_order as u64)),
                "{plan}"
            );
            out.sort_unstable();
            assert_eq!(out, all(1000), "{plan}");
        }
    }

    #[test]
    fn late_frames_come_in_order() {
        let (out, counts) = through("delay=1us,jitter=1ms", 1000);
        assert_eq!(out, all(1000));
        assert_eq!(
            counts,
            FaultCounts {
                frames: 1000,
                ..FaultCounts::default()
            }
        );
    }

    #[test]
    fn a_frame_that_is_held_back_and_doubled_is_in_time_once() {
        let (out, _) = through("duplicate=100%,reorder=10%", 1000);
        assert_eq!(out.len(), 2000);
        let mut first = Vec::new();
        for n in out {
            if !first.contains(&n) {
                first.push(n);
            }
        }
        assert_eq!(first, all(1000));
    }

    #[test]
    fn more_than_may_be_under_way_is_lost_and_counted() {
        let plan: FaultPlan = "delay=1s".parse().unwrap();
        let mut way = Way::new(Fates::up(&plan));
        for _ in 0..65 {
            way.enter(0, LINK, false, || vec![0; 1 << 20]);
        }
        assert_eq!(way.counts().overflowed, 1);
        assert_eq!(std::iter::from_fn(|| way.leave(1_000_000_000)).count(), 64);
    }
}
