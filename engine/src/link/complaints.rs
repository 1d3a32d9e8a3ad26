//! Lines about guests that were closed, but no more than a log can bear: whoever can connect can cause
//! them, thousands in a second.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Lines that may come at once.
const BURST: u32 = 20;
/// How long it takes until there may be one more.
const INTERVAL: Duration = Duration::from_secs(1);

/// The log's warnings about guests. What is left out is said with the next line.
pub(super) struct Complaints(Mutex<Allowance>);

struct Allowance {
    lines: u32,
    /// When it was last added to.
    filled: Instant,
    left_out: u64,
}

impl Complaints {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Allowance {
            lines: BURST,
            filled: Instant::now(),
            left_out: 0,
        }))
    }

    /// Writes a line, or counts it as left out.
    pub(super) fn say(&self, line: fmt::Arguments<'_>) {
        let mut allowance = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match allowance.take(Instant::now()) {
            Some(0) => tracing::warn!("{line}"),
            Some(left_out) => tracing::warn!("{line} ({left_out} lines before it were left out)"),
            None => {}
        }
    }
}

impl Allowance {
    /// Whether there may be a line, and how many before it were left out.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let intervals = now.duration_since(self.filled).as_secs() / INTERVAL.as_secs();
        if intervals > 0 {
            let intervals = u32::try_from(intervals).unwrap_or(u32::MAX);
            self.lines = self.lines.saturating_add(intervals).min(BURST);
            self.filled = now;
        }
        if self.lines == 0 {
            self.left_out += 1;
            return None;
        }
        self.lines -= 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_lines_is_left_out_and_counted() {
        let start = Instant::now();
        let mut allowance = Allowance {
            lines: BURST,
            filled: start,
            left_out: 0,
        };
        let written = (0..1000).filter_map(|_| allowance.take(start)).count();
        assert_eq!(written, BURST as usize);
        assert_eq!(allowance.take(start + INTERVAL), Some(980));
        assert_eq!(allowance.take(start + INTERVAL), None);
        let later = start + 1000 * INTERVAL;
        assert_eq!(allowance.take(later), Some(1));
        let written = (0..1000).filter_map(|_| allowance.take(later)).count();
        assert_eq!(written, BURST as usize - 1);
    }
}
