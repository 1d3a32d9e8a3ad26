//! Neighbour discovery for IPv6 (RFC 4861) with recursive DNS servers (RFC 8106).
//!
//! ```text
//! router solicitation     | ICMPv6 header | options …
//! router advertisement    | ICMPv6 header | hop limit, flags, lifetime, two timers | options …
//! neighbour solicitation  | ICMPv6 header | target (16) | options …
//! neighbour advertisement | ICMPv6 header with flags R S O | target (16) | options …
//! option                  | type | length / 8 | …
//! ```

use zerocopy::byteorder::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::MacAddress;

const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOR_SOLICITATION: u8 = 135;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;

const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;
const PREFIX_INFORMATION: u8 = 3;
const MTU: u8 = 5;
const RDNSS: u8 = 25;

/// Length in bytes of a neighbour advertisement that we send, ICMPv6 header included.
pub const NEIGHBOR_ADVERTISEMENT_LEN: usize = 32;
/// Length in bytes of the longest router advertisement that we send, ICMPv6 header included.
pub const ROUTER_ADVERTISEMENT_MAX: usize = 16 + 8 + 8 + 32 + 24;

/// The addresses of all nodes on the link, `ff02::1`.
pub const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// Whether an ICMPv6 message of this type is one that [`Message::parse`] knows.
pub const fn is_ndp(kind: u8) -> bool {
    matches!(kind, ROUTER_SOLICITATION..=NEIGHBOR_ADVERTISEMENT)
}

/// A prefix that a router advertises (RFC 4861 §4.6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixInformation {
    /// The prefix; bits behind its length are ignored.
    pub prefix: [u8; 16],
    /// Length of the prefix in bits.
    pub prefix_len: u8,
    /// Addresses of the prefix are on the link.
    pub on_link: bool,
    /// Hosts may make themselves an address from it (SLAAC, RFC 4862).
    pub autonomous: bool,
    /// Seconds that addresses are valid.
    pub valid_lifetime_s: u32,
    /// Seconds that addresses are preferred.
    pub preferred_lifetime_s: u32,
}

/// A recursive DNS server (RFC 8106 §5.1); of several only the first is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DnsServer {
    /// Its address.
    pub address: [u8; 16],
    /// Seconds that it may be used.
    pub lifetime_s: u32,
}

/// A router advertisement (RFC 4861 §4.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouterAdvertisement {
    /// Hop limit that hosts should use; 0 is no statement.
    pub hop_limit: u8,
    /// Addresses come by DHCPv6.
    pub managed: bool,
    /// Other configuration comes by DHCPv6.
    pub other: bool,
    /// Seconds that the router is a default router; 0 is not at all.
    pub router_lifetime_s: u16,
    /// Source link-layer address option.
    pub source_mac: Option<MacAddress>,
    /// MTU option.
    pub mtu: Option<u32>,
    /// The first prefix information option.
    pub prefix: Option<PrefixInformation>,
    /// The first recursive DNS server.
    pub dns: Option<DnsServer>,
}

/// A neighbour advertisement (RFC 4861 §4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighborAdvertisement {
    /// Whose link-layer address it tells.
    pub target: [u8; 16],
    /// The sender is a router.
    pub router: bool,
    /// It answers a solicitation.
    pub solicited: bool,
    /// It replaces what is cached.
    pub overrides: bool,
    /// Target link-layer address option.
    pub target_mac: Option<MacAddress>,
}

/// A validated message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Are there routers?
    RouterSolicitation {
        /// Source link-layer address option.
        source_mac: Option<MacAddress>,
    },
    /// Here is a router.
    RouterAdvertisement(RouterAdvertisement),
    /// Who has the target address?
    NeighborSolicitation {
        /// The address asked for.
        target: [u8; 16],
        /// Source link-layer address option.
        source_mac: Option<MacAddress>,
    },
    /// I have the target address.
    NeighborAdvertisement(NeighborAdvertisement),
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RouterHeader {
    kind: u8,
    code: u8,
    checksum: U16,
    hop_limit: u8,
    flags: u8,
    router_lifetime: U16,
    reachable_time: U32,
    retransmit_timer: U32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct NeighborHeader {
    kind: u8,
    code: u8,
    checksum: U16,
    flags: U32,
    target: [u8; 16],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct LinkLayerOption {
    kind: u8,
    len: u8,
    mac: MacAddress,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct MtuOption {
    kind: u8,
    len: u8,
    reserved: U16,
    mtu: U32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct PrefixOption {
    kind: u8,
    len: u8,
    prefix_len: u8,
    flags: u8,
    valid_lifetime: U32,
    preferred_lifetime: U32,
    reserved: U32,
    prefix: [u8; 16],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct DnsOption {
    kind: u8,
    len: u8,
    reserved: U16,
    lifetime: U32,
    address: [u8; 16],
}

const ON_LINK: u8 = 0x80;
const AUTONOMOUS: u8 = 0x40;
const MANAGED: u8 = 0x80;
const OTHER: u8 = 0x40;
const ROUTER: u32 = 0x8000_0000;
const SOLICITED: u32 = 0x4000_0000;
const OVERRIDE: u32 = 0x2000_0000;

/// The options of any message that we know.
#[derive(Default)]
struct Options {
    source_mac: Option<MacAddress>,
    target_mac: Option<MacAddress>,
    mtu: Option<u32>,
    prefix: Option<PrefixInformation>,
    dns: Option<DnsServer>,
}

impl Options {
    /// `None` when an option has length zero or reaches beyond the end: then the whole message
    /// is to be dropped (RFC 4861 §4.6, §6.1.1).
    fn parse(mut bytes: &[u8]) -> Option<Self> {
        let mut options = Self::default();
        while let [kind, len, ..] = *bytes {
            if len == 0 {
                return None;
            }
            let (option, rest) = bytes.split_at_checked(usize::from(len) * 8)?;
            options.take(kind, option);
            bytes = rest;
        }
        if bytes.is_empty() {
            Some(options)
        } else {
            None
        }
    }

    /// Options of unknown type or of a length other than their type's are passed over.
    fn take(&mut self, kind: u8, option: &[u8]) {
        match kind {
            SOURCE_LINK_LAYER | TARGET_LINK_LAYER => {
                let Ok(option) = LinkLayerOption::ref_from_bytes(option) else {
                    return;
                };
                let mac = if kind == SOURCE_LINK_LAYER {
                    &mut self.source_mac
                } else {
                    &mut self.target_mac
                };
                *mac = Some(option.mac);
            }
            MTU => {
                let Ok(option) = MtuOption::ref_from_bytes(option) else {
                    return;
                };
                self.mtu = Some(option.mtu.get());
            }
            PREFIX_INFORMATION if self.prefix.is_none() => {
                let Ok(option) = PrefixOption::ref_from_bytes(option) else {
                    return;
                };
                self.prefix = Some(PrefixInformation {
                    prefix: option.prefix,
                    prefix_len: option.prefix_len,
                    on_link: option.flags & ON_LINK != 0,
                    autonomous: option.flags & AUTONOMOUS != 0,
                    valid_lifetime_s: option.valid_lifetime.get(),
                    preferred_lifetime_s: option.preferred_lifetime.get(),
                });
            }
            RDNSS if self.dns.is_none() => {
                let Ok((option, _)) = DnsOption::ref_from_prefix(option) else {
                    return;
                };
                let lifetime_s = option.lifetime.get();
                self.dns = Some(DnsServer {
                    address: option.address,
                    lifetime_s,
                });
            }
            _ => {}
        }
    }
}

impl Message {
    /// Reads a message from its ICMPv6 header on, its checksum verified beforehand; `None` when
    /// RFC 4861 §6.1 or §7.1 declares it invalid. The hop limit, which must be 255, and what
    /// concerns the IPv6 header is for the caller to check.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let [kind, code, ..] = *bytes else {
            return None;
        };
        // RFC 4861 §6.1.1, §6.1.2, §7.1.1, §7.1.2: the code is 0.
        if code != 0 {
            return None;
        }
        match kind {
            ROUTER_SOLICITATION => {
                let options = Options::parse(bytes.get(8..)?)?;
                Some(Self::RouterSolicitation {
                    source_mac: options.source_mac,
                })
            }
            ROUTER_ADVERTISEMENT => {
                let (header, rest) = RouterHeader::ref_from_prefix(bytes).ok()?;
                let Options {
                    source_mac,
                    target_mac: _,
                    mtu,
                    prefix,
                    dns,
                } = Options::parse(rest)?;
                Some(Self::RouterAdvertisement(RouterAdvertisement {
                    hop_limit: header.hop_limit,
                    managed: header.flags & MANAGED != 0,
                    other: header.flags & OTHER != 0,
                    router_lifetime_s: header.router_lifetime.get(),
                    source_mac,
                    mtu,
                    prefix,
                    dns,
                }))
            }
            NEIGHBOR_SOLICITATION | NEIGHBOR_ADVERTISEMENT => {
                let (header, rest) = NeighborHeader::ref_from_prefix(bytes).ok()?;
                let target = header.target;
                // RFC 4861 §7.1.1, §7.1.2: the target is not a multicast address.
                if target[0] == 0xff {
                    return None;
                }
                let options = Options::parse(rest)?;
                if kind == NEIGHBOR_SOLICITATION {
                    let source_mac = options.source_mac;
                    return Some(Self::NeighborSolicitation { target, source_mac });
                }
                let flags = header.flags.get();
                Some(Self::NeighborAdvertisement(NeighborAdvertisement {
                    target,
                    router: flags & ROUTER != 0,
                    solicited: flags & SOLICITED != 0,
                    overrides: flags & OVERRIDE != 0,
                    target_mac: options.target_mac,
                }))
            }
            _ => None,
        }
    }
}

impl NeighborAdvertisement {
    /// Writes the message from its ICMPv6 header on, checksum field zero; returns its length in
    /// bytes: 24, or 32 with a link-layer address.
    pub fn emit(&self, out: &mut [u8; NEIGHBOR_ADVERTISEMENT_LEN]) -> usize {
        let Self {
            target,
            router,
            solicited,
            overrides,
            target_mac,
        } = *self;
        let flags = if router { ROUTER } else { 0 }
            | if solicited { SOLICITED } else { 0 }
            | if overrides { OVERRIDE } else { 0 };
        let header = NeighborHeader {
            kind: NEIGHBOR_ADVERTISEMENT,
            code: 0,
            checksum: U16::ZERO,
            flags: U32::new(flags),
            target,
        };
        let mut writer = Writer { out, len: 0 };
        writer.put(&header);
        if let Some(mac) = target_mac {
            writer.put(&LinkLayerOption {
                kind: TARGET_LINK_LAYER,
                len: 1,
                mac,
            });
        }
        writer.len
    }
}

impl RouterAdvertisement {
    /// Writes the message from its ICMPv6 header on, checksum field zero; returns its length in
    /// bytes.
    pub fn emit(&self, out: &mut [u8; ROUTER_ADVERTISEMENT_MAX]) -> usize {
        let Self {
            hop_limit,
            managed,
            other,
            router_lifetime_s,
            source_mac,
            mtu,
            prefix,
            dns,
        } = *self;
        let mut writer = Writer { out, len: 0 };
        writer.put(&RouterHeader {
            kind: ROUTER_ADVERTISEMENT,
            code: 0,
            checksum: U16::ZERO,
            hop_limit,
            flags: if managed { MANAGED } else { 0 } | if other { OTHER } else { 0 },
            router_lifetime: U16::new(router_lifetime_s),
            reachable_time: U32::ZERO,
            retransmit_timer: U32::ZERO,
        });
        if let Some(mac) = source_mac {
            writer.put(&LinkLayerOption {
                kind: SOURCE_LINK_LAYER,
                len: 1,
                mac,
            });
        }
        if let Some(mtu) = mtu {
            writer.put(&MtuOption {
                kind: MTU,
                len: 1,
                reserved: U16::ZERO,
                mtu: U32::new(mtu),
            });
        }
        if let Some(p) = prefix {
            let flags =
                if p.on_link { ON_LINK } else { 0 } | if p.autonomous { AUTONOMOUS } else { 0 };
            writer.put(&PrefixOption {
                kind: PREFIX_INFORMATION,
                len: 4,
                prefix_len: p.prefix_len,
                flags,
                valid_lifetime: U32::new(p.valid_lifetime_s),
                preferred_lifetime: U32::new(p.preferred_lifetime_s),
                reserved: U32::ZERO,
                prefix: p.prefix,
            });
        }
        if let Some(DnsServer {
            address,
            lifetime_s,
        }) = dns
        {
            let lifetime = U32::new(lifetime_s);
            writer.put(&DnsOption {
                kind: RDNSS,
                len: 3,
                reserved: U16::ZERO,
                lifetime,
                address,
            });
        }
        writer.len
    }
}

/// Appends structures to a buffer that has room for all of them.
struct Writer<'a> {
    out: &'a mut [u8],
    len: usize,
}

impl Writer<'_> {
    fn put(&mut self, part: &(impl IntoBytes + Immutable)) {
        let part = part.as_bytes();
        if let Some(room) = self.out.get_mut(self.len..self.len + part.len()) {
            room.copy_from_slice(part);
            self.len += part.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    const TARGET: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    const MAC: MacAddress = MacAddress([2, 0x74, 0x6f, 0x77, 0, 1]);

    #[test]
    fn neighbor_solicitation_golden_bytes() {
        let mut bytes = Vec::from([135, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend(TARGET);
        let target = TARGET;
        let plain = Message::NeighborSolicitation {
            target,
            source_mac: None,
        };
        assert_eq!(Message::parse(&bytes), Some(plain));
        bytes.extend([1, 1, 2, 0x74, 0x6f, 0x77, 0, 1]);
        let told = Message::NeighborSolicitation {
            target,
            source_mac: Some(MAC),
        };
        assert_eq!(Message::parse(&bytes), Some(told));
        bytes[8] = 0xff;
        assert_eq!(Message::parse(&bytes), None, "multicast target");
        bytes[8] = 0xfd;
        bytes[1] = 1;
        assert_eq!(Message::parse(&bytes), None, "code");
        assert_eq!(Message::parse(&bytes[..23]), None, "too short");
    }

    #[test]
    fn neighbor_advertisement_golden_bytes_both_ways() {
        let advertisement = NeighborAdvertisement {
            target: TARGET,
            router: true,
            solicited: false,
            overrides: true,
            target_mac: Some(MAC),
        };
        let mut out = [0xee; NEIGHBOR_ADVERTISEMENT_LEN];
        assert_eq!(advertisement.emit(&mut out), 32);
        assert_eq!(out[..8], [136, 0, 0, 0, 0xa0, 0, 0, 0]);
        assert_eq!(out[8..24], TARGET);
        assert_eq!(out[24..], [2, 1, 2, 0x74, 0x6f, 0x77, 0, 1]);
        assert_eq!(
            Message::parse(&out),
            Some(Message::NeighborAdvertisement(advertisement))
        );
    }

    #[test]
    fn router_advertisement_both_ways() {
        let advertisement = RouterAdvertisement {
            hop_limit: 64,
            managed: false,
            other: true,
            router_lifetime_s: 1800,
            source_mac: Some(MAC),
            mtu: Some(1500),
            prefix: Some(PrefixInformation {
                prefix: TARGET,
                prefix_len: 64,
                on_link: true,
                autonomous: true,
                valid_lifetime_s: 86_400,
                preferred_lifetime_s: 14_400,
            }),
            dns: Some(DnsServer {
                address: TARGET,
                lifetime_s: 1800,
            }),
        };
        let mut out = [0; ROUTER_ADVERTISEMENT_MAX];
        assert_eq!(advertisement.emit(&mut out), ROUTER_ADVERTISEMENT_MAX);
        assert_eq!(out[..8], [134, 0, 0, 0, 64, 0x40, 0x07, 0x08]);
        assert_eq!(out[16..24], [1, 1, 2, 0x74, 0x6f, 0x77, 0, 1]);
        assert_eq!(out[24..32], [5, 1, 0, 0, 0, 0, 0x05, 0xdc]);
        assert_eq!(out[32..36], [3, 4, 64, 0xc0]);
        assert_eq!(out[64..72], [25, 3, 0, 0, 0, 0, 0x07, 0x08]);
        assert_eq!(
            Message::parse(&out),
            Some(Message::RouterAdvertisement(advertisement))
        );
        let bare = RouterAdvertisement::default();
        assert_eq!(bare.emit(&mut out), 16);
        assert_eq!(
            Message::parse(&out[..16]),
            Some(Message::RouterAdvertisement(bare))
        );
    }

    #[test]
    fn bad_options_spoil_the_message() {
        let solicitation = |options: &[u8]| {
            let mut bytes = Vec::from([133, 0, 0, 0, 0, 0, 0, 0]);
            bytes.extend(options);
            Message::parse(&bytes)
        };
        let heard = |source_mac| Some(Message::RouterSolicitation { source_mac });
        assert_eq!(solicitation(&[]), heard(None));
        assert_eq!(solicitation(&[1, 0, 1, 2, 3, 4, 5, 6]), None, "length 0");
        assert_eq!(
            solicitation(&[1, 2, 1, 2, 3, 4, 5, 6]),
            None,
            "beyond the end"
        );
        assert_eq!(solicitation(&[1]), None, "half an option");
        let unknown_first = [200, 1, 0, 0, 0, 0, 0, 0, 1, 1, 2, 0x74, 0x6f, 0x77, 0, 1];
        assert_eq!(solicitation(&unknown_first), heard(Some(MAC)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(
            kind in 133_u8..=136,
            mut bytes in prop::collection::vec(
                prop::sample::select(std::vec![0_u8, 1, 2, 3, 4, 5, 25]), 2..160,
            ),
        ) {
            bytes[0] = kind;
            bytes[1] = 0;
            let _ = Message::parse(&bytes);
        }
    }
}
