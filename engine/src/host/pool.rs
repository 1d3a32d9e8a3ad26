//! TCP sockets made and tuned ahead, so that a SYN costs one CONNECT submission.

use std::io;

use towpath_ring::driver::{Driver, SocketId, SocketKind};

/// How many sockets of each IP version wait ready on one core.
///
/// Enough for a burst of 16 connects at a time (what a CI job's package manager does) between two
/// refills; each costs a file descriptor and about 2 KiB of kernel memory.
const READY: usize = 32;

/// Sockets that are ready to connect.
#[derive(Default)]
pub(crate) struct SocketPool {
    tcp4: Vec<SocketId>,
    tcp6: Vec<SocketId>,
}

impl SocketPool {
    /// A socket for a TCP connection: a ready one, else a new one.
    pub(crate) fn take<D: Driver>(
        &mut self,
        driver: &mut D,
        kind: SocketKind,
    ) -> io::Result<SocketId> {
        let ready = match kind {
            SocketKind::TcpV4 => self.tcp4.pop(),
            SocketKind::TcpV6 => self.tcp6.pop(),
            _ => None,
        };
        ready.map_or_else(|| driver.open(kind), Ok)
    }

    /// Makes up to `at_most` new sockets. Called when the core has little else to do; running out
    /// of descriptors here is no error, the next connection will say so.
    pub(crate) fn refill<D: Driver>(&mut self, driver: &mut D, at_most: usize) {
        let mut left = at_most;
        for (pool, kind) in [
            (&mut self.tcp4, SocketKind::TcpV4),
            (&mut self.tcp6, SocketKind::TcpV6),
        ] {
            while pool.len() < READY && left > 0 {
                let Ok(socket) = driver.open(kind) else {
                    return;
                };
                pool.push(socket);
                left -= 1;
            }
        }
    }
}
