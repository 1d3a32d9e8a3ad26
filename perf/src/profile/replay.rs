//! Instructions per frame, without noise: the recorded frames of the guest, played through the
//! engine's core by `towpath-replay` with no kernel around it, under valgrind's `callgrind`.
//!
//! What the kernel does is not in it, nor the program's start, nor what it does in the kernel's
//! place: callgrind counts only inside the function that plays the frames and outside its driver.
//! That is the engine's own code alone, and the same number in every run.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde::{Deserialize, Serialize};

use crate::failure::{Context, Failure, Outcome};

/// The program that plays frames, beside this one.
const PROGRAM: &str = "towpath-replay";

/// The functions at whose entry and exit callgrind begins and stops to count, or the other way
/// round within the first.
const COUNTED: [&str; 2] = ["*replay_frames*", "*ReplayDriver as *"];

/// What a replay came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Replay {
    /// The guest's frames that were played, and those that the core answered with.
    pub(crate) frames_in: u64,
    pub(crate) frames_out: u64,
    /// Instructions of the core.
    pub(crate) instructions: u64,
    /// For each frame in and out.
    pub(crate) instructions_per_frame: f64,
}

/// What is read of the line of JSON that the program prints.
#[derive(Debug, Default, Deserialize)]
struct Played {
    frames_in: u64,
    frames_out: u64,
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
    let (played, instructions) = callgrind(&program, pcap, profile)?;
    let Played {
        frames_in,
        frames_out,
    } = played;
    if frames_in == 0 {
        return Err(Failure::new("the recording holds no frame of the guest"));
    }
    Ok(Replay {
        frames_in,
        frames_out,
        instructions,
        instructions_per_frame: instructions as f64 / (frames_in + frames_out) as f64,
    })
}

/// What was played, and the instructions that were counted.
fn callgrind(program: &Path, pcap: &Path, profile: &Path) -> Outcome<(Played, u64)> {
    let output = Command::new("valgrind")
        .arg("--tool=callgrind")
        .args(COUNTED.map(|name| format!("--toggle-collect={name}")))
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
        let line = r#"{"frames_in":3,"frames_out":2,"more":1}"#;
        let (played, count) = read(&output(0, line, stderr)).unwrap();
        assert_eq!((played.frames_in, played.frames_out, count), (3, 2, 2034));
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
