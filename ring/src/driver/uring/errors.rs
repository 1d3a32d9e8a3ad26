//! A socket's error queue.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd, BorrowedFd};

use super::address::{INET_BYTES, parse_inet};
use super::control;
use crate::driver::SocketError;

/// How much of what was sent is kept.
const PAYLOAD_MAX: usize = 576;

/// Takes the first entry of the kernel's error queue, if there is one that says something.
pub(super) fn read(socket: BorrowedFd<'_>) -> Option<SocketError> {
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
