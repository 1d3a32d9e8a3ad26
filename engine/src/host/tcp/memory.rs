//! The memory of flows: how much of either direction may wait, and what is done where it does.
//!
//! **Each flow.** The guest may have sent as much as the window says, which begins small and doubles for a
//! guest that fills it while the host's side keeps up. Of the host's bytes a flow holds what the
//! guest's window takes and one batch, so that the next is there when the guest asks: a guest that reads
//! slowly, or has a small window, holds little, whatever the host has for it.
//!
//! **Each core.** Pooled buffers are never left to a flow that stands still: what it holds is copied
//! out of them, and copies are counted (`held_bytes`), with what came out of order, against
//! `--buffer-memory`. Half of that is for each direction.
//!
//! - From the guest: what was offered can't be taken back, and refusing it costs the guest a
//!   retransmission timeout. So the sum of all windows (`windows`) is kept near that half: each new
//!   window is a small part of what is left, down to a few segments, and a window grows by a larger part,
//!   so that few connections get much and many get little.
//! - From the host: beyond its half memory is *scarce*, and a flow holds only what its guest takes now.
//!
//! Beyond all of it, which out-of-order bytes may do, blocked flows take no more segments and
//! nobody keeps what is out of order: it is not acknowledged, so the guest sends it again. Flows that
//! move need no copies and go on.

use std::time::Duration;

use towpath_ring::driver::{BufferLevels, Driver, SocketId};

use super::{DOWNLOAD_MAX, DOWNLOAD_START, TcpFlow, WINDOW_MAX};
use crate::core::Core;
use crate::counters::Counter;

/// Receive window at the start, while memory is plenty; it doubles each time the guest has filled it once.
const WINDOW_START: u32 = 64 << 10;
/// Segments that a window holds at least. An update is only sent when it opens the window by a whole
/// segment (RFC 1122 §4.2.3.3), which at MTU 65520 is nearly all of 64 KiB.
const SEGMENTS_MIN: u32 = 4;
/// A new window takes at most one part in this many of the memory that is left for windows.
const OPENING_PART: usize = 2048;
/// A window grows by at most one part in this many of it.
const GROWING_PART: usize = 16;
/// How often all flows may be looked through for buffers that stand still.
const RELIEF_INTERVAL: Duration = Duration::from_millis(1);
/// A receive is armed when at least one part in this many of what may wait has room. Where more is taken at
/// a time, more super-frames follow each other closely, and the guest's reader, which each time sleeps when
/// it has read all, is woken less often; an interrupt for each second frame halved the rate.
const DOWNLOAD_PARTS: u32 = 4;
/// What a flow may always hold of the host's bytes. Something must wait for a guest whose window is shut:
/// it is what asks the guest whether the window is open again.
const DOWNLOAD_LEAST: u32 = 1024;

impl<D: Driver> Core<D> {
    /// Whether so much waits in memory that flows must make do with less.
    pub(super) fn is_memory_scarce(&self) -> bool {
        self.held_bytes > self.limits.buffer_bytes / 2
    }

    /// Moves what a blocked flow holds out of the pool. Returns whether it is still blocked.
    fn relieve_blocked(&mut self, index: u32) -> bool {
        let Some(flow) = self.tcp.get_mut(index) else {
            return false;
        };
        if !flow.marks.blocked || flow.marks.released {
            flow.marks.listed = false;
            return false;
        }
        let (count, bytes) = flow.upload.leave_pool();
        self.held_bytes += bytes;
        self.counters.add(Counter::BufferCopies, count);
        true
    }

    /// Keeps pooled buffers from being pinned by flows that stand still.
    pub(crate) fn relieve_pools(&mut self) {
        let levels = self.driver.levels();
        let low = levels.tap_free < levels.tap_total / 2
            || levels.link_free < levels.link_total / 2
            || levels.datagram_free < levels.datagram_total / 2;
        let streams_low = levels.stream_free < levels.stream_total / 4;
        let due = self.now.since(self.relieved_at) >= RELIEF_INTERVAL;
        if due && (low || streams_low) {
            self.relieved_at = self.now;
            self.relieve_ports();
        }
        // Frames that came over a lane hold buffers of another core, whose level is not seen here.
        let low = low || self.has_peers();
        // Places of flows that ended stay listed until a look through the list.
        let long = self.blocked.len() > self.tcp.len() + 64;
        if (low || long) && !self.blocked.is_empty() {
            let mut blocked = std::mem::take(&mut self.blocked);
            blocked.retain(|&index| self.relieve_blocked(index));
            self.blocked = blocked;
        }
        if due && streams_low && self.held_bytes < self.limits.buffer_bytes {
            for (_, flow) in self.tcp.iter_mut() {
                if flow.marks.released || flow.download.bytes() == 0 {
                    continue;
                }
                let (count, bytes) = flow.download.leave_pool();
                self.held_bytes += bytes;
                self.counters.add(Counter::BufferCopies, count);
                if self.held_bytes >= self.limits.buffer_bytes {
                    break;
                }
            }
        }
        if !self.starved.is_empty() && levels.stream_free > levels.stream_total / 8 {
            for index in std::mem::take(&mut self.starved) {
                if let Some(flow) = self.tcp.get_mut(index) {
                    flow.marks.starved = false;
                    self.mark_dirty(index);
                }
            }
        }
    }
}

/// The memory that is left for windows, in bytes, of `memory` for both directions.
fn left_for_windows(memory: usize, windows: usize) -> usize {
    (memory / 2).saturating_sub(windows)
}

/// The receive window that a connection begins with, in bytes.
pub(super) fn first_window(mss: u16, memory: usize, windows: usize) -> u32 {
    let part = left_for_windows(memory, windows) / OPENING_PART;
    let window = u32::try_from(part).map_or(WINDOW_START, |part| part.min(WINDOW_START));
    window.max(SEGMENTS_MIN * u32::from(mss))
}

impl TcpFlow {
    /// Doubles the window of a guest that has filled it, as long as the host side keeps up. Answers by how
    /// many bytes it grew.
    pub(super) fn grow_window(&mut self, memory: usize, windows: usize) -> usize {
        if self.window_filled < self.window || self.window >= WINDOW_MAX || self.marks.blocked {
            return 0;
        }
        let more = self.window.min(WINDOW_MAX - self.window);
        if more as usize > left_for_windows(memory, windows) / GROWING_PART {
            return 0;
        }
        self.window += more;
        self.window_filled = 0;
        more as usize
    }

    /// Asks for as many of the host's bytes as the flow may hold, if it is worth it.
    pub(super) fn arm_receive<D: Driver>(
        &mut self,
        driver: &mut D,
        socket: SocketId,
        token: u64,
        most: u32,
        scarce: bool,
    ) {
        let limit = self.download_room(&driver.levels(), scarce);
        let held = self.download.bytes();
        let room = limit.saturating_sub(held);
        if room == 0 || (room < limit / DOWNLOAD_PARTS && held > 0) {
            return;
        }
        self.pending.receive = true;
        driver.receive(socket, room.min(most), held == 0, token);
        if self.download_limit < DOWNLOAD_MAX && held >= self.download_limit / 2 {
            self.download_limit *= 2;
        }
    }

    /// How many of the host's bytes may wait for the guest.
    fn download_room(&self, levels: &BufferLevels, scarce: bool) -> u32 {
        // No flow takes more than an eighth of what is free, so that one slow guest connection
        // leaves buffers to all others.
        let buffer = levels.stream_buffer_bytes as u32;
        let fair = (levels.stream_free as u32 / 8).max(1) * buffer;
        let window = self.connection.guest_window();
        let batch = if scarce {
            0
        } else {
            window.max(DOWNLOAD_START)
        };
        let wanted = self.download_limit.min(window.saturating_add(batch));
        wanted.min(fair).max(DOWNLOAD_LEAST)
    }
}

#[cfg(test)]
mod tests {
    use super::super::TcpConfigs;
    use super::*;

    const MEMORY: usize = 512 << 20;

    #[test]
    fn a_window_that_was_nearly_filled_opens_by_whole_segments() {
        for mtu in [1280, 1500, 9000, 65_520] {
            let configs = TcpConfigs::new(mtu, Duration::from_secs(7440));
            for mss in [configs.v4.mss, configs.v6.mss] {
                let window = first_window(mss, MEMORY, 0);
                // The guest left less than a segment of it unused; taken, it opens by the rest.
                assert!(window - u32::from(mss) >= u32::from(mss), "MTU {mtu}");
                assert!((WINDOW_START..=WINDOW_MAX).contains(&window), "MTU {mtu}");
            }
        }
    }

    #[test]
    fn windows_of_many_connections_stay_near_their_half_of_the_memory() {
        for (memory, connections) in [(MEMORY, 60_000), (32 << 20, 4_000)] {
            let mut windows = 0;
            for _ in 0..connections {
                windows += first_window(1460, memory, windows) as usize;
            }
            let least = connections * SEGMENTS_MIN as usize * 1460;
            assert!(windows <= memory / 2 + least, "{windows} of {memory}");
        }
    }
}
