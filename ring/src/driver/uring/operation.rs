//! What an operation in flight owns: whatever the kernel may look at until it completes.

use crate::buffer::Slice;
use crate::driver::kernel::address::RawAddress;
use crate::driver::{FRAME_HEADER_MAX, SendMode, Token};

/// What a completion belongs to: the upper half of the `user_data`.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(super) enum Family {
    /// A frame write; the index is in the frame slots.
    Frame = 1,
    /// The read of a link; the index is the link's.
    Link = 2,
    /// A send; the index is in the send slots.
    Send = 3,
    /// A connect or receive; the index is in the wait slots.
    Wait = 4,
    /// The poll of our own event descriptor.
    Event = 5,
    /// A message of another ring.
    Message = 6,
    /// Our message to another ring failed; the index is in the list of peers.
    PeerMessage = 7,
    /// Nobody wants to know.
    Ignored = 8,
}

impl Family {
    /// The `user_data` of an operation.
    pub(super) const fn data(self, index: u32) -> u64 {
        (self as u64) << 32 | index as u64
    }

    /// The inverse of [`Family::data`].
    pub(super) fn of(data: u64) -> Option<(Family, u32)> {
        let family = match data >> 32 {
            1 => Family::Frame,
            2 => Family::Link,
            3 => Family::Send,
            4 => Family::Wait,
            5 => Family::Event,
            6 => Family::Message,
            7 => Family::PeerMessage,
            8 => Family::Ignored,
            _ => return None,
        };
        Some((family, data as u32))
    }
}

/// An `iovec` list and the slices that it points into.
#[derive(Debug, Default)]
pub(super) struct Gather {
    slices: Vec<Slice>,
    parts: Vec<Part>,
}

/// `struct iovec`.
#[derive(Copy, Clone, Debug)]
#[repr(C)]
struct Part {
    base: *const u8,
    len: usize,
}

const _: () = assert!(size_of::<Part>() == size_of::<libc::iovec>());

impl Gather {
    /// Holds the slices and lists them behind an optional first part. Returns their bytes.
    pub(super) fn fill(&mut self, header: Option<&[u8]>, payload: &[Slice]) -> usize {
        self.release();
        self.parts.extend(header.map(|bytes| Part {
            base: bytes.as_ptr(),
            len: bytes.len(),
        }));
        let mut bytes = 0;
        for slice in payload {
            bytes += slice.len();
            self.parts.push(Part {
                base: slice.bytes().as_ptr(),
                len: slice.len(),
            });
            self.slices.push(slice.clone());
        }
        bytes
    }

    /// The first slice.
    pub(super) fn first(&self) -> Slice {
        self.slices.first().cloned().unwrap_or_else(Slice::empty)
    }

    /// Gives up the slices.
    pub(super) fn release(&mut self) {
        self.parts.clear();
        self.slices.clear();
    }

    pub(super) fn iovecs(&self) -> *const libc::iovec {
        self.parts.as_ptr().cast()
    }

    pub(super) fn count(&self) -> usize {
        self.parts.len()
    }

    /// The one part's address and length, if it is one.
    pub(super) fn single(&self) -> Option<(*const u8, u32)> {
        match *self.parts.as_slice() {
            [part] => Some((part.base, u32::try_from(part.len).ok()?)),
            _ => None,
        }
    }
}

/// A frame being written.
#[derive(Debug)]
pub(super) struct FrameOp {
    pub(super) link: u8,
    pub(super) header: [u8; FRAME_HEADER_MAX],
    pub(super) gather: Gather,
}

impl Default for FrameOp {
    fn default() -> FrameOp {
        FrameOp {
            link: 0,
            header: [0; FRAME_HEADER_MAX],
            gather: Gather::default(),
        }
    }
}

/// What is being sent.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub(super) enum SendForm {
    #[default]
    Stream,
    /// To an address, with nothing said on success.
    Datagram,
    /// To the connected peer, with nothing said on success.
    Packet,
    /// Nothing: a poll for room for packets.
    Room,
}

/// Bytes being sent.
#[derive(Debug)]
pub(super) struct SendOp {
    pub(super) form: SendForm,
    pub(super) socket: u32,
    pub(super) token: Token,
    pub(super) mode: SendMode,
    pub(super) retried: bool,
    pub(super) gso_size: u16,
    pub(super) bytes: u32,
    pub(super) gather: Gather,
    pub(super) address: RawAddress,
    pub(super) control: [u8; 24],
    pub(super) message: Message,
}

impl Default for SendOp {
    fn default() -> SendOp {
        SendOp {
            form: SendForm::Stream,
            socket: 0,
            token: 0,
            mode: SendMode::Now,
            retried: false,
            gso_size: 0,
            bytes: 0,
            gather: Gather::default(),
            address: RawAddress::default(),
            control: [0; 24],
            message: Message::default(),
        }
    }
}

/// What is being waited for.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub(super) enum WaitForm {
    #[default]
    Connect,
    Receive,
    ReceiveFrom,
}

/// A connect or receive.
#[derive(Debug, Default)]
pub(super) struct WaitOp {
    pub(super) form: WaitForm,
    pub(super) socket: u32,
    pub(super) token: Token,
    /// The most bytes of a receive.
    pub(super) max: u32,
    /// A receive that may fill several buffers.
    pub(super) bundle: bool,
    /// A receive into a large buffer of links.
    pub(super) large: bool,
    /// A `receive_from` that waits for buffers, not in the kernel.
    pub(super) starved: bool,
    pub(super) address: RawAddress,
    pub(super) message: Message,
}

/// A `msghdr` with an address of its own.
#[derive(Debug)]
pub(super) struct Message(pub(super) libc::msghdr);

impl Default for Message {
    fn default() -> Message {
        // SAFETY: all-zero is a valid msghdr: null pointers with zero lengths.
        Message(unsafe { std::mem::zeroed() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_data_comes_back() {
        for family in [
            Family::Frame,
            Family::Link,
            Family::Send,
            Family::Wait,
            Family::Event,
            Family::Message,
            Family::PeerMessage,
            Family::Ignored,
        ] {
            assert_eq!(Family::of(family.data(u32::MAX)), Some((family, u32::MAX)));
        }
        assert_eq!(Family::of(0), None);
        assert_eq!(Family::of(u64::MAX), None);
    }

    #[test]
    fn a_gather_holds_its_slices_until_released() {
        let mut slice = Slice::from_vec(Vec::with_capacity(16));
        assert!(slice.try_append(b"abc"));
        let mut gather = Gather::default();
        assert_eq!(
            gather.fill(Some(b"hd"), &[slice.clone(), slice.sub(1..2)]),
            4
        );
        assert_eq!(gather.count(), 3);
        assert_eq!(gather.single(), None);
        assert!(!slice.try_append(b"d"), "the kernel may still read it");
        gather.release();
        assert!(slice.try_append(b"d"));
        assert_eq!(gather.fill(None, std::slice::from_ref(&slice)), 4);
        assert_eq!(gather.single(), Some((slice.bytes().as_ptr(), 4)));
    }
}
