//! Whatever a guest sends, and in whatever order the engine calls: no panic, and what must always
//! hold, holds.

use alloc::vec;
use core::time::Duration;

use proptest::prelude::*;

use super::segment::{Ecn, Flags, Options, SackBlocks, Segment, Timestamps};
use super::seq::SequenceNumber as Seq;
use super::*;
use crate::time::Instant;

#[derive(Clone, Debug)]
enum Step {
    /// Sequence number, ACK and SACK blocks are relative to what the connection expects.
    Segment {
        sequence: i32,
        acknowledgment: i32,
        flags: u8,
        window: u16,
        len: usize,
        timestamps: Option<i32>,
        sack: Option<(i32, i32)>,
    },
    Accept,
    Write(u32),
    Finish,
    Room(u32),
    Wait(u64),
    Abort,
}

fn near() -> impl Strategy<Value = i32> {
    prop_oneof![6 => Just(0), 3 => -3000i32..6000, 1 => any::<i32>()]
}

fn flags() -> impl Strategy<Value = u8> {
    let (ack, fin, syn, rst) = (Flags::ACK.0, Flags::FIN.0, Flags::SYN.0, Flags::RST.0);
    prop_oneof![
        12 => Just(ack),
        2 => Just(ack | fin),
        1 => Just(syn),
        1 => Just(syn | ack),
        1 => Just(rst),
        1 => any::<u8>(),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let len =
        prop_oneof![3 => Just(0usize), 3 => 1usize..100, 2 => 1000usize..1100, 1 => 0usize..66_000];
    let window = prop_oneof![Just(0u16), Just(u16::MAX), any::<u16>()];
    let sack = prop::option::of((-100i32..5000, -100i32..5000));
    let segment = (
        near(),
        near(),
        flags(),
        window,
        len,
        prop::option::of(near()),
        sack,
    )
        .prop_map(
            |(sequence, acknowledgment, flags, window, len, timestamps, sack)| Step::Segment {
                sequence,
                acknowledgment,
                flags,
                window,
                len,
                timestamps,
                sack,
            },
        );
    prop_oneof![
        20 => segment,
        1 => Just(Step::Accept),
        4 => prop_oneof![0u32..5000, Just(200_000)].prop_map(Step::Write),
        1 => Just(Step::Finish),
        3 => prop_oneof![0u32..3000, any::<u32>()].prop_map(Step::Room),
        4 => prop_oneof![0u64..1_000, 0u64..10_000_000].prop_map(Step::Wait),
        1 => Just(Step::Abort),
    ]
}

fn syn_options() -> impl Strategy<Value = Options> {
    let numbers = (
        prop::option::of(any::<u16>()),
        prop::option::of(any::<u8>()),
    );
    (numbers, any::<bool>(), any::<bool>()).prop_map(|((mss, scale), sack, timestamps)| Options {
        mss,
        window_scale: scale,
        sack_permitted: sack,
        timestamps: timestamps.then_some(Timestamps { value: 77, echo: 0 }),
        sack: SackBlocks::NONE,
    })
}

fn shift(seq: Seq, by: i32) -> Seq {
    seq + by as u32
}

/// The connection and the engine's part.
struct Subject {
    connection: Connection,
    config: Config,
    now: Instant,
    queue: SendQueue,
    invariants: Invariants,
    kept_max: u32,
}

impl Subject {
    fn apply(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match *step {
            Step::Segment { .. } => self.segment(step)?,
            Step::Accept => self.connection.accept(self.now, &self.config),
            Step::Write(bytes) if !self.queue.finished => {
                self.queue.bytes = (self.queue.bytes + bytes).min(1 << 20);
            }
            Step::Write(_) => {}
            Step::Finish => self.queue.finished = true,
            Step::Room(bytes) => self.connection.set_receive_room(bytes),
            Step::Wait(ms) => {
                self.now = self.now + Duration::from_millis(ms);
                let outcome = self.connection.on_timer(self.now, &self.config);
                let gone = matches!(outcome, TimerOutcome::Gone(_));
                prop_assert!(!gone || self.connection.is_closed());
            }
            Step::Abort => {
                self.connection.abort();
                prop_assert!(self.connection.is_closed());
            }
        }
        self.drain()?;
        self.check()
    }

    fn segment(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let Step::Segment {
            sequence,
            acknowledgment,
            flags,
            window,
            len,
            timestamps,
            sack,
        } = *step
        else {
            return Ok(());
        };
        let una = self.connection.send.una;
        let mut segment = Segment {
            sequence: shift(self.connection.receive.nxt, sequence),
            acknowledgment: shift(self.connection.send.max, acknowledgment),
            flags: Flags(flags),
            window,
            ecn: Ecn::of(window as u8),
            ..Segment::default()
        };
        segment.options.timestamps = timestamps.map(|by| Timestamps {
            value: self.connection.receive.ts_recent().wrapping_add(by as u32),
            echo: self.now.as_millis_wrapping().wrapping_sub(by as u32),
        });
        if let Some((left, right)) = sack {
            segment
                .options
                .sack
                .push(shift(una, left), shift(una, right));
        }
        let payload = vec![0; len];
        let received = self
            .connection
            .on_segment(self.now, &self.config, &segment, &payload);
        prop_assert!(received.deliver.start <= received.deliver.end);
        prop_assert!(received.deliver.end as usize <= len);
        prop_assert!(received.acked <= self.queue.bytes);
        self.queue.bytes -= received.acked;
        let mut kept = 0;
        while let Some(bytes) = self.connection.take_reassembled() {
            kept += bytes.len() as u32;
        }
        prop_assert!(kept <= self.kept_max);
        prop_assert_eq!(kept > 0, received.reassembled);
        prop_assert_eq!(received.closed, self.connection.is_closed());
        Ok(())
    }

    fn drain(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..100_000 {
            let transmit = self
                .connection
                .poll_transmit(self.now, &self.config, &self.queue);
            let Some(Transmit {
                segment,
                payload,
                gso_size,
                ..
            }) = transmit
            else {
                return Ok(());
            };
            let len = payload.end - payload.start;
            prop_assert!(payload.end <= self.queue.bytes && len <= self.queue.segment_max);
            prop_assert!(gso_size.is_none_or(|size| u32::from(size) < len));
            let takes_super_frames = self.queue.segment_max > u32::from(self.config.mss);
            prop_assert!(gso_size.is_none() || takes_super_frames);
            let sack = segment.options.sack.as_slice();
            prop_assert!(sack.len() <= 4);
            for (i, &(left, right)) in sack.iter().enumerate() {
                prop_assert!(left.before(right));
                // Only the first may tell what came twice (RFC 2883).
                prop_assert!(i == 0 || segment.acknowledgment.before(left));
            }
            // A segment without payload is never to be marked (RFC 3168 §6.1.4).
            prop_assert!(len > 0 || segment.ecn == Ecn::NotCapable);
            prop_assert_eq!(segment.source_port, 80);
        }
        Err(TestCaseError::fail("poll_transmit never ends"))
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        self.invariants
            .check(&self.connection, self.now, self.queue.bytes)
            .map_err(TestCaseError::fail)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_segments_in_any_state(
        isses in any::<(u32, u32)>(),
        options in syn_options(),
        passive in any::<bool>(),
        segment_max in prop_oneof![Just(100u32), Just(1460), Just(65_000)],
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let config = Config { window_max: 100_000, out_of_order_max: 20_000, ..Config::default() };
        let now = Instant::from_nanos(5_000_000_000);
        let mut syn = Segment {
            source_port: 1000,
            target_port: 80,
            sequence: Seq(isses.0),
            flags: Flags::SYN | if isses.1 % 2 == 0 { Flags::ECE | Flags::CWR } else { Flags(0) },
            window: 5000,
            options,
            ..Segment::default()
        };
        let mut connection = if passive {
            Connection::from_syn(now, &config, &syn, isses.1)
        } else {
            Connection::open(now, &config, 1000, 80, isses.1)
        };
        if passive {
            connection.accept(now, &config);
        }
        let queue = SendQueue { bytes: 0, finished: false, segment_max };
        connection.poll_transmit(now, &config, &queue);
        // Half of the runs begin with an orderly handshake.
        if isses.0 % 2 == 0 {
            syn.flags = if passive { Flags::ACK } else { Flags::SYN | Flags::ACK };
            syn.sequence = Seq(isses.0) + u32::from(passive);
            syn.acknowledgment = Seq(isses.1) + 1;
            syn.options = if passive { Options::default() } else { options };
            syn.options.timestamps = options.timestamps;
            connection.on_segment(now, &config, &syn, &[]);
            prop_assert_eq!(connection.state(), State::Established);
        }
        let invariants = Invariants::default();
        let mut subject =
            Subject { connection, config, now, queue, invariants, kept_max: 20_000 };
        for step in &steps {
            subject.apply(step)?;
        }
    }
}
