//! How a connection ends.

use super::*;

#[test]
fn the_host_ends_first_and_the_guest_goes_on() {
    // RFC 9293 §3.6, figure 12.
    let mut bench = Bench::established(Bench::plain());
    bench.queue = SendQueue {
        bytes: 10,
        finished: true,
        segment_max: 1000,
    };
    let last = bench.one_out();
    assert_eq!(last.segment.flags, Flags(FIN_ACK.0 | Flags::PSH.0));
    assert_eq!(bench.state(), State::FinWait1);
    assert_eq!(bench.ack_to(5_012).acked, 10);
    assert_eq!(bench.state(), State::FinWait2);
    assert_eq!(bench.data(100).deliver, 0..100);
    let end = bench.fin();
    assert!(end.finished && !end.closed);
    assert!(bench.connection.is_time_wait());
    assert_eq!(bench.one_out().segment.acknowledgment, Seq(1_102));
    // The guest's FIN again: our ACK was lost, and 2 MSL begin anew.
    bench.wait(ms(30_000));
    bench.guest.0 -= 1;
    bench.fin();
    assert_eq!(bench.flags_out(), [ACK]);
    assert_eq!(
        bench.wait_next(),
        (ms(60_000), TimerOutcome::Gone(Reason::TimeWaitOver))
    );
}

#[test]
fn the_guest_ends_first_and_the_host_goes_on() {
    // RFC 9293 §3.6, figure 12, seen from the other side.
    let mut bench = Bench::established(Bench::plain());
    assert!(bench.fin().finished);
    assert_eq!(bench.state(), State::CloseWait);
    // The host may end at once: its FIN would take the ACK along.
    assert_eq!(bench.flags_out(), []);
    bench.wait(bench.config.delayed_ack);
    assert_eq!(bench.flags_out(), [ACK]);
    bench.queue.bytes = 100;
    assert_eq!(bench.ranges_out(), [(5_001, 100)]);
    bench.queue.finished = true;
    assert_eq!(bench.flags_out(), [FIN_ACK]);
    assert_eq!(bench.state(), State::LastAck);
    // Our FIN is sent again, with what was before it.
    assert_eq!(bench.wait_next().1, TimerOutcome::Transmit);
    let again = bench.one_out();
    assert_eq!((again.payload, again.segment.flags.fin()), (0..100, true));
    let end = bench.ack_to(5_102);
    assert_eq!((end.acked, end.closed, end.reset), (100, true, false));
    assert!(bench.connection.is_closed());
}

#[test]
fn both_end_at_once() {
    // RFC 9293 §3.6, figure 13.
    let mut bench = Bench::established(Bench::plain());
    bench.queue.finished = true;
    assert_eq!(bench.flags_out(), [FIN_ACK]);
    assert!(bench.fin().finished);
    assert_eq!(bench.state(), State::Closing);
    assert_eq!(bench.flags_out(), [ACK]);
    assert_eq!(bench.ack_to(5_002).acked, 0);
    assert_eq!(bench.state(), State::TimeWait);
}

/// Both ended; the guest's next sequence number is 1002.
fn in_time_wait(options: Options) -> Bench {
    let stamp = options.timestamps;
    let mut bench = Bench::held(options);
    bench.accept();
    bench.out();
    let stamped = |bench: &Bench, flags| {
        let mut segment = bench.header(flags);
        segment.options.timestamps = stamp;
        segment
    };
    let ack = stamped(&bench, ACK);
    assert!(bench.on(&ack, 0).established);
    bench.queue.finished = true;
    assert_eq!(bench.flags_out(), [FIN_ACK]);
    bench.guest.1 = 5_002;
    let fin = stamped(&bench, FIN_ACK);
    assert!(bench.on(&fin, 0).finished && bench.connection.is_time_wait());
    bench.guest.0 += 1;
    assert_eq!(bench.flags_out(), [ACK]);
    bench
}

fn stamped(value: u32) -> Options {
    Options {
        timestamps: Some(Timestamps { value, echo: 0 }),
        ..Bench::plain()
    }
}

#[test]
fn a_new_syn_takes_the_place_of_a_connection_in_time_wait() {
    // RFC 9293 §3.10.7.4, RFC 6191 §2: what the connection had, the SYN, and whether it is taken.
    let (none, old, same, new) = (Bench::plain(), stamped(49), stamped(50), stamped(51));
    for (had, sequence, options, taken) in [
        (none, 900, none, false),
        (none, 1_002, none, false),
        (none, 1_003, none, true),
        (none, 900, new, true),
        (same, 900, none, false),
        (same, 1_003, none, true),
        (same, 90_000, old, false),
        (same, 900, same, false),
        (same, 1_003, same, true),
        (same, 900, new, true),
    ] {
        let mut bench = in_time_wait(had);
        let received = bench.on(&Bench::syn(sequence, options), 0);
        let case = (sequence, options.timestamps);
        assert_eq!(
            (received.reopen, received.closed),
            (taken, taken),
            "{case:?}"
        );
        if !taken {
            assert_eq!(received.dropped, Some(Dropped::UnexpectedSyn));
            assert_eq!(bench.flags_out(), [ACK]);
        }
        assert_eq!(bench.connection.sequence_end(), Seq(5_002));
    }
    // What begins a connection is a SYN and nothing else.
    for flags in [SYN_ACK, Flags::SYN | Flags::RST, Flags::SYN | Flags::FIN] {
        let mut bench = in_time_wait(none);
        let syn = Segment {
            flags,
            ..Bench::syn(90_000, none)
        };
        assert!(!bench.on(&syn, 0).reopen);
    }
}

#[test]
fn a_reset_does_not_end_time_wait() {
    // RFC 1337 §3, F1.
    let mut bench = in_time_wait(Bench::plain());
    let received = bench.send(Flags::RST);
    assert_eq!((received.reset, received.closed), (false, false));
    assert_eq!(received.dropped, Some(Dropped::ResetRejected));
    assert!(bench.connection.is_time_wait());
    assert_eq!(bench.out(), []);
}

#[test]
fn a_silent_guest_is_given_up_in_fin_wait_2() {
    let mut bench = Bench::established(Bench::plain());
    bench.config.keepalive_idle = Duration::ZERO;
    bench.queue.finished = true;
    bench.out();
    bench.ack_to(5_002);
    bench.wait(ms(1_000));
    bench.data(1);
    bench.out();
    let mut waited = bench.config.delayed_ack;
    bench.wait(waited);
    bench.out();
    let outcome = loop {
        let (time, outcome) = bench.wait_next();
        waited += time;
        if outcome != TimerOutcome::Idle {
            break outcome;
        }
    };
    assert_eq!(waited, bench.config.fin_wait_2);
    assert_eq!(outcome, TimerOutcome::Gone(Reason::FinWait2Timeout));
}

#[test]
fn abort_resets_with_the_next_sequence_number() {
    let mut bench = Bench::established(Bench::plain());
    bench.queue.bytes = 100;
    bench.out();
    let reset = bench.connection.abort().unwrap();
    assert_eq!((reset.flags, reset.sequence), (RST_ACK, Seq(5_101)));
    assert_eq!(reset.acknowledgment, Seq(1_001));
    assert_eq!(bench.out(), []);
}

#[test]
fn keepalive_asks_an_idle_guest_and_gives_up_on_a_dead_one() {
    // RFC 1122 §4.2.3.6.
    let mut bench = Bench::established(Bench::plain());
    let (idle, interval) = (bench.config.keepalive_idle, bench.config.keepalive_interval);
    bench.wait(ms(60_000) - bench.config.delayed_ack);
    bench.data(1);
    bench.out();
    bench.wait(bench.config.delayed_ack);
    bench.out();
    // Being heard moves the deadline when it comes.
    let heard_at = ms(60_000) - bench.config.delayed_ack;
    assert_eq!(bench.wait_next(), (idle - ms(60_000), TimerOutcome::Idle));
    assert_eq!(bench.wait_next(), (heard_at, TimerOutcome::Transmit));
    let probe = bench.one_out();
    assert_eq!((probe.segment.sequence, probe.payload), (Seq(5_000), 0..0));
    bench.ack();
    assert_eq!(bench.wait_next(), (interval, TimerOutcome::Idle));
    assert_eq!(bench.wait_next(), (idle - interval, TimerOutcome::Transmit));
    for _ in 1..bench.config.keepalive_probes {
        bench.out();
        assert_eq!(bench.wait_next(), (interval, TimerOutcome::Transmit));
    }
    assert_eq!(
        bench.wait_next().1,
        TimerOutcome::Gone(Reason::KeepaliveTimeout)
    );
}
