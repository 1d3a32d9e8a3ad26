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
}
