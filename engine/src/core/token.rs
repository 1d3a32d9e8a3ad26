//! What a completion or a timer belongs to, in the 64 bits that travel through the driver.

use towpath_ring::driver::Token;

use crate::link::PortId;

/// One flow of a core: which table, and its place there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FlowId {
    pub(crate) kind: FlowKind,
    pub(crate) index: u32,
}

/// The tables of a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FlowKind {
    /// A TCP connection.
    Tcp,
    /// A UDP mapping.
    Udp,
    /// An ICMP echo id.
    Echo,
    /// The socket to the control thread.
    Service,
    /// The link of a guest; the index is its port's number.
    Port,
}

impl FlowId {
    pub(crate) const fn tcp(index: u32) -> Self {
        Self {
            kind: FlowKind::Tcp,
            index,
        }
    }

    pub(crate) const fn udp(index: u32) -> Self {
        Self {
            kind: FlowKind::Udp,
            index,
        }
    }

    pub(crate) const fn echo(index: u32) -> Self {
        Self {
            kind: FlowKind::Echo,
            index,
        }
    }

    pub(crate) const fn port(port: PortId) -> Self {
        Self {
            kind: FlowKind::Port,
            index: port.0 as u32,
        }
    }

    /// The port whose link this is.
    pub(crate) const fn port_id(self) -> PortId {
        PortId(self.index as u16)
    }

    pub(crate) const SERVICE: Self = Self {
        kind: FlowKind::Service,
        index: 0,
    };

    /// As a driver token: the kind above the index.
    pub(crate) const fn token(self) -> Token {
        (self.kind as u64) << 32 | self.index as u64
    }

    /// The inverse of [`token`](Self::token).
    pub(crate) const fn from_token(token: Token) -> Self {
        let kind = match token >> 32 {
            0 => FlowKind::Tcp,
            1 => FlowKind::Udp,
            2 => FlowKind::Echo,
            3 => FlowKind::Service,
            _ => FlowKind::Port,
        };
        Self {
            kind,
            index: token as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{FlowId, PortId};

    #[test]
    fn tokens_come_back() {
        for id in [
            FlowId::tcp(7),
            FlowId::udp(u32::MAX),
            FlowId::echo(0),
            FlowId::SERVICE,
            FlowId::port(PortId(9)),
        ] {
            assert_eq!(FlowId::from_token(id.token()), id);
        }
    }
}
