//! Guests that say who they are: a UUID keeps its IPv4 and MAC address for as long as the engine runs.
//!
//! An address is kept in the DHCP server's table, so that nobody else gets it and its guest gets it by
//! DHCP too. When all are taken, a new guest gets the one whose guest left the longest time ago, which is
//! then as if it had never been here. A guest without a UUID (all zero) can't be known again: its address is
//! free when it leaves.
//!
//! Two guests that are connected with one UUID would share all addresses, so the second is refused; but
//! not before the first had a moment to go, for a guest that is started again comes while its old
//! connection is still being closed. Who finds no address waits as long for one that is being given back.

use std::collections::HashMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use towpath_stack::wire::ethernet::MacAddress;
use uuid::Uuid;

use crate::config::{FixedLease, Holder, Network};
use crate::service::channel::Services;
use crate::service::dhcp;

/// How long those in the way may take to leave: one with the same UUID, or who has the last address.
const LEAVE_TIME: Duration = Duration::from_secs(1);

/// All UUIDs that were seen, and where their guests are.
pub(crate) struct Uuids {
    services: Arc<Services>,
    known: Mutex<HashMap<Uuid, Known>>,
    /// Told when a guest leaves.
    left: Notify,
}

struct Known {
    address: Ipv4Addr,
    is_connected: bool,
    /// Whether the address is this guest's by configuration.
    is_fixed: bool,
}

/// A guest that is connected; leaves when dropped.
pub(super) struct Member {
    uuids: Arc<Uuids>,
    /// `None`: it will not be known again.
    uuid: Option<Uuid>,
    /// Its IPv4 address.
    address: Ipv4Addr,
}

/// Why a guest is refused; shown as it is told to the guest. All but the last are vpnkit's own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    OtherAddress,
    OutOfRange,
    AddressUsed(Ipv4Addr),
    NoAddress,
    Connected,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherAddress => f.write_str(
                "UUID already assigned to a different IP than the IP requested by the client",
            ),
            Self::OutOfRange => f.write_str("Preferred IP address out of range."),
            Self::AddressUsed(address) => {
                write!(f, "Preferred IP address {address} already used.")
            }
            Self::NoAddress => f.write_str("No IP addresses available."),
            Self::Connected => f.write_str("A client with this UUID is connected already."),
        }
    }
}

impl Uuids {
    /// Knows from the start who has a fixed lease.
    pub(crate) fn new(services: Arc<Services>, fixed: &[FixedLease]) -> Self {
        let known = fixed.iter().filter_map(|lease| match lease.holder {
            Holder::Uuid(uuid) => Some((
                uuid,
                Known {
                    address: lease.address,
                    is_connected: false,
                    is_fixed: true,
                },
            )),
            Holder::Mac(_) => None,
        });
        Self {
            known: Mutex::new(known.collect()),
            services,
            left: Notify::new(),
        }
    }

    /// Takes a guest in; `preferred` is the address that it must have.
    pub(super) async fn join(
        self: &Arc<Self>,
        uuid: Uuid,
        preferred: Option<Ipv4Addr>,
    ) -> Result<Member, Refusal> {
        let deadline = Instant::now() + LEAVE_TIME;
        loop {
            // Before the look at the table, so that nothing between the two is missed.
            let left = self.left.notified();
            match self.try_join(uuid, preferred) {
                Err(refusal @ (Refusal::Connected | Refusal::NoAddress)) => {
                    if timeout_at(deadline, left).await.is_err() {
                        return Err(refusal);
                    }
                }
                outcome => return outcome,
            }
        }
    }

    fn try_join(
        self: &Arc<Self>,
        uuid: Uuid,
        preferred: Option<Ipv4Addr>,
    ) -> Result<Member, Refusal> {
        let mut known = self.lock();
        let mut dhcp = self.services.dhcp();
        // Whose address went to a DHCP client is forgotten,
        known.retain(|_, guest| dhcp.holds(Network::mac_of(guest.address)));
        let uuid = (!uuid.is_nil()).then_some(uuid);
        let address = match uuid.and_then(|uuid| known.get_mut(&uuid)) {
            Some(guest) => {
                guest.connect(preferred)?;
                dhcp.wake(Network::mac_of(guest.address));
                guest.address
            }
            None => {
                let address = self.hold(&mut dhcp, preferred)?;
                // and so is whose went to this guest, with the MAC address that belongs to it.
                known.retain(|_, guest| guest.address != address);
                address
            }
        };
        if let Some(uuid) = uuid {
            known.entry(uuid).or_insert(Known {
                address,
                is_connected: true,
                is_fixed: false,
            });
        }
        Ok(Member {
            uuids: Arc::clone(self),
            uuid,
            address,
        })
    }

    /// An address for a new guest.
    fn hold(
        &self,
        dhcp: &mut dhcp::Server,
        preferred: Option<Ipv4Addr>,
    ) -> Result<Ipv4Addr, Refusal> {
        let now = self.services.now();
        let address = match preferred {
            Some(preferred) if dhcp.is_for_guests(preferred) => preferred,
            Some(_) => return Err(Refusal::OutOfRange),
            None => dhcp.find_free(now).ok_or(Refusal::NoAddress)?,
        };
        if dhcp.hold(now, Network::mac_of(address), address) {
            Ok(address)
        } else {
            Err(Refusal::AddressUsed(address))
        }
    }

    /// Whoever panicked, each change of the table is one step.
    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// It is here again.
    fn connect(&mut self, preferred: Option<Ipv4Addr>) -> Result<(), Refusal> {
        if preferred.is_some_and(|preferred| preferred != self.address) {
            return Err(Refusal::OtherAddress);
        }
        if self.is_connected {
            return Err(Refusal::Connected);
        }
        self.is_connected = true;
        Ok(())
    }
}

impl Member {
    /// The MAC address that the guest is told to take.
    pub(super) fn mac(&self) -> MacAddress {
        Network::mac_of(self.address)
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.uuid {
            Some(uuid) => write!(f, "UUID {uuid}, ")?,
            None => f.write_str("no UUID, ")?,
        }
        write!(f, "{}, {}", self.mac(), self.address)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut known = self.uuids.lock();
        let mut dhcp = self.uuids.services.dhcp();
        match self.uuid.and_then(|uuid| known.get_mut(&uuid)) {
            Some(guest) => {
                guest.is_connected = false;
                if !guest.is_fixed {
                    dhcp.rest(self.uuids.services.now(), self.mac());
                }
            }
            None => dhcp.let_go(self.mac()),
        }
        drop((known, dhcp));
        self.uuids.left.notify_waiters();
    }
}
