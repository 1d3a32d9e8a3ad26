//! Links as a virtual machine's monitor has them: the client's side of each protocol.

pub(crate) mod bess;
pub(crate) mod kernel;
pub(crate) mod qemu;
pub(crate) mod raw;
pub(crate) mod served;
pub(crate) mod vfkit;
pub(crate) mod vpnkit;

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

/// How long a frame may be waited for; only a hang takes so long.
const PATIENCE: Duration = Duration::from_secs(30);
/// More than the longest frame and its length.
const CHUNK: usize = 128 << 10;

/// How frames go over a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// A stream; each frame behind its length in 32 bits, big-endian.
    Qemu,
    /// A stream; each frame behind its length in 16 bits, little-endian.
    Vpnkit,
    /// Each packet is a frame.
    Packets,
}

impl Framing {
    /// A frame as it stands on the socket.
    pub(crate) fn wrap(self, frame: &[u8]) -> Vec<u8> {
        let length = u32::try_from(frame.len()).expect("a frame's length");
        match self {
            Self::Qemu => [&length.to_be_bytes(), frame].concat(),
            Self::Vpnkit => [&length.to_le_bytes()[..2], frame].concat(),
            Self::Packets => frame.to_vec(),
        }
    }

    /// Takes the first frame off `bytes`, if it is there in full.
    fn unwrap(self, bytes: &mut Vec<u8>) -> Option<Vec<u8>> {
        let (prefix, length) = match (self, &bytes[..]) {
            (Self::Qemu, &[a, b, c, d, ..]) => (4, u32::from_be_bytes([a, b, c, d])),
            (Self::Vpnkit, &[a, b, ..]) => (2, u16::from_le_bytes([a, b]).into()),
            (Self::Packets, [_, ..]) => (0, bytes.len() as u32),
            _ => return None,
        };
        let end = prefix + length as usize;
        if bytes.len() < end {
            return None;
        }
        let rest = bytes.split_off(end);
        let mut whole = std::mem::replace(bytes, rest);
        whole.drain(..prefix);
        Some(whole)
    }
}

/// A guest's end of a link, ready for frames.
pub(crate) struct Link {
    socket: Socket,
    framing: Framing,
    /// What was received and is not a whole frame yet.
    pending: Mutex<Vec<u8>>,
}

impl Link {
    /// Over a connected socket.
    pub(crate) fn over(socket: Socket, framing: Framing) -> Self {
        socket
            .set_read_timeout(Some(PATIENCE))
            .expect("the time is not zero");
        Self {
            socket,
            framing,
            pending: Mutex::default(),
        }
    }

    /// Sends a whole frame.
    ///
    /// # Errors
    /// The engine has closed its end.
    pub(crate) fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.send_bytes(&self.framing.wrap(frame))
    }

    /// Sends what need not be frames.
    ///
    /// # Errors
    /// The engine has closed its end.
    pub(crate) fn send_bytes(&self, bytes: &[u8]) -> io::Result<()> {
        (&self.socket).write_all(bytes)
    }

    /// The next frame; `None` when the engine has closed its end.
    ///
    /// # Errors
    /// None comes for a long time.
    pub(crate) fn receive(&self) -> io::Result<Option<Vec<u8>>> {
        let mut pending = self.pending.lock().expect("no holder panics");
        loop {
            if let Some(frame) = self.framing.unwrap(&mut pending) {
                return Ok(Some(frame));
            }
            let had = pending.len();
            pending.resize(had + CHUNK, 0);
            let outcome = (&self.socket).read(&mut pending[had..]);
            pending.truncate(had + *outcome.as_ref().unwrap_or(&0));
            match outcome {
                Ok(0) => return Ok(None),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(None),
                // A socket with a time-out is not read again after a signal (signal(7)).
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for a frame for which `choose` gives something.
    #[track_caller]
    pub(crate) fn find<T>(&self, what: &str, mut choose: impl FnMut(&[u8]) -> Option<T>) -> T {
        loop {
            let frame = self.receive();
            let frame = frame.unwrap_or_else(|error| panic!("no such frame, {what}: {error}"));
            let frame = frame.unwrap_or_else(|| panic!("the link was closed before {what}"));
            if let Some(found) = choose(&frame) {
                return found;
            }
        }
    }

    /// Fails unless the engine closes its end; what it sends before is thrown away.
    #[track_caller]
    pub(crate) fn assert_closed(&self) {
        while let Some(_frame) = self.receive().expect("the link is closed") {}
    }

    /// From now on it does not wait until what is sent is taken.
    pub(crate) fn set_nonblocking(&self) {
        self.socket
            .set_nonblocking(true)
            .expect("it is a descriptor");
    }

    /// Closes both directions, whoever else holds the socket.
    pub(crate) fn close(&self) {
        // Closed by the engine already, it cannot be once more.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

/// Connects to a listener that may not be there yet.
#[track_caller]
fn connect(path: &Path, kind: Type) -> Socket {
    let address = SockAddr::unix(path).expect("a path that is short enough");
    let begun = Instant::now();
    loop {
        let socket = Socket::new(Domain::UNIX, kind, None).expect("descriptors are free");
        match socket.connect(&address) {
            Ok(()) => return socket,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{}: {error}", path.display()),
        }
        thread::sleep(Duration::from_millis(5));
    }
}
