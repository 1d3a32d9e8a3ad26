//! The guest's interface, set up over rtnetlink from within its network namespace.

use std::fs;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};

use super::message::{Addresses, Order};

/// The largest window that a flow's receiver offers, in bytes: what one sender may have in flight.
const WINDOW_BYTES: u32 = 4 << 20;
/// How many full windows the queue holds: a few flows may burst at once.
const WINDOWS: u32 = 4;
/// The shortest queue in frames: bursts of small frames (ACKs, DNS) are counted in frames too.
const QUEUE_FRAMES_MIN: u32 = 1_024;

/// How many frames the TAP may queue towards us before it drops.
///
/// The kernel's default for a TAP is 1000 (500 in old ones). At MTU 1500 that is 1.4 MB, less than one
/// full window: a fast sender overruns it, loses hundreds of frames of one window and falls into
/// retransmission timeouts. So the queue holds several windows of full frames; its memory is one pointer
/// per frame.
pub(crate) fn queue_frames(mtu: u16) -> u32 {
    // 40 bytes of IPv4 and TCP header are not payload.
    let payload = u32::from(mtu).saturating_sub(40).max(1);
    (WINDOWS * WINDOW_BYTES.div_ceil(payload)).max(QUEUE_FRAMES_MIN)
}

/// Brings the interface up as ordered. In a namespace that is ours, `own_namespace`, also sets who may
/// ping. Returns notes on what went otherwise and does no harm.
pub(super) fn apply(order: &Order, own_namespace: bool) -> Result<Vec<String>, String> {
    let mut notes = Vec::new();
    if order.addresses.is_some() {
        set_interface_options(&order.ifname, &mut notes);
    }
    if own_namespace {
        open_ping(&mut notes);
    }
    with_netlink(|netlink| set_up(netlink, order, notes))?
}

/// Runs one piece of netlink work in the network namespace of this thread.
pub(crate) fn with_netlink<F, T>(work: impl FnOnce(Handle) -> F) -> Result<T, String>
where
    F: Future<Output = T>,
{
    let failed = |error: std::io::Error| format!("netlink can't be used: {error}");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    runtime.block_on(async {
        let (connection, netlink, _) = rtnetlink::new_connection().map_err(failed)?;
        let connection = tokio::spawn(connection);
        let outcome = work(netlink).await;
        connection.abort();
        Ok(outcome)
    })
}

async fn set_up(
    netlink: Handle,
    order: &Order,
    mut notes: Vec<String>,
) -> Result<Vec<String>, String> {
    let name = &order.ifname;
    // Whoever configures himself has his own idea of this too.
    if order.addresses.is_some() {
        let lo = LinkUnspec::new_with_name("lo").up().build();
        let changed = netlink.link().change(lo).execute().await;
        changed.map_err(|error| format!("the loopback interface can't be brought up: {error}"))?;
    }
    let mut found = netlink.link().get().match_name(name.clone()).execute();
    let link = found.try_next().await.ok().flatten();
    let index = link
        .map(|link| link.header.index)
        .ok_or_else(|| format!("{name} is gone"))?;

    let failed = |what: &str, error: rtnetlink::Error| format!("{name}: can't set {what}: {error}");
    let mut link = LinkUnspec::new_with_index(index)
        .mtu(u32::from(order.mtu))
        .append_extra_attribute(LinkAttribute::TxQueueLen(queue_frames(order.mtu)));
    if let Some(mac) = order.mac {
        link = link.address(mac.to_vec());
    }
    let what = format!("MTU {}, queue length and MAC address", order.mtu);
    let changed = netlink.link().change(link.build()).execute().await;
    changed.map_err(|error| failed(&what, error))?;
    let changed = netlink
        .link()
        .change(LinkUnspec::new_with_index(index).up().build())
        .execute()
        .await;
    changed.map_err(|error| failed("it up", error))?;

    let Some(addresses) = &order.addresses else {
        return Ok(notes);
    };
    let Addresses {
        guest4,
        prefix4,
        gateway4,
        guest6,
        gateway6,
    } = *addresses;
    add_address(&netlink, index, IpAddr::V4(guest4), prefix4)
        .await
        .map_err(|error| failed(&format!("the address {guest4}/{prefix4}"), error))?;
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .gateway(gateway4)
        .output_interface(index)
        .build();
    add_route(&netlink, route)
        .await
        .map_err(|error| failed(&format!("the default route by {gateway4}"), error))?;
    // A kernel without IPv6 is no reason to have no network.
    if let Err(error) = add_address(&netlink, index, IpAddr::V6(guest6), 64).await {
        notes.push(format!(
            "the guest has no IPv6: {}",
            failed(&guest6.to_string(), error)
        ));
        return Ok(notes);
    }
    let route = RouteMessageBuilder::<Ipv6Addr>::new()
        .gateway(gateway6)
        .output_interface(index)
        .build();
    if let Err(error) = add_route(&netlink, route).await {
        let what = format!("the default route by {gateway6}");
        notes.push(format!(
            "the guest has no way out over IPv6: {}",
            failed(&what, error)
        ));
    }
    Ok(notes)
}

/// Adds an address, or finds it there. IPv6: without duplicate address detection, which would keep it
/// from being used for a second or two, and there is nobody else on this segment (RFC 4862 §5.4).
async fn add_address(
    netlink: &Handle,
    index: u32,
    address: IpAddr,
    prefix: u8,
) -> Result<(), rtnetlink::Error> {
    let mut request = netlink.address().add(index, address, prefix).replace();
    if address.is_ipv6() {
        let flags = AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Permanent);
        request.message_mut().attributes.push(flags);
    }
    request.execute().await
}

/// Adds a default route; one that an attached namespace has already is replaced.
async fn add_route(netlink: &Handle, route: RouteMessage) -> Result<(), rtnetlink::Error> {
    netlink.route().add(route).replace().execute().await
}

/// The interface is configured by us: router advertisements would add a second address and route. The
/// link-local address is usable at once.
fn set_interface_options(ifname: &str, notes: &mut Vec<String>) {
    for (option, value) in [
        ("disable_ipv6", "0"),
        ("accept_ra", "0"),
        ("accept_dad", "0"),
    ] {
        let path = format!("/proc/sys/net/ipv6/conf/{ifname}/{option}");
        if let Err(error) = fs::write(&path, value) {
            notes.push(format!("{path} stays as it is: {error}"));
        }
    }
}

/// Lets everybody in the namespace ping without privileges. In a user namespace only groups that it
/// knows can be named, which is one.
fn open_ping(notes: &mut Vec<String>) {
    const PATH: &str = "/proc/sys/net/ipv4/ping_group_range";
    let group = rustix::process::getegid().as_raw();
    let outcome =
        fs::write(PATH, "0 2147483647").or_else(|_| fs::write(PATH, format!("{group} {group}")));
    if let Err(error) = outcome {
        notes.push(format!(
            "ping may need privileges in the guest: {PATH}: {error}"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_holds_several_windows_at_every_mtu() {
        assert_eq!(queue_frames(1500), 4 * 2_873);
        assert_eq!(queue_frames(65_520), QUEUE_FRAMES_MIN);
        for mtu in [1280_u16, 1500, 4000, 9000, 16_000, 65_520] {
            let bytes = u64::from(queue_frames(mtu)) * u64::from(mtu - 40);
            assert!(bytes >= u64::from(WINDOWS * WINDOW_BYTES), "{mtu}: {bytes}");
            assert!(queue_frames(mtu) >= QUEUE_FRAMES_MIN);
        }
        assert!(queue_frames(0) > 0);
    }
}
