//! vfkit's datagrams: the guest's monitor binds a socket of its own, so that frames can come back,
//! and may say hello with four letters.

use std::path::Path;

use socket2::{Domain, SockAddr, Socket, Type};

use super::{Framing, Link};

/// The hello of monitors that send one.
const HELLO: &[u8] = b"VFKT";

/// Joins the network at `path`, from a socket at `own`.
#[track_caller]
pub(crate) fn join(path: &Path, own: &Path, hello: bool) -> Link {
    super::super::world::eventually("the socket is there", || path.exists());
    let socket = Socket::new(Domain::UNIX, Type::DGRAM, None).expect("descriptors are free");
    let address = |path| SockAddr::unix(path).expect("a path that is short enough");
    socket.bind(&address(own)).expect("the path is free");
    socket.connect(&address(path)).expect("the engine is there");
    if hello {
        socket.send(HELLO).expect("the engine takes a hello");
    }
    Link::over(socket, Framing::Packets)
}
