//! How a connection begins.

use super::*;

#[test]
fn nothing_is_sent_before_accept() {
    let mut bench = Bench::held(Bench::plain());
    assert_eq!(bench.out(), []);
    assert_eq!(bench.connection.poll_at(), None);
    let again = Bench::syn(1000, Bench::plain());
    assert_eq!(bench.on(&again, 0).dropped, Some(Dropped::Duplicate));
    assert_eq!(bench.out(), []);
}

#[test]
fn a_refused_host_becomes_a_reset_that_the_guest_takes() {
    // RFC 9293 §3.10.7.3: in SYN-SENT only a RST that acknowledges the SYN counts.
    let mut bench = Bench::held(Bench::plain());
    let reset = bench.connection.abort().unwrap();
    assert_eq!(reset.flags, RST_ACK);
    assert_eq!((reset.sequence, reset.acknowledgment), (Seq(0), Seq(1001)));
    assert_eq!((reset.source_port, reset.target_port), (80, 40_000));
    assert!(bench.connection.is_closed());
    assert_eq!(bench.connection.abort(), None);
}

#[test]
fn the_guest_may_give_up_or_start_over_while_the_host_connects() {
    let mut bench = Bench::held(Bench::plain());
    let received = bench.on(&Bench::syn(3000, Bench::with_sack()), 0);
    assert_eq!(received, Received::default());
    bench.accept();
    let answer = bench.one_out().segment;
    assert_eq!(answer.acknowledgment, Seq(3001));
    assert!(answer.options.sack_permitted);

    let mut bench = Bench::held(Bench::plain());
    let received = bench.send(Flags::RST);
    assert!(received.reset && received.closed);
}

#[test]
fn the_syn_ack_answers_what_was_offered_and_is_sent_again() {
    let options = Options {
        window_scale: Some(7),
        timestamps: Some(Timestamps { value: 99, echo: 0 }),
        ..Bench::with_sack()
    };
    let mut bench = Bench::held(options);
    bench.accept();
    let first = bench.one_out();
    assert!(!first.retransmission);
    assert_eq!(first.segment.options.mss, Some(1000));
    assert_eq!(first.segment.options.window_scale, Some(0));
    assert_eq!(first.segment.options.timestamps.map(|t| t.echo), Some(99));
    assert_eq!(first.segment.window, 10_000);
    // RFC 6298 §2.1 and §5.5.
    for seconds in [1, 2, 4] {
        assert_eq!(
            bench.wait_next(),
            (ms(seconds * 1000), TimerOutcome::Transmit)
        );
        assert!(bench.one_out().retransmission);
    }
    // The guest's SYN again: our answer was lost.
    bench.on(&Bench::syn(1000, options), 0);
    assert_eq!(bench.flags_out(), [SYN_ACK]);
}

#[test]
fn what_only_syns_say_is_in_no_other_segment() {
    // RFC 9293 §3.7.1, MUST-65; RFC 7323 §2.2, RFC 2018 §2.
    let mut bench = Bench::established(Options {
        window_scale: Some(3),
        ..Bench::with_sack()
    });
    bench.queue.bytes = 10;
    bench.data_at(1_101, 10);
    bench.data_at(1_301, 2_000);
    let mut out = bench.out();
    bench.queue.finished = true;
    bench.ack_to(5_011);
    out.extend(bench.out());
    assert!(out.len() > 1);
    for transmit in out {
        let options = transmit.segment.options;
        assert_eq!((options.mss, options.window_scale), (None, None));
        assert!(!options.sack_permitted);
    }
}

#[test]
fn a_handshake_that_is_never_finished_ends() {
    let mut bench = Bench::held(Bench::plain());
    bench.accept();
    for _ in 0..bench.config.syn_retries {
        assert_eq!(bench.wait_next().1, TimerOutcome::Transmit);
        bench.out();
    }
    assert_eq!(
        bench.wait_next().1,
        TimerOutcome::Gone(Reason::HandshakeTimeout)
    );
    assert!(bench.connection.is_closed());
    assert_eq!(bench.connection.poll_at(), None);
}

#[test]
fn a_wrong_ack_in_the_handshake_is_reset() {
    // RFC 9293 §3.10.7.4, SYN-RECEIVED.
    let mut bench = Bench::held(Bench::plain());
    bench.accept();
    bench.out();
    assert_eq!(bench.ack_to(5002).dropped, Some(Dropped::BadAck));
    let reset = bench.one_out().segment;
    assert_eq!((reset.flags, reset.sequence), (Flags::RST, Seq(5002)));
    assert_eq!(bench.state(), State::SynReceived);
}

#[test]
fn active_open_is_answered_refused_or_met_half_way() {
    // RFC 9293 §3.10.7.3.
    let mut bench = Bench::opened();
    let answer = Segment {
        flags: SYN_ACK,
        acknowledgment: Seq(5001),
        ..Bench::syn(1000, Bench::plain())
    };
    assert!(bench.on(&answer, 0).established);
    assert_eq!(bench.one_out().segment.acknowledgment, Seq(1001));

    let mut bench = Bench::opened();
    let bad = Segment {
        acknowledgment: Seq(5002),
        ..answer
    };
    assert_eq!(bench.on(&bad, 0).dropped, Some(Dropped::BadAck));
    assert_eq!(bench.one_out().segment.sequence, Seq(5002));
    let blind = Segment {
        flags: Flags::RST,
        ..answer
    };
    assert_eq!(bench.on(&blind, 0).dropped, Some(Dropped::ResetRejected));
    let refused = Segment {
        flags: RST_ACK,
        ..answer
    };
    assert!(bench.on(&refused, 0).reset);

    // RFC 9293 §3.5, figure 7.
    let mut bench = Bench::opened();
    bench.on(&Bench::syn(1000, Bench::plain()), 0);
    assert_eq!(bench.state(), State::SynReceived);
    assert_eq!(bench.flags_out(), [SYN_ACK]);
    assert!(bench.ack().established);
}

#[test]
fn both_open_at_once_and_their_syn_acks_cross() {
    // RFC 9293 §3.5, figure 7, line 6.
    let mut bench = Bench::opened();
    bench.on(&Bench::syn(1000, Bench::plain()), 0);
    assert_eq!(bench.flags_out(), [SYN_ACK]);
    let crossing = Segment {
        flags: SYN_ACK,
        acknowledgment: Seq(5001),
        ..Bench::syn(1000, Bench::plain())
    };
    let wrong = Segment {
        acknowledgment: Seq(5002),
        ..crossing
    };
    assert_eq!(bench.on(&wrong, 0).dropped, Some(Dropped::UnexpectedSyn));
    assert_eq!(bench.flags_out(), [ACK]);
    let received = bench.on(&crossing, 0);
    assert_eq!((received.established, received.dropped), (true, None));
    assert_eq!(bench.state(), State::Established);
    assert_eq!(bench.flags_out(), [ACK]);
    bench.queue.bytes = 100;
    assert_eq!(bench.ranges_out(), [(5001, 100)]);
    assert_eq!(bench.data(10).deliver, 0..10);
}
