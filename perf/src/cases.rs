//! The loads that are compared, and what is read from each.

use std::time::Duration;

use serde::Serialize;

use crate::loadgen::Measured;

/// Streams of the cases with several.
const STREAMS: u32 = 8;
/// Connections under way at a time in `tcp-connect`.
const CONCURRENCY: u32 = 16;
/// Connections held in `tcp-idle`.
const IDLE_CONNECTIONS: u32 = 1000;
/// Payload offered in the datagram cases, in bits/s.
const UDP_RATE: u64 = 1_000_000_000;
/// Bytes of IPv4 and UDP headers in front of a datagram's payload.
const UDP_OVERHEAD: u32 = 28;

/// One load. Up is guest to host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Case {
    /// One TCP stream to the host
    TcpUp,
    /// One TCP stream to the guest
    TcpDown,
    /// Eight TCP streams to the host
    #[value(name = "tcp-up-8")]
    #[serde(rename = "tcp-up-8")]
    TcpUp8,
    /// Eight TCP streams to the guest
    #[value(name = "tcp-down-8")]
    #[serde(rename = "tcp-down-8")]
    TcpDown8,
    /// One-byte round trips on one connection
    TcpRr,
    /// One-byte round trips in datagrams
    UdpRr,
    /// Short connections, 16 at a time
    TcpConnect,
    /// 1 Gbit/s of full datagrams to the host
    UdpUp,
    /// 1 Gbit/s of full datagrams to the guest
    UdpDown,
    /// 1000 connections held open: engine memory of each
    TcpIdle,
}

/// Whether more or less of something is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Better {
    More,
    Less,
}

/// A number that a run came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Metric {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    pub(crate) value: f64,
}

/// What a run moved or did, for CPU time per unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Work {
    /// Payload, in GiB.
    Gib(f64),
    /// Round trips or connections.
    Operations(f64),
}

impl Case {
    /// The name on the command line and in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Case::TcpUp => "tcp-up",
            Case::TcpDown => "tcp-down",
            Case::TcpUp8 => "tcp-up-8",
            Case::TcpDown8 => "tcp-down-8",
            Case::TcpRr => "tcp-rr",
            Case::UdpRr => "udp-rr",
            Case::TcpConnect => "tcp-connect",
            Case::UdpUp => "udp-up",
            Case::UdpDown => "udp-down",
            Case::TcpIdle => "tcp-idle",
        }
    }

    /// The client's arguments for a run of `duration` over a link of this MTU; `copy` as in
    /// [`crate::compare::Args`].
    pub(crate) fn client_args(self, duration: Duration, mtu: u32, copy: bool) -> Vec<String> {
        let streams = STREAMS.to_string();
        let concurrency = CONCURRENCY.to_string();
        let connections = IDLE_CONNECTIONS.to_string();
        let rate = UDP_RATE.to_string();
        let size = mtu.saturating_sub(UDP_OVERHEAD).to_string();
        let mode: &[&str] = match self {
            Case::TcpUp => &["bulk-up"],
            Case::TcpDown => &["bulk-down"],
            Case::TcpUp8 => &["bulk-up", "--streams", &streams],
            Case::TcpDown8 => &["bulk-down", "--streams", &streams],
            Case::TcpRr => &["rr", "--transport", "tcp"],
            Case::UdpRr => &["rr", "--transport", "udp"],
            Case::TcpConnect => &["connect", "--concurrency", &concurrency],
            Case::UdpUp => &["udp", "--direction", "up", "--rate", &rate, "--size", &size],
            Case::UdpDown => &[
                "udp",
                "--direction",
                "down",
                "--rate",
                &rate,
                "--size",
                &size,
            ],
            Case::TcpIdle => &["idle", "--connections", &connections],
        };
        let seconds = duration.as_secs_f64().to_string();
        let copies = copy && mode[0].starts_with("bulk");
        mode.iter()
            .copied()
            .chain(["--seconds", &seconds])
            .chain(copies.then_some("--copy"))
            .map(str::to_owned)
            .collect()
    }

    /// Whether the engine's memory is watched during the run.
    pub(crate) fn watches_memory(self) -> bool {
        self == Case::TcpIdle
    }
}

/// The numbers of a run, the one to compare by first; empty when there is nothing to compare (no
/// engine, no memory).
///
/// `memory_growth` is by how many bytes the engine's memory grew while the load ran.
pub(crate) fn metrics(measured: &Measured, memory_growth: Option<u64>) -> Vec<Metric> {
    use Better::{Less, More};
    let metric = |name, unit, better, value| Metric {
        name,
        unit,
        better,
        value,
    };
    match measured {
        Measured::BulkUp(bulk) | Measured::BulkDown(bulk) => {
            let mut all = vec![metric("throughput", "Gbit/s", More, bulk.gbit_per_s)];
            if bulk.streams > 1 {
                let fairness = bulk.stream_bytes_min as f64 / bulk.stream_bytes_max as f64;
                all.push(metric("slowest/fastest", "", More, fairness));
            }
            all
        }
        Measured::Rr(trips) => vec![
            metric("p50", "µs", Less, trips.latency.p50_us),
            metric("p99", "µs", Less, trips.latency.p99_us),
            metric("lost", "", Less, trips.lost as f64),
        ],
        Measured::Connect(connects) => vec![
            metric("rate", "connections/s", More, connects.per_s),
            metric("p50", "µs", Less, connects.latency.p50_us),
            metric("p99", "µs", Less, connects.latency.p99_us),
            metric("failed", "", Less, connects.failed as f64),
        ],
        Measured::Udp(datagrams) => vec![
            metric("arrived", "Gbit/s", More, datagrams.gbit_per_s),
            metric("loss", "%", Less, datagrams.loss_percent),
        ],
        Measured::Idle(idle) => memory_growth.map_or_else(Vec::new, |growth| {
            let kib = growth as f64 / 1024.0 / f64::from(idle.opened.max(1));
            vec![
                metric("memory", "KiB/connection", Less, kib),
                metric("opened", "", More, f64::from(idle.opened)),
                metric("alive at end", "", More, f64::from(idle.alive)),
            ]
        }),
    }
}

/// What the run's CPU time is divided by; `None` where that says nothing.
pub(crate) fn work(measured: &Measured) -> Option<Work> {
    const GIB: f64 = (1u64 << 30) as f64;
    match measured {
        Measured::BulkUp(bulk) | Measured::BulkDown(bulk) => {
            Some(Work::Gib(bulk.bytes as f64 / GIB))
        }
        Measured::Udp(datagrams) => Some(Work::Gib(
            datagrams.gbit_per_s * 1e9 / 8.0 * datagrams.seconds / GIB,
        )),
        Measured::Rr(trips) => Some(Work::Operations(trips.count as f64)),
        Measured::Connect(connects) => Some(Work::Operations(connects.count as f64)),
        Measured::Idle(_) => None,
    }
}

impl Work {
    /// CPU time per unit: seconds per GiB, or microseconds per operation. `None` when nothing was
    /// done.
    pub(crate) fn cost(self, cpu_s: f64) -> Option<f64> {
        let (amount, scale) = match self {
            Work::Gib(gib) => (gib, 1.0),
            Work::Operations(count) => (count, 1e6),
        };
        (amount > 0.0).then(|| cpu_s * scale / amount)
    }

    /// The unit of [`Work::cost`].
    pub(crate) fn cost_unit(self) -> &'static str {
        match self {
            Work::Gib(_) => "s/GiB",
            Work::Operations(_) => "µs/op",
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;
    use crate::loadgen::idle::Idle;

    #[test]
    fn names_are_those_of_the_command_line() {
        for case in Case::value_variants() {
            assert_eq!(Case::from_str(case.name(), false), Ok(*case));
            assert_eq!(serde_json::to_value(case).unwrap(), case.name());
        }
    }

    #[test]
    fn only_bulk_receivers_copy() {
        let seconds = Duration::from_secs(1);
        for case in Case::value_variants() {
            let copies = case
                .client_args(seconds, 1500, true)
                .iter()
                .any(|arg| arg == "--copy");
            assert_eq!(copies, is_bulk(*case), "{case:?}");
            assert!(
                !case
                    .client_args(seconds, 1500, false)
                    .iter()
                    .any(|arg| arg == "--copy")
            );
        }
    }

    fn is_bulk(case: Case) -> bool {
        matches!(
            case,
            Case::TcpUp | Case::TcpDown | Case::TcpUp8 | Case::TcpDown8
        )
    }

    #[test]
    fn cpu_time_is_per_gib_or_operation() {
        assert_eq!(Work::Gib(2.0).cost(1.0), Some(0.5));
        assert_eq!(Work::Operations(1000.0).cost(0.5), Some(500.0));
        assert_eq!(Work::Gib(0.0).cost(0.5), None);
    }

    #[test]
    fn memory_is_per_connection_that_was_opened() {
        let measured = Measured::Idle(Idle {
            wanted: 1000,
            opened: 512,
            alive: 512,
            failure: None,
        });
        assert_eq!(metrics(&measured, Some(1 << 20))[0].value, 2.0);
        assert_eq!(metrics(&measured, None), []);
    }
}
