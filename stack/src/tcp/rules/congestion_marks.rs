//! Marks of congestion, both ways.

use super::segment::Ecn;
use super::*;

const ECE: Flags = Flags::ECE;
const CWR: Flags = Flags::CWR;

fn asking_syn() -> Segment {
    Segment {
        flags: Flags::SYN | ECE | CWR,
        ..Bench::syn(1000, Bench::with_sack())
    }
}

/// Established with a guest that asked.
fn agreed() -> Bench {
    let config = Bench::config();
    let now = Instant::from_nanos(7_000_000_000);
    let connection = Connection::from_syn(now, &config, &asking_syn(), 5000);
    let mut bench = Bench::with(connection, now);
    bench.accept();
    let answer = bench.one_out().segment;
    assert_eq!((answer.flags, answer.ecn), (SYN_ACK | ECE, Ecn::NotCapable));
    assert!(bench.ack().established);
    bench
}

/// The guest sends `len` bytes in order in a packet that was marked.
fn marked(bench: &mut Bench, flags: Flags, len: u32) -> Received {
    let segment = Segment {
        ecn: Ecn::Congested,
        ..bench.header(flags)
    };
    let received = bench.on(&segment, len as usize);
    bench.guest.0 += len;
    received
}

#[test]
fn only_a_syn_that_asks_properly_is_granted_it() {
    // RFC 3168 §6.1.1.
    let config = Bench::config();
    let now = Instant::from_nanos(7_000_000_000);
    let refusing = Config {
        ecn: false,
        ..config.clone()
    };
    for (config, flags, granted) in [
        (&config, ECE | CWR, true),
        (&config, ECE, false),
        (&config, CWR, false),
        (&config, Flags(0), false),
        (&refusing, ECE | CWR, false),
    ] {
        let syn = Segment {
            flags: Flags::SYN | flags,
            ..asking_syn()
        };
        let connection = Connection::from_syn(now, config, &syn, 5000);
        let mut bench = Bench::with(connection, now);
        bench.accept();
        let answer = bench.one_out().segment.flags;
        assert_eq!(answer, SYN_ACK | if granted { ECE } else { Flags(0) });
        bench.ack();
        bench.queue.bytes = 10;
        let ecn = bench.one_out().segment.ecn;
        assert_eq!(ecn == Ecn::Capable, granted);
        // Without it a mark is nobody's business.
        if !granted {
            marked(&mut bench, ACK, 2000);
            assert_eq!(bench.flags_out(), [ACK]);
        }
    }
}

#[test]
fn one_syn_that_does_not_ask_ends_it() {
    // RFC 3168 §6.1.1.1: the guest gave up on it when its first SYN was lost.
    let plain = Bench::syn(1000, Bench::with_sack());
    let now = Instant::from_nanos(7_000_000_000);
    let held = || Connection::from_syn(now, &Bench::config(), &asking_syn(), 5000);
    let mut bench = Bench::with(held(), now);
    bench.on(&plain, 0);
    bench.accept();
    assert_eq!(bench.flags_out(), [SYN_ACK]);

    let mut bench = Bench::with(held(), now);
    bench.accept();
    assert_eq!(bench.flags_out(), [SYN_ACK | ECE]);
    bench.on(&asking_syn(), 0);
    assert_eq!(bench.flags_out(), [SYN_ACK | ECE]);
    bench.on(&plain, 0);
    assert_eq!(bench.flags_out(), [SYN_ACK]);

    // Another attempt, by its number, asks for itself.
    let mut bench = Bench::with(held(), now);
    bench.on(&Bench::syn(3000, Bench::with_sack()), 0);
    bench.accept();
    assert_eq!(bench.flags_out(), [SYN_ACK]);
}

#[test]
fn a_mark_is_echoed_until_the_guest_says_that_it_knows() {
    // RFC 3168 §6.1.3.
    let mut bench = agreed();
    bench.data(10);
    assert_eq!(bench.out(), []);
    assert_eq!(marked(&mut bench, ACK, 10).deliver, 0..10);
    assert_eq!(bench.flags_out(), [ACK | ECE]);
    // On every segment with ACK, data included.
    bench.data(2000);
    assert_eq!(bench.flags_out(), [ACK | ECE]);
    bench.queue.bytes = 10;
    assert_eq!(bench.flags_out(), [ACK | Flags::PSH | ECE]);
    let knows = bench.header(ACK | CWR);
    assert_eq!(bench.on(&knows, 2000).deliver, 0..2000);
    bench.guest.0 += 2000;
    assert_eq!(bench.flags_out(), [ACK]);
    // CWR on a packet that is marked itself: that is new congestion. A super-frame counts too.
    marked(&mut bench, ACK | CWR, 3000);
    assert_eq!(bench.flags_out(), [ACK | ECE]);
}

#[test]
fn marks_on_what_is_no_new_payload_do_not_count() {
    // RFC 3168 §6.1.4 and §6.1.5: on pure ACKs and outside the window.
    let mut bench = agreed();
    bench.data(2000);
    bench.out();
    marked(&mut bench, ACK, 0);
    for sequence in [1001, 90_000] {
        let segment = Segment {
            sequence: Seq(sequence),
            ecn: Ecn::Congested,
            ..bench.header(ACK)
        };
        bench.on(&segment, 100);
        assert_eq!(bench.flags_out(), [ACK]);
    }
}

#[test]
fn only_new_data_may_be_marked() {
    // RFC 3168 §6.1.4 to §6.1.6.
    let mut bench = agreed();
    bench.queue.bytes = 3_000;
    let data = bench.one_out();
    assert_eq!((data.payload, data.segment.ecn), (0..3000, Ecn::Capable));
    bench.data(2_000);
    assert_eq!(bench.one_out().segment.ecn, Ecn::NotCapable);
    bench.wait(bench.config.rto_min);
    let again = bench.one_out();
    assert_eq!(
        (again.retransmission, again.segment.ecn),
        (true, Ecn::NotCapable)
    );
    bench.window = 0;
    bench.ack_to(8_001);
    bench.queue.bytes = 3_000;
    assert_eq!(bench.out(), []);
    bench.wait_next();
    let probe = bench.one_out();
    assert_eq!((probe.payload, probe.segment.ecn), (0..1, Ecn::NotCapable));
}

#[test]
fn an_echo_slows_down_once_until_the_guest_knows() {
    // RFC 3168 §6.1.2.
    let mut bench = agreed();
    bench.queue.bytes = 40_000;
    assert_eq!(bench.ranges_out(), [(5_001, 10_000)]);
    let before = bench.connection.cwnd();
    bench.guest.1 = 7_001;
    bench.send(ACK | ECE);
    let reduced = bench.connection.cwnd();
    assert!(reduced < before);
    // The same congestion, told again.
    for ack in [9_001, 15_001] {
        bench.guest.1 = ack;
        bench.send(ACK | ECE);
        assert!(bench.connection.cwnd() >= reduced);
    }
    // New data says so: once, and in a segment of its own.
    let out = bench.out();
    let first = &out[0];
    assert_eq!(first.segment.flags, ACK | CWR);
    assert_eq!(
        (first.segment.sequence, first.payload.len()),
        (Seq(15_001), 1000)
    );
    assert_eq!((first.gso_size, first.segment.ecn), (None, Ecn::Capable));
    assert!(out[1..].iter().all(|t| !t.segment.flags.contains(CWR)));
    // Until it arrived the guest repeats itself; after that it is new congestion.
    let before = bench.connection.cwnd();
    bench.send(ACK | ECE);
    assert_eq!(bench.connection.cwnd(), before);
    bench.guest.1 = 16_001;
    bench.send(ACK | ECE);
    assert!(bench.connection.cwnd() < before);
}

#[test]
fn an_echo_that_was_not_agreed_means_nothing() {
    let mut bench = Bench::established(Bench::with_sack());
    bench.queue.bytes = 40_000;
    bench.out();
    bench.guest.1 = 7_001;
    let before = bench.connection.cwnd();
    assert_eq!(bench.send(ACK | ECE).acked, 2_000);
    assert!(bench.connection.cwnd() >= before);
}
