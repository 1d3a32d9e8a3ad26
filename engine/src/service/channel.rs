//! The control thread's end of one core's socket pair: requests in, replies out.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant as Clock;

use tokio::net::UnixDatagram;
use towpath_stack::Instant;

use super::counters::{Counter, Counters};
use super::dhcp;
use super::dns::{Admitted, Forwarder, Source, Transport};
use super::message::{Asker, PACKET_MAX, Reply, Request};

/// One packet socket to a core.
///
/// tokio has no type for `SOCK_SEQPACKET`, but receiving and sending on it are the same calls as
/// on a connected datagram socket.
#[derive(Debug)]
pub(crate) struct CoreSocket(UnixDatagram);

impl CoreSocket {
    /// Takes a non-blocking packet socket; must be called inside a runtime.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        UnixDatagram::from_std(socket.into()).map(Self)
    }

    /// Waits for the next packet; its length, 0 when the core is gone.
    async fn receive(&self, packet: &mut [u8]) -> io::Result<usize> {
        self.0.recv(packet).await
    }

    /// Sends one packet now; whether the socket took it.
    fn try_send(&self, packet: &[u8]) -> bool {
        self.0.try_send(packet).is_ok()
    }
}

/// The services, one set for all cores.
pub(crate) struct Services {
    pub(crate) forwarder: Arc<Forwarder>,
    /// Locked for one message at a time and by one thread: never contended.
    pub(crate) dhcp: Mutex<dhcp::Server>,
    pub(crate) counters: Arc<Counters>,
    /// Where the DHCP server's time begins.
    pub(crate) origin: Clock,
}

impl Services {
    /// The DHCP server's time.
    pub(crate) fn now(&self) -> Instant {
        Instant::ZERO + self.origin.elapsed()
    }

    /// The DHCP server, for this moment.
    pub(crate) fn dhcp(&self) -> MutexGuard<'_, dhcp::Server> {
        self.dhcp.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What all tasks of one core's socket share.
struct Channel {
    socket: CoreSocket,
    services: Arc<Services>,
}

/// Serves one core until its end of the pair is closed.
///
/// A DNS query becomes a task of its own; their number is bounded by what the forwarder admits.
pub(crate) async fn serve_core(socket: CoreSocket, services: Arc<Services>) {
    let channel = Arc::new(Channel { socket, services });
    let mut packet = vec![0; PACKET_MAX];
    loop {
        let length = match channel.socket.receive(&mut packet).await {
            Ok(0) => return,
            Ok(length) => length,
            Err(error) => {
                tracing::error!("a core's requests can't be received: {error}");
                return;
            }
        };
        match packet.get(..length).and_then(Request::decode) {
            Some(Request::Dns { asker, query }) => channel.on_query(asker, query),
            Some(Request::Dhcp { port, mac, message }) => channel.on_dhcp(port, mac, message),
            None => channel.services.counters.add(Counter::RequestsMalformed),
        }
    }
}

impl Channel {
    fn on_query(self: &Arc<Self>, asker: Asker, query: &[u8]) {
        match self
            .services
            .forwarder
            .admit(Source::Port(asker.port), query)
        {
            Admitted::Forward(ticket) => {
                let channel = Arc::clone(self);
                tokio::spawn(async move {
                    let answer = channel
                        .services
                        .forwarder
                        .resolve(ticket, Transport::Udp)
                        .await;
                    channel.answer(asker, &answer);
                });
            }
            Admitted::Answer(answer) => self.answer(asker, &answer),
            Admitted::Drop => {}
        }
    }

    fn on_dhcp(&self, port: u16, mac: [u8; 6], message: &[u8]) {
        let now = self.services.now();
        let answer = self.services.dhcp().on_message(now, port, mac, message);
        if let Some(dhcp::Answer { mac, to, message }) = answer {
            self.reply(&Reply::Dhcp {
                port,
                mac,
                to,
                message: &message,
            });
        }
    }

    fn answer(&self, asker: Asker, answer: &[u8]) {
        self.reply(&Reply::Dns { asker, answer });
    }

    fn reply(&self, reply: &Reply<'_>) {
        let mut packet = Vec::new();
        reply.encode(&mut packet);
        if !self.socket.try_send(&packet) {
            self.services.counters.add(Counter::RepliesDropped);
        }
    }
}
