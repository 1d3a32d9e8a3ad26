//! A socket of any kind that tasks can wait for.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send};
use tokio::io::Interest;
use tokio::net::UnixDatagram;

/// tokio's type is named for one kind of socket, but waits for any; what is done with it is done here.
pub(super) struct Socket(UnixDatagram);

impl Socket {
    /// Must be called inside a runtime. The socket becomes non-blocking.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        let flags = fcntl_getfl(&socket)?;
        fcntl_setfl(&socket, flags | OFlags::NONBLOCK)?;
        UnixDatagram::from_std(socket.into()).map(Self)
    }

    /// The socket, no longer waited for.
    pub(super) fn into_inner(self) -> io::Result<OwnedFd> {
        Ok(self.0.into_std()?.into())
    }

    /// Does `operation` when there is something to take, until it does not say that there is nothing.
    pub(super) async fn when_readable<T>(
        &self,
        mut operation: impl FnMut(BorrowedFd<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        self.0
            .async_io(Interest::READABLE, || operation(self.0.as_fd()))
            .await
    }

    /// The next connection to a listening socket.
    pub(super) async fn accept(&self) -> io::Result<OwnedFd> {
        self.when_readable(|socket| Ok(accept_with(socket, SocketFlags::CLOEXEC)?))
            .await
    }

    /// Exactly `N` bytes of a stream, and not one of what follows.
    pub(super) async fn read<const N: usize>(&self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        let mut filled = 0;
        while filled < N {
            let rest = &mut bytes[filled..];
            let count = self
                .when_readable(|socket| Ok(recv(socket, &mut *rest, RecvFlags::empty())?.0))
                .await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            filled += count;
        }
        Ok(bytes)
    }

    /// All of `bytes` to a stream.
    pub(super) async fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let send = || Ok(send(&self.0, rest, SendFlags::NOSIGNAL)?);
            let count = self.0.async_io(Interest::WRITABLE, send).await?;
            rest = &rest[count..];
        }
        Ok(())
    }
}
