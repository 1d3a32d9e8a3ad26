//! What a comparison came to: plain data, as it is written to `results.json` and read back from it.

use serde::{Deserialize, Serialize};

use crate::facts::Facts;
use crate::loadgen::Measured;
use crate::metrics::Metric;
use crate::presence::Presence;
use crate::reach::Reached;

/// All of a comparison.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) facts: Facts,
    pub(crate) rounds: u32,
    /// Length of one load.
    pub(crate) seconds: f64,
    /// What the receivers of bulk streams do with the bytes.
    pub(crate) receivers: Receivers,
    /// What the load generator reached by itself, over a veth pair with both ends on one core.
    pub(crate) generator: Vec<Reached>,
    pub(crate) peers: Vec<Presence>,
    pub(crate) runs: Vec<Run>,
}

/// What the receivers of bulk streams do with the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Receivers {
    /// They have the kernel throw them away.
    Discard,
    /// They take them into a buffer, as most programs do.
    Copy,
    /// They compare each with what was sent.
    Verify,
}

/// One load through one peer, once.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) mtu: u32,
    /// The case's name.
    pub(crate) case: String,
    /// The peer's name.
    pub(crate) peer: String,
    /// From 1.
    pub(crate) round: u32,
    /// Share of the machine that others used just before, 0 to 1.
    pub(crate) load_before: f64,
    /// How often it was run, because others used too much of the machine meanwhile; from 1.
    pub(crate) attempts: u32,
    #[serde(flatten)]
    pub(crate) end: End,
}

/// How a run ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum End {
    Measured(Box<Sample>),
    Failed(String),
}

/// What a run measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) client: Measured,
    /// The first one is what is compared.
    pub(crate) metrics: Vec<Metric>,
    pub(crate) cpu: Cpu,
    /// Share of the machine that others used meanwhile, 0 to 1.
    pub(crate) other_load: f64,
    /// From the start of the engine until a first byte had gone both ways, in milliseconds; for the
    /// limits, which have no engine, the time of a first connection.
    pub(crate) start_ms: f64,
}

/// CPU time while the client ran, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cpu {
    /// Of the engine's processes; `None` for the limits.
    pub(crate) engine_s: Option<f64>,
    /// Of the process between the guest's TAP and the engine's socket; `None` where there is none.
    pub(crate) bridge_s: Option<f64>,
    /// Of both ends of the load.
    pub(crate) generator_s: f64,
    /// Of the whole machine.
    pub(crate) machine_s: f64,
}
