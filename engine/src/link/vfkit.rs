//! Datagram links, as vfkit, krunkit and libkrun make them: each datagram is a frame.
//!
//! A guest has a socket with a name of its own, connects it to ours and sends. Its first datagram may be
//! the four bytes `VFKT`, which say no more than that it is there. Whoever sends first gets the socket:
//! it is connected to that guest, after which the kernel keeps others out, and a fresh socket takes its
//! place at the path for the next guest. Guests that are connected already stay with the old one.
//!
//! So guests may come one after the other; two that have both connected before either sends would want the
//! same socket, and the later can't send.
//!
//! A datagram socket does not tell that its peer has gone; a core learns it when it sends.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{RecvFlags, connect, getpeername, recv, recvfrom};
use tokio::time::sleep;

use super::serve::{ACCEPT_PAUSE, Gate};
use super::socket::Socket;
use super::socket_file::SocketFile;
use super::url::Protocol;

/// What a guest may say before its first frame.
const HELLO: &[u8; 4] = b"VFKT";

impl Gate {
    /// Takes one guest after the other, for as long as the path is ours.
    pub(super) async fn take_senders(
        self: Arc<Self>,
        url: &str,
        mut socket: Socket,
        mut file: SocketFile,
    ) {
        for number in 1_u64.. {
            let name = format!("{url}#{number}");
            self.connect_first(&name, &socket).await;
            let gate = Arc::clone(&self);
            tokio::spawn(
                async move { gate.keep_socket(name, socket, Protocol::Vfkit, None).await },
            );
            match self.next_socket(url, &mut file).await {
                Some(next) => socket = next,
                None => return,
            }
        }
    }

    /// Waits for the first sender and connects the socket to it; what it sent stays in the socket, but for
    /// a hello.
    pub(super) async fn connect_first(&self, name: &str, socket: &Socket) {
        while let Err(error) = socket.when_readable(connect_sender).await {
            self.complaints.say(format_args!("{name}: {error}"));
        }
    }

    /// A socket for the next guest.
    async fn next_socket(&self, url: &str, file: &mut SocketFile) -> Option<Socket> {
        loop {
            match file.renew() {
                Ok(Some(socket)) => match Socket::new(socket) {
                    Ok(socket) => return Some(socket),
                    Err(error) => self.complaints.say(format_args!("{url}: {error}")),
                },
                Ok(None) => {
                    tracing::warn!(
                        "{url}: the socket's file is not ours any more: no more guests can come"
                    );
                    return None;
                }
                Err(error) => self
                    .complaints
                    .say(format_args!("{url}: no next guest can come yet: {error}")),
            }
            sleep(ACCEPT_PAUSE).await;
        }
    }
}

/// Connects to who sent the datagram that is there. A sender that can't be answered loses it.
fn connect_sender(socket: BorrowedFd<'_>) -> io::Result<()> {
    // One byte more than the hello, to know a longer datagram from it.
    let mut start = [0; HELLO.len() + 1];
    let (length, _, sender) = recvfrom(socket, &mut start, RecvFlags::PEEK)?;
    let connected = match sender {
        // One of a pair, or connected by who gave it to us.
        _ if getpeername(socket).is_ok() => Ok(()),
        Some(sender) => connect(socket, &sender),
        None => Err(Errno::DESTADDRREQ),
    };
    let is_hello = start[..length] == *HELLO;
    if connected.is_err() || is_hello {
        let _ = recv(socket, &mut start, RecvFlags::empty());
    }
    connected.map_err(|errno| {
        io::Error::other(format!(
            "who sends here can't be answered ({errno}): its socket needs a name"
        ))
    })
}
