//! The numbers that are read from a run, and what its CPU time is divided by.

use serde::{Deserialize, Serialize};

use crate::loadgen::Measured;
use crate::loadgen::latency::Summary;

/// Datagrams with less payload than this are counted rather than weighed, in bytes.
const SMALL: u32 = 512;

/// Whether more or less of something is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Better {
    More,
    Less,
}

/// A number that a run came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Metric {
    pub(crate) name: String,
    pub(crate) unit: String,
    pub(crate) better: Better,
    pub(crate) value: f64,
}

/// What a run moved or did, for CPU time per unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Work {
    /// Payload, in GiB.
    Gib(f64),
    /// Round trips, connections or small packets.
    Operations(f64),
}

/// The numbers of a run, the one to compare by first; empty when there is nothing to compare (no
/// engine, no memory).
///
/// `memory_growth` is by how many bytes the engine's memory grew while the load ran.
pub(crate) fn metrics(measured: &Measured, memory_growth: Option<u64>) -> Vec<Metric> {
    use Better::{Less, More};
    match measured {
        Measured::BulkUp(bulk) | Measured::BulkDown(bulk) => {
            let mut all = vec![metric("throughput", "Gbit/s", More, bulk.gbit_per_s)];
            if bulk.streams > 1 {
                let fairness = bulk.stream_bytes_min as f64 / bulk.stream_bytes_max as f64;
                all.push(metric("slowest/fastest", "", More, fairness));
            }
            all
        }
        Measured::Rr(trips) => {
            let mut all = latencies(&trips.latency);
            if trips.rate.is_some() {
                // What a paced load is for is its tail.
                all.swap(0, 1);
            }
            if let Some(late) = trips.timer_late_p99_us {
                all.push(metric("timer late p99", "µs", Less, late));
            }
            all.push(metric("lost", "", Less, trips.lost as f64));
            all
        }
        Measured::Connect(connects) => {
            let mut all = vec![metric("rate", "connections/s", More, connects.per_s)];
            all.extend(latencies(&connects.latency));
            all.push(metric("failed", "", Less, connects.failed as f64));
            all
        }
        Measured::Udp(datagrams) => {
            let mut all = vec![
                metric("goodput", "Gbit/s", More, datagrams.gbit_per_s),
                metric("arrived", "packets/s", More, datagrams.per_s),
                metric("loss", "%", Less, datagrams.loss_percent),
            ];
            if datagrams.size < SMALL {
                all.swap(0, 1);
            }
            all
        }
        Measured::Mix(mix) => {
            let mut all = latencies(&mix.trips.latency);
            all.swap(0, 1);
            all.push(metric("throughput", "Gbit/s", More, mix.bulk.gbit_per_s));
            if let Some(late) = mix.trips.timer_late_p99_us {
                all.push(metric("timer late p99", "µs", Less, late));
            }
            all
        }
        Measured::Objects(objects) => {
            let mut all = vec![metric("rate", "objects/s", More, objects.per_s)];
            all.extend(latencies(&objects.latency));
            all.push(metric("throughput", "Gbit/s", More, objects.gbit_per_s));
            all
        }
        Measured::Start { ms } => vec![metric("start-up", "ms", Less, *ms)],
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

fn metric(name: &str, unit: &str, better: Better, value: f64) -> Metric {
    Metric {
        name: name.to_owned(),
        unit: unit.to_owned(),
        better,
        value,
    }
}

/// Median first, then the tail.
fn latencies(summary: &Summary) -> Vec<Metric> {
    [
        ("p50", summary.p50_us),
        ("p99", summary.p99_us),
        ("p99.9", summary.p999_us),
        ("max", summary.max_us),
    ]
    .map(|(name, us)| metric(name, "µs", Better::Less, us))
    .to_vec()
}

/// What the run's CPU time is divided by; `None` where that says nothing.
pub(crate) fn work(measured: &Measured) -> Option<Work> {
    const GIB: f64 = (1u64 << 30) as f64;
    match measured {
        Measured::BulkUp(bulk) | Measured::BulkDown(bulk) => {
            Some(Work::Gib(bulk.bytes as f64 / GIB))
        }
        Measured::Udp(datagrams) if datagrams.size < SMALL => {
            Some(Work::Operations(datagrams.received as f64))
        }
        Measured::Udp(datagrams) => Some(Work::Gib(
            datagrams.gbit_per_s * 1e9 / 8.0 * datagrams.seconds / GIB,
        )),
        Measured::Rr(trips) => Some(Work::Operations(trips.count as f64)),
        Measured::Connect(connects) => Some(Work::Operations(connects.count as f64)),
        Measured::Mix(mix) => Some(Work::Gib(mix.bulk.bytes as f64 / GIB)),
        Measured::Objects(objects) => {
            Some(Work::Gib(objects.count as f64 * objects.size as f64 / GIB))
        }
        Measured::Idle(_) | Measured::Start { .. } => None,
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
    use super::*;
    use crate::loadgen::Direction;
    use crate::loadgen::idle::Idle;
    use crate::loadgen::udp::Datagrams;

    #[test]
    fn cpu_time_is_per_gib_or_operation() {
        assert_eq!(Work::Gib(2.0).cost(1.0), Some(0.5));
        assert_eq!(Work::Operations(1000.0).cost(0.5), Some(500.0));
        assert_eq!(Work::Gib(0.0).cost(0.5), None);
    }

    #[test]
    fn small_datagrams_are_counted_and_large_ones_weighed() {
        let measured = |size| {
            Measured::Udp(Datagrams {
                direction: Direction::Up,
                size,
                rate: 0,
                sent: 2000,
                received: 1000,
                loss_percent: 50.0,
                seconds: 1.0,
                gbit_per_s: 8.0,
                per_s: 1000.0,
            })
        };
        assert_eq!(metrics(&measured(64), None)[0].name, "arrived");
        assert_eq!(work(&measured(64)), Some(Work::Operations(1000.0)));
        assert_eq!(metrics(&measured(1400), None)[0].name, "goodput");
        assert!(matches!(work(&measured(1400)), Some(Work::Gib(_))));
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
