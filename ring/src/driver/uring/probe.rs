//! What the kernel can do, by trying each thing on a small ring of its own.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::OnceLock;

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, types};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::config::Features;
use super::group::BufferGroup;

const GROUP: u16 = 1;
const BUFFER_BYTES: u32 = 4096;
const BUFFERS: u16 = 8;

/// The `user_data` of a cancel.
const CANCEL: u64 = 1;

type SmallRing = IoUring<Entry, cqueue::Entry>;

/// Tries out what the kernel can do. Takes well below a millisecond.
#[must_use]
pub fn probe() -> Features {
    let mut features = Features::default();
    let plain = match IoUring::new(8) {
        Ok(ring) => ring,
        Err(error) => {
            features.unusable = Some(Errno::from_io_error(&error).unwrap_or(Errno::NOSYS));
            return features;
        }
    };
    features.single_issuer = SmallRing::builder().setup_single_issuer().build(8).is_ok();
    features.defer_taskrun = SmallRing::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(8)
        .is_ok();
    features.absolute_deadline = absolute_deadline(&plain);
    features.message_ring = try_message(plain).is_ok_and(|worked| worked);
    features.buffer_rings = Trial::new().is_ok();
    features.multishot_read = try_read().is_ok_and(|worked| worked);
    features.multishot_receive = try_receive_message().is_ok_and(|worked| worked);
    features.silent_sends = try_silent_send().is_ok_and(|worked| worked);
    match try_bundle() {
        Ok(Bundle::None) | Err(_) => {}
        Ok(Bundle::Inexact) => features.receive_bundles = true,
        Ok(Bundle::Exact) => {
            features.receive_bundles = true;
            features.exact_bundles = true;
        }
    }
    features
}

/// As [`probe`], tried once per process.
#[must_use]
pub fn features() -> Features {
    static FEATURES: OnceLock<Features> = OnceLock::new();
    *FEATURES.get_or_init(probe)
}

/// A small ring with a buffer group.
struct Trial {
    ring: IoUring,
    /// Behind the ring: dropped after it.
    group: BufferGroup,
}

impl Trial {
    fn new() -> io::Result<Trial> {
        let ring = IoUring::new(8)?;
        let group = BufferGroup::new(&ring.submitter(), GROUP, BUFFERS, BUFFER_BYTES, 1 << 20)?;
        Ok(Trial { ring, group })
    }

    /// Result and flags of the first completion of an operation for which everything is there. A
    /// multishot is cancelled then and waited for, so that nothing is in flight afterwards.
    fn run(&mut self, entry: Entry) -> io::Result<(i32, u32)> {
        let first = run(&mut self.ring, entry)?;
        if cqueue::more(first.1) {
            let cancel = opcode::AsyncCancel2::new(types::CancelBuilder::any());
            let cancel = cancel.build().user_data(CANCEL);
            // SAFETY: a cancel refers to no memory.
            unsafe { self.ring.submission().push(&cancel) }
                .map_err(|_| io::ErrorKind::OutOfMemory)?;
            let ended =
                |entry: cqueue::Entry| entry.user_data() != CANCEL && !cqueue::more(entry.flags());
            while !self.ring.completion().any(ended) {
                self.ring.submit_and_wait(1)?;
            }
        }
        Ok(first)
    }
}

fn run(ring: &mut IoUring, entry: Entry) -> io::Result<(i32, u32)> {
    // SAFETY: what the callers' entries refer to outlives the completion, for which we wait here or,
    // for a multishot, in `Trial::run`.
    unsafe { ring.submission().push(&entry) }.map_err(|_| io::ErrorKind::OutOfMemory)?;
    ring.submit_and_wait(1)?;
    let completion = ring.completion().next().ok_or(io::ErrorKind::TimedOut)?;
    Ok((completion.result(), completion.flags()))
}

fn pair(kind: SocketType) -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::UNIX,
        kind,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

fn absolute_deadline(ring: &IoUring) -> bool {
    // One nanosecond after boot: long past, so a kernel that understands it says "time is up".
    let past = Timespec::new().nsec(1);
    let args = SubmitArgs::new().timespec(&past);
    let flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG | EnterFlags::ABS_TIMER;
    // SAFETY: the argument is the structure that EXT_ARG names and lives through the call.
    let outcome = unsafe { ring.submitter().enter(0, 1, flags.bits(), Some(&args)) };
    outcome.is_err_and(|error| Errno::from_io_error(&error) == Some(Errno::TIME))
}

fn try_message(mut target: IoUring) -> io::Result<bool> {
    let mut source = IoUring::new(8)?;
    let message = opcode::MsgRingData::new(types::Fd(target.as_raw_fd()), 0, 77, None);
    let (result, _) = run(&mut source, message.build())?;
    Ok(result >= 0
        && target
            .completion()
            .next()
            .is_some_and(|entry| entry.user_data() == 77))
}

fn try_read() -> io::Result<bool> {
    let mut trial = Trial::new()?;
    let (near, far) = pair(SocketType::STREAM)?;
    rustix::io::write(&far, b"x")?;
    let read = opcode::ReadMulti::new(types::Fd(near.as_raw_fd()), 0, GROUP).build();
    let (result, flags) = trial.run(read.flags(Flags::BUFFER_SELECT))?;
    Ok(result == 1 && cqueue::more(flags))
}

fn try_receive_message() -> io::Result<bool> {
    let mut trial = Trial::new()?;
    let (near, far) = pair(SocketType::DGRAM)?;
    rustix::io::write(&far, b"x")?;
    let message = super::operation::Message::default();
    let file = types::Fd(near.as_raw_fd());
    let receive = opcode::RecvMsgMulti::new(file, &raw const message.0, GROUP).build();
    let (result, flags) = trial.run(receive)?;
    Ok(result > 0 && cqueue::more(flags))
}

/// Sends one byte silently, and then more than the socket takes.
fn try_silent_send() -> io::Result<bool> {
    let mut trial = Trial::new()?;
    let (near, _far) = pair(SocketType::STREAM)?;
    let bytes = vec![0_u8; 16 << 20];
    let send = |len| {
        let file = types::Fd(near.as_raw_fd());
        let send = opcode::Send::new(file, bytes.as_ptr(), len).flags(super::submit::QUIETLY);
        send.build().flags(Flags::SKIP_SUCCESS)
    };
    // SAFETY: the bytes outlive both sends, which don't wait.
    unsafe { trial.ring.submission().push(&send(1).user_data(1)) }
        .map_err(|_| io::ErrorKind::OutOfMemory)?;
    let (result, _) = run(&mut trial.ring, send(bytes.len() as u32).user_data(2))?;
    // The first completion is that of the send that was cut short.
    Ok(result > 0 && (result as usize) < bytes.len())
}

enum Bundle {
    None,
    Inexact,
    Exact,
}

/// Asks for one byte more than two buffers while four are there.
fn try_bundle() -> io::Result<Bundle> {
    let mut trial = Trial::new()?;
    let (near, far) = pair(SocketType::STREAM)?;
    rustix::io::write(&far, &[0; 4 * BUFFER_BYTES as usize])?;
    let file = types::Fd(near.as_raw_fd());
    let receive = opcode::Recv::new(file, std::ptr::null_mut(), 2 * BUFFER_BYTES + 1)
        .ioprio(super::submit::BUNDLE)
        .buf_group(GROUP)
        .build();
    let (result, _) = trial.run(receive.flags(Flags::BUFFER_SELECT))?;
    debug_assert_eq!(trial.group.count(), usize::from(BUFFERS));
    Ok(match result {
        ..=0 => Bundle::None,
        result if result as u32 == 2 * BUFFER_BYTES => Bundle::Exact,
        _ => Bundle::Inexact,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_that_tests_can_do_what_is_needed() {
        let features = probe();
        assert!(features.usable(true), "{features:?}");
        assert_eq!(
            features,
            super::features(),
            "the answer does not depend on the moment"
        );
    }
}
