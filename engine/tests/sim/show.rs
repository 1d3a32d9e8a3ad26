//! A frame as a line of a trace.

use towpath_stack::parse::{self, Body, Content, Transport};
use towpath_stack::wire::offload::Offload;

/// `who` and what the frame carries.
pub(crate) fn frame(who: &str, frame: &[u8], offload_header: bool) -> String {
    let split = if offload_header {
        Offload::parse(frame).ok()
    } else {
        Some((Offload::NONE, frame))
    };
    let Some((offload, ethernet)) = split else {
        return format!("{who} {} bytes, a broken offload header", frame.len());
    };
    let packet = match parse::parse(ethernet, &offload) {
        Ok(packet) => packet,
        Err(why) => return format!("{who} {} bytes: {}", frame.len(), why.name()),
    };
    let ip = match &packet.body {
        Body::Arp(arp) => return format!("{who} {arp:?}"),
        Body::Ip(ip) => ip,
    };
    match &ip.content {
        Content::Transport(Transport::Tcp { segment, payload }) => {
            let pieces = offload
                .gso
                .map_or(String::new(), |gso| format!(" in pieces of {}", gso.size));
            let sack = segment.options.sack.as_slice();
            let sack = if sack.is_empty() {
                String::new()
            } else {
                let blocks: Vec<_> = sack.iter().map(|(l, r)| (l.0, r.0)).collect();
                format!(" sack {blocks:?}")
            };
            format!(
                "{who} {}>{} {:?} seq {} ack {} win {} len {}{pieces}{sack}",
                segment.source_port,
                segment.target_port,
                segment.flags,
                segment.sequence.0,
                segment.acknowledgment.0,
                segment.window,
                payload.len(),
            )
        }
        Content::Transport(other) => format!("{who} {other:?}"),
        Content::Fragment(part) => format!(
            "{who} fragment {} at {} len {}",
            part.identification,
            part.offset,
            part.payload.len()
        ),
    }
}
