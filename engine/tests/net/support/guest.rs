//! Guests: a namespace that `towpath` serves, and the engine beside it.

use std::fs::File;
use std::io::{IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::thread;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::Signal;

use super::namespace::Namespace;
use super::process::Process;
use super::reexec;
use super::world::{SUBNETS, World, any};

/// A guest of `towpath run`.
pub(crate) struct Guest {
    /// Its network.
    pub(crate) net: Namespace,
    /// The engine.
    pub(crate) engine: Process,
    hold: Option<UnixStream>,
}

/// An engine that runs until it is told to end, as that of `towpath attach`.
pub(crate) struct Attached {
    /// The engine.
    pub(crate) engine: Process,
    exit: Option<OwnedFd>,
}

impl World {
    /// Starts `towpath run` with these options and waits until its command runs.
    #[track_caller]
    pub(crate) fn guest(&self, options: &[&str]) -> Guest {
        let (ours, theirs) = UnixStream::pair().expect("descriptors are free");
        let own = std::env::current_exe().expect("the test binary has a path");
        let mut command = self.towpath();
        command
            .arg("run")
            .args(SUBNETS)
            .args(options)
            .arg("--")
            .arg(own)
            .arg(reexec::HOLD);
        let mut engine = self.spawn_with(command, OwnedFd::from(theirs), None);
        match receive_namespace(&ours) {
            Some(net) => Guest {
                net,
                engine,
                hold: Some(ours),
            },
            None => panic!("run ended with {} before its command ran", engine.wait()),
        }
    }

    /// Starts `towpath attach` with these options and waits until it says that it is ready.
    #[track_caller]
    pub(crate) fn attach(&self, options: &[&str]) -> Attached {
        self.supervised("attach", options)
    }

    /// Starts a command of `towpath` that serves until it is told to end, and waits until it says
    /// that it is ready.
    #[track_caller]
    pub(crate) fn supervised(&self, verb: &str, options: &[&str]) -> Attached {
        let (exit_end, exit) = pipe();
        let (ready, ready_end) = pipe();
        let mut command = self.towpath();
        command.arg(verb).args(SUBNETS).args(options);
        command.args(["--exit-fd", "@in", "--ready-fd", "@out"]);
        let mut engine = self.spawn_with(command, exit_end, Some(Stdio::from(ready_end)));
        let mut said = Vec::new();
        File::from(ready)
            .read_to_end(&mut said)
            .expect("a pipe can be read");
        if said.is_empty() {
            panic!("{verb} ended with {} before it was ready", engine.wait());
        }
        assert_eq!(said, b"1", "one byte, once");
        Attached {
            engine,
            exit: Some(exit),
        }
    }
}

impl Guest {
    /// Runs `body` on a thread in the guest's network.
    pub(crate) fn enter<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        self.net.enter(body)
    }

    /// Ends the guest's command and with it the engine, whose stderr is returned.
    #[track_caller]
    pub(crate) fn end(mut self) -> String {
        self.hold = None;
        let status = self.engine.wait();
        assert_eq!(status.code(), Some(0), "how run ended: {status}");
        self.engine.stderr()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // A test that does not care how the engine ends still notices when it does not.
        self.hold = None;
        if !thread::panicking() {
            self.engine.wait();
        }
    }
}

impl Attached {
    /// Ends the engine by closing the other end of its `--exit-fd`; returns its stderr.
    #[track_caller]
    pub(crate) fn end(mut self) -> String {
        self.exit = None;
        let status = self.engine.wait();
        assert_eq!(status.code(), Some(0), "how it ended: {status}");
        self.engine.stderr()
    }

    /// Ends the engine by a signal; returns its stderr.
    #[track_caller]
    pub(crate) fn terminate(mut self) -> String {
        self.engine.signal(Signal::TERM);
        let status = self.engine.wait();
        assert_eq!(status.code(), Some(0), "how it ended: {status}");
        self.engine.stderr()
    }
}

/// What a guest's network offers to tests, however it came to be.
pub(crate) trait GuestSockets {
    /// Connects from the guest.
    #[track_caller]
    fn connect(&self, target: impl Into<SocketAddr>) -> TcpStream {
        let target = target.into();
        self.try_connect(target)
            .unwrap_or_else(|error| panic!("connect to {target}: {error}"))
    }

    /// Connects from the guest, or not.
    fn try_connect(&self, target: impl Into<SocketAddr>) -> std::io::Result<TcpStream>;

    /// A UDP socket of the guest that is good for the version of `like`.
    fn udp(&self, like: IpAddr) -> UdpSocket;

    /// Connects to a listener; the guest's end, then the host's.
    #[track_caller]
    fn pair(&self, listener: &TcpListener) -> (TcpStream, TcpStream) {
        let guest = self.connect(
            listener
                .local_addr()
                .expect("a bound socket has an address"),
        );
        let (host, _) = listener.accept().expect("the guest has connected");
        (guest, host)
    }
}

impl GuestSockets for Namespace {
    fn try_connect(&self, target: impl Into<SocketAddr>) -> std::io::Result<TcpStream> {
        let target = target.into();
        self.enter(|| TcpStream::connect(target))
    }

    fn udp(&self, like: IpAddr) -> UdpSocket {
        self.enter(|| UdpSocket::bind(any(like)))
            .expect("a port is free")
    }
}

impl GuestSockets for Guest {
    fn try_connect(&self, target: impl Into<SocketAddr>) -> std::io::Result<TcpStream> {
        self.net.try_connect(target)
    }

    fn udp(&self, like: IpAddr) -> UdpSocket {
        self.net.udp(like)
    }
}

/// A pipe: the end to read, the end to write.
pub(crate) fn pipe() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("descriptors are free")
}

/// Takes the descriptor that [`reexec::HOLD`] sends; nothing comes if that never runs.
pub(crate) fn receive_namespace(socket: &UnixStream) -> Option<Namespace> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::CMSG_CLOEXEC;
    recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        flags,
    )
    .ok()?;
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    fd.map(Namespace::from_fd)
}
