//! Nothing is allocated per frame, once everything has its size.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use towpath_ring::driver::PACKETS_MAX;
use towpath_ring::{
    FilledPool, FrameBounds, FrameReader, FrameWriter, Framing, PacketWriter, Slice,
};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counted;

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: as the caller vouches.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as the caller vouches.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counted = Counted;

const BOUNDS: FrameBounds = FrameBounds {
    bytes: 256 << 10,
    frames: 1000,
};
const FRAME_MAX: usize = 65_553;

/// How many allocations the later rounds of some took.
fn in_steady_state(mut round: impl FnMut(usize)) -> u64 {
    (0..100).for_each(&mut round);
    let before = ALLOCATIONS.get();
    (100..500).for_each(&mut round);
    ALLOCATIONS.get() - before
}

/// The parts of a payload; from frame to frame of other lengths.
fn payload(whole: &Slice, number: usize) -> [Slice; 2] {
    let len = [0, 6, 1448, 8960, FRAME_MAX - 66][number % 5];
    let cut = len / (1 + number % 3);
    [whole.sub(0..cut), whole.sub(cut..len)]
}

#[test]
fn frames_cross_a_stream() {
    let whole = Slice::from_vec(vec![7; FRAME_MAX]);
    let mut pool = FilledPool::new(2, 256 << 10).unwrap();
    let mut writer = FrameWriter::new(Framing::Be32, BOUNDS);
    let mut reader = FrameReader::new(Framing::Be32, FRAME_MAX);
    let (mut pushed, mut got) = (0, 0);
    let allocations = in_steady_state(|round| {
        while writer.push(&[1; 66], &payload(&whole, pushed)) {
            pushed += 1;
        }
        let there: usize = writer.batch().iter().map(Slice::len).sum();
        // A receive that brings less than there is, and cuts a frame somewhere.
        let taken = there - there * (round % 10) / 11;
        let received = pool.lend(taken, |bytes| {
            let batch = writer
                .batch()
                .iter()
                .flat_map(|slice| slice.bytes().chunks(4096));
            let mut at = 0;
            for piece in batch {
                let n = piece.len().min(bytes.len() - at);
                bytes[at..at + n].copy_from_slice(&piece[..n]);
                at += n;
            }
        });
        writer.advance(taken);
        let mut data = received.unwrap();
        while let Some(frame) = reader.next(&mut data) {
            assert_eq!(frame.unwrap()[0], 1);
            got += 1;
        }
    });
    assert!(got > 1000, "{got} frames");
    assert_eq!(allocations, 0);
}

#[test]
fn frames_go_as_packets() {
    let whole = Slice::from_vec(vec![7; FRAME_MAX]);
    let mut writer = PacketWriter::new(BOUNDS);
    let (mut pushed, mut sent) = (0, 0);
    let allocations = in_steady_state(|round| {
        while writer.push(&[1; 66], &payload(&whole, pushed)) {
            pushed += 1;
        }
        let mut room = [&[][..]; PACKETS_MAX];
        let batch = writer.batch(&mut room);
        assert!(batch.iter().all(|packet| packet[0][0] == 1));
        let taken = batch.len() - round % batch.len().min(10);
        writer.advance(taken);
        sent += taken;
    });
    assert!(sent > 2000, "{sent} packets");
    assert_eq!(allocations, 0);
}
