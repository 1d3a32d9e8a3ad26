//! RST segments that answer segments (RFC 9293 §3.10.7.1).

use super::segment::{Flags, Segment};
use super::seq::SequenceNumber as Seq;

/// The answer for a segment that belongs to no connection; `payload_len` is in bytes. `None` for a
/// RST, which is never answered.
pub fn reset_for(segment: &Segment, payload_len: u32) -> Option<Segment> {
    if segment.flags.rst() {
        return None;
    }
    let reset = if segment.flags.ack() {
        bare(segment.acknowledgment)
    } else {
        let controls = u32::from(segment.flags.syn()) + u32::from(segment.flags.fin());
        Segment {
            acknowledgment: segment.sequence + payload_len + controls,
            flags: Flags::RST | Flags::ACK,
            ..bare(Seq(0))
        }
    };
    Some(Segment {
        source_port: segment.target_port,
        target_port: segment.source_port,
        ..reset
    })
}

/// A RST without ACK and without ports.
pub(super) fn bare(sequence: Seq) -> Segment {
    Segment {
        sequence,
        flags: Flags::RST,
        ..Segment::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_with_ack_gets_the_number_that_it_expects() {
        let segment = Segment {
            source_port: 1,
            target_port: 2,
            acknowledgment: Seq(77),
            flags: Flags::ACK,
            ..Segment::default()
        };
        let reset = reset_for(&segment, 10).unwrap();
        assert_eq!((reset.source_port, reset.target_port), (2, 1));
        assert_eq!((reset.sequence, reset.flags), (Seq(77), Flags::RST));
    }

    #[test]
    fn a_segment_without_ack_is_acknowledged() {
        let segment = Segment {
            sequence: Seq(u32::MAX),
            flags: Flags::SYN | Flags::FIN,
            ..Segment::default()
        };
        let reset = reset_for(&segment, 10).unwrap();
        assert_eq!((reset.sequence, reset.acknowledgment), (Seq(0), Seq(11)));
        assert_eq!(reset.flags, Flags::RST | Flags::ACK);
    }

    #[test]
    fn a_reset_is_never_answered() {
        let segment = Segment {
            flags: Flags::RST | Flags::ACK,
            ..Segment::default()
        };
        assert_eq!(reset_for(&segment, 0), None);
    }
}
