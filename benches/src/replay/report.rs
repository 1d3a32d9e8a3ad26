//! What a replay came to, as one line of JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::json;
use towpath::counters::{Counter, Totals};
use towpath_stack::parse::Drop as ParseDrop;

use super::driver::ReplayDriver;
use super::recording::Recording;

/// Frames that may go wrong, of a thousand, in a replay that is worth measuring.
const FAULTS_PER_MILLE: u64 = 10;

/// What a replay came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Frames of the guest's that were played.
    pub frames_in: u64,
    /// Frames that the core wrote.
    pub frames_out: u64,
    /// Batches of completions.
    pub batches: u64,
    /// Payload bytes from the guest, and to it.
    pub payload_bytes: (u64, u64),
    /// The same as the recording has them, each byte once.
    pub recorded_payload_bytes: (u64, u64),
    /// TCP connections that were accepted.
    pub connections: u64,
    /// What the core dropped or refused, by reason.
    pub drops: BTreeMap<String, u64>,
    /// Of these, what tells that the replay is not true to the recording.
    pub faults: u64,
    /// Frames of the recording that were not played.
    pub left_out: u64,
    /// Acknowledgments that were cut, because the core had not sent so much yet.
    pub acks_ahead: u64,
    /// For each frame in and out.
    pub nanoseconds_per_frame: f64,
}

/// What guests do that an engine drops, recorded or not.
const OF_THE_GUEST: &[Counter] = &[
    Counter::RefusedPolicy,
    Counter::DroppedMulticast,
    Counter::DroppedIcmp,
    Counter::DroppedProtocol,
    Counter::DroppedIcmpRate,
];

impl Report {
    pub(super) fn new(
        recording: &Recording,
        driver: &ReplayDriver<'_>,
        totals: &Totals,
        elapsed: Duration,
    ) -> Self {
        let counted = driver.counted;
        let mut drops = BTreeMap::new();
        let mut faults = 0;
        for &counter in Counter::ALL {
            let (name, n) = (format!("{counter:?}"), totals.get(counter));
            let is_drop = ["Dropped", "Refused", "Lost"]
                .iter()
                .any(|of| name.starts_with(of));
            if is_drop && n > 0 {
                // An engine has no counter of its own for what the host refused: that is an answer.
                faults += if OF_THE_GUEST.contains(&counter) {
                    0
                } else {
                    n
                };
                drops.insert(name, n);
            }
        }
        for &reason in &ParseDrop::ALL {
            let n = totals.parse_drops(reason);
            if n > 0 {
                faults += n;
                drops.insert(reason.name().to_owned(), n);
            }
        }
        // A segment that belongs to no connection of the core is answered by a reset.
        let resets = counted.resets_out.saturating_sub(recording.resets);
        if resets > 0 {
            faults += resets;
            drops.insert("resets_beyond_the_recording".to_owned(), resets);
        }
        let frames = counted.frames_in + counted.frames_out;
        Self {
            frames_in: counted.frames_in,
            frames_out: counted.frames_out,
            batches: totals.get(Counter::Batches),
            payload_bytes: (totals.get(Counter::BytesUp), totals.get(Counter::BytesDown)),
            recorded_payload_bytes: recording.payload_bytes,
            connections: totals.get(Counter::TcpConnected),
            drops,
            faults: faults + counted.left_out,
            left_out: recording.left_out + counted.left_out,
            acks_ahead: counted.acks_ahead,
            nanoseconds_per_frame: elapsed.as_nanos() as f64 / frames.max(1) as f64,
        }
    }

    /// Whether so little went wrong that the figures mean something.
    pub fn is_true(&self) -> bool {
        self.frames_in > 0 && self.faults * 1000 <= self.frames_in * FAULTS_PER_MILLE
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = json!({
            "frames_in": self.frames_in,
            "frames_out": self.frames_out,
            "batches": self.batches,
            "payload_bytes_up": self.payload_bytes.0,
            "payload_bytes_down": self.payload_bytes.1,
            "recorded_payload_bytes_up": self.recorded_payload_bytes.0,
            "recorded_payload_bytes_down": self.recorded_payload_bytes.1,
            "connections": self.connections,
            "drops": self.drops,
            "faults": self.faults,
            "left_out": self.left_out,
            "acks_ahead": self.acks_ahead,
            "nanoseconds_per_frame": (self.nanoseconds_per_frame * 10.0).round() / 10.0,
        });
        line.fmt(f)
    }
}
