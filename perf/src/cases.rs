//! The loads that are compared.

use std::time::Duration;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

use crate::results::Receivers;
use crate::world::SERVER_PORTS;

/// Round trips a second beside a stream.
const MIX_RATE: u64 = 1000;

/// One load. Up is guest to host.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Case {
    /// The name on the command line and in tables.
    pub(crate) name: &'static str,
    /// What is done, for the list of cases.
    pub(crate) about: &'static str,
    /// Whether it runs at each MTU that is asked for.
    pub(crate) mtus: Mtus,
    /// When it runs without being named.
    pub(crate) when: When,
    load: Load,
}

/// At which of the MTUs that are asked for a case runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mtus {
    Each,
    /// Where packets are small or of a given size, the MTU changes nothing.
    First,
}

/// When a case runs without being named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum When {
    /// Even in a quick comparison.
    Quick,
    Usual,
    /// Only when it is named.
    Named,
}

/// What a case does. Directions and transports are words of the client's command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Load {
    /// Direction and number of streams.
    Bulk(&'static str, u32),
    /// What a byte travels in, and how many a second; else one after the other.
    RoundTrips(&'static str, Option<u64>),
    /// Direction of the stream beside the round trips.
    Mix(&'static str),
    /// Connections under way at a time.
    Connect(u32),
    /// Direction.
    Objects(&'static str),
    /// Direction, payload in bytes, and offered bits of it a second (0 = all that can be sent).
    Datagrams(&'static str, u32, u64),
    /// Connections held.
    Idle(u32),
    Start,
}

/// All of them, in the order in which they run.
#[rustfmt::skip]
pub(crate) const CASES: &[Case] = &[
    case("tcp-up", "One TCP stream to the host", Load::Bulk("up", 1), Mtus::Each, When::Quick),
    case("tcp-down", "One TCP stream to the guest", Load::Bulk("down", 1), Mtus::Each, When::Quick),
    case("tcp-up-8", "8 TCP streams to the host", Load::Bulk("up", 8), Mtus::Each, When::Usual),
    case("tcp-down-8", "8 TCP streams to the guest", Load::Bulk("down", 8), Mtus::Each, When::Usual),
    case("tcp-up-64", "64 TCP streams to the host", Load::Bulk("up", 64), Mtus::Each, When::Named),
    case("tcp-down-64", "64 TCP streams to the guest", Load::Bulk("down", 64), Mtus::Each, When::Named),
    case("tcp-rr", "One-byte round trips on one connection, one after the other", Load::RoundTrips("tcp", None), Mtus::First, When::Quick),
    case("udp-rr", "One-byte round trips in datagrams, one after the other", Load::RoundTrips("udp", None), Mtus::First, When::Usual),
    case("tcp-rr-paced", "1000 one-byte round trips a second on one connection", Load::RoundTrips("tcp", Some(1000)), Mtus::First, When::Named),
    case("udp-rr-paced", "1000 one-byte round trips a second in datagrams", Load::RoundTrips("udp", Some(1000)), Mtus::First, When::Named),
    case("mix-up", "1000 round trips a second beside one TCP stream to the host", Load::Mix("up"), Mtus::First, When::Usual),
    case("mix-down", "1000 round trips a second beside one TCP stream to the guest", Load::Mix("down"), Mtus::First, When::Quick),
    case("tcp-connect", "Short connections, 16 at a time", Load::Connect(16), Mtus::First, When::Quick),
    case("tcp-connect-256", "Short connections, 256 at a time", Load::Connect(256), Mtus::First, When::Usual),
    case("objects-up", "1 MB objects to the host, each on a new connection, 8 at a time", Load::Objects("up"), Mtus::First, When::Named),
    case("objects-down", "1 MB objects to the guest, each on a new connection, 8 at a time", Load::Objects("down"), Mtus::First, When::Quick),
    case("udp-up-200m", "0.2 Gbit/s of 1400-byte datagrams to the host", Load::Datagrams("up", 1400, 200_000_000), Mtus::First, When::Named),
    case("udp-up-1g", "1 Gbit/s of 1400-byte datagrams to the host", Load::Datagrams("up", 1400, 1_000_000_000), Mtus::First, When::Named),
    case("udp-up-4g", "4 Gbit/s of 1400-byte datagrams to the host", Load::Datagrams("up", 1400, 4_000_000_000), Mtus::First, When::Named),
    case("udp-up", "1400-byte datagrams to the host, as many as can be sent", Load::Datagrams("up", 1400, 0), Mtus::First, When::Quick),
    case("udp-up-64b", "64-byte datagrams to the host, as many as can be sent", Load::Datagrams("up", 64, 0), Mtus::First, When::Quick),
    case("udp-down-200m", "0.2 Gbit/s of 1400-byte datagrams to the guest", Load::Datagrams("down", 1400, 200_000_000), Mtus::First, When::Named),
    case("udp-down-1g", "1 Gbit/s of 1400-byte datagrams to the guest", Load::Datagrams("down", 1400, 1_000_000_000), Mtus::First, When::Named),
    case("udp-down-4g", "4 Gbit/s of 1400-byte datagrams to the guest", Load::Datagrams("down", 1400, 4_000_000_000), Mtus::First, When::Named),
    case("udp-down", "1400-byte datagrams to the guest, as many as can be sent", Load::Datagrams("down", 1400, 0), Mtus::First, When::Usual),
    case("udp-down-64b", "64-byte datagrams to the guest, as many as can be sent", Load::Datagrams("down", 64, 0), Mtus::First, When::Usual),
    case("tcp-idle", "1000 connections held open: engine memory of each", Load::Idle(1000), Mtus::First, When::Quick),
    case("start", "From the start of the engine until a byte has gone both ways", Load::Start, Mtus::First, When::Usual),
];

const fn case(name: &'static str, about: &'static str, load: Load, mtus: Mtus, when: When) -> Case {
    Case {
        name,
        about,
        mtus,
        when,
        load,
    }
}

/// The cases that run when none is named.
pub(crate) fn unnamed(quick: bool) -> Vec<&'static Case> {
    let latest = if quick { When::Quick } else { When::Usual };
    CASES.iter().filter(|case| case.when <= latest).collect()
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

    /// The client's arguments for a run of `duration`; `None` when there is no load.
    pub(crate) fn client_args(
        &self,
        duration: Duration,
        receivers: Receivers,
    ) -> Option<Vec<String>> {
        let mode = match self.load {
            Load::Bulk(direction, streams) => format!("bulk-{direction} --streams {streams}"),
            Load::RoundTrips(transport, None) => format!("rr --transport {transport}"),
            Load::RoundTrips(transport, Some(rate)) => {
                format!("rr --transport {transport} --rate {rate}")
            }
            Load::Mix(direction) => format!("mix --direction {direction} --rate {MIX_RATE}"),
            Load::Connect(concurrency) => {
                format!("connect --concurrency {concurrency} --ports {SERVER_PORTS}")
            }
            Load::Objects(direction) => {
                format!("objects --direction {direction} --size 1M --streams 8")
            }
            Load::Datagrams(direction, size, rate) => {
                format!("udp --direction {direction} --size {size} --rate {rate}")
            }
            Load::Idle(connections) => format!("idle --connections {connections}"),
            Load::Start => return None,
        };
        let receivers = match receivers {
            Receivers::Copy if self.has_streams() => Some("--copy"),
            Receivers::Verify if self.has_streams() => Some("--verify"),
            _ => None,
        };
        let args = mode
            .split_whitespace()
            .chain(receivers)
            .map(str::to_owned)
            .chain(["--seconds".to_owned(), duration.as_secs_f64().to_string()]);
        Some(args.collect())
    }

    /// Whether it moves byte streams, whose receivers can copy or verify them.
    fn has_streams(&self) -> bool {
        matches!(self.load, Load::Bulk(..) | Load::Mix(_) | Load::Objects(_))
    }

    /// Whether the engine's memory is watched during the run.
    pub(crate) fn watches_memory(&self) -> bool {
        matches!(self.load, Load::Idle(_))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn every_name_is_one_case() {
        for case in CASES {
            assert_eq!(Case::named(case.name), Some(case));
        }
        assert_eq!(Case::named("tcp"), None);
    }

    #[test]
    fn quick_cases_are_some_of_the_usual_ones() {
        let (quick, usual) = (unnamed(true), unnamed(false));
        assert!(quick.iter().all(|case| usual.contains(case)));
        assert!(!quick.is_empty() && quick.len() < usual.len() && usual.len() < CASES.len());
    }

    #[test]
    fn only_receivers_of_streams_copy_or_verify() {
        let has = |case: &Case, receivers, flag: &str| {
            let args = case.client_args(Duration::from_secs(1), receivers);
            args.is_some_and(|args| args.iter().any(|arg| arg == flag))
        };
        for case in CASES {
            let streams = case.has_streams();
            assert_eq!(has(case, Receivers::Copy, "--copy"), streams);
            assert_eq!(has(case, Receivers::Verify, "--verify"), streams);
            assert!(!has(case, Receivers::Discard, "--copy"));
            assert!(!has(case, Receivers::Discard, "--verify"));
        }
    }

    #[test]
    fn the_client_takes_every_case_s_arguments() {
        #[derive(clap::Parser)]
        struct Client {
            #[command(flatten)]
            _args: crate::loadgen::client::Args,
        }
        for case in CASES {
            let Some(args) = case.client_args(Duration::from_millis(1500), Receivers::Verify)
            else {
                continue;
            };
            let words = ["client", "--to", "127.0.0.1:1"].map(str::to_owned);
            let parsed = Client::try_parse_from(words.into_iter().chain(args));
            assert!(parsed.is_ok(), "{}: {}", case.name, parsed.err().unwrap());
        }
    }
}
