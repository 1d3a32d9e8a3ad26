//! Many datagrams of one size by few system calls, so that the generator is not the limit.
//!
//! Large ones leave as one buffer that the kernel cuts into datagrams (UDP segmentation offload): on
//! a path that can carry the buffer whole, as a veth pair can, it is never cut at all. Small ones
//! leave by `sendmmsg`, each a packet of its own from the start, because what they are for is to
//! count packets. The receiver takes both kinds as they come, up to 64 at a time.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::sockopt::{UdpGroSegment, UdpGsoSegment};
use nix::sys::socket::{MsgFlags, MultiHeaders, recvmmsg, sendmmsg, setsockopt};

/// Datagrams below this size are sent as packets of their own, in bytes.
const SMALL: usize = 512;
/// Datagrams by one system call at most. More than this many segments are refused by kernels before
/// 6.9.
const BATCH: usize = 64;
/// Bytes that one system call may hand over for segmentation: the largest UDP payload.
const SEGMENTED_MAX: usize = 65_507;

/// Sends datagrams of one size through a connected socket.
pub(crate) struct Burst<'a> {
    socket: &'a UdpSocket,
    size: usize,
    payload: Vec<u8>,
    headers: MultiHeaders<()>,
    /// The kernel cuts the datagrams from one buffer.
    segmented: bool,
}

impl Burst<'_> {
    /// For datagrams of `size` bytes, at most 65,507.
    pub(crate) fn new(socket: &UdpSocket, size: usize) -> Burst<'_> {
        // Two at least must fit; a kernel that cannot do it says so.
        let segmented = size >= SMALL
            && size * 2 <= SEGMENTED_MAX
            && setsockopt(socket, UdpGsoSegment, &(size as i32)).is_ok();
        let bytes = if segmented { SEGMENTED_MAX } else { size };
        Burst {
            socket,
            size,
            payload: vec![0x5a; bytes],
            headers: MultiHeaders::preallocate(BATCH, None),
            segmented,
        }
    }

    /// Hands at most `count` datagrams to the kernel and returns how many it was, at least one.
    ///
    /// # Errors
    /// Those of the system calls; with a full queue on the way, the datagrams count as handed over.
    pub(crate) fn send(&mut self, count: u64) -> io::Result<u64> {
        let count = usize::try_from(count).map_or(BATCH, |count| count.clamp(1, BATCH));
        let sent = if self.segmented {
            self.send_segmented(count.min(SEGMENTED_MAX / self.size))
        } else {
            self.send_each(count)
        };
        match sent {
            Ok(sent) => Ok(sent as u64),
            Err(Errno::ENOBUFS) => Ok(1),
            // The path cannot do it after all (a link with a smaller MTU, no checksums by the
            // kernel): from now on one by one.
            Err(Errno::EIO | Errno::EINVAL | Errno::EMSGSIZE) if self.segmented => {
                setsockopt(self.socket, UdpGsoSegment, &0)?;
                self.segmented = false;
                Ok(self.send_each(count)? as u64)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn send_segmented(&self, count: usize) -> nix::Result<usize> {
        let bytes = nix::sys::socket::send(
            self.socket.as_raw_fd(),
            &self.payload[..count * self.size],
            MsgFlags::empty(),
        )?;
        Ok(bytes / self.size)
    }

    fn send_each(&mut self, count: usize) -> nix::Result<usize> {
        let datagram = [IoSlice::new(&self.payload[..self.size])];
        let datagrams = [datagram; BATCH];
        let sent = sendmmsg(
            self.socket.as_raw_fd(),
            &mut self.headers,
            &datagrams[..count],
            [None; BATCH],
            [],
            MsgFlags::empty(),
        )?;
        Ok(sent.count())
    }
}

/// Counts datagrams of one size; their bytes are thrown away by the kernel.
pub(crate) struct Counter<'a> {
    socket: &'a UdpSocket,
    size: usize,
    headers: MultiHeaders<()>,
}

/// What one system call took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) datagrams: u64,
    pub(crate) bytes: u64,
}

impl Counter<'_> {
    /// For datagrams of `size` bytes. Where the kernel can, it hands several over as one.
    pub(crate) fn new(socket: &UdpSocket, size: usize) -> Counter<'_> {
        // Without it they come one by one, which counts just as well.
        let _ = setsockopt(socket, UdpGroSegment, &true);
        Counter {
            socket,
            size,
            headers: MultiHeaders::preallocate(BATCH, None),
        }
    }

    /// Waits for at least one datagram, as long as the socket's timeout says.
    pub(crate) fn take(&mut self) -> nix::Result<Taken> {
        // No buffer at all: with MSG_TRUNC the lengths are the datagrams' all the same.
        let mut nowhere: [[IoSliceMut<'_>; 0]; BATCH] = [const { [] }; BATCH];
        let flags = MsgFlags::MSG_TRUNC | MsgFlags::MSG_WAITFORONE;
        let fd = self.socket.as_raw_fd();
        let messages = recvmmsg(fd, &mut self.headers, &mut nowhere, flags, None)?;
        let mut taken = Taken::default();
        for message in messages {
            taken.bytes += message.bytes as u64;
            taken.datagrams += message.bytes.div_ceil(self.size).max(1) as u64;
        }
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn pair() -> (UdpSocket, UdpSocket) {
        let (from, to) = (
            UdpSocket::bind("127.0.0.1:0").unwrap(),
            UdpSocket::bind("127.0.0.1:0").unwrap(),
        );
        from.connect(to.local_addr().unwrap()).unwrap();
        to.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        (from, to)
    }

    #[test]
    fn every_datagram_is_counted_however_it_travels() {
        for size in [8, 64, 1400, 40_000] {
            let (from, to) = pair();
            let mut burst = Burst::new(&from, size);
            let mut counter = Counter::new(&to, size);
            let mut sent = 0;
            let mut taken = Taken::default();
            while sent < 200 {
                // Few enough to fit into the receive buffer.
                sent += burst.send(4).unwrap();
                while taken.datagrams < sent {
                    let more = counter.take().unwrap();
                    taken.datagrams += more.datagrams;
                    taken.bytes += more.bytes;
                }
            }
            assert_eq!(taken.datagrams, sent, "{size}");
            assert_eq!(taken.bytes, sent * size as u64, "{size}");
        }
    }

    #[test]
    fn a_receiver_without_coalescing_sees_the_size() {
        let (from, to) = pair();
        assert!(Burst::new(&from, 1400).send(3).unwrap() <= 3);
        assert_eq!(to.recv(&mut [0; 65_536]).unwrap(), 1400);
    }
}
