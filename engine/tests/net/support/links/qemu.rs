//! QEMU's `-netdev stream`: nothing before the first frame.

use std::path::Path;

use socket2::Type;

use super::{Framing, Link};

/// Joins the network at that path.
#[track_caller]
pub(crate) fn join(path: &Path) -> Link {
    Link::over(super::connect(path, Type::STREAM), Framing::Qemu)
}
