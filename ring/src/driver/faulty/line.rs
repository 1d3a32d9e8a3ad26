//! Frames of one direction that are under way: late, or held back until others have passed.
//!
//! Delay keeps the order. A frame that is to be overtaken leaves the row when its time has come,
//! stands beside it until enough others went by, and goes by itself if none come. Nobody waits for
//! it then but the timers of its transport.

use std::collections::VecDeque;

/// How long a frame stands aside for others that do not come, in ns.
const PATIENCE_NS: u64 = 2_000_000;

/// A bounded row of frames under way.
#[derive(Debug)]
pub struct Line<T> {
    /// Late frames, in the order in which they leave.
    row: VecDeque<Late<T>>,
    /// Frames that stand aside.
    aside: Vec<Aside<T>>,
    bytes: usize,
    bytes_max: usize,
}

#[derive(Debug)]
struct Late<T> {
    due_at: u64,
    behind: u32,
    bytes: usize,
    frame: T,
}

#[derive(Debug)]
struct Aside<T> {
    leaves_at: u64,
    /// How many more must pass.
    behind: u32,
    bytes: usize,
    frame: T,
}

impl<T> Line<T> {
    /// A line for frames of at most `bytes_max` bytes together.
    #[must_use]
    pub fn new(bytes_max: usize) -> Line<T> {
        Line {
            row: VecDeque::new(),
            aside: Vec::new(),
            bytes: 0,
            bytes_max,
        }
    }

    /// Whether a frame that is not late would be the next to leave.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.row.is_empty()
    }

    /// Puts a frame of `bytes` bytes in, which leaves at `due_at` or after the one before it, and
    /// after `behind` others. Gives it back when there is no room.
    ///
    /// # Errors
    ///
    /// The frame.
    pub fn push(&mut self, due_at: u64, behind: u32, bytes: usize, frame: T) -> Result<(), T> {
        if self.bytes + bytes > self.bytes_max {
            return Err(frame);
        }
        self.bytes += bytes;
        let last = self.row.back().map_or(0, |last| last.due_at);
        self.row.push_back(Late {
            due_at: due_at.max(last),
            behind,
            bytes,
            frame,
        });
        Ok(())
    }

    /// Takes the next frame that leaves at `now` or before.
    pub fn pop(&mut self, now: u64) -> Option<T> {
        loop {
            let leaves = |aside: &Aside<T>| aside.behind == 0 || aside.leaves_at <= now;
            if let Some(at) = self.aside.iter().position(leaves) {
                let Aside { bytes, frame, .. } = self.aside.remove(at);
                self.bytes -= bytes;
                return Some(frame);
            }
            self.row.front().filter(|late| late.due_at <= now)?;
            let late = self.row.pop_front()?;
            if late.behind == 0 {
                self.bytes -= late.bytes;
                self.passed();
                return Some(late.frame);
            }
            self.aside.push(Aside {
                leaves_at: now + PATIENCE_NS,
                behind: late.behind,
                bytes: late.bytes,
                frame: late.frame,
            });
        }
    }

    /// Counts a frame that passed by without having been in the line. Call [`Line::pop`] after it.
    pub fn passed(&mut self) {
        for aside in &mut self.aside {
            aside.behind = aside.behind.saturating_sub(1);
        }
    }

    /// When [`Line::pop`] has the next frame, if none passes before.
    #[must_use]
    pub fn next_at(&self) -> Option<u64> {
        let late = self.row.front().map(|late| late.due_at);
        let aside = self.aside.iter().map(|aside| aside.leaves_at);
        late.into_iter().chain(aside).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(line: &mut Line<u32>, now: u64) -> Vec<u32> {
        std::iter::from_fn(|| line.pop(now)).collect()
    }

    #[test]
    fn delay_keeps_the_order() {
        let mut line = Line::new(100);
        line.push(30, 0, 1, 1).unwrap();
        line.push(20, 0, 1, 2).unwrap();
        line.push(40, 0, 1, 3).unwrap();
        assert_eq!(line.next_at(), Some(30));
        assert_eq!(drain(&mut line, 29), []);
        assert_eq!(drain(&mut line, 30), [1, 2]);
        assert_eq!(drain(&mut line, 40), [3]);
        assert_eq!((line.next_at(), line.bytes), (None, 0));
    }

    #[test]
    fn others_pass_a_frame_that_is_held_back() {
        let mut line = Line::new(100);
        line.push(10, 2, 1, 1).unwrap();
        for frame in 2..5 {
            line.push(10, 0, 1, frame).unwrap();
        }
        assert_eq!(drain(&mut line, 10), [2, 3, 1, 4]);
        assert_eq!(line.bytes, 0);
    }

    #[test]
    fn frames_that_were_never_in_the_line_count_as_passing() {
        let mut line = Line::new(100);
        line.push(0, 2, 1, 1).unwrap();
        assert_eq!(drain(&mut line, 0), []);
        assert!(line.is_open());
        line.passed();
        assert_eq!(drain(&mut line, 1), []);
        line.passed();
        assert_eq!(drain(&mut line, 1), [1]);
    }

    #[test]
    fn without_others_it_goes_by_itself() {
        let mut line = Line::new(100);
        line.push(5, 3, 1, 1).unwrap();
        assert_eq!(drain(&mut line, 5), []);
        assert_eq!(line.next_at(), Some(5 + PATIENCE_NS));
        assert_eq!(drain(&mut line, 4 + PATIENCE_NS), []);
        assert_eq!(drain(&mut line, 5 + PATIENCE_NS), [1]);
        assert_eq!((line.next_at(), line.bytes), (None, 0));
    }

    #[test]
    fn what_does_not_fit_is_given_back() {
        let mut line = Line::new(10);
        line.push(1, 1, 6, 1).unwrap();
        assert_eq!(line.push(1, 0, 5, 2), Err(2));
        line.push(1, 0, 4, 3).unwrap();
        assert_eq!(drain(&mut line, 1), [3, 1]);
        line.push(2, 0, 10, 4).unwrap();
    }
}
