//! Lets guests in: tasks of the control thread that accept, greet, hand over to a core, and hear when it
//! is over.
//!
//! Each guest has one task from its first byte to its end. Until its hello is complete it is a stranger:
//! there may be [`STRANGERS_MAX`] of them, each for [`HELLO_TIME`] and with the few bytes of its hello;
//! for who comes beyond that the oldest is closed. A guest that is closed leaves one line in the log; no
//! other notices.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::complaints::Complaints;
use super::listener::{Listener, Source, carrier};
use super::socket::Socket;
use super::strangers::Strangers;
use super::url::Protocol;
use super::uuids::{Member, Uuids};
use super::{Attacher, Attachment, Carrier, Departure, vpnkit};
use crate::service::channel::Services;
use crate::service::counters::Counter;

/// Guests whose hello is not complete, at most.
const STRANGERS_MAX: usize = 256;
/// How long a hello may take.
const HELLO_TIME: Duration = Duration::from_secs(10);
/// How long to wait when a guest can't be accepted: out of descriptors, most likely.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Lets guests of `listeners` in for as long as the runtime runs.
///
/// The descriptor hangs up when no guest can come any more and all are gone: never, where something
/// listens.
///
/// # Errors
///
/// Descriptors can't be had, or can't be waited for. All is closed then.
pub(crate) fn serve(
    runtime: &Handle,
    services: &Arc<Services>,
    uuids: &Arc<Uuids>,
    mtu: u16,
    attacher: Attacher,
    listeners: Vec<Listener>,
) -> io::Result<OwnedFd> {
    let _inside = runtime.enter();
    let (ended, open) = pipe_with(PipeFlags::CLOEXEC)?;
    let gate = Arc::new(Gate {
        attacher,
        services: Arc::clone(services),
        uuids: Arc::clone(uuids),
        mtu,
        strangers: Strangers::new(STRANGERS_MAX),
        complaints: Complaints::new(),
        _open: open,
    });
    for Listener { url, source } in listeners {
        let gate = Arc::clone(&gate);
        let url = url.to_string();
        match source {
            Source::Listening {
                socket,
                protocol,
                file,
            } => {
                let socket = Socket::new(socket)?;
                runtime.spawn(async move {
                    gate.accept_all(&url, &socket, protocol).await;
                    drop(file);
                });
            }
            Source::Datagrams { socket, file } => {
                let socket = Socket::new(socket)?;
                runtime.spawn(async move { gate.take_senders(&url, socket, file).await });
            }
            Source::Connected { socket, protocol } => {
                let socket = Socket::new(socket)?;
                runtime.spawn(async move { gate.take_in(url, socket, protocol).await });
            }
            Source::Tap(queue) => {
                runtime.spawn(async move { gate.keep(url, Carrier::Tap(queue), None).await });
            }
        }
    }
    Ok(ended)
}

/// What all guests pass.
pub(super) struct Gate {
    attacher: Attacher,
    services: Arc<Services>,
    uuids: Arc<Uuids>,
    mtu: u16,
    strangers: Strangers,
    pub(super) complaints: Complaints,
    /// Closed with the last task.
    _open: OwnedFd,
}

impl Gate {
    async fn accept_all(self: Arc<Self>, url: &str, socket: &Socket, protocol: Protocol) {
        for number in 1_u64.. {
            let guest = accept(url, socket).await;
            let name = format!("{url}#{number}");
            let gate = Arc::clone(&self);
            tokio::spawn(async move { gate.take_in(name, guest, protocol).await });
        }
    }

    /// A guest from its hello, if the protocol has one, to its end.
    async fn take_in(&self, name: String, socket: Socket, protocol: Protocol) {
        match protocol {
            Protocol::Vpnkit => {
                if let Some(member) = self.greet(&name, &socket).await {
                    self.keep_socket(name, socket, protocol, Some(&member))
                        .await;
                }
            }
            Protocol::Vfkit => {
                self.connect_first(&name, &socket).await;
                self.keep_socket(name, socket, protocol, None).await;
            }
            Protocol::Gvproxy | Protocol::Qemu | Protocol::Bess => {
                self.keep_socket(name, socket, protocol, None).await;
            }
        }
    }

    /// Does the hello with a stranger, unless so many come that its place is needed.
    async fn greet(&self, name: &str, socket: &Socket) -> Option<Member> {
        let mut place = self.strangers.enter();
        let hello = timeout(HELLO_TIME, vpnkit::welcome(socket, &self.uuids, self.mtu));
        let outcome = tokio::select! {
            outcome = hello => outcome,
            () = place.lost() => {
                self.services.counters.add(Counter::LinkCrowded);
                self.complaints.say(format_args!(
                    "{name}: closed: {STRANGERS_MAX} others came while it had not said its hello"
                ));
                return None;
            }
        };
        match outcome {
            Ok(Ok(member)) => return Some(member),
            Ok(Err(error)) => {
                self.services.counters.add(Counter::LinkHelloRefused);
                self.complaints.say(format_args!("{name}: closed: {error}"));
            }
            Err(_) => {
                self.services.counters.add(Counter::LinkHelloLate);
                let limit = HELLO_TIME.as_secs();
                self.complaints.say(format_args!(
                    "{name}: closed: no complete hello in {limit} s"
                ));
            }
        }
        None
    }

    pub(super) async fn keep_socket(
        &self,
        name: String,
        socket: Socket,
        protocol: Protocol,
        member: Option<&Member>,
    ) {
        match socket.into_inner() {
            Ok(socket) => self.keep(name, carrier(socket, protocol), member).await,
            Err(error) => self.complaints.say(format_args!("{name}: closed: {error}")),
        }
    }

    /// Gives a guest to a core, and returns when it has gone.
    async fn keep(&self, name: String, carrier: Carrier, member: Option<&Member>) {
        let (gone, departure) = oneshot::channel();
        let attachment = Attachment {
            name: name.clone(),
            carrier,
        };
        // Nobody waits for the message once the runtime ends.
        let attached = self.attacher.attach(attachment, move |departure| {
            let _ = gone.send(departure);
        });
        let port = match attached {
            Ok(port) => port,
            Err(error) => {
                self.services.counters.add(Counter::LinkRefused);
                return self.complaints.say(format_args!("{name}: closed: {error}"));
            }
        };
        match member {
            Some(member) => {
                // Before anything else that runs on this thread, the guest's first message too.
                self.services.dhcp().settle(member.mac(), port.0);
                tracing::info!("{name}: a guest is here: {member}");
            }
            None => tracing::info!("{name}: a guest is here"),
        }
        match departure.await {
            Ok(Departure::Left) => tracing::info!("{name}: {}", Departure::Left),
            Ok(departure) => self.complaints.say(format_args!("{name}: {departure}")),
            // The engine is ending.
            Err(_) => {}
        }
    }
}

/// The next guest.
async fn accept(url: &str, socket: &Socket) -> Socket {
    loop {
        match socket.accept().await.and_then(Socket::new) {
            Ok(guest) => return guest,
            Err(error) => {
                tracing::debug!("{url}: a guest can't be accepted: {error}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
