//! Guests that say who they are: a UUID keeps its IPv4 and MAC address for as long as the engine runs.
//!
//! An address is kept in the DHCP server's table, so that nobody else gets it and its guest gets it by
//! DHCP too. When all are taken, a new guest gets the one whose guest left the longest time ago. A guest
//! without a UUID (all zero) can't be known again: its address is free when it leaves.
//!
//! Two guests that are connected with one UUID would share all addresses, so the second is refused; but
//! not before the first had a moment to go, for a guest that is started again comes while its old
//! connection is still being closed.

use std::collections::HashMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;
use towpath_stack::Instant;
use towpath_stack::wire::ethernet::MacAddress;
use uuid::Uuid;

use crate::config::{FixedLease, Holder, Network};
use crate::service::channel::Services;

/// How long a connected guest with the same UUID may take to leave.
const LEAVE_TIME: Duration = Duration::from_secs(1);

/// All UUIDs that were seen, and where their guests are.
pub(super) struct Uuids {
    services: Arc<Services>,
    known: Mutex<HashMap<Uuid, Known>>,
    /// Told when a guest leaves.
    left: Notify,
}

struct Known {
    address: Ipv4Addr,
    presence: Presence,
    /// Whether the address is this guest's by configuration.
    is_fixed: bool,
}

enum Presence {
    Connected,
    /// Since then.
    Gone(Instant),
}

/// A guest that is connected; leaves when dropped.
pub(super) struct Member {
    uuids: Arc<Uuids>,
    /// `None`: it will not be known again.
    uuid: Option<Uuid>,
    /// Its IPv4 address.
    pub(super) address: Ipv4Addr,
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
    pub(super) fn new(services: Arc<Services>, fixed: &[FixedLease]) -> Self {
        let known = fixed.iter().filter_map(|lease| match lease.holder {
            Holder::Uuid(uuid) => Some((
                uuid,
                Known {
                    address: lease.address,
                    presence: Presence::Gone(Instant::ZERO),
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
        let attempts = async {
            loop {
                // Before the look at the table, so that nothing between the two is missed.
                let left = self.left.notified();
                match self.try_join(uuid, preferred) {
                    Err(Refusal::Connected) => left.await,
                    outcome => return outcome,
                }
            }
        };
        timeout(LEAVE_TIME, attempts)
            .await
            .unwrap_or(Err(Refusal::Connected))
    }

    fn try_join(
        self: &Arc<Self>,
        uuid: Uuid,
        preferred: Option<Ipv4Addr>,
    ) -> Result<Member, Refusal> {
        let mut known = self.lock();
        let uuid = (!uuid.is_nil()).then_some(uuid);
        let address = match uuid.and_then(|uuid| known.get_mut(&uuid)) {
            Some(there) => there.connect(preferred)?,
            None => {
                let address = match preferred {
                    Some(preferred) => self.hold_preferred(preferred)?,
                    None => self.hold_any(&mut known).ok_or(Refusal::NoAddress)?,
                };
                if let Some(uuid) = uuid {
                    let newcomer = Known {
                        address,
                        presence: Presence::Connected,
                        is_fixed: false,
                    };
                    known.insert(uuid, newcomer);
                }
                address
            }
        };
        Ok(Member {
            uuids: Arc::clone(self),
            uuid,
            address,
        })
    }

    fn hold_preferred(&self, address: Ipv4Addr) -> Result<Ipv4Addr, Refusal> {
        let now = self.services.now();
        let mut dhcp = self.services.dhcp();
        if !dhcp.is_for_guests(address) {
            Err(Refusal::OutOfRange)
        } else if dhcp.hold(now, Network::mac_of(address), address) {
            Ok(address)
        } else {
            Err(Refusal::AddressUsed(address))
        }
    }

    /// Any address: one that is free, else that of the guest that is gone for the longest.
    fn hold_any(&self, known: &mut HashMap<Uuid, Known>) -> Option<Ipv4Addr> {
        let now = self.services.now();
        let mut dhcp = self.services.dhcp();
        let address = dhcp.find_free(now).or_else(|| {
            let (&uuid, address, _) = known
                .iter()
                .filter(|(_, known)| !known.is_fixed)
                .filter_map(|(uuid, known)| match known.presence {
                    Presence::Gone(since) => Some((uuid, known.address, since)),
                    Presence::Connected => None,
                })
                .min_by_key(|&(_, address, since)| (since, address))?;
            known.remove(&uuid);
            dhcp.let_go(Network::mac_of(address));
            Some(address)
        })?;
        dhcp.hold(now, Network::mac_of(address), address)
            .then_some(address)
    }

    /// Whoever panicked, each change of the table is one step.
    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// It is here again; its address.
    fn connect(&mut self, preferred: Option<Ipv4Addr>) -> Result<Ipv4Addr, Refusal> {
        if preferred.is_some_and(|preferred| preferred != self.address) {
            return Err(Refusal::OtherAddress);
        }
        match std::mem::replace(&mut self.presence, Presence::Connected) {
            Presence::Connected => Err(Refusal::Connected),
            Presence::Gone(_) => Ok(self.address),
        }
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
        match self.uuid {
            Some(uuid) => {
                if let Some(there) = self.uuids.lock().get_mut(&uuid) {
                    there.presence = Presence::Gone(self.uuids.services.now());
                }
            }
            None => self.uuids.services.dhcp().let_go(self.mac()),
        }
        self.uuids.left.notify_waiters();
    }
}
