//! The stage of `doctor`: tries in namespaces of its own what a guest needs, and tells how it went.

use std::process::{ExitCode, Stdio};

use serde::{Deserialize, Serialize};
use towpath_ring::driver::LinkFeatures;
use towpath_ring::frames::tap::{Tap, TapOptions};

use super::message::Features;
use super::{PROBE, namespace, stage_command};

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Found {
    /// Whether namespaces can be made; why not.
    pub(crate) namespaces: Result<(), String>,
    /// What a TAP can do and how many queues it got of two; why there is none.
    tap: Result<(Features, usize), String>,
}

impl Found {
    /// What a TAP can do and how many queues it got of two; why there is none.
    pub(crate) fn tap(&self) -> Result<(LinkFeatures, usize), &str> {
        match &self.tap {
            Ok((features, queues)) => Ok(((*features).into(), *queues)),
            Err(reason) => Err(reason),
        }
    }
}

/// Runs the stage and waits for what it finds.
pub(crate) fn look() -> Result<Found, String> {
    let output = stage_command(PROBE)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .map_err(|error| format!("this program can't be started again: {error}"))?;
    serde_json::from_slice(&output.stdout)
        .map_err(|_| format!("the check ended early: {}", output.status))
}

pub(super) fn main() -> ExitCode {
    let namespaces = namespace::enter(false)
        .map(|_| ())
        .map_err(|fault| fault.reason);
    let tap = match &namespaces {
        Ok(()) => Tap::create("tap0", 2, &TapOptions::default())
            .map(|tap| (tap.features.into(), tap.queues.len()))
            .map_err(|error| error.to_string()),
        Err(_) => Err("not tried: it takes a namespace".to_owned()),
    };
    match serde_json::to_string(&Found { namespaces, tap }) {
        Ok(text) => println!("{text}"),
        Err(_) => return ExitCode::FAILURE,
    }
    ExitCode::SUCCESS
}
