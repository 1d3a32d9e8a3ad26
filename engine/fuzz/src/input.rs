//! Decisions out of a fuzzer's bytes.

use arbitrary::Unstructured;

/// The bytes that are left. When there are none, every answer is zero.
pub(crate) struct Input<'a>(Unstructured<'a>);

impl<'a> Input<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Self {
        Self(Unstructured::new(data))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn u8(&mut self) -> u8 {
        self.0.arbitrary().unwrap_or(0)
    }

    pub(crate) fn u16(&mut self) -> u16 {
        self.0.arbitrary().unwrap_or(0)
    }

    pub(crate) fn u32(&mut self) -> u32 {
        self.0.arbitrary().unwrap_or(0)
    }

    /// At most `max` bytes, how many is asked first.
    pub(crate) fn bytes(&mut self, max: usize) -> &'a [u8] {
        let len = usize::from(self.u16()).min(max).min(self.0.len());
        self.0.bytes(len).unwrap_or(&[])
    }

    /// All the bytes that are left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        self.0.bytes(self.0.len()).unwrap_or(&[])
    }

    /// A distance that is mostly none, often small and seldom anything.
    pub(crate) fn distance(&mut self) -> i32 {
        match self.u8() {
            0..=127 => 0,
            128..=191 => i32::from(self.u8()),
            192..=223 => -i32::from(self.u8()),
            224..=251 => i32::from(self.u16() as i16),
            _ => self.u32() as i32,
        }
    }

    /// A length that is mostly small, at most `max`.
    pub(crate) fn len(&mut self, max: usize) -> usize {
        let len = match self.u8() {
            0..=95 => 0,
            96..=191 => usize::from(self.u8()),
            192..=223 => 1460,
            _ => usize::from(self.u16()),
        };
        len.min(max)
    }
}
