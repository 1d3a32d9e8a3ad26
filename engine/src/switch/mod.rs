//! The switch between guests: which port a frame goes to, and what it must not do there.
//!
//! # Theory of operation
//!
//! All guests of an engine are stations on one ethernet segment; so is the gateway, which is us.
//! Each guest's link is a port, and each port has a home core. A core decides about the frames of
//! its own ports, in this order, and nothing here does any I/O:
//!
//! 1. [`Stations::learn`] notes at which port the source MAC address was heard. What it refuses is
//!    dropped: a station that several ports claim at once is a loop or a lie.
//! 2. [`forward`](forward::forward) looks the target up: us, one port, all ports, or nobody.
//! 3. What goes to all ports has to pass the port's [`FloodLimit`].
//! 4. What goes to other guests is judged by [`guard::judge`]: a guest must not play gateway,
//!    router or DHCP server for others. Frames of protocols that nobody here reads pass, but for
//!    those that wrap what others might understand (VLAN tags, LLC); damaged ones do not.
//!
//! Cores share nothing, so each has a replica of the table of stations. The home of a port is the
//! one that learns from its frames; whenever [`Learned::is_news`] says so it sends a [`Heard`] to
//! the other cores *before* it hands the frame itself to any of them. Lanes keep their order, hence
//! a core that sends a flooded frame out of one of its ports knows already whose frame it is, and
//! refuses it when a loop behind that port brings it back.
//!
//! [`Stations::learn`]: stations::Stations::learn
//! [`FloodLimit`]: flood::FloodLimit
//! [`Learned::is_news`]: stations::Learned::is_news
//! [`Heard`]: stations::Heard

pub(crate) mod flood;
pub(crate) mod forward;
pub(crate) mod guard;
pub(crate) mod stations;

use crate::link::PortId;

/// Where a station is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The home core of the port.
    pub(crate) core: u8,
    /// The port behind which it was heard.
    pub(crate) port: PortId,
}
