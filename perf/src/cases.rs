//! The loads that are compared.

use std::time::Duration;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

use crate::results::Receivers;
use crate::world::SERVER_PORTS;

/// Payload offered in the datagram cases, in bits/s.
const UDP_RATE: u64 = 1_000_000_000;
/// Bytes of IPv4 and UDP headers in front of a datagram's payload.
const UDP_OVERHEAD: u32 = 28;

/// One load. Up is guest to host.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Case {
    /// The name on the command line and in tables.
    pub(crate) name: &'static str,
    /// What is done, for the list of cases.
    pub(crate) about: &'static str,
    load: Load,
}

/// What a case does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Load {
    /// Client mode and number of streams.
    Bulk(&'static str, u32),
    /// What a byte travels in.
    RoundTrips(&'static str),
    /// Connections under way at a time.
    Connect(u32),
    /// Direction.
    Datagrams(&'static str),
    /// Connections held.
    Idle(u32),
}

/// All of them, in the order in which they are listed.
pub(crate) const CASES: &[Case] = &[
    case(
        "tcp-up",
        "One TCP stream to the host",
        Load::Bulk("bulk-up", 1),
    ),
    case(
        "tcp-down",
        "One TCP stream to the guest",
        Load::Bulk("bulk-down", 1),
    ),
    case(
        "tcp-up-8",
        "Eight TCP streams to the host",
        Load::Bulk("bulk-up", 8),
    ),
    case(
        "tcp-down-8",
        "Eight TCP streams to the guest",
        Load::Bulk("bulk-down", 8),
    ),
    case(
        "tcp-rr",
        "One-byte round trips on one connection",
        Load::RoundTrips("tcp"),
    ),
    case(
        "udp-rr",
        "One-byte round trips in datagrams",
        Load::RoundTrips("udp"),
    ),
    case(
        "tcp-connect",
        "Short connections, 16 at a time",
        Load::Connect(16),
    ),
    case(
        "tcp-connect-256",
        "Short connections, 256 at a time",
        Load::Connect(256),
    ),
    case(
        "udp-up",
        "1 Gbit/s of full datagrams to the host",
        Load::Datagrams("up"),
    ),
    case(
        "udp-down",
        "1 Gbit/s of full datagrams to the guest",
        Load::Datagrams("down"),
    ),
    case(
        "tcp-idle",
        "1000 connections held open: engine memory of each",
        Load::Idle(1000),
    ),
];

const fn case(name: &'static str, about: &'static str, load: Load) -> Case {
    Case { name, about, load }
}

/// Reads a case's name on the command line, and lists the names in the help.
pub(crate) fn parser() -> impl TypedValueParser<Value = &'static Case> {
    let names = CASES
        .iter()
        .map(|case| PossibleValue::new(case.name).help(case.about));
    PossibleValuesParser::new(names)
        .map(|name| Case::named(&name).expect("only names of cases pass the parser before"))
}

impl Case {
    /// The case of this name.
    pub(crate) fn named(name: &str) -> Option<&'static Case> {
        CASES.iter().find(|case| case.name == name)
    }

    /// The client's arguments for a run of `duration` over a link of this MTU.
    pub(crate) fn client_args(
        &self,
        duration: Duration,
        mtu: u32,
        receivers: Receivers,
    ) -> Vec<String> {
        let size = mtu.saturating_sub(UDP_OVERHEAD);
        let mode = match self.load {
            Load::Bulk(mode, streams) => format!("{mode} --streams {streams}"),
            Load::RoundTrips(transport) => format!("rr --transport {transport}"),
            Load::Connect(concurrency) => {
                format!("connect --concurrency {concurrency} --ports {SERVER_PORTS}")
            }
            Load::Datagrams(direction) => {
                format!("udp --direction {direction} --rate {UDP_RATE} --size {size}")
            }
            Load::Idle(connections) => format!("idle --connections {connections}"),
        };
        let receivers = match (self.load, receivers) {
            (Load::Bulk(..), Receivers::Copy) => Some("--copy"),
            (Load::Bulk(..), Receivers::Verify) => Some("--verify"),
            _ => None,
        };
        mode.split_whitespace()
            .chain(receivers)
            .map(str::to_owned)
            .chain(["--seconds".to_owned(), duration.as_secs_f64().to_string()])
            .collect()
    }

    /// Whether the engine's memory is watched during the run.
    pub(crate) fn watches_memory(&self) -> bool {
        matches!(self.load, Load::Idle(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_one_case() {
        for case in CASES {
            assert_eq!(Case::named(case.name), Some(case));
        }
        assert_eq!(Case::named("tcp"), None);
    }

    #[test]
    fn only_bulk_receivers_copy_or_verify() {
        let has = |case: &Case, receivers, flag| {
            let args = case.client_args(Duration::from_secs(1), 1500, receivers);
            args.iter().any(|arg| arg == flag)
        };
        for case in CASES {
            let bulk = matches!(case.load, Load::Bulk(..));
            assert_eq!(has(case, Receivers::Copy, "--copy"), bulk);
            assert_eq!(has(case, Receivers::Verify, "--verify"), bulk);
            assert!(!has(case, Receivers::Discard, "--copy"));
            assert!(!has(case, Receivers::Discard, "--verify"));
        }
    }
}
