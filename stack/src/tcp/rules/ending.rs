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

#[test]
fn a_new_syn_takes_the_place_of_a_connection_in_time_wait() {
    // RFC 9293 §3.10.7.4, RFC 6191.
    let mut bench = Bench::established(Bench::plain());
    bench.queue.finished = true;
    bench.out();
    bench.guest.1 = 5_002;
    bench.fin();
    assert!(bench.connection.is_time_wait());
    let old = bench.on(&Bench::syn(900, Bench::plain()), 0);
    assert_eq!(
        (old.reopen, old.dropped),
        (false, Some(Dropped::UnexpectedSyn))
    );
    let new = bench.on(&Bench::syn(90_000, Bench::plain()), 0);
    assert!(new.reopen && new.closed);
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
