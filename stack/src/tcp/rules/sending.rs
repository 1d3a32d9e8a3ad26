//! What leaves, and what is sent again.

use super::*;

/// Established with SACK and a round trip of 1 ms, and `bytes` in flight.
fn distant(bytes: u32) -> Bench {
    let mut bench = Bench::held(Bench::with_sack());
    bench.accept();
    bench.out();
    bench.wait(ms(1));
    assert!(bench.ack().established);
    bench.queue.bytes = bytes;
    assert_eq!(bench.ranges_out(), [(5_001, bytes)]);
    bench
}

/// Lets time pass until the retransmission timer expires once more.
fn time_out(bench: &mut Bench) {
    let before = bench.connection.send.attempts;
    for _ in 0..100 {
        bench.out();
        bench.wait_next();
        if bench.connection.send.attempts > before {
            return;
        }
    }
    panic!("the timer does not expire");
}

#[test]
fn a_super_frame_is_whole_segments_and_the_last_is_pushed() {
    let mut bench = Bench::established(Bench::plain());
    bench.queue = SendQueue {
        bytes: 8_500,
        finished: false,
        segment_max: 3_500,
    };
    let out = bench.out();
    let ranges: Vec<_> = out.iter().map(|t| t.payload.clone()).collect();
    assert_eq!(ranges, [0..3000, 3000..6000, 6000..8500]);
    assert!(
        out.iter()
            .all(|t| t.gso_size == Some(1000) && !t.retransmission)
    );
    let pushed: Vec<_> = out
        .iter()
        .map(|t| t.segment.flags.contains(Flags::PSH))
        .collect();
    assert_eq!(pushed, [false, false, true]);
    // One wire segment needs no cutting.
    assert_eq!(bench.ack_to(13_501).acked, 8_500);
    bench.queue.bytes = 1_000;
    let transmit = bench.one_out();
    assert_eq!((transmit.payload, transmit.gso_size), (0..1000, None));
}

#[test]
fn neither_window_is_exceeded() {
    // RFC 6928 §2 and RFC 9293 §3.8.6.2.1.
    let mut bench = Bench::established(Bench::plain());
    bench.queue.bytes = 60_000;
    assert_eq!(bench.ranges_out(), [(5001, 10_000)]);
    // Slow start doubles; then the guest's 20,000 are the limit.
    bench.ack_to(15_001);
    assert_eq!(bench.ranges_out(), [(15_001, 20_000)]);
    bench.window = 2_500;
    bench.ack_to(35_001);
    assert_eq!(bench.ranges_out(), [(35_001, 2_000)]);
}

#[test]
fn three_duplicates_retransmit_without_sack() {
    // RFC 5681 §3.2, RFC 3042, RFC 6582 §3.2.
    let mut bench = Bench::established(Bench::plain());
    bench.queue.bytes = 20_000;
    bench.out();
    bench.ack();
    assert_eq!(bench.ranges_out(), [(15_001, 1000)]);
    bench.ack();
    assert_eq!(bench.ranges_out(), [(16_001, 1000)]);
    bench.ack();
    let transmit = bench.one_out();
    assert_eq!((transmit.payload, transmit.retransmission), (0..1000, true));
    // CUBIC leaves seven tenths of what was in flight (RFC 9438 §4.6).
    assert_eq!(bench.connection.cwnd(), 8_400 + 3_000);
    // A partial ACK names the next hole.
    assert_eq!(bench.ack_to(7_001).acked, 2_000);
    let out = bench.out();
    assert_eq!(
        (out[0].segment.sequence, out[0].retransmission),
        (Seq(7_001), true)
    );
    // A full one ends recovery.
    bench.ack_to(17_001);
    assert_eq!(bench.connection.cwnd(), 8_400);
}

#[test]
fn what_was_sent_twice_is_not_timed() {
    // RFC 6298 §3, Karn.
    let mut bench = Bench::established(Bench::plain());
    let before = bench.connection.smoothed_rtt();
    assert!(before.is_some());
    bench.queue.bytes = 10_000;
    bench.out();
    for _ in 0..3 {
        bench.ack();
    }
    assert!(bench.one_out().retransmission);
    bench.wait(ms(100));
    bench.ack_to(15_001);
    assert_eq!(bench.connection.smoothed_rtt(), before);
    bench.queue.bytes = 10;
    bench.out();
    bench.wait(ms(100));
    bench.ack_to(15_011);
    assert!(bench.connection.smoothed_rtt() > before);
}

#[test]
fn a_loss_after_half_the_sequence_space_is_seen() {
    let mut bench = Bench::established(Bench::plain());
    bench.window = u16::MAX;
    bench.ack();
    let mut ack = 5_001u32;
    for _ in 0..40_000 {
        bench.queue.bytes = 60_000;
        let sent: u32 = bench.ranges_out().iter().map(|&(_, len)| len).sum();
        ack = ack.wrapping_add(sent);
        assert_eq!(bench.ack_to(ack).acked, sent);
    }
    bench.queue.bytes = 60_000;
    bench.out();
    for _ in 0..3 {
        bench.ack();
    }
    let out = bench.out();
    assert_eq!(
        (out[0].segment.sequence, out[0].retransmission),
        (Seq(ack), true)
    );
}

#[test]
fn sack_retransmits_the_holes_and_nothing_else() {
    // RFC 8985 §6.2, and RFC 9937 for how much.
    let mut bench = Bench::established(Bench::with_sack());
    bench.queue.bytes = 10_000;
    bench.out();
    bench.wait(ms(1));
    bench.sack(&[(6_001, 8_001), (9_001, 12_001)]);
    let holes: Vec<_> = bench.ranges_out();
    assert_eq!(holes, [(5_001, 1_000), (8_001, 1_000)]);
    bench.wait(ms(1));
    bench.guest.1 = 8_001;
    bench.sack(&[(9_001, 15_001)]);
    assert_eq!(bench.out(), []);
    bench.ack_to(15_001);
    assert_eq!(bench.connection.cwnd(), 7_000);
}

#[test]
fn the_timer_goes_back_to_the_first_and_backs_off() {
    // RFC 6298 §5, RFC 5681 §3.1; RFC 9293 §3.8.3 for the end.
    let mut bench = Bench::established(Bench::plain());
    bench.queue.bytes = 5_000;
    bench.out();
    let mut expected = bench.config.rto_min;
    for _ in 0..bench.config.retries {
        let (time, outcome) = bench.wait_next();
        assert_eq!((time, outcome), (expected, TimerOutcome::Transmit));
        assert_eq!(bench.ranges_out(), [(5_001, 1_000)]);
        assert_eq!(bench.connection.cwnd(), 1_000);
        expected = (expected * 2).min(bench.config.rto_max);
    }
    assert_eq!(
        bench.wait_next().1,
        TimerOutcome::Gone(Reason::RetransmissionLimit)
    );
}

#[test]
fn after_a_timeout_what_the_guest_holds_is_not_sent_again() {
    let mut bench = distant(5_000);
    bench.wait(ms(1));
    bench.sack(&[(6_001, 7_001)]);
    assert_eq!(bench.out(), []);
    time_out(&mut bench);
    assert_eq!(bench.ranges_out(), [(5_001, 1_000)]);
    assert_eq!(bench.connection.cwnd(), 1_000);
    bench.ack_to(7_001);
    assert_eq!(bench.ranges_out(), [(7_001, 3_000)]);
    assert_eq!(bench.ack_to(10_001).acked, 3_000);
}

#[test]
fn a_guest_that_forgets_what_it_held_gets_it_again() {
    // RFC 2018 §8: a receiver may renege; the timer's second expiry is the sign.
    let mut bench = distant(5_000);
    bench.wait(ms(1));
    bench.sack(&[(6_001, 7_001)]);
    time_out(&mut bench);
    time_out(&mut bench);
    assert_eq!(bench.ranges_out(), [(5_001, 1_000)]);
    bench.ack_to(6_001);
    assert_eq!(bench.ranges_out(), [(6_001, 2_000)]);
}

#[test]
fn a_guest_that_contradicts_itself_is_not_believed_at_the_first_timeout() {
    // RFC 2018 §8: the ACK stands where the guest said that it holds the next byte.
    let mut bench = distant(5_000);
    bench.wait(ms(1));
    bench.sack(&[(6_001, 7_001)]);
    bench.out();
    bench.wait_next();
    bench.out();
    bench.ack_to(6_001);
    time_out(&mut bench);
    assert_eq!(bench.ranges_out(), [(6_001, 1_000)]);
}

#[test]
fn a_closed_window_is_probed_as_long_as_the_guest_answers() {
    // RFC 9293 §3.8.6.1.
    let mut bench = Bench::established(Bench::plain());
    bench.window = 0;
    bench.ack();
    bench.queue.bytes = 3_000;
    assert_eq!(bench.out(), []);
    let mut last = Duration::ZERO;
    for _ in 0..100 {
        let (time, outcome) = bench.wait_next();
        assert!(time >= last && time <= bench.config.rto_max);
        last = time;
        assert_eq!(outcome, TimerOutcome::Transmit);
        assert_eq!(bench.ranges_out(), [(5_001, 1)]);
        bench.ack();
        assert_eq!(bench.out(), []);
    }
    bench.window = 5_000;
    bench.ack();
    assert_eq!(bench.ranges_out(), [(5_001, 3_000)]);
    assert_eq!(bench.ack_to(8_001).acked, 3_000);

    bench.window = 0;
    bench.ack();
    bench.queue.bytes = 10;
    bench.out();
    for _ in 0..bench.config.retries {
        assert_eq!(bench.wait_next().1, TimerOutcome::Transmit);
        assert_eq!(bench.ranges_out(), [(8_001, 1)]);
    }
    assert_eq!(
        bench.wait_next().1,
        TimerOutcome::Gone(Reason::RetransmissionLimit)
    );
}

#[test]
fn a_segment_that_did_not_fit_goes_out_again_in_smaller_ones() {
    // RFC 1191 §6.3, RFC 8201 §5.4: at once, and the congestion window stays.
    let mut bench = Bench::established(Bench::plain());
    bench.queue.bytes = 3_000;
    assert_eq!(bench.ranges_out(), [(5_001, 3_000)]);
    let cwnd = bench.connection.cwnd();
    assert!(bench.connection.on_packet_too_big(Seq(6_001), 600));
    assert_eq!(bench.connection.effective_mss(), 600);
    let transmit = bench.one_out();
    assert_eq!((transmit.payload, transmit.gso_size), (0..3000, Some(600)));
    assert!(transmit.retransmission);
    assert_eq!(bench.connection.cwnd(), cwnd);
    assert_eq!(bench.ack_to(8_001).acked, 3_000);
    assert!(bench.connection.cwnd() >= cwnd);
}

#[test]
fn a_forged_packet_too_big_changes_nothing() {
    // RFC 5927 §4.1: the quoted sequence number must be in flight; RFC 1191 §3: never larger.
    let mut bench = Bench::established(Bench::plain());
    assert!(!bench.connection.on_packet_too_big(Seq(5_001), 600));
    bench.queue.bytes = 3_000;
    bench.out();
    for (quoted, mss) in [(5_000, 600), (8_001, 600), (5_001, 1_000), (5_001, 9_000)] {
        assert!(!bench.connection.on_packet_too_big(Seq(quoted), mss));
    }
    assert_eq!(bench.connection.effective_mss(), 1_000);
    assert_eq!(bench.out(), []);
    // However small the MTU, mostly headers is not what is sent.
    assert!(bench.connection.on_packet_too_big(Seq(8_000), 0));
    assert_eq!(bench.connection.effective_mss(), 88);
}

#[test]
fn an_echo_of_congestion_reduces_the_window_once_for_what_is_in_flight() {
    // RFC 3168 §6.1.2.
    let mut bench = Bench::established(Bench::plain());
    bench.queue.bytes = 10_000;
    bench.out();
    bench.ack_to(7_001);
    let now = bench.now;
    let before = bench.connection.cwnd();
    assert!(bench.connection.send.on_congestion_echo(now, 1_000));
    let reduced = bench.connection.cwnd();
    assert!(reduced < before);
    bench.ack_to(9_001);
    assert!(!bench.connection.send.on_congestion_echo(now, 1_000));
    assert!((reduced..reduced + 100).contains(&bench.connection.cwnd()));
    bench.ack_to(15_001);
    assert!(bench.connection.send.on_congestion_echo(now, 1_000));
    assert!(bench.connection.cwnd() < reduced);
}

#[test]
fn a_piece_may_be_overtaken_for_a_quarter_of_a_round_trip() {
    // RFC 8985 §6.2: one segment above the hole may be reordering.
    let mut bench = distant(10_000);
    bench.wait(ms(1));
    bench.sack(&[(6_001, 7_001)]);
    // What the guest holds is not in flight, so that there is room for one more (RFC 3042).
    bench.queue.bytes = 11_000;
    assert_eq!(bench.ranges_out(), [(15_001, 1_000)]);
    assert_eq!(
        bench.wait_next(),
        (Duration::from_micros(250), TimerOutcome::Transmit)
    );
    assert_eq!(bench.ranges_out(), [(5_001, 1_000)]);
    assert!(bench.connection.send.congestion.target() < 10_000);
}

#[test]
fn a_late_piece_shows_that_the_link_reorders() {
    // RFC 8985 §6.2: then three segments above a hole are no proof.
    let mut bench = distant(10_000);
    bench.wait(ms(1));
    bench.sack(&[(6_001, 7_001)]);
    bench.ack_to(7_001);
    assert_eq!(bench.ranges_out(), []);
    let cwnd = bench.connection.cwnd();
    bench.sack(&[(8_001, 12_001)]);
    assert_eq!(bench.ranges_out(), []);
    assert_eq!(bench.wait_next().0, Duration::from_micros(250));
    assert_eq!(bench.ranges_out(), [(7_001, 1_000)]);
    assert!(bench.connection.cwnd() < cwnd);
}

#[test]
fn a_retransmission_that_is_lost_is_sent_again_without_a_timeout() {
    // RFC 8985 §3.1: what was sent after it arrived.
    let mut bench = distant(10_000);
    bench.wait(ms(1));
    bench.queue.bytes = 30_000;
    bench.sack(&[(6_001, 12_001)]);
    let out = bench.ranges_out();
    assert_eq!(out[0], (5_001, 1_000));
    assert_eq!(out[1].0, 15_001);
    bench.wait(ms(1));
    bench.sack(&[(6_001, 15_001), (15_001, 16_001)]);
    assert_eq!(bench.ranges_out()[0], (5_001, 1_000));
    assert_eq!(bench.connection.send.attempts, 0);
}

#[test]
fn a_tail_that_is_lost_is_asked_for_after_two_round_trips() {
    // RFC 8985 §7: the last segment again; its SACK tells of the others.
    let mut bench = distant(5_000);
    let (time, outcome) = bench.wait_next();
    assert_eq!((time, outcome), (ms(3), TimerOutcome::Transmit));
    let probe = bench.one_out();
    assert_eq!((probe.payload, probe.retransmission), (4_000..5_000, true));
    // And again, each time after twice as long; then only the retransmission timer is left.
    for patience in [6, 12, 24] {
        assert_eq!(bench.wait_next(), (ms(patience), TimerOutcome::Transmit));
        assert_eq!(bench.ranges_out(), [(9_001, 1_000)]);
    }
    let rto = bench.connection.poll_at().unwrap().since(bench.now);
    assert_eq!(rto, bench.config.rto_min);
    bench.wait(ms(1));
    bench.sack(&[(9_001, 10_001)]);
    assert_eq!(bench.ranges_out()[0].0, 5_001);
    bench.wait(ms(1));
    assert_eq!(bench.ack_to(10_001).acked, 5_000);
}

#[test]
fn new_data_is_the_better_probe() {
    // RFC 8985 §7.3, even past the congestion window; but not so little that its ACK is delayed.
    for (bytes, probe) in [(12_000, (15_001, 2_000)), (11_000, (14_001, 1_000))] {
        let mut bench = distant(10_000);
        bench.queue.bytes = bytes;
        assert_eq!(bench.out(), []);
        bench.wait_next();
        assert_eq!(bench.ranges_out(), [probe]);
    }
}

#[test]
fn an_ack_that_may_be_delayed_is_waited_for() {
    // RFC 8985 §7.2, RFC 9293 §3.8.6.3.
    let mut bench = distant(1_500);
    assert_eq!(bench.wait_next(), (ms(43), TimerOutcome::Transmit));
    assert_eq!(bench.ranges_out(), [(5_501, 1_000)]);
}

#[test]
fn a_probe_that_repaired_the_loss_counts_as_one() {
    // RFC 8985 §7.4.2.
    let after_probe = |reported: bool| {
        let mut bench = distant(5_000);
        bench.wait_next();
        bench.out();
        bench.queue.bytes = 6_000;
        bench.out();
        let before = bench.connection.cwnd();
        bench.guest.1 = 11_001;
        if reported {
            bench.sack(&[(9_001, 10_001)]);
        } else {
            bench.ack();
        }
        bench.connection.cwnd() >= before
    };
    assert!(!after_probe(false));
    assert!(after_probe(true));
}

#[test]
fn what_the_guest_got_twice_was_not_lost() {
    // RFC 2883, RFC 3708 §2.1, RFC 8985 §6.2.
    let mut bench = distant(10_000);
    bench.wait(ms(1));
    let cwnd = bench.connection.cwnd();
    bench.sack(&[(6_001, 12_001)]);
    assert_eq!(bench.ranges_out()[0], (5_001, 1_000));
    assert!(bench.connection.send.congestion.target() < cwnd);
    bench.wait(Duration::from_micros(100));
    // It had only been late; now comes what was sent again.
    bench.ack_to(12_001);
    bench.out();
    bench.guest.1 = 15_001;
    bench.sack(&[(5_001, 6_001)]);
    assert!(bench.connection.cwnd() >= cwnd);
    // And the next hole is waited for a little longer.
    bench.queue.bytes = 5_000;
    bench.out();
    bench.wait(ms(1));
    bench.sack(&[(16_001, 20_001)]);
    assert_eq!(bench.out(), []);
}

#[test]
fn a_timeout_that_was_false_is_taken_back() {
    // RFC 5682 §3.1: what arrives was not sent again.
    let mut bench = distant(10_000);
    let cwnd = bench.connection.cwnd();
    bench.wait(ms(500));
    assert_eq!(bench.ranges_out()[0], (5_001, 1_000));
    assert_eq!(bench.connection.cwnd(), 1_000);
    bench.wait(ms(1));
    bench.ack_to(7_001);
    assert_eq!(bench.out(), []);
    assert!(bench.connection.cwnd() >= cwnd);
}

#[test]
fn a_part_of_a_super_frame_is_acknowledged() {
    let mut bench = distant(10_000);
    bench.wait(ms(1));
    assert_eq!(bench.ack_to(5_501).acked, 500);
    bench.wait(ms(1));
    bench.guest.1 = 6_001;
    bench.sack(&[(7_001, 10_001)]);
    assert_eq!(bench.ranges_out()[0], (6_001, 1_000));
}

#[test]
fn a_window_that_shrinks_over_what_is_in_flight_is_borne() {
    // RFC 9293 §3.8.6, RFC 1122 §4.2.2.16: the guest answers, so the connection lives.
    for options in [Bench::plain(), Bench::with_sack()] {
        let mut bench = Bench::established(options);
        bench.queue.bytes = 10_000;
        bench.out();
        bench.wait(ms(1));
        bench.window = 0;
        bench.ack_to(7_001);
        let mut probes = 0;
        for _ in 0..100 {
            for (start, len) in bench.ranges_out() {
                assert_eq!((start, len), (7_001, 1));
                probes += 1;
                bench.ack();
            }
            bench.wait_next();
        }
        assert!(probes > 90, "{probes}");
        // Open by less than a segment: what was sent before goes there, too.
        bench.window = 600;
        bench.ack();
        assert_eq!(bench.ranges_out(), [(7_001, 600)]);
        bench.window = 20_000;
        bench.ack_to(7_601);
        assert_eq!(bench.ranges_out(), [(7_601, 7_400)]);
        assert_eq!(bench.ack_to(15_001).acked, 7_400);
    }
}

#[test]
fn what_did_not_fit_is_found_with_sack_as_well() {
    let mut bench = distant(5_000);
    bench.wait(ms(1));
    bench.sack(&[(8_001, 8_201)]);
    bench.out();
    assert!(bench.connection.on_packet_too_big(Seq(5_001), 500));
    assert_eq!(bench.ranges_out(), [(5_001, 3_000), (8_201, 1_800)]);
    assert_eq!(bench.connection.cwnd(), 10_000);
}

#[test]
fn a_retransmission_that_nothing_follows_is_sent_again_before_the_timeout() {
    // The guest's window is full, so that nothing sent later can tell that it is lost.
    let mut bench = distant(10_000);
    bench.wait(ms(1));
    bench.sack(&[(6_001, 15_001)]);
    assert_eq!(bench.ranges_out(), [(5_001, 1_000)]);
    let mut waits = Vec::new();
    while bench.connection.send.attempts == 0 {
        waits.push(bench.wait_next().0);
        assert_eq!(bench.ranges_out(), [(5_001, 1_000)]);
        assert!(waits.len() < 10);
    }
    // Each time twice as long, so that a guest that is gone is not asked often.
    let pairs = waits.windows(2).take(waits.len() - 2);
    assert!(pairs.clone().count() > 3);
    assert!(
        pairs.clone().all(|pair| pair[1] == 2 * pair[0]),
        "{waits:?}"
    );
}
