//! What the engine's process and its stages say to each other, and the socket that carries it.
//!
//! A message is one packet of a `SOCK_SEQPACKET` pair: JSON, with file descriptors beside it where
//! the message has some. The other side's end is closed by the kernel when it dies, so "end of file"
//! means "the other process is gone", however it went.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use towpath_ring::driver::LinkFeatures;

/// The longest message in bytes.
const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// Descriptors beside one message: a queue for each of at most 128 cores. (The kernel takes 253.)
pub(crate) const DESCRIPTORS_MAX: usize = 128;

/// How the interface in the guest's namespace is to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    /// Name of the TAP.
    pub(crate) ifname: String,
    /// How many queues to ask for.
    pub(crate) queues: usize,
    /// Whether to do without offloads.
    pub(crate) plain: bool,
    /// Link MTU in bytes.
    pub(crate) mtu: u16,
    /// MAC address to set; `None` leaves the one that it has.
    pub(crate) mac: Option<[u8; 6]>,
    /// Addresses to set; `None` leaves them to the guest (DHCP, SLAAC).
    pub(crate) addresses: Option<Addresses>,
    /// Lines for `/etc/resolv.conf`; `None` leaves it alone.
    pub(crate) resolv_conf: Option<String>,
}

/// The guest's addresses and its gateways.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Addresses {
    pub(crate) guest4: Ipv4Addr,
    /// Prefix length of the IPv4 subnet.
    pub(crate) prefix4: u8,
    pub(crate) gateway4: Ipv4Addr,
    pub(crate) guest6: Ipv6Addr,
    pub(crate) gateway6: Ipv6Addr,
}

/// From the engine's process to a stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ToStage {
    /// Make the interface. Beside it: for `run` the caller's standard input; for `attach` the
    /// namespaces to join, user namespace (if any) first.
    Order(Order),
    /// Frames are being read: start the command.
    Go,
    /// Send this signal to the command.
    Signal(i32),
}

/// From a stage to the engine's process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FromStage {
    /// Something that went otherwise than asked, and did no harm.
    Note(String),
    /// The interface is there; its queues are beside this message.
    Ready(Features),
    /// It can't be done. `status` is what to exit with.
    Failed { status: u8, reason: String },
    /// The command has ended; nothing is left of its processes.
    Exited { status: u8 },
}

/// [`LinkFeatures`] as they cross the process border.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Features {
    offload_header: bool,
    tso4: bool,
    tso6: bool,
    uso: bool,
    checksum: bool,
    frame_max: usize,
}

impl From<LinkFeatures> for Features {
    fn from(features: LinkFeatures) -> Self {
        let LinkFeatures {
            offload_header,
            tso4,
            tso6,
            uso,
            checksum,
            frame_max,
        } = features;
        Self {
            offload_header,
            tso4,
            tso6,
            uso,
            checksum,
            frame_max,
        }
    }
}

impl From<Features> for LinkFeatures {
    fn from(features: Features) -> Self {
        let Features {
            offload_header,
            tso4,
            tso6,
            uso,
            checksum,
            frame_max,
        } = features;
        Self {
            offload_header,
            tso4,
            tso6,
            uso,
            checksum,
            frame_max,
        }
    }
}

/// One end of the socket pair.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

impl Channel {
    /// A connected pair; both ends are closed on exec.
    pub(crate) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (here, there) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Self(here), there))
    }

    /// The end that a stage was started with, as its standard input.
    pub(crate) fn from_stdin() -> io::Result<Self> {
        Ok(Self(io::stdin().as_fd().try_clone_to_owned()?))
    }

    /// Sends one message; descriptors are duplicated into the receiver.
    pub(crate) fn send<T: Serialize>(
        &self,
        message: &T,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        if text.len() > MESSAGE_BYTES_MAX || descriptors.len() > DESCRIPTORS_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "message too long",
            ));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        let sent = rustix::io::retry_on_intr(|| {
            let parts = [IoSlice::new(&text)];
            rustix::net::sendmsg(&self.0, &parts, &mut ancillary, SendFlags::NOSIGNAL)
        });
        sent.map(|_| ()).map_err(io::Error::from)
    }

    /// Waits for a message. `None`: the other side is gone.
    pub(crate) fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut text = vec![0; MESSAGE_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut parts = [IoSliceMut::new(&mut text)];
            let flags = RecvFlags::CMSG_CLOEXEC;
            match rustix::net::recvmsg(&self.0, &mut parts, &mut ancillary, flags) {
                Err(Errno::INTR) => {}
                // Sent when the peer died with messages of ours unread.
                Err(Errno::CONNRESET) => return Ok(None),
                other => break other?,
            }
        };
        if received.bytes == 0 {
            return Ok(None);
        }
        if received
            .flags
            .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
        {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "message cut off",
            ));
        }
        let mut descriptors = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        let message = serde_json::from_slice(&text[..received.bytes])?;
        Ok(Some((message, descriptors)))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn messages_arrive_whole_with_their_descriptors() {
        let (here, there) = Channel::pair().unwrap();
        let there = Channel(there);
        let (mut reader, writer) = io::pipe().unwrap();
        let order = ToStage::Order(Order {
            ifname: "tap0".into(),
            queues: 2,
            plain: false,
            mtu: 65520,
            mac: Some([2, 0, 0, 0, 0, 3]),
            addresses: None,
            resolv_conf: Some("nameserver 10.0.0.1\n".into()),
        });
        here.send(&order, &[writer.as_fd()]).unwrap();
        here.send(&ToStage::Go, &[]).unwrap();
        drop(writer);
        let (message, mut descriptors) = there.receive::<ToStage>().unwrap().unwrap();
        assert_eq!((message, descriptors.len()), (order, 1));
        let mut file = std::fs::File::from(descriptors.remove(0));
        file.write_all(b"x").unwrap();
        drop(file);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
        assert_eq!(there.receive::<ToStage>().unwrap().unwrap().0, ToStage::Go);
    }

    #[test]
    fn a_dead_peer_is_the_end_and_garbage_is_an_error() {
        let (here, there) = Channel::pair().unwrap();
        let there = Channel(there);
        here.send(&"neither of ours", &[]).unwrap();
        assert!(there.receive::<ToStage>().is_err());
        there.send(&ToStage::Go, &[]).unwrap();
        drop(there);
        assert!(matches!(
            here.receive::<ToStage>(),
            Ok(Some((ToStage::Go, _)) | None)
        ));
        assert!(here.receive::<ToStage>().unwrap().is_none());
    }
}
