//! Congestion avoidance as in RFC 5681: one segment more for each window, half after a loss.

/// What Reno remembers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reno {
    /// Bytes acknowledged since the window last grew (RFC 3465 §2.1).
    credit: u32,
}

impl Reno {
    pub(super) const NEW: Self = Self { credit: 0 };

    /// The window after `acked` bytes more.
    pub(super) fn grow(&mut self, window: u32, acked: u32, mss: u32) -> u32 {
        self.credit = self.credit.saturating_add(acked);
        if self.credit < window {
            return window;
        }
        self.credit -= window;
        window + mss
    }

    /// The slow start threshold after a loss (RFC 5681 §3.1, equation 4), but for its lower bound.
    pub(super) fn reduce(&mut self, flight: u32) -> u32 {
        self.credit = 0;
        flight / 2
    }
}
