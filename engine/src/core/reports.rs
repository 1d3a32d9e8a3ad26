//! ICMP errors from the guest's side about packets that we sent.
//!
//! Who sends one claims to have seen a packet of ours; it quotes the start of it. Nothing is done for a
//! quote that names no flow of ours. That a path takes less than the link is believed when the quoted
//! packet is one that TCP has in flight (RFC 5927 §4), and for UDP, which knows of nothing, for ten minutes
//! at a time. What else there is (a port that is closed, a host that is gone) changes nothing: TCP finds
//! out by itself (RFC 1122 §4.2.3.9 wants no connection ended by such), and a peer of the host's that
//! sent a datagram to a guest's closed port hears as little as from any host that says nothing.

use towpath_ring::driver::Driver;
use towpath_stack::flow::{self, FlowKey, Protocol};
use towpath_stack::quote::{Quote, Transport};
use towpath_stack::wire::icmpv4::Report;

use super::Core;
use super::ingress::flow_key;
use crate::counters::Counter;
use crate::link::PortId;

impl<D: Driver> Core<D> {
    /// An error about a packet to a guest, which quotes it. Answers with the core that owns its flow
    /// when that is another one and the message may still move.
    pub(super) fn on_report(
        &mut self,
        port: PortId,
        report: &Report,
        quoted: &[u8],
        may_move: bool,
    ) -> Option<usize> {
        let Some(quote) = Quote::parse(quoted) else {
            self.counters.bump(Counter::DroppedIcmp);
            return None;
        };
        let key = flow_of(port, &quote);
        let hash = flow::hash(&key);
        if may_move && let Some(owner) = self.other_owner(port, hash) {
            return Some(owner);
        }
        let mtu = quote.path_mtu(report);
        let ours = match quote.transport {
            Transport::Tcp { sequence, .. } => {
                let index = self.tcp.find(&key, hash);
                if let (Some(index), Some(mtu)) = (index, mtu) {
                    self.narrow_tcp(index, sequence, mtu);
                }
                index.is_some()
            }
            Transport::Udp { .. } => {
                let index = self.udp.find(&key, hash);
                if let (Some(index), Some(mtu)) = (index, mtu) {
                    self.narrow_udp(index, mtu);
                }
                index.is_some()
            }
            Transport::EchoReply { .. } => self.echo.find(&key, hash).is_some(),
        };
        self.counters.bump(if ours {
            Counter::IcmpErrorsIn
        } else {
            Counter::DroppedIcmp
        });
        None
    }
}

/// The flow that sent a quoted packet.
fn flow_of(port: PortId, quote: &Quote) -> FlowKey {
    let (protocol, guest_port, remote_port) = match quote.transport {
        Transport::Tcp {
            source_port,
            target_port,
            ..
        } => (Protocol::Tcp, target_port, Some(source_port)),
        Transport::Udp { target_port, .. } => (Protocol::Udp, target_port, None),
        Transport::EchoReply { identifier } => (Protocol::Icmp, identifier, None),
    };
    flow_key(
        port,
        protocol,
        (quote.target, guest_port),
        (quote.source, remote_port),
    )
}
