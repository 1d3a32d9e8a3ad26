//! Bytes that say where in the stream they belong.
//!
//! The stream repeats a pseudo-random block whose length is a prime. What arrives is compared with
//! the block byte by byte, by `memcmp`: any byte lost, doubled or swapped shows, with its place. A
//! loss of exactly a multiple of the prime would not, but the length is compared too. That costs
//! less than a checksum and says more.

use std::io::{self, Read, Write};
use std::sync::OnceLock;

use super::harness::Test;

/// One binary gigabyte.
pub(crate) const GIB: u64 = 1 << 30;
/// One binary megabyte.
pub(crate) const MIB: u64 = 1 << 20;

/// A prime, so that it falls on no boundary of segments, buffers or windows.
const PERIOD: usize = 1_048_573;
const CHUNK: usize = 256 << 10;

/// One period and one chunk more, so that every chunk of the stream is one slice of it.
fn block() -> &'static [u8] {
    static BLOCK: OnceLock<Vec<u8>> = OnceLock::new();
    BLOCK.get_or_init(|| {
        let mut state = 0x9e37_79b9_7f4a_7c15;
        let mut block: Vec<u8> = (0..PERIOD)
            .map(|_| (next_random(&mut state) >> 32) as u8)
            .collect();
        block.extend_from_within(..CHUNK);
        block
    })
}

/// The next number of an xorshift generator, whose state must not be zero.
pub(crate) fn next_random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// The `length ≤ 256 KiB` bytes of the stream that begin at `offset`.
pub(crate) fn slice(offset: u64, length: usize) -> &'static [u8] {
    let start = (offset % PERIOD as u64) as usize;
    &block()[start..start + length]
}

/// Writes the first `length` bytes of the stream.
pub(crate) fn send(mut sink: impl Write, length: u64) -> io::Result<()> {
    let mut offset = 0;
    while offset < length {
        let chunk = slice(
            offset,
            CHUNK.min(usize::try_from(length - offset).unwrap_or(CHUNK)),
        );
        sink.write_all(chunk)?;
        offset += chunk.len() as u64;
    }
    Ok(())
}

/// Reads exactly `length` bytes of the stream that begin at `offset`.
pub(crate) fn receive_from(mut source: impl Read, offset: u64, length: u64) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut done = 0;
    while done < length {
        let want = CHUNK.min(usize::try_from(length - done).unwrap_or(CHUNK));
        let n = source.read(&mut buffer[..want])?;
        if n == 0 {
            let message = format!("the stream ended after {done} bytes of {length}");
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
        compare(&buffer[..n], offset + done)?;
        done += n as u64;
    }
    Ok(())
}

/// Reads exactly the first `length` bytes of the stream.
pub(crate) fn receive(source: impl Read, length: u64) -> io::Result<()> {
    receive_from(source, 0, length)
}

/// Reads the first `length` bytes of the stream and then its end.
pub(crate) fn receive_all(mut source: impl Read, length: u64) -> io::Result<()> {
    receive(&mut source, length)?;
    match source.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(io::Error::other(format!("more than {length} bytes came"))),
    }
}

fn compare(data: &[u8], offset: u64) -> io::Result<()> {
    let expected = slice(offset, data.len());
    if data == expected {
        return Ok(());
    }
    let wrong = data
        .iter()
        .zip(expected)
        .position(|(a, b)| a != b)
        .unwrap_or_default();
    let place = offset + wrong as u64;
    Err(io::Error::other(format!(
        "the byte at {place} (0x{place:x}) is not what was sent"
    )))
}

/// The payload tested on itself: a check that finds nothing would prove nothing.
pub(crate) fn tests() -> Vec<Test> {
    super::harness::tests![errors_are_found]
}

fn errors_are_found(_: &super::world::World) {
    const LENGTH: u64 = 3 * PERIOD as u64 + 77;
    let mut stream = Vec::new();
    send(&mut stream, LENGTH).unwrap();
    assert_eq!(stream.len() as u64, LENGTH);
    receive_all(&stream[..], LENGTH).unwrap();

    let fails = |stream: &[u8]| receive_all(stream, LENGTH).unwrap_err().to_string();
    let mut flipped = stream.clone();
    flipped[2_000_003] ^= 0x40;
    assert!(fails(&flipped).contains("2000003"));
    let mut lost = stream.clone();
    lost.drain(1_500_000..1_501_460);
    assert!(fails(&lost).contains("the byte at"));
    let mut doubled = stream.clone();
    doubled.splice(
        65_536..65_536,
        stream[65_536 - 1460..65_536].iter().copied(),
    );
    assert!(fails(&doubled).contains("the byte at"));
    assert!(fails(&stream[..stream.len() - 1]).contains("ended after"));
    let mut more = stream.clone();
    more.push(0);
    assert!(fails(&more).contains("more than"));
}
