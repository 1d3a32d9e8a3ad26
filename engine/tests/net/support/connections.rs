//! The kernel's table of TCP connections, of the calling thread's namespace.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// One connection, as this side sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// This side.
    pub(crate) local: SocketAddr,
    /// The other side.
    pub(crate) remote: SocketAddr,
    /// The kernel's number for the state.
    pub(crate) state: u8,
    /// Bytes that the other side has not acknowledged.
    pub(crate) unacknowledged: u64,
}

/// Open both ways.
pub(crate) const ESTABLISHED: u8 = 1;
/// The other side has not answered.
pub(crate) const SYN_SENT: u8 = 2;

/// All of them, of both IP versions.
pub(crate) fn connections() -> Vec<Entry> {
    let read = |name| std::fs::read_to_string(format!("/proc/thread-self/net/{name}"));
    let tables = ["tcp", "tcp6"].map(|name| read(name).expect("/proc is mounted"));
    let lines = tables.iter().flat_map(|table| table.lines().skip(1));
    lines
        .map(|line| entry(line).expect("a line of the table"))
        .collect()
}

/// Connects to an address that wait for an answer.
pub(crate) fn connects_to(remote: IpAddr) -> usize {
    let waits = |entry: &&Entry| entry.state == SYN_SENT && entry.remote.ip() == remote;
    connections().iter().filter(waits).count()
}

fn entry(line: &str) -> Option<Entry> {
    let mut words = line.split_whitespace().skip(1);
    Some(Entry {
        local: address(words.next()?)?,
        remote: address(words.next()?)?,
        state: u8::from_str_radix(words.next()?, 16).ok()?,
        unacknowledged: u64::from_str_radix(words.next()?.split(':').next()?, 16).ok()?,
    })
}

/// Words of four bytes, each in the machine's order.
fn address(text: &str) -> Option<SocketAddr> {
    let (digits, port) = text.split_once(':')?;
    let words = digits.as_bytes().chunks(8).map(|word| {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        Some(word.to_ne_bytes())
    });
    let bytes = words.collect::<Option<Vec<_>>>()?.concat();
    let ip = match <[u8; 4]>::try_from(&bytes[..]) {
        Ok(octets) => IpAddr::from(Ipv4Addr::from(octets)),
        Err(_) => Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[..]).ok()?).into(),
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}
