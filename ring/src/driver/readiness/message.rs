//! The system calls whose arguments are structures of addresses: connects, and datagrams one by one or
//! several at a time. Nothing here waits.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::buffer::{Blank, Slice};
use crate::driver::kernel::address::{INET_BYTES, RawAddress, parse_inet};
use crate::driver::kernel::control::{self, Ancillary};
use crate::driver::kernel::packets::send_now;
use crate::driver::{Errno, SEND_SLICES_MAX};

/// How many datagrams one call receives.
pub(super) const INBOX_DATAGRAMS: usize = 16;

/// Room for the sender's address and for control messages, in words of 8 bytes.
const NAME_WORDS: usize = INET_BYTES.div_ceil(8);
const CONTROL_WORDS: usize = 12;

const SEND_FLAGS: libc::c_int = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;

/// Connects; `EINPROGRESS`: it is under way.
pub(super) fn connect(socket: BorrowedFd<'_>, address: &RawAddress) -> Result<(), Errno> {
    // SAFETY: the address and its length belong together and live through the call.
    let result = unsafe { libc::connect(socket.as_raw_fd(), address.as_ptr(), address.len()) };
    outcome(result as isize).map(|_| ())
}

/// What came of a connect that was under way. After a failure the socket can be connected anew.
pub(super) fn connect_outcome(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    let outcome = rustix::net::sockopt::socket_error(socket).and_then(|result| result);
    if outcome.is_err() {
        // Linux takes the connect as under way until it is asked once more, or told to forget it.
        let _ = rustix::net::connect_unspec(socket);
    }
    outcome
}

/// Sends lists of slices as messages.
#[derive(Debug)]
pub(super) struct Outbox {
    parts: Vec<libc::iovec>,
}

impl Outbox {
    pub(super) fn new() -> Outbox {
        Outbox {
            parts: Vec::with_capacity(SEND_SLICES_MAX),
        }
    }

    /// Sends all slices as one message, to an address or to the connected peer, as bytes of a stream or,
    /// with `gso_size` ≠ 0, as datagrams of that many bytes. Returns how many bytes were taken.
    pub(super) fn send(
        &mut self,
        socket: BorrowedFd<'_>,
        to: Option<&SocketAddr>,
        payload: &[Slice],
        gso_size: u16,
    ) -> Result<u32, Errno> {
        self.parts.clear();
        self.parts.extend(payload.iter().map(part));
        let mut message = empty_message();
        let mut address = RawAddress::default();
        if let Some(to) = to {
            address.set_inet(to);
            message.msg_name = address.as_ptr().cast_mut().cast();
            message.msg_namelen = address.len();
        }
        message.msg_iov = self.parts.as_mut_ptr();
        message.msg_iovlen = self.parts.len() as _;
        let mut control = [0_u64; 3];
        if gso_size != 0 {
            let mut bytes = [0; 24];
            message.msg_controllen = control::write_segment_size(&mut bytes, gso_size) as _;
            for (word, bytes) in control.iter_mut().zip(bytes.chunks_exact(8)) {
                *word = u64::from_ne_bytes(bytes.try_into().unwrap_or_default());
            }
            message.msg_control = control.as_mut_ptr().cast();
        }
        again(|| {
            // SAFETY: the message points to the address, the parts and the control message with their true
            // lengths; they and the slices live through the call, which only reads them.
            unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, SEND_FLAGS) }
        })
    }

    /// Sends packets to the connected peer, in order. Returns how many were taken; the error of one that
    /// is not the first is not told.
    pub(super) fn send_packets(
        &mut self,
        socket: BorrowedFd<'_>,
        packets: &[&[Slice]],
    ) -> Result<u32, Errno> {
        send_now(socket, packets, &mut self.parts)
    }
}

/// Receives several datagrams at a time, each into a buffer of its own.
pub(super) struct Inbox {
    names: [[u64; NAME_WORDS]; INBOX_DATAGRAMS],
    controls: [[u64; CONTROL_WORDS]; INBOX_DATAGRAMS],
    parts: [libc::iovec; INBOX_DATAGRAMS],
    messages: [libc::mmsghdr; INBOX_DATAGRAMS],
}

/// What came with a datagram.
#[derive(Debug)]
pub(super) struct Envelope {
    /// The length of the payload in bytes.
    pub(super) bytes: usize,
    /// It did not fit.
    pub(super) cut: bool,
    pub(super) from: Option<SocketAddr>,
    pub(super) ancillary: Ancillary,
}

impl Inbox {
    pub(super) fn new() -> Box<Inbox> {
        let part = libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        };
        let message = libc::mmsghdr {
            msg_hdr: empty_message(),
            msg_len: 0,
        };
        Box::new(Inbox {
            names: [[0; NAME_WORDS]; INBOX_DATAGRAMS],
            controls: [[0; CONTROL_WORDS]; INBOX_DATAGRAMS],
            parts: [part; INBOX_DATAGRAMS],
            messages: [message; INBOX_DATAGRAMS],
        })
    }

    /// Receives into the first [`INBOX_DATAGRAMS`] buffers. Returns how many datagrams came, whose
    /// envelopes are then there.
    pub(super) fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        blanks: &mut [Blank],
    ) -> Result<usize, Errno> {
        let count = blanks.len().min(INBOX_DATAGRAMS);
        for (at, blank) in blanks.iter_mut().take(count).enumerate() {
            let bytes = blank.bytes_mut();
            self.parts[at].iov_base = bytes.as_mut_ptr().cast();
            self.parts[at].iov_len = bytes.len();
            let header = &mut self.messages[at].msg_hdr;
            header.msg_name = self.names[at].as_mut_ptr().cast();
            header.msg_namelen = size_of_val(&self.names[at]) as libc::socklen_t;
            header.msg_iov = &raw mut self.parts[at];
            header.msg_iovlen = 1;
            header.msg_control = self.controls[at].as_mut_ptr().cast();
            header.msg_controllen = size_of_val(&self.controls[at]) as _;
            header.msg_flags = 0;
        }
        let received = again(|| {
            // SAFETY: the first `count` messages point to their own name, control and part with their true
            // lengths, and each part to a buffer that is exclusively borrowed; all live through the call.
            let received = unsafe {
                libc::recvmmsg(
                    socket.as_raw_fd(),
                    self.messages.as_mut_ptr(),
                    count as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                    std::ptr::null_mut(),
                )
            };
            received as isize
        })?;
        Ok((received as usize).min(count))
    }

    /// What came with datagram `at` of the last receive.
    pub(super) fn envelope(&self, at: usize) -> Envelope {
        let message = &self.messages[at];
        let header = &message.msg_hdr;
        let name_len = header.msg_namelen as usize;
        let control_len = header.msg_controllen;
        Envelope {
            bytes: message.msg_len as usize,
            cut: header.msg_flags & libc::MSG_TRUNC != 0,
            from: parse_inet(&bytes_of(&self.names[at])[..name_len.min(NAME_WORDS * 8)]),
            ancillary: control::parse(
                &bytes_of(&self.controls[at])[..control_len.min(CONTROL_WORDS * 8)],
            ),
        }
    }
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox").finish_non_exhaustive()
    }
}

fn bytes_of<const N: usize>(words: &[u64; N]) -> &[u8] {
    // SAFETY: an array of u64 may be read as bytes; the length is the array's.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words)) }
}

fn part(slice: &Slice) -> libc::iovec {
    libc::iovec {
        iov_base: slice.bytes().as_ptr().cast_mut().cast(),
        iov_len: slice.len(),
    }
}

fn empty_message() -> libc::msghdr {
    // SAFETY: all-zero is a valid msghdr: null pointers with zero lengths.
    unsafe { std::mem::zeroed() }
}

/// The outcome of a call that is made again when a signal interrupts it.
fn again(mut call: impl FnMut() -> isize) -> Result<u32, Errno> {
    loop {
        match outcome(call()) {
            Err(Errno::INTR) => {}
            outcome => return outcome,
        }
    }
}

fn outcome(result: isize) -> Result<u32, Errno> {
    if result >= 0 {
        return Ok(u32::try_from(result).unwrap_or(u32::MAX));
    }
    let error = std::io::Error::last_os_error();
    Err(Errno::from_io_error(&error).unwrap_or(Errno::IO))
}
