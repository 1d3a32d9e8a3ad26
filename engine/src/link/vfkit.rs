//! Datagram links, as vfkit, krunkit and libkrun make them: each datagram is a frame.
//!
//! A guest has a socket with a name of its own, connects it to ours and sends. Its first datagram may be
//! the four bytes `VFKT`, which say no more than that it is there. Whoever sends first gets the socket:
//! it is connected to that guest, after which the kernel keeps others out, and a fresh socket takes its
//! place at the path for the next guest. Guests that are connected already stay with the old one.
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
    /// Takes one guest after the other.
    pub(super) async fn take_senders(
        self: Arc<Self>,
        url: &str,
        mut socket: Socket,
        mut file: SocketFile,
    ) {
        for number in 1_u64.. {
            let name = format!("{url}#{number}");
            connect_first(&name, &socket).await;
            let next = loop {
                match file.renew().and_then(Socket::new) {
                    Ok(next) => break next,
                    Err(error) => {
                        tracing::warn!("{url}: no next guest can come: {error}");
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
            };
            let taken = std::mem::replace(&mut socket, next);
            let gate = Arc::clone(&self);
            tokio::spawn(async move { gate.keep_socket(name, taken, Protocol::Vfkit, "").await });
        }
    }
}

/// Waits for the first sender and connects the socket to it; what it sent stays in the socket, but for a
/// hello.
pub(super) async fn connect_first(name: &str, socket: &Socket) {
    loop {
        let outcome = socket.when_readable(connect_sender).await;
        match outcome {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!("{name}: {error}");
                sleep(ACCEPT_PAUSE).await;
            }
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
