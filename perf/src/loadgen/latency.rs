//! Latencies: recorded in nanoseconds, reported in microseconds.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Longest latency that is told apart; longer ones count as this.
const LONGEST: Duration = Duration::from_secs(60);
/// Points of a curve for each halving of the distance to 1.
const CURVE_TICKS: u32 = 5;

/// A histogram of latencies with three significant digits.
#[derive(Debug)]
pub(crate) struct Latencies {
    nanos: Histogram<u64>,
}

/// A histogram in short, in microseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) mean_us: f64,
    pub(crate) p50_us: f64,
    pub(crate) p90_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
    /// The distribution: rising quantiles, closer together towards 1.
    pub(crate) curve: Vec<Point>,
}

/// A point of a distribution.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Point {
    /// The share of all latencies that are at most this long, 0 to 1.
    pub(crate) quantile: f64,
    pub(crate) us: f64,
}

impl Latencies {
    /// An empty histogram.
    pub(crate) fn new() -> Latencies {
        let nanos = Histogram::new_with_max(LONGEST.as_nanos() as u64, 3)
            .expect("the bounds of the histogram are constants that it takes");
        Latencies { nanos }
    }

    /// Adds one latency.
    pub(crate) fn record(&mut self, latency: Duration) {
        self.nanos
            .saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Adds all latencies of another histogram.
    pub(crate) fn merge(&mut self, other: &Latencies) {
        self.nanos
            .add(&other.nanos)
            .expect("both histograms have the same bounds");
    }

    /// How many were recorded.
    pub(crate) fn count(&self) -> u64 {
        self.nanos.len()
    }

    /// The histogram in short; `None` when nothing was recorded.
    pub(crate) fn summary(&self) -> Option<Summary> {
        let at = |quantile| self.nanos.value_at_quantile(quantile) as f64 / 1e3;
        (!self.nanos.is_empty()).then(|| Summary {
            mean_us: self.nanos.mean() / 1e3,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: self.nanos.max() as f64 / 1e3,
            curve: self.curve(),
        })
    }

    fn curve(&self) -> Vec<Point> {
        let points = self.nanos.iter_quantiles(CURVE_TICKS).map(|value| Point {
            quantile: value.quantile(),
            us: value.value_iterated_to() as f64 / 1e3,
        });
        points.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_three_digits() {
        let mut latencies = Latencies::new();
        assert_eq!(latencies.summary(), None);
        let mut other = Latencies::new();
        for us in 1..=500 {
            latencies.record(Duration::from_micros(us));
            other.record(Duration::from_micros(us + 500));
        }
        latencies.merge(&other);
        assert_eq!(latencies.count(), 1000);
        let summary = latencies.summary().unwrap();
        for (got, want) in [
            (summary.p50_us, 500.0),
            (summary.p99_us, 990.0),
            (summary.max_us, 1000.0),
        ] {
            assert!((got - want).abs() / want < 0.002, "{got} for {want}");
        }
        let curve = summary.curve;
        assert!((20..200).contains(&curve.len()), "{}", curve.len());
        assert!(curve.is_sorted_by(|one, next| one.quantile <= next.quantile && one.us <= next.us));
        let last = curve.last().unwrap();
        assert_eq!(last.quantile, 1.0);
        assert!((last.us - 1000.0).abs() < 2.0, "{last:?}");
    }

    #[test]
    fn what_is_longer_than_the_longest_still_counts() {
        let mut latencies = Latencies::new();
        latencies.record(Duration::from_secs(1000));
        assert_eq!(latencies.count(), 1);
    }
}
