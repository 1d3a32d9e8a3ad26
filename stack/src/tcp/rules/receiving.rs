//! What the guest sends, and what it is told.

use super::*;

#[test]
fn one_ack_answers_a_batch() {
    let mut bench = Bench::seasoned(Bench::plain());
    for _ in 0..5 {
        assert_eq!(bench.data(1000).deliver, 0..1000);
    }
    let ack = bench.one_out().segment;
    assert_eq!((ack.flags, ack.acknowledgment), (ACK, Seq(22_001)));
}

#[test]
fn a_lone_segment_is_acknowledged_after_the_delay_or_with_data() {
    // RFC 9293 §3.8.6.3.
    let mut bench = Bench::seasoned(Bench::plain());
    bench.data(10);
    assert_eq!(bench.out(), []);
    let delay = bench.config.delayed_ack;
    assert_eq!(bench.wait_next(), (delay, TimerOutcome::Transmit));
    assert_eq!(bench.flags_out(), [ACK]);
    bench.data(10);
    assert_eq!(bench.out(), []);
    bench.queue.bytes = 5;
    let answer = bench.one_out();
    assert_eq!(answer.payload, 0..5);
    assert_eq!(answer.segment.acknowledgment, Seq(17_021));
    bench.ack_to(5006);
    assert_eq!(bench.wait(delay), TimerOutcome::Idle);
}

#[test]
fn a_gap_is_told_with_sack_in_one_ack() {
    // RFC 2018 §4.
    let mut bench = Bench::seasoned(Bench::with_sack());
    bench.data_at(18_001, 1000);
    bench.data_at(20_001, 1000);
    let ack = bench.one_out().segment;
    assert_eq!(ack.acknowledgment, Seq(17_001));
    let blocks = [(Seq(20_001), Seq(21_001)), (Seq(18_001), Seq(19_001))];
    assert_eq!(ack.options.sack.as_slice(), &blocks);
    let received = bench.data_at(17_001, 1000);
    assert!(received.reassembled);
    assert_eq!(bench.connection.take_reassembled(), Some(vec![7; 1000]));
    assert_eq!(bench.connection.take_reassembled(), None);
    let ack = bench.one_out().segment;
    assert_eq!(ack.acknowledgment, Seq(19_001));
    assert_eq!(ack.options.sack.as_slice(), &blocks[..1]);
}

#[test]
fn an_ack_that_the_guest_may_wait_for_is_repeated_once() {
    let mut bench = Bench::seasoned(Bench::with_sack());
    let at = bench.guest.0;
    bench.data_at(at + 1000, 1000);
    assert_eq!(blocks_out(&mut bench), [(at + 1000, at + 2000)]);
    let (_, outcome) = bench.wait_next();
    assert_eq!(outcome, TimerOutcome::Transmit);
    assert_eq!(blocks_out(&mut bench), [(at + 1000, at + 2000)]);
    bench.wait(Duration::from_secs(1));
    assert_eq!(bench.flags_out(), []);

    // The one that tells of its end as well, unless another comes before.
    bench.data(1000);
    assert_eq!(bench.one_out().segment.acknowledgment, Seq(at + 2000));
    bench.wait_next();
    assert_eq!(bench.one_out().segment.acknowledgment, Seq(at + 2000));
    bench.wait(Duration::from_secs(1));
    assert_eq!(bench.flags_out(), []);

    // And the one that answers a run, unless the run goes on.
    bench.guest.0 = at + 2000;
    for _ in 0..2 {
        for _ in 0..4 {
            bench.data(1000);
        }
        assert_eq!(bench.flags_out(), [ACK]);
    }
    bench.wait_next();
    assert_eq!(bench.one_out().segment.acknowledgment, Seq(at + 10_000));
    bench.wait(Duration::from_secs(1));
    assert_eq!(bench.flags_out(), []);
}

/// What the next ACK, the only segment due, tells.
fn blocks_out(bench: &mut Bench) -> Vec<(u32, u32)> {
    let ack = bench.one_out().segment;
    let blocks = ack.options.sack.as_slice();
    blocks
        .iter()
        .map(|&(left, right)| (left.0, right.0))
        .collect()
}

#[test]
fn what_came_twice_is_told_first_and_once() {
    // RFC 2883 §4.
    let mut bench = Bench::seasoned(Bench::with_sack());
    // Before what was acknowledged: a lost ACK.
    let again = bench.data_at(16_001, 1000);
    assert_eq!(again.dropped, Some(Dropped::Duplicate));
    assert_eq!(blocks_out(&mut bench), [(16_001, 17_001)]);
    // Partly before it: the new part counts.
    assert_eq!(bench.data_at(16_501, 1000).deliver, 500..1000);
    assert_eq!(blocks_out(&mut bench), [(16_501, 17_001)]);
    // Among what is kept: the block around it follows (§4.1.2).
    bench.data_at(20_001, 1000);
    bench.data_at(18_001, 1000);
    bench.data_at(21_001, 1000);
    bench.out();
    let again = bench.data_at(18_501, 500);
    assert_eq!(again.dropped, Some(Dropped::Duplicate));
    let told = [(18_501, 19_001), (18_001, 19_001), (20_001, 22_001)];
    assert_eq!(blocks_out(&mut bench), told);
    // Two in a row are one range, and one of each batch is told.
    bench.data_at(20_001, 500);
    bench.data_at(20_501, 500);
    let told = [(20_001, 21_001), (20_001, 22_001), (18_001, 19_001)];
    assert_eq!(blocks_out(&mut bench), told);
    // A segment that closes the gap and covers what is kept behind it.
    assert_eq!(bench.data_at(17_501, 1500).deliver, 0..1500);
    assert_eq!(blocks_out(&mut bench), [(18_001, 19_001), (20_001, 22_001)]);
    bench.data_at(23_001, 10);
    assert_eq!(blocks_out(&mut bench), [(23_001, 23_011), (20_001, 22_001)]);
}

#[test]
fn nothing_is_told_to_a_guest_without_sack() {
    let mut bench = Bench::seasoned(Bench::plain());
    bench.data_at(16_001, 1000);
    assert_eq!(blocks_out(&mut bench), []);
}

#[test]
fn sack_blocks_take_their_room_from_the_payload() {
    // RFC 6691 §2: the MSS does not count options.
    let options = Options {
        timestamps: Some(Timestamps { value: 1, echo: 0 }),
        ..Bench::with_sack()
    };
    let mut bench = Bench::held(options);
    bench.accept();
    let echo = bench.one_out().segment.options.timestamps.unwrap().value;
    let timestamps = Some(Timestamps { value: 1, echo });
    let mut ack = bench.header(ACK);
    ack.options.timestamps = timestamps;
    assert!(bench.on(&ack, 0).established);
    assert_eq!(bench.connection.effective_mss(), 988);
    bench.on(
        &Segment {
            sequence: Seq(1101),
            ..ack
        },
        100,
    );
    bench.queue.bytes = 3000;
    assert_eq!(bench.out()[0].gso_size, Some(988 - 12));
}

#[test]
fn resets_must_match_exactly() {
    // RFC 5961 §3.2.
    let mut bench = Bench::established(Bench::plain());
    let reset = bench.header(Flags::RST);
    let beyond = Segment {
        sequence: Seq(90_000),
        ..reset
    };
    assert_eq!(bench.on(&beyond, 0).dropped, Some(Dropped::ResetRejected));
    assert_eq!(bench.out(), []);
    let inside = Segment {
        sequence: Seq(1002),
        ..reset
    };
    assert_eq!(bench.on(&inside, 0).dropped, Some(Dropped::ResetRejected));
    assert_eq!(bench.flags_out(), [ACK]);
    let received = bench.on(&reset, 0);
    assert!(received.reset && received.closed && bench.connection.is_closed());
    assert_eq!(bench.out(), []);
    assert_eq!(bench.ack().dropped, Some(Dropped::Closed));
}

#[test]
fn a_syn_in_a_connection_is_challenged_but_not_without_end() {
    // RFC 5961 §4.2 and §7.
    let mut bench = Bench::established(Bench::plain());
    let mut answers = 0;
    for i in 0..20 {
        let received = bench.on(&Bench::syn(1000 + 100 * i, Bench::plain()), 0);
        assert_eq!(received.dropped, Some(Dropped::UnexpectedSyn));
        answers += bench.out().len();
    }
    assert_eq!(answers, 5);
    bench.wait(ms(1000));
    bench.on(&Bench::syn(1000, Bench::plain()), 0);
    assert_eq!(bench.flags_out(), [ACK]);
    assert_eq!(bench.state(), State::Established);
}

#[test]
fn a_guest_that_forgot_the_connection_is_found_out() {
    // RFC 9293 §3.5.1, figures 9 and 10: half-open, and the guest opens again.
    let mut bench = Bench::established(Bench::plain());
    let syn = Bench::syn(700_000, Bench::plain());
    assert_eq!(bench.on(&syn, 0).dropped, Some(Dropped::UnexpectedSyn));
    let challenge = bench.one_out().segment;
    assert_eq!(
        (challenge.flags, challenge.acknowledgment),
        (ACK, Seq(1001))
    );
    // In SYN-SENT that is an ACK of something never sent, and the guest resets by its number.
    let reset = reset_for(&challenge, 0).unwrap();
    assert!(bench.on(&reset, 0).reset);
    // Or we send something that it does not know.
    let mut bench = Bench::established(Bench::plain());
    bench.queue.bytes = 10;
    let data = bench.one_out().segment;
    assert!(bench.on(&reset_for(&data, 10).unwrap(), 0).reset);
}

#[test]
fn keepalive_probes_are_answered() {
    // RFC 9293 §3.8.4: one before the next, without payload or with one byte of garbage.
    let mut bench = Bench::seasoned(Bench::plain());
    for len in [0, 1] {
        let received = bench.data_at(17_000, len);
        assert_eq!(received.deliver.len(), 0);
        let answer = bench.one_out().segment;
        assert_eq!((answer.flags, answer.acknowledgment), (ACK, Seq(17_001)));
    }
    assert_eq!(bench.data(1).deliver, 0..1);
}

#[test]
fn two_ends_that_disagree_do_not_answer_each_other_for_ever() {
    // RFC 9293 §3.10.7.4, first: each takes the other's ACK for old and answers it.
    let mut bench = Bench::established(Bench::plain());
    let mut answers = 0;
    for _ in 0..100 {
        let old = Segment {
            sequence: Seq(500),
            ..bench.header(ACK)
        };
        assert_eq!(bench.on(&old, 0).dropped, Some(Dropped::OutOfWindow));
        answers += bench.out().len();
    }
    assert_eq!(answers, 5);
}

#[test]
fn urgent_pointers_never_harm_the_stream() {
    // RFC 9293 §3.8.5: in line and in order, wherever the pointer points.
    for urgent in [0, 1, 5, 1000, u16::MAX] {
        let mut bench = Bench::established(Bench::with_sack());
        let segment = |sequence, flags| Segment {
            sequence: Seq(sequence),
            flags: flags | Flags::URG,
            urgent,
            ..Bench::established(Bench::with_sack()).header(ACK)
        };
        assert_eq!(bench.on(&segment(1001, ACK), 10).deliver, 0..10);
        // Alone, out of order, and with the end.
        let alone = bench.on(&segment(1011, ACK), 0);
        assert_eq!(alone, Received::default());
        assert!(bench.on(&segment(1021, FIN_ACK), 10).deliver.is_empty());
        let filled = bench.on(&segment(1011, ACK), 10);
        assert_eq!(filled.deliver, 0..10);
        assert!(filled.reassembled && filled.finished);
        assert_eq!(bench.connection.take_reassembled(), Some(vec![7; 10]));
        let ack = bench.one_out().segment;
        assert_eq!(ack.acknowledgment, Seq(1032));
        assert!(!ack.flags.contains(Flags::URG) && ack.urgent == 0);
    }
}

#[test]
fn acks_of_what_was_never_sent_or_long_ago_are_refused() {
    // RFC 5961 §5.2.
    for ack in [5002, 5001u32.wrapping_sub(20_001)] {
        let mut bench = Bench::established(Bench::plain());
        bench.guest.1 = ack;
        let received = bench.data(10);
        assert_eq!(
            (received.deliver.len(), received.dropped),
            (0, Some(Dropped::BadAck))
        );
        assert_eq!(bench.flags_out(), [ACK]);
    }
    let mut bench = Bench::established(Bench::plain());
    bench.guest.1 = 5000;
    assert_eq!(bench.data(10).deliver, 0..10);
}

#[test]
fn old_timestamps_are_refused_and_missing_ones_too() {
    // RFC 7323 §5.3 R1 and §3.2.
    let stamped = |value| Some(Timestamps { value, echo: 0 });
    let mut bench = Bench::held(Options {
        timestamps: stamped(50),
        ..Bench::plain()
    });
    bench.accept();
    bench.out();
    let mut segment = bench.header(ACK);
    assert_eq!(
        bench.on(&segment, 0).dropped,
        Some(Dropped::TimestampMissing)
    );
    segment.options.timestamps = stamped(51);
    assert!(bench.on(&segment, 0).established);
    segment.options.timestamps = stamped(49);
    assert_eq!(bench.on(&segment, 10).dropped, Some(Dropped::PawsRejected));
    assert_eq!(bench.flags_out(), [ACK]);
    segment.options.timestamps = stamped(51);
    assert_eq!(bench.on(&segment, 10).deliver, 0..10);
}

#[test]
fn a_reader_that_stops_closes_the_window_and_a_restart_opens_it() {
    let mut bench = Bench::established(Bench::plain());
    bench.connection.set_receive_room(10_000);
    for _ in 0..10 {
        bench.data(1000);
    }
    assert_eq!(bench.one_out().segment.window, 0);
    // A probe is answered, and what it acknowledges counts (RFC 9293 §3.8.6.1).
    bench.queue.bytes = 10;
    assert_eq!(bench.ranges_out(), [(5001, 10)]);
    bench.guest.1 = 5011;
    let received = bench.on(&bench.header(ACK), 1);
    assert_eq!(
        (received.acked, received.dropped),
        (10, Some(Dropped::BeyondWindow))
    );
    assert_eq!(bench.one_out().segment.window, 0);
    // Silly window avoidance (RFC 9293 §3.8.6.2.2).
    bench.connection.set_receive_room(900);
    assert_eq!(bench.out(), []);
    bench.connection.set_receive_room(5_000);
    let update = bench.one_out().segment;
    assert_eq!((update.flags, update.window), (ACK, 5_000));
    assert_eq!(bench.out(), []);
}
