//! Instructions per frame, without noise: the recorded frames of the guest, played through the
//! engine's core by `towpath-replay` with no kernel around it, under valgrind's `callgrind`.
//!
//! What the kernel does is not in it; it is the engine's own code alone, and the same number in
//! every run. Starting the program takes instructions as well: they are counted with a file of no
//! frames, and taken off.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde::{Deserialize, Serialize};

use super::pcap::Pcap;
use crate::failure::{Context, Failure, Outcome};

/// The program that plays frames, beside this one.
const PROGRAM: &str = "towpath-replay";

/// What a replay came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Replay {
    /// The guest's frames that were played.
    pub(crate) frames: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Instructions that the frames took.
    pub(crate) instructions: u64,
    pub(crate) instructions_per_frame: f64,
}

/// The line of JSON that the program prints.
#[derive(Debug, Default, Deserialize)]
struct Played {
    frames: u64,
    bytes: u64,
}

/// Plays the frames in `pcap`; callgrind's file goes to `profile`.
///
/// # Errors
/// A program is missing, with the way to get it, or fails.
pub(crate) fn run(pcap: &Path, profile: &Path) -> Outcome<Replay> {
    let program = std::env::current_exe()
        .doing("find this program's directory")?
        .with_file_name(PROGRAM);
    if !program.exists() {
        return Err(Failure::new(format!(
            "{} is not there: build it with cargo build --release -p towpath-benches",
            program.display()
        )));
    }
    let empty = pcap.with_extension("empty.pcap");
    fs::write(&empty, Pcap::new().bytes()).doing("write a file of no frames")?;
    let start = callgrind(&program, &empty, Path::new("/dev/null"));
    let _ = fs::remove_file(&empty);
    let (_, start) = start?;
    let (played, all) = callgrind(&program, pcap, profile)?;
    if played.frames == 0 {
        return Err(Failure::new("the recording holds no frame of the guest"));
    }
    let instructions = all.saturating_sub(start);
    Ok(Replay {
        frames: played.frames,
        bytes: played.bytes,
        instructions,
        instructions_per_frame: instructions as f64 / played.frames as f64,
    })
}

/// What was played, and instructions in all.
fn callgrind(program: &Path, pcap: &Path, profile: &Path) -> Outcome<(Played, u64)> {
    let output = Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(program)
        .arg(pcap)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| {
            Failure::new(format!(
                "the program valgrind cannot be started: {error} (Debian: apt install valgrind)"
            ))
        })?;
    read(&output)
}

fn read(output: &Output) -> Outcome<(Played, u64)> {
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    if !output.status.success() {
        let last = stderr.lines().rev().find(|line| !line.starts_with("=="));
        let last = last.unwrap_or("no word of why").trim();
        return Err(Failure::new(format!("{PROGRAM} under valgrind: {last}")));
    }
    let line = stdout.lines().last().unwrap_or_default();
    let played = serde_json::from_str(line).doing(format_args!("read the result of {PROGRAM}"))?;
    let count = collected(&stderr)
        .ok_or_else(|| Failure::new("callgrind did not say how many instructions it saw"))?;
    Ok((played, count))
}

/// The number in callgrind's line `==PID== Collected : 123`.
fn collected(stderr: &str) -> Option<u64> {
    let line = stderr.lines().find(|line| line.contains("Collected"))?;
    line.rsplit(':').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    fn output(status: i32, stdout: &str, stderr: &str) -> Output {
        Output {
            status: ExitStatus::from_raw(status),
            stdout: stdout.into(),
            stderr: stderr.into(),
        }
    }

    #[test]
    fn the_count_is_read_beside_the_result() {
        let stderr = "==7== Events    : Ir\n==7== Collected : 2034\n==7==\n";
        let line = r#"{"frames":3,"bytes":180,"more":1}"#;
        let (played, count) = read(&output(0, line, stderr)).unwrap();
        assert_eq!((played.frames, played.bytes, count), (3, 180, 2034));
        assert!(read(&output(0, line, "==7== nothing")).is_err());
        assert!(read(&output(0, "no json", stderr)).is_err());
    }

    #[test]
    fn the_program_s_own_words_stand_in_the_failure() {
        let stderr = "==7== Command\ntowpath-replay: not a pcap file\n==7== Collected : 1\n";
        let failure = read(&output(256, "", stderr)).unwrap_err().to_string();
        assert!(failure.ends_with("not a pcap file"), "{failure}");
    }
}
