//! BESS's ports: packets that keep their bounds and their order, over a connection.

use std::path::Path;

use socket2::Type;

use super::{Framing, Link};

/// Joins the network at that path.
#[track_caller]
pub(crate) fn join(path: &Path) -> Link {
    Link::over(super::connect(path, Type::SEQPACKET), Framing::Packets)
}
