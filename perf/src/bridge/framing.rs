//! How frames stand in a byte stream: each behind its length.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Longest Ethernet header in front of the MTU's bytes, with one VLAN tag.
pub(crate) const HEADER_MAX: usize = 18;

/// The length in front of each frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Framing {
    /// QEMU's `stream` and `socket` back-ends: 32 bits, big-endian
    Qemu,
    /// vpnkit's vmnet protocol: 16 bits, little-endian, after a handshake
    Vpnkit,
}

impl Framing {
    /// Bytes of the length.
    pub(crate) fn prefix_bytes(self) -> usize {
        match self {
            Framing::Qemu => 4,
            Framing::Vpnkit => 2,
        }
    }

    /// Writes the length of a frame to the start of `to`. A frame for vpnkit has at most 65535
    /// bytes.
    pub(crate) fn write_length(self, length: usize, to: &mut [u8]) {
        let length = length as u32;
        match self {
            Framing::Qemu => to[..4].copy_from_slice(&length.to_be_bytes()),
            Framing::Vpnkit => to[..2].copy_from_slice(&length.to_le_bytes()[..2]),
        }
    }

    /// Where the first frame of `bytes` lies; `None` while it is not there in full.
    ///
    /// # Errors
    /// The length, when it is zero or above `most`: the two sides are out of step.
    pub(crate) fn first_frame(
        self,
        bytes: &[u8],
        most: usize,
    ) -> Result<Option<Range<usize>>, u32> {
        let length = match (self, bytes) {
            (Framing::Qemu, &[a, b, c, d, ..]) => u32::from_be_bytes([a, b, c, d]),
            (Framing::Vpnkit, &[a, b, ..]) => u32::from(u16::from_le_bytes([a, b])),
            _ => return Ok(None),
        };
        if length == 0 || length as usize > most {
            return Err(length);
        }
        let start = self.prefix_bytes();
        let end = start + length as usize;
        Ok((end <= bytes.len()).then_some(start..end))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_stand_as_the_protocols_say() {
        let mut prefix = [0xff; 4];
        Framing::Qemu.write_length(0x1234, &mut prefix);
        assert_eq!(prefix, [0, 0, 0x12, 0x34]);
        Framing::Vpnkit.write_length(0xfffe, &mut prefix);
        assert_eq!(prefix[..2], [0xfe, 0xff]);
    }

    #[test]
    fn a_length_that_cannot_be_is_refused() {
        assert_eq!(Framing::Qemu.first_frame(&[0, 0, 0, 0, 1], 1518), Err(0));
        assert_eq!(Framing::Qemu.first_frame(&[1, 0, 0, 0], 1518), Err(1 << 24));
        assert_eq!(
            Framing::Vpnkit.first_frame(&[0xff, 0xff], 1518),
            Err(65_535)
        );
    }

    proptest! {
        #[test]
        fn a_frame_is_found_once_it_is_whole(
            vpnkit: bool,
            frame in proptest::collection::vec(any::<u8>(), 1..2000),
            cut: usize,
        ) {
            let framing = if vpnkit { Framing::Vpnkit } else { Framing::Qemu };
            let mut stream = vec![0; framing.prefix_bytes()];
            framing.write_length(frame.len(), &mut stream);
            stream.extend(&frame);
            let short = &stream[..cut % stream.len()];
            prop_assert_eq!(framing.first_frame(short, 2000), Ok(None));
            let found = framing.first_frame(&stream, 2000).unwrap().unwrap();
            prop_assert_eq!(&stream[found], &frame[..]);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(
            vpnkit: bool,
            bytes in proptest::collection::vec(any::<u8>(), 0..100),
            most in 0usize..100_000,
        ) {
            let framing = if vpnkit { Framing::Vpnkit } else { Framing::Qemu };
            if let Ok(Some(range)) = framing.first_frame(&bytes, most) {
                prop_assert!(range.end <= bytes.len() && range.len() <= most);
            }
        }
    }
}
