//! One question to one server, over a socket of its own.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::rand::{GetRandomFlags, getrandom};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use super::Transport;
use super::query::{Query, Worth};
use crate::service::counters::{Counter, Counters};

/// Sockets to servers, at most.
const SOCKETS_MAX: usize = 2048;

/// Asks servers; holds what all attempts share.
#[derive(Debug)]
pub(super) struct Attempts {
    sockets: Semaphore,
    /// Where datagrams are received, one at a time. Each takes the length that it has from here,
    /// so that a thousand waiting queries don't need a thousand buffers of 64 KiB.
    datagram: Mutex<Box<[u8]>>,
    counters: Arc<Counters>,
}

impl Attempts {
    pub(super) fn new(counters: Arc<Counters>) -> Self {
        let datagram = Mutex::new(vec![0; usize::from(u16::MAX)].into_boxed_slice());
        Self {
            sockets: Semaphore::new(SOCKETS_MAX),
            datagram,
            counters,
        }
    }

    /// Asks `server` once, and waits for its answer for as long as it is polled.
    ///
    /// An error means that no answer will come from there.
    pub(super) async fn ask(
        &self,
        server: SocketAddr,
        query: &Query,
        transport: Transport,
    ) -> io::Result<(Vec<u8>, Worth)> {
        let Ok(_place) = self.sockets.try_acquire() else {
            return Err(io::Error::other(
                "too many sockets are waiting for DNS servers",
            ));
        };
        match transport {
            Transport::Udp => self.ask_datagram(server, query).await,
            Transport::Tcp => self.ask_stream(server, query).await,
        }
    }

    async fn ask_datagram(
        &self,
        server: SocketAddr,
        query: &Query,
    ) -> io::Result<(Vec<u8>, Worth)> {
        let any = match server.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        // Port 0 lets the kernel pick one at random (RFC 5452 §9.2).
        let socket = UdpSocket::bind((any, 0)).await?;
        // Connected, so that the kernel keeps strangers out and hands ICMP errors in.
        socket.connect(server).await?;
        let id = random_id()?;
        socket.send(&query.with_id(id)).await?;
        loop {
            // An ICMP error alone does not make a socket readable.
            let ready = socket.ready(Interest::READABLE | Interest::ERROR).await?;
            if ready.is_error() {
                match socket.take_error()? {
                    Some(error) => return Err(error),
                    None => clear_error(&socket),
                }
            }
            let mut datagram = self.datagram.lock().unwrap_or_else(PoisonError::into_inner);
            let (length, from) = match socket.try_recv_from(&mut datagram) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            };
            let answer = &datagram[..length];
            // A stranger's datagram may have come between `bind` and `connect`.
            if same_endpoint(from, server)
                && let Some(worth) = query.judge(id, answer)
            {
                return Ok((answer.to_vec(), worth));
            }
            self.counters.add(Counter::DnsMismatched);
        }
    }

    async fn ask_stream(&self, server: SocketAddr, query: &Query) -> io::Result<(Vec<u8>, Worth)> {
        let mut stream = TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        let id = random_id()?;
        stream.write_all(&framed(&query.with_id(id))?).await?;
        let length = stream.read_u16().await?;
        let mut answer = vec![0; usize::from(length)];
        stream.read_exact(&mut answer).await?;
        match query.judge(id, &answer) {
            Some(worth) => Ok((answer, worth)),
            None => {
                self.counters.add(Counter::DnsMismatched);
                Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the answer is to no question",
                ))
            }
        }
    }
}

/// A message as it goes over a stream: behind its length (RFC 1035 §4.2.2), in one write
/// (RFC 7766 §8).
pub(super) fn framed(message: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(message.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "the message is too long"))?;
    let mut frame = Vec::with_capacity(2 + message.len());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(message);
    Ok(frame)
}

/// Address and port are compared; a scope id may be filled in by the kernel.
fn same_endpoint(one: SocketAddr, other: SocketAddr) -> bool {
    one.ip() == other.ip() && one.port() == other.port()
}

/// Tells the runtime that the error it has seen is gone, so that it waits for the next.
fn clear_error(socket: &UdpSocket) {
    let _ = socket.try_io(Interest::ERROR, || {
        io::Result::<()>::Err(io::ErrorKind::WouldBlock.into())
    });
}

fn random_id() -> io::Result<[u8; 2]> {
    let mut id = [0; 2];
    match getrandom(&mut id, GetRandomFlags::empty())? {
        2 => Ok(id),
        _ => Err(io::Error::other("the kernel gave too few random bytes")),
    }
}
