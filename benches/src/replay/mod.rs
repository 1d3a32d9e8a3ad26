//! Plays what a guest sent through a whole core, without a kernel.
//!
//! # Theory of operation
//!
//! A recording of a guest's interface has both directions: what the guest sent, and what some
//! engine answered. Only the guest's frames are played. The other direction is the script of the
//! host's side: a recorded SYN-ACK lets the host socket's connect succeed, recorded data makes so
//! many bytes readable, a FIN ends them, a RST resets or refuses, a datagram arrives. So the core
//! has the same bytes at hand, at the same time, as the engine that was recorded, and what it answers
//! is acknowledged by the frames that the guest sent then.
//!
//! Our initial sequence numbers are not those of the recording, so acknowledgment numbers, SACK
//! blocks and timestamp echoes of the guest's frames are moved, per connection, by the difference
//! between the SYN-ACK that was recorded and the one that the core writes.
//!
//! The core's window may open later than that of the engine that was recorded, so a guest's frame
//! waits, and all behind it, until the window that the core last wrote reaches to its end. Played too
//! early it would lose its end, which nobody sends again, and so all that follows would be in vain.
//!
//! A wait of the core ends with a run of the guest's frames that were recorded one after the other, or
//! with what such a run of the host's did: these are the batches that the recorded engine had. Time
//! is the recording's. Frames lie in pooled buffers, but only their headers are copied into them:
//! the payload is the kernel's to copy, and nobody looks at it here.
//!
//! | file | holds |
//! |---|---|
//! | `recording.rs` | file → frames, and what they are turned into |
//! | `script.rs` | frames → steps |
//! | `driver.rs` | steps → completions |
//! | `report.rs` | what came of it |

mod driver;
mod recording;
mod report;
mod script;

use std::io;
use std::time::Duration;

use towpath::config::Network;
use towpath::internals::{BareCore, Stop};

pub use driver::ReplayDriver;
pub use recording::{Recording, RecordingError};
pub use report::Report;

/// A recording and a core that is ready to play it, once.
pub struct Replay<'a> {
    recording: &'a Recording,
    core: BareCore<ReplayDriver<'a>>,
}

impl<'a> Replay<'a> {
    /// Makes the core and its buffers.
    ///
    /// # Errors
    ///
    /// What the kernel says when there is no memory for buffers.
    pub fn new(recording: &'a Recording) -> io::Result<Self> {
        let stop = Stop::default();
        let network = network(recording);
        let mut driver = ReplayDriver::new(recording, &network, stop.clone())?;
        let service = driver.adopt_service();
        Ok(Self {
            recording,
            core: BareCore::new(driver, service, &network, &stop),
        })
    }

    /// What was played, after [`replay_frames`] returned.
    pub fn report(&self, elapsed: Duration) -> Report {
        Report::new(
            self.recording,
            self.core.driver(),
            &self.core.totals(),
            elapsed,
        )
    }
}

/// Plays the whole recording. What a profiler counts in this function is the core and the driver
/// that plays; reading the file and making buffers is outside.
///
/// # Errors
///
/// When the recording can't go on, because the core holds all buffers for frames.
#[inline(never)]
pub fn replay_frames(replay: &mut Replay<'_>) -> io::Result<()> {
    replay.core.run()
}

fn network(recording: &Recording) -> Network {
    Network {
        subnet4: (recording.guest4, 24),
        subnet6: recording.guest6,
        mtu: recording.mtu,
        gateway_mac: Network::GATEWAY_MAC,
        domain: None,
        search: Vec::new(),
        lease: Duration::from_secs(3600),
    }
}
