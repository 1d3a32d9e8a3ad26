//! Frames on a byte stream: each behind its length.

/// How a frame's length is written in front of it.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Framing {
    /// 16 bits, little-endian: vpnkit's protocol once its hello is over.
    Le16,
    /// 32 bits, big-endian: QEMU's `-netdev stream` and `-netdev socket`, passt, gvproxy, libkrun.
    Be32,
}
