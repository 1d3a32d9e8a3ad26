//! The recorded sample goes through a core as it did when it was recorded, and a recording that does
//! not is not taken for one.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use towpath_benches::frames;
use towpath_benches::replay::{Recording, RecordingError, Replay, Report, replay_frames};
use towpath_stack::Address;
use towpath_stack::build::Envelope;
use towpath_stack::tcp::segment::{Flags, Options, Segment};
use towpath_stack::tcp::seq::SequenceNumber;
use towpath_stack::wire::offload;

fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("frames/sample.pcap")
}

fn replay(file: &[u8]) -> Report {
    let recording = Recording::read(file).expect("a recording");
    let mut replay = Replay::new(&recording).expect("memory for buffers");
    replay_frames(&mut replay).expect("a replay to its end");
    replay.report(Duration::from_millis(1))
}

/// Offset and length of each record's frame in a pcap file of this machine's byte order.
fn records(file: &[u8]) -> Vec<(usize, usize)> {
    let mut at = 24;
    let mut found = Vec::new();
    while let Some(header) = file.get(at..at + 16) {
        let len = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
        found.push((at + 16, len));
        at += 16 + len;
    }
    found
}

fn run(file: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_towpath-replay"))
        .arg(file)
        .args(arguments)
        .output()
        .expect("towpath-replay starts")
}

/// A recording of an upload to an engine that offers a window of 1 MiB from its first ACK on. For
/// each flight the guest sends super-frames of these payloads, and the engine acknowledges all.
fn upload(flights: &[&[usize]]) -> Vec<u8> {
    let from_guest = Envelope {
        target: Address::v4([198, 51, 100, 1]),
        ..frames::envelope(false)
    };
    let from_host = Envelope {
        source_mac: from_guest.target_mac,
        target_mac: from_guest.source_mac,
        source: from_guest.target,
        target: from_guest.source,
        ..from_guest
    };
    let opening = Options {
        mss: Some(1460),
        window_scale: Some(7),
        ..Options::default()
    };
    let (syn, ack) = (Flags::SYN, Flags::ACK);
    let guest = |flags, options, sent: u32, payload| {
        let segment = Segment {
            sequence: SequenceNumber(1000) + sent,
            ..frames::segment(flags, options)
        };
        frames::tcp(&from_guest, &segment, payload)
    };
    let host = |flags: Flags, options, sent: u32, window| {
        let segment = Segment {
            source_port: 443,
            target_port: 40_000,
            sequence: SequenceNumber(2000) - u32::from(flags.syn()),
            acknowledgment: SequenceNumber(1000) + sent,
            window,
            ..frames::segment(flags, options)
        };
        frames::tcp(&from_host, &segment, 0)
    };
    let mut sent = 1;
    let mut recorded = vec![
        guest(syn, opening, 0, 0),
        host(syn | ack, opening, sent, u16::MAX),
        guest(ack, Options::default(), sent, 0),
    ];
    for &flight in flights {
        for &payload in flight {
            recorded.push(guest(ack, Options::default(), sent, payload));
            sent += payload as u32;
        }
        recorded.push(host(ack, Options::default(), sent, 1 << 13));
    }
    pcap(&recorded)
}

/// A pcap file with the first 128 bytes of frames that have an offload header in front of them.
fn pcap(frames: &[Vec<u8>]) -> Vec<u8> {
    // Magic number, version 2.4, two fields that are always zero, the longest frame, ethernet.
    let header = [0xa1b2_c3d4_u32, 2 | 4 << 16, 0, 0, 128, 1];
    let mut file: Vec<u8> = header.into_iter().flat_map(u32::to_ne_bytes).collect();
    for (microsecond, frame) in (0..).zip(frames) {
        let frame = &frame[offload::HEADER_LEN..];
        let kept = &frame[..frame.len().min(128)];
        for field in [1, microsecond, kept.len() as u32, frame.len() as u32] {
            file.extend(field.to_ne_bytes());
        }
        file.extend(kept);
    }
    file
}

#[test]
fn the_sample_moves_every_recorded_byte_and_drops_nothing() {
    let report = replay(&std::fs::read(sample()).unwrap());
    assert!(report.is_true(), "{report}");
    assert_eq!((report.faults, report.left_out), (0, 0), "{report}");
    // 2 × (16 short connections, one upload, one download), by IPv4 and IPv6.
    assert_eq!(report.connections, 36, "{report}");
    assert_eq!(
        report.payload_bytes, report.recorded_payload_bytes,
        "{report}"
    );
    assert!(report.payload_bytes.0 > 12_000_000 && report.payload_bytes.1 > 12_000_000);
    // Multicast listener reports, which an engine does not answer.
    let drops: Vec<_> = report.drops.keys().map(String::as_str).collect();
    assert_eq!(drops, ["DroppedIcmp"], "{report}");
}

#[test]
fn replays_of_one_recording_are_alike() {
    let file = std::fs::read(sample()).unwrap();
    let (first, second) = (replay(&file), replay(&file));
    assert_eq!(
        Report {
            nanoseconds_per_frame: 0.0,
            ..first
        },
        Report {
            nanoseconds_per_frame: 0.0,
            ..second
        }
    );
}

#[test]
fn a_guest_s_frames_wait_for_the_core_s_window() {
    // The core's window has doubled once when the flights begin.
    let (first, flight) = ([frames::SEGMENT; 46], [frames::SUPER_FRAME; 16]);
    let report = replay(&upload(&[&first[..44], &first[44..], &flight, &flight]));
    assert_eq!((report.faults, report.connections), (0, 1), "{report}");
    assert_eq!(report.frames_in, 2 + 46 + 2 * 16, "{report}");
    let bytes = 46 * frames::SEGMENT + 2 * 16 * frames::SUPER_FRAME;
    assert_eq!(report.payload_bytes.0, bytes as u64, "{report}");
}

#[test]
fn a_window_that_stays_too_small_for_a_frame_is_probed() {
    // With 14,000 of its first 64 KiB filled a core does not open the window further by itself.
    let flight = [frames::SUPER_FRAME; 16];
    let report = replay(&upload(&[&[14_000], &flight]));
    let bytes = 14_000 + 16 * frames::SUPER_FRAME as u64;
    assert_eq!(report.payload_bytes.0, bytes, "{report}");
    assert_eq!(report.faults, 1, "{report}");
}

#[test]
fn frames_that_a_core_drops_make_a_replay_untrue() {
    let mut file = std::fs::read(sample()).unwrap();
    for (at, _) in records(&file) {
        let ipv4 = file[at + 12..at + 14] == [0x08, 0x00];
        let from_guest = file[at + 26] == 10;
        if ipv4 && from_guest {
            // The IPv4 header's checksum no longer fits its TTL.
            file[at + 22] ^= 1;
        }
    }
    let report = replay(&file);
    assert!(!report.is_true(), "{report}");
    assert!(report.drops["bad_ipv4_checksum"] > 300, "{report}");
}

#[test]
fn a_recording_that_begins_in_the_middle_leaves_old_connections_out() {
    let file = std::fs::read(sample()).unwrap();
    // In the midst of the download by IPv6.
    let records = records(&file);
    let (at, _) = records[records.len() * 5 / 6];
    let cut = [&file[..24], &file[at - 16..]].concat();
    let report = replay(&cut);
    assert!(report.is_true(), "{report}");
    assert!(report.connections < 36 && report.left_out > 0, "{report}");
}

#[test]
fn what_is_no_recording_is_named() {
    let file = std::fs::read(sample()).unwrap();
    let read = |file: &[u8]| Recording::read(file).map(|_| ()).unwrap_err();
    assert_eq!(read(b"GIF89a"), RecordingError::Format);
    assert_eq!(read(&file[..24]), RecordingError::NoGuest);
    let mut raw = file;
    raw[20..24].copy_from_slice(&101_u32.to_le_bytes());
    assert_eq!(read(&raw), RecordingError::LinkType(101));
}

#[test]
fn the_program_prints_one_line_of_json_or_says_what_is_wrong() {
    let output = run(&sample(), &["--repeat", "3"]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["connections"], 36, "{text}");
    assert_eq!(json["faults"], 0, "{text}");
    assert!(json["nanoseconds_per_frame"].as_f64().unwrap() > 0.0);

    let output = run(Path::new("/nonexistent.pcap"), &[]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("/nonexistent.pcap: "), "{said}");
}
