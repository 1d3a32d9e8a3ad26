//! Latency under load: bulk streams one way, and paced round trips on a connection beside them.

use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::bulk::{self, Bulk, join};
use super::client::Target;
use super::rr::{self, RoundTrips, Transport};
use super::session::Session;
use crate::failure::Outcome;

/// How long the streams run before the round trips begin, and after they have ended.
const MARGIN: Duration = Duration::from_millis(200);

/// What both came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Mix {
    pub(crate) bulk: Bulk,
    pub(crate) trips: RoundTrips,
}

/// Runs `streams` sessions and, within them, round trips at `rate` a second for the session's
/// duration.
///
/// # Errors
/// Those of either load.
pub(crate) fn run(target: &Target, session: Session, streams: u32, rate: u64) -> Outcome<Mix> {
    let duration = session.duration;
    let session = Session {
        duration: duration + MARGIN * 2,
        ..session
    };
    thread::scope(|scope| {
        let bulk = scope.spawn(|| bulk::run(target, session, streams));
        thread::sleep(MARGIN);
        let trips = rr::run(target, Transport::Tcp, Some(rate), duration);
        let bulk = join(bulk)?;
        Ok(Mix {
            bulk,
            trips: trips?,
        })
    })
}
