//! Medians and ranges of a few runs.

use serde::{Deserialize, Serialize};

/// The middle, the least and the most of some numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of these numbers; `None` when there are none. The median of an even count is the mean of the
    /// middle two.
    pub(crate) fn of(numbers: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut sorted: Vec<f64> = numbers.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            (sorted[middle - 1] + sorted[middle]) / 2.0
        };
        Some(Spread { median, min, max })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn odd_and_even_counts() {
        assert_eq!(Spread::of([]), None);
        let spread = Spread::of([3.0, 1.0, 9.0]).unwrap();
        assert_eq!(
            spread,
            Spread {
                median: 3.0,
                min: 1.0,
                max: 9.0
            }
        );
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 9.0]).unwrap().median, 3.0);
        assert_eq!(
            Spread::of([5.0]).unwrap(),
            Spread {
                median: 5.0,
                min: 5.0,
                max: 5.0
            }
        );
    }

    proptest! {
        #[test]
        fn the_median_is_between_the_ends(
            numbers in proptest::collection::vec(-1e9..1e9f64, 1..20),
        ) {
            let spread = Spread::of(numbers.iter().copied()).unwrap();
            prop_assert!(spread.min <= spread.median && spread.median <= spread.max);
            let below = numbers.iter().filter(|number| **number < spread.median).count();
            prop_assert!(below <= numbers.len() / 2);
        }
    }
}
