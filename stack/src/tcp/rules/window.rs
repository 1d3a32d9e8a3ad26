//! The guest's window, as it opens, shrinks and closes.

use super::*;

#[test]
fn windows_are_unsigned() {
    // RFC 9293 §3.1, MUST-1: a window above 32,767 is no negative number.
    let mut bench = Bench::established(Bench::plain());
    bench.window = 40_000;
    bench.ack();
    let mut ack = 5_001;
    for sent in [10_000, 20_000, 40_000, 40_000] {
        bench.queue.bytes = 60_000;
        let out: u32 = bench.ranges_out().iter().map(|&(_, len)| len).sum();
        assert_eq!(out, sent);
        ack += out;
        bench.ack_to(ack);
    }
}

#[test]
fn a_window_that_shrinks_holds_back_new_data_but_no_retransmission() {
    // RFC 9293 §3.8.6, MUST-34, SHLD-15 and SHLD-16.
    let mut bench = Bench::established(Bench::plain());
    bench.queue.bytes = 15_000;
    assert_eq!(bench.ranges_out(), [(5_001, 10_000)]);
    // 3,000 are received, and of the 7,000 in flight 2,000 are still wanted.
    bench.window = 2_000;
    assert_eq!(bench.ack_to(8_001).acked, 3_000);
    assert_eq!(bench.out(), []);
    assert_eq!(bench.wait_next().1, TimerOutcome::Transmit);
    let out = bench.ranges_out();
    assert!(!out.is_empty());
    for (sequence, len) in out {
        assert!(
            sequence >= 8_001 && sequence + len <= 10_001,
            "{sequence}, {len}"
        );
    }
    // An ACK of more than it wants now, since it had taken it before, counts.
    bench.window = 20_000;
    assert_eq!(bench.ack_to(15_001).acked, 7_000);
    assert_eq!(bench.ranges_out()[0].0, 15_001);
}

#[test]
fn a_window_that_shrinks_to_nothing_is_probed() {
    // RFC 9293 §3.8.6, MUST-35, with data in flight that does not count as lost for ever.
    let mut bench = Bench::established(Bench::plain());
    bench.queue.bytes = 5_000;
    bench.out();
    bench.window = 0;
    assert_eq!(bench.ack_to(6_001).acked, 1_000);
    for _ in 0..40 {
        assert_eq!(bench.wait_next().1, TimerOutcome::Transmit);
        bench.out();
        bench.ack();
    }
    bench.window = 20_000;
    bench.ack();
    let mut sent_to = 6_001;
    for _ in 0..10 {
        for (sequence, len) in bench.ranges_out() {
            assert!(sequence <= sent_to);
            sent_to = sent_to.max(sequence + len);
        }
        bench.ack_to(sent_to);
    }
    assert_eq!((sent_to, bench.queue.bytes), (10_001, 0));
}

#[test]
fn a_reset_and_an_ack_count_though_our_window_is_closed() {
    // RFC 9293 §3.10.7.4, first: MUST-66.
    let closed = || {
        let mut bench = Bench::established(Bench::plain());
        bench.queue.bytes = 10;
        bench.out();
        bench.connection.set_receive_room(0);
        bench.data(10_000);
        assert_eq!(bench.one_out().segment.window, 0);
        bench
    };
    let mut bench = closed();
    bench.guest.1 = 5_011;
    assert_eq!(bench.send(ACK | Flags::URG).acked, 10);
    let mut bench = closed();
    assert!(bench.send(Flags::RST).reset);
}
