//! What the services did, counted by kind.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Names one counter of the services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Counter {
    /// DNS queries taken from guests, UDP and TCP.
    DnsQueries,
    /// DNS answers given to guests, whatever they say.
    DnsAnswers,
    /// DNS queries that came by TCP.
    DnsTcp,
    /// DNS queries that no server answered: SERVFAIL was ours.
    DnsServfail,
    /// Malformed DNS queries that were answered with FORMERR.
    DnsFormerr,
    /// DNS messages from guests that were dropped: no query, or too short to answer.
    DnsMalformed,
    /// DNS queries refused with SERVFAIL because too many were waiting already.
    DnsOverload,
    /// DNS queries refused with SERVFAIL because as many as one guest may have, or all connections may, were
    /// waiting already.
    DnsOverShare,
    /// Attempts at a DNS server after the first of a query.
    DnsRetries,
    /// Datagrams and messages from DNS servers that answer no question of ours (RFC 5452 §9.1).
    DnsMismatched,
    /// DNS answers cut to the size that the guest takes by UDP.
    DnsTruncated,
    /// DNS connections refused because too many were open.
    DnsConnectionsRefused,
    /// DNS queries for names of the segment, answered here.
    DnsNames,
    /// DHCPDISCOVER messages.
    DhcpDiscover,
    /// DHCPREQUEST messages.
    DhcpRequest,
    /// DHCPDECLINE messages.
    DhcpDecline,
    /// DHCPRELEASE messages.
    DhcpRelease,
    /// DHCPINFORM messages.
    DhcpInform,
    /// DHCPOFFER messages sent.
    DhcpOffer,
    /// DHCPACK messages sent.
    DhcpAck,
    /// DHCPNAK messages sent.
    DhcpNak,
    /// DHCP messages dropped because they break the protocol.
    DhcpMalformed,
    /// DHCP messages without effect, because the address in them is a guest's behind another port.
    DhcpForeign,
    /// DHCP clients left without an address because none was free.
    DhcpExhausted,
    /// DHCP clients left without an address because others behind their port have all that one port may.
    DhcpOverShare,
    /// Replies dropped because the core did not take them in time.
    RepliesDropped,
    /// Packets from cores that were no requests.
    RequestsMalformed,
    /// Guests closed at their hello: it was wrong, or what it asked for can't be had.
    LinkHelloRefused,
    /// Guests closed because their hello was not complete in time.
    LinkHelloLate,
    /// Guests closed because many others came while they had not said their hello.
    LinkCrowded,
    /// Guests closed because there were as many as the engine takes.
    LinkRefused,
}

impl Counter {
    /// Every counter, in the order of declaration.
    pub const ALL: [Self; 31] = [
        Self::DnsQueries,
        Self::DnsAnswers,
        Self::DnsTcp,
        Self::DnsServfail,
        Self::DnsFormerr,
        Self::DnsMalformed,
        Self::DnsOverload,
        Self::DnsOverShare,
        Self::DnsRetries,
        Self::DnsMismatched,
        Self::DnsTruncated,
        Self::DnsConnectionsRefused,
        Self::DnsNames,
        Self::DhcpDiscover,
        Self::DhcpRequest,
        Self::DhcpDecline,
        Self::DhcpRelease,
        Self::DhcpInform,
        Self::DhcpOffer,
        Self::DhcpAck,
        Self::DhcpNak,
        Self::DhcpMalformed,
        Self::DhcpForeign,
        Self::DhcpExhausted,
        Self::DhcpOverShare,
        Self::RepliesDropped,
        Self::RequestsMalformed,
        Self::LinkHelloRefused,
        Self::LinkHelloLate,
        Self::LinkCrowded,
        Self::LinkRefused,
    ];

    /// What it counts, for people.
    pub const fn text(self) -> &'static str {
        match self {
            Self::DnsQueries => "DNS queries",
            Self::DnsAnswers => "DNS answers",
            Self::DnsTcp => "DNS queries by TCP",
            Self::DnsServfail => "DNS queries that no server answered",
            Self::DnsFormerr => "malformed DNS queries, answered",
            Self::DnsMalformed => "malformed DNS messages, dropped",
            Self::DnsOverload => "DNS queries refused: too many waiting",
            Self::DnsOverShare => "DNS queries refused: too many of one guest waiting",
            Self::DnsRetries => "DNS retries",
            Self::DnsMismatched => "messages from DNS servers that answered no question",
            Self::DnsTruncated => "DNS answers cut to what the guest takes",
            Self::DnsConnectionsRefused => "DNS connections refused: too many open",
            Self::DnsNames => "DNS queries for names of guests, the host or the gateway",
            Self::DhcpDiscover => "DHCP discovers",
            Self::DhcpRequest => "DHCP requests",
            Self::DhcpDecline => "DHCP declines",
            Self::DhcpRelease => "DHCP releases",
            Self::DhcpInform => "DHCP informs",
            Self::DhcpOffer => "DHCP offers sent",
            Self::DhcpAck => "DHCP acknowledgements sent",
            Self::DhcpNak => "DHCP refusals sent",
            Self::DhcpMalformed => "malformed DHCP messages, dropped",
            Self::DhcpForeign => "DHCP messages about the address of another guest",
            Self::DhcpExhausted => "DHCP clients without an address: none free",
            Self::DhcpOverShare => "DHCP clients without an address: too many behind their port",
            Self::RepliesDropped => "service replies dropped: the core was behind",
            Self::RequestsMalformed => "service requests that were none",
            Self::LinkHelloRefused => "guests closed at a wrong or refused hello",
            Self::LinkHelloLate => "guests closed because their hello took too long",
            Self::LinkCrowded => "guests closed: too many others came before their hello",
            Self::LinkRefused => "guests closed: no port for one more",
        }
    }
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceCounters([u64; Counter::ALL.len()]);

impl ServiceCounters {
    /// One counter's value.
    pub fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }

    /// All counters with their values, zeros too.
    pub fn iter(&self) -> impl Iterator<Item = (Counter, u64)> + '_ {
        Counter::ALL
            .into_iter()
            .map(|counter| (counter, self.get(counter)))
    }
}

impl fmt::Display for ServiceCounters {
    /// One line for each counter that is not zero.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (counter, value) in self.iter().filter(|&(_, value)| value > 0) {
            writeln!(f, "{value:>16}  {}", counter.text())?;
        }
        Ok(())
    }
}

/// The counters that run, shared between the control thread and who shows them.
#[derive(Debug, Default)]
pub(crate) struct Counters([AtomicU64; Counter::ALL.len()]);

impl Counters {
    /// Adds one to `counter`.
    pub(crate) fn add(&self, counter: Counter) {
        self.0[counter as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// All values as they are now; not one moment's for all of them.
    pub(crate) fn snapshot(&self) -> ServiceCounters {
        ServiceCounters(std::array::from_fn(|i| self.0[i].load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{Counter, Counters};

    #[test]
    fn each_counter_has_a_place_and_a_text_of_its_own() {
        for (place, counter) in Counter::ALL.into_iter().enumerate() {
            assert_eq!(place, counter as usize, "{}", counter.text());
        }
        let texts: HashSet<_> = Counter::ALL.iter().map(|counter| counter.text()).collect();
        assert_eq!(texts.len(), Counter::ALL.len());
    }

    #[test]
    fn a_snapshot_shows_what_was_added() {
        let counters = Counters::default();
        counters.add(Counter::DhcpNak);
        counters.add(Counter::DhcpNak);
        let shown = counters.snapshot();
        assert_eq!(shown.get(Counter::DhcpNak), 2);
        assert_eq!(shown.iter().map(|(_, value)| value).sum::<u64>(), 2);
        assert_eq!(shown.to_string(), "               2  DHCP refusals sent\n");
    }
}
