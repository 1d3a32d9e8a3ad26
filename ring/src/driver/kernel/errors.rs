//! A socket's error queue.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd, BorrowedFd};

use super::address::{INET_BYTES, parse_inet};
use super::control;
use crate::driver::{Errno, ErrorOrigin, SocketError};

/// How much of what was sent is kept.
const PAYLOAD_MAX: usize = 576;

/// Entries kept per socket until somebody takes them.
const KEPT_MAX: usize = 32;

/// What was taken out of the kernel's error queue of a socket, oldest first.
#[derive(Debug, Default)]
pub(in crate::driver) struct TakenErrors(VecDeque<SocketError>);

impl TakenErrors {
    /// Empties the kernel's error queue (while it is not empty the socket always looks ready).
    pub(in crate::driver) fn drain(&mut self, socket: BorrowedFd<'_>) -> Drained {
        let mut drained = Drained::default();
        while let Some(error) = read(socket) {
            drained.first = drained.first.or(Some(error.errno));
            if !matches!(error.origin, ErrorOrigin::Local) {
                drained.from_network = drained.from_network.or(Some(error.errno));
            }
            if self.0.len() < KEPT_MAX {
                self.0.push_back(error);
            } else {
                drained.dropped += 1;
            }
        }
        drained
    }

    /// The oldest entry, taken before or in the kernel's queue.
    pub(in crate::driver) fn take(&mut self, socket: BorrowedFd<'_>) -> Option<SocketError> {
        self.0.pop_front().or_else(|| read(socket))
    }
}

/// What one draining found.
#[derive(Copy, Clone, Debug, Default)]
pub(in crate::driver) struct Drained {
    /// The first error.
    pub(in crate::driver) first: Option<Errno>,
    /// The first error that came from the network.
    pub(in crate::driver) from_network: Option<Errno>,
    /// Entries dropped because too many are kept already.
    pub(in crate::driver) dropped: u64,
}

/// Whether an error concerns one earlier datagram, after which a socket shared by many peers goes on.
pub(in crate::driver) fn is_soft(errno: Errno) -> bool {
    !matches!(
        errno,
        Errno::BADF
            | Errno::NOTSOCK
            | Errno::FAULT
            | Errno::INVAL
            | Errno::OPNOTSUPP
            | Errno::CANCELED
            | Errno::NOTCONN
    )
}

/// Takes the first entry of the kernel's error queue, if there is one that says something.
fn read(socket: BorrowedFd<'_>) -> Option<SocketError> {
    let mut name = [0u64; INET_BYTES.div_ceil(8)];
    let mut control = [0u64; 32];
    let mut payload = [0u8; PAYLOAD_MAX];
    loop {
        let mut part = libc::iovec {
            iov_base: payload.as_mut_ptr().cast(),
            iov_len: payload.len(),
        };
        // SAFETY: all-zero is a valid msghdr: null pointers with zero lengths.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_name = name.as_mut_ptr().cast();
        message.msg_namelen = size_of_val(&name) as libc::socklen_t;
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
        // SAFETY: the message points to arrays of this frame with their true lengths.
        let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
        let len = usize::try_from(received).ok()?;
        if message.msg_flags & libc::MSG_ERRQUEUE == 0 {
            // UNIX sockets have no error queue and do not mind being asked for it.
            return None;
        }
        let control_len = (message.msg_controllen as usize).min(size_of_val(&control));
        // SAFETY: any u64 array may be read as bytes; the length is that of the array at most.
        let control =
            unsafe { std::slice::from_raw_parts(control.as_ptr().cast::<u8>(), control_len) };
        // SAFETY: as above.
        let name =
            unsafe { std::slice::from_raw_parts(name.as_ptr().cast::<u8>(), size_of_val(&name)) };
        // An entry without an error (a timestamp, say) is not for us.
        let Some(error) = control::parse(control).error else {
            continue;
        };
        let nowhere = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
        let target = if message.msg_namelen > 0 {
            parse_inet(name)
        } else {
            None
        };
        return Some(SocketError {
            errno: error.errno,
            origin: error.origin,
            info: error.info,
            target: target.unwrap_or(nowhere),
            payload: payload[..len.min(payload.len())].to_vec(),
        });
    }
}
