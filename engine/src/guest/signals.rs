//! Signals as file descriptor, and how to wait for several descriptors.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

/// What a supervising process hears of instead of dying.
const HEARD: [Signal; 6] = [
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// One signal that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrival {
    /// Its number.
    pub(crate) number: i32,
    /// Whether the terminal sent it (Ctrl-C, Ctrl-\, hang-up): then the whole foreground process
    /// group has it already, the command included.
    pub(crate) from_terminal: bool,
}

/// Blocks the signals that end a process, in this thread and those that it starts, and hears them.
#[derive(Debug)]
pub(crate) struct Signals(SignalFd);

impl Signals {
    /// Hears SIGINT, SIGQUIT, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 from now on. SIGTTOU is blocked
    /// too, so that a background process may take the terminal back and write to it.
    pub(crate) fn block() -> io::Result<Self> {
        let mut blocked = heard();
        blocked.add(Signal::SIGTTOU);
        blocked.thread_block()?;
        Ok(Self(descriptor(&heard())?))
    }

    /// Hears SIGCHLD only.
    pub(crate) fn of_children() -> io::Result<Self> {
        let mut set = SigSet::empty();
        set.add(Signal::SIGCHLD);
        set.thread_block()?;
        Ok(Self(descriptor(&set)?))
    }

    /// The next signal that is there, if any; does not wait.
    pub(crate) fn next(&self) -> Option<Arrival> {
        let info = self.0.read_signal().ok()??;
        tracing::debug!(
            signal = info.ssi_signo,
            code = info.ssi_code,
            sender = info.ssi_pid,
            "signal"
        );
        Some(Arrival {
            number: i32::try_from(info.ssi_signo).unwrap_or(0),
            // SI_USER, SI_QUEUE and SI_TKILL are zero or less; SI_KERNEL is above.
            from_terminal: info.ssi_code > 0,
        })
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Blocks what [`Signals::block`] hears without hearing it: for a process that only waits.
pub(crate) fn deaf() -> io::Result<()> {
    Ok(heard().thread_block()?)
}

/// Makes this thread's mask empty, as a command expects it. (Its dispositions are the caller's.)
pub(crate) fn unblock_all() -> io::Result<()> {
    Ok(SigSet::empty().thread_set_mask()?)
}

/// Waits until one of `descriptors` is readable, has hung up or failed; says which.
/// With a timeout (`None`: for ever), none may be.
pub(crate) fn wait(
    descriptors: &[BorrowedFd<'_>],
    timeout: Option<Duration>,
) -> io::Result<Vec<bool>> {
    let mut polled: Vec<_> = descriptors
        .iter()
        .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN | PollFlags::RDHUP))
        .collect();
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    match rustix::event::poll(&mut polled, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    Ok(polled.iter().map(|fd| !fd.revents().is_empty()).collect())
}

fn heard() -> SigSet {
    HEARD.into_iter().collect()
}

fn descriptor(set: &SigSet) -> io::Result<SignalFd> {
    Ok(SignalFd::with_flags(
        set,
        SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_from_a_process_is_heard_as_such() {
        // Signals to a thread stay in that thread, so other tests don't see this one.
        std::thread::spawn(|| {
            let signals = Signals::block().unwrap();
            assert_eq!(signals.next(), None);
            nix::sys::signal::raise(Signal::SIGUSR1).unwrap();
            let ready = wait(&[signals.as_fd()], Some(Duration::from_secs(5))).unwrap();
            assert_eq!(ready, [true]);
            let number = Signal::SIGUSR1 as i32;
            assert_eq!(
                signals.next(),
                Some(Arrival {
                    number,
                    from_terminal: false
                })
            );
        })
        .join()
        .unwrap();
    }

    #[test]
    fn waiting_tells_which_and_ends_in_time() {
        let (reader, writer) = io::pipe().unwrap();
        let (quiet, _kept) = io::pipe().unwrap();
        let both = [quiet.as_fd(), reader.as_fd()];
        assert_eq!(wait(&both, Some(Duration::ZERO)).unwrap(), [false, false]);
        drop(writer);
        assert_eq!(wait(&both, None).unwrap(), [false, true]);
    }
}
