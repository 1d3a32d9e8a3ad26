//! Sequence numbers: arithmetic modulo 2³² (RFC 9293 §3.4).

use core::ops::{Add, AddAssign, Sub};

/// A TCP sequence number. Comparison is by [`before`](Self::before), which is only meaningful for
/// numbers less than 2³¹ apart; there is no `Ord` on purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SequenceNumber(pub u32);

impl SequenceNumber {
    /// Whether `self` comes before `other`.
    pub const fn before(self, other: Self) -> bool {
        (self.0.wrapping_sub(other.0) as i32) < 0
    }

    /// Whether `self` comes after `other`.
    pub const fn after(self, other: Self) -> bool {
        other.before(self)
    }

    /// Whether `self` comes before `other` or equals it.
    pub const fn at_or_before(self, other: Self) -> bool {
        !other.before(self)
    }

    /// The later of the two.
    pub const fn max(self, other: Self) -> Self {
        if self.before(other) { other } else { self }
    }

    /// The earlier of the two.
    pub const fn min(self, other: Self) -> Self {
        if other.before(self) { other } else { self }
    }

    /// Bytes from `earlier` to `self`; only for `earlier.at_or_before(self)`.
    pub const fn since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }
}

impl Add<u32> for SequenceNumber {
    type Output = Self;

    fn add(self, bytes: u32) -> Self {
        Self(self.0.wrapping_add(bytes))
    }
}

impl AddAssign<u32> for SequenceNumber {
    fn add_assign(&mut self, bytes: u32) {
        *self = *self + bytes;
    }
}

impl Sub<u32> for SequenceNumber {
    type Output = Self;

    fn sub(self, bytes: u32) -> Self {
        Self(self.0.wrapping_sub(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::SequenceNumber as Seq;
    use proptest::prelude::*;

    #[test]
    fn order_holds_across_the_wrap() {
        assert!(Seq(0xffff_fff0).before(Seq(0x10)));
        assert!(Seq(0x10).after(Seq(0xffff_fff0)));
        assert_eq!(Seq(0xffff_fff0) + 0x20, Seq(0x10));
        assert_eq!(Seq(0x10) - 0x20, Seq(0xffff_fff0));
        assert_eq!(Seq(0x10).since(Seq(0xffff_fff0)), 0x20);
        assert_eq!(Seq(0x10).max(Seq(0xffff_fff0)), Seq(0x10));
        assert_eq!(Seq(0x10).min(Seq(0xffff_fff0)), Seq(0xffff_fff0));
    }
    /// Less than 2³¹ apart: where comparison means something.
    fn distance() -> impl Strategy<Value = i64> {
        const HALF: i64 = 1 << 31;
        prop_oneof![-3_i64..=3, 1 - HALF..HALF, Just(1 - HALF), Just(HALF - 1)]
    }

    proptest! {
        /// On the circle all is as on a line that is long enough.
        #[test]
        fn the_circle_is_a_line_of_less_than_half_its_length(
            at in any::<u32>(), first in distance(), second in distance(),
        ) {
            prop_assume!((first - second).abs() < 1 << 31);
            let on_circle = |distance: i64| Seq((i64::from(at) + distance) as u32);
            let (a, b) = (on_circle(first), on_circle(second));
            prop_assert_eq!(a.before(b), first < second);
            prop_assert_eq!(a.after(b), first > second);
            prop_assert_eq!(a.at_or_before(b), first <= second);
            prop_assert_eq!(a.max(b), on_circle(first.max(second)));
            prop_assert_eq!(a.min(b), on_circle(first.min(second)));
            if second <= first {
                let bytes = a.since(b);
                prop_assert_eq!(i64::from(bytes), first - second);
                prop_assert_eq!(b + bytes, a);
                prop_assert_eq!(a - bytes, b);
                let mut moved = b;
                moved += bytes;
                prop_assert_eq!(moved, a);
            }
        }
    }
}
