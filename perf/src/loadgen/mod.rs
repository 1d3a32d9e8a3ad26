//! The load generator: a server, and a client with one mode per file.
//!
//! One port carries everything. On TCP the first byte of a connection says what it is:
//! [`session::MAGIC`] opens a session (bulk transfer or a datagram run, with its parameters in a
//! fixed header), any other byte is echoed, and so is all that follows it. On UDP the same port
//! echoes every datagram.
//!
//! Threads are plain and sockets block where that costs little: one thread per bulk stream. All echo
//! connections are one epoll thread's, and so are all short connections. Whoever receives does the
//! counting, because bytes that are merely sent may still sit in a queue.

pub(crate) mod bulk;
pub(crate) mod burst;
pub(crate) mod client;
pub(crate) mod connect;
pub(crate) mod idle;
pub(crate) mod latency;
pub(crate) mod mix;
pub(crate) mod objects;
pub(crate) mod pattern;
pub(crate) mod rr;
pub(crate) mod server;
pub(crate) mod session;
pub(crate) mod socket;
pub(crate) mod udp;

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What one client run measured; printed as one line of JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "kebab-case")]
pub(crate) enum Measured {
    /// Client to server over TCP.
    BulkUp(bulk::Bulk),
    /// Server to client over TCP.
    BulkDown(bulk::Bulk),
    /// One-byte round trips.
    Rr(rr::RoundTrips),
    /// Short connections.
    Connect(connect::Connects),
    /// Datagrams at a rate.
    Udp(udp::Datagrams),
    /// Connections that were held open.
    Idle(idle::Idle),
    /// Round trips beside bulk streams.
    Mix(mix::Mix),
    /// Objects over connections of their own.
    Objects(objects::Objects),
    /// No load at all: how long it took until a byte had gone both ways.
    Start {
        /// In milliseconds.
        ms: f64,
    },
}

/// Which way a load goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Direction {
    /// Client to server.
    Up,
    /// Server to client.
    Down,
}

/// Parses a positive number of seconds, such as `4` or `0.5`, of at most one day.
pub(crate) fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| "not a number of seconds".to_owned())?;
    if seconds > 0.0 && seconds <= 86_400.0 {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("must be above 0 and at most 86400 seconds".to_owned())
    }
}

/// Parses a decimal amount with an optional suffix `k`, `M` or `G` (powers of 1000), such as
/// `200M`.
pub(crate) fn parse_amount(text: &str) -> Result<u64, String> {
    let (digits, scale) = match text.as_bytes().last() {
        Some(b'k') => (&text[..text.len() - 1], 1_000),
        Some(b'M') => (&text[..text.len() - 1], 1_000_000),
        Some(b'G') => (&text[..text.len() - 1], 1_000_000_000),
        _ => (text, 1),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(scale))
        .ok_or_else(|| format!("{text:?} is not an amount such as 500, 64k, 200M or 1G"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn amounts_have_decimal_suffixes() {
        assert_eq!(parse_amount("0"), Ok(0));
        assert_eq!(parse_amount("64k"), Ok(64_000));
        assert_eq!(parse_amount("200M"), Ok(200_000_000));
        assert_eq!(parse_amount("2G"), Ok(2_000_000_000));
        for bad in [
            "",
            "G",
            "-1",
            "1.5G",
            "1K",
            "99999999999999999999",
            "18446744073709551615k",
        ] {
            assert!(parse_amount(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn seconds_are_bounded() {
        assert_eq!(parse_seconds("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["0", "-1", "nan", "inf", "86401", "x"] {
            assert!(parse_seconds(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_without_a_panic(text in ".*") {
            let _ = parse_amount(&text);
            let _ = parse_seconds(&text);
        }
    }
}
