//! Many packets in one system call.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::buffer::Slice;
use crate::driver::{Errno, PACKETS_MAX};

/// Sends packets without waiting, up to the first that fails. Returns how many went, or its error if it
/// was the first. `parts` is room for their parts.
pub(in crate::driver) fn send_now(
    fd: BorrowedFd<'_>,
    packets: &[&[Slice]],
    parts: &mut Vec<libc::iovec>,
) -> Result<u32, Errno> {
    parts.clear();
    parts.extend(packets.iter().copied().flatten().map(|slice| libc::iovec {
        iov_base: slice.bytes().as_ptr().cast_mut().cast(),
        iov_len: slice.len(),
    }));
    // SAFETY: all-zero is a valid mmsghdr: null pointers with zero lengths.
    let mut messages: [libc::mmsghdr; PACKETS_MAX] = unsafe { std::mem::zeroed() };
    let mut rest = &mut parts[..];
    for (message, packet) in messages.iter_mut().zip(packets) {
        let (of_packet, behind) = rest.split_at_mut(packet.len());
        message.msg_hdr.msg_iov = of_packet.as_mut_ptr();
        message.msg_hdr.msg_iovlen = of_packet.len() as _;
        rest = behind;
    }
    let count = packets.len().min(PACKETS_MAX) as u32;
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: the first `count` messages name parts of `parts`, which live through the call as do the
    // slices that those name, whose bytes the kernel only reads.
    let sent = unsafe { libc::sendmmsg(fd.as_raw_fd(), messages.as_mut_ptr(), count, flags as _) };
    u32::try_from(sent).map_err(|_| {
        let error = io::Error::last_os_error();
        Errno::from_io_error(&error).unwrap_or(Errno::IO)
    })
}
