//! A real machine: QEMU boots a distribution's kernel, whose only program is a shell script.
//!
//! The processor is emulated, so that it runs wherever the tests do; it boots in two seconds. The
//! board has a second clock beside the processor's: with one alone ("microvm") some boots stand
//! still on a machine that is busy, because the kernel measures it and gets a wrong result. The network
//! device is virtio's, as it is everywhere else, with QEMU's `stream` back-end behind it.

mod cpio;
mod kernel;

use std::fs::{self, File};
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::guest::pipe;
use super::process::Process;
use super::world::World;
use cpio::Archive;

pub(crate) use kernel::Kernel;

/// What the machine runs.
const INIT: &str = include_str!("init.sh");
/// How long a step of its script may take; only a hang takes so long.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks at the console.
const LOOK: Duration = Duration::from_millis(20);

/// A machine that runs.
pub(crate) struct Machine {
    process: Process,
    keyboard: File,
    _files: TempDir,
}

impl Machine {
    /// Boots one whose network is behind the socket at that path. It fetches `url`, and sends
    /// what it got to `receiver`.
    #[track_caller]
    pub(crate) fn boot(world: &World, socket: &Path, url: &str, receiver: SocketAddr) -> Self {
        let kernel = Kernel::find().expect("the test needs it");
        let files = TempDir::new().expect("a directory");
        let initrd = files.path().join("initrd");
        fs::write(&initrd, first_file_system(&kernel)).expect("a file can be written");
        let (keyboard_end, keyboard) = pipe();
        let mut command = world.command("qemu-system-x86_64");
        command
            .args(["-machine", "q35", "-accel", "tcg"])
            .args(["-cpu", "max", "-smp", "1", "-m", "256"])
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-serial", "stdio"])
            .arg("-kernel")
            .arg(&kernel.image)
            .arg("-initrd")
            .arg(&initrd)
            .arg("-append")
            // A panic is an end.
            .arg(format!(
                "console=ttyS0 quiet panic=-1 url={url} receiver={}/{}",
                receiver.ip(),
                receiver.port()
            ))
            .arg("-netdev")
            .arg(format!(
                "stream,id=net,server=off,addr.type=unix,addr.path={}",
                socket.display()
            ))
            .args(["-device", "virtio-net-pci,netdev=net,romfile="]);
        Self {
            process: world.spawn_with(command, keyboard_end, None),
            keyboard: keyboard.into(),
            _files: files,
        }
    }

    /// Waits until a line of the console begins with `word`, and returns the rest of that line.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, word: &str) -> String {
        let begun = Instant::now();
        loop {
            // First this, so that what it said last is looked at.
            let goes_on = self.process.is_running() && begun.elapsed() < PATIENCE;
            let console = self.console();
            let lines = console.lines().map(str::trim_end);
            let mut rests = lines.filter_map(|line| line.strip_prefix(word));
            if let Some(rest) = rests.next() {
                // Not while it may still be written.
                if console.rfind(word) < console.rfind('\n') {
                    return rest.trim_start().to_owned();
                }
            }
            let said = self.process.stderr();
            let fails = console.contains("FAILED");
            assert!(goes_on && !fails, "no '{word}': {console}{said}");
            thread::sleep(LOOK);
        }
    }

    /// All that its console has shown.
    pub(crate) fn console(&self) -> String {
        String::from_utf8_lossy(&self.process.stdout()).into_owned()
    }

    /// Has it switch itself off.
    #[track_caller]
    pub(crate) fn power_off(mut self) {
        self.keyboard.write_all(b"\n").expect("it waits for a key");
        let status = self.process.wait();
        assert!(status.success(), "{status}: {}", self.process.stderr());
    }
}

/// `busybox`, the modules and the script.
fn first_file_system(kernel: &Kernel) -> Vec<u8> {
    let mut archive = Archive::default();
    archive.directory("bin");
    archive.file("bin/busybox", &read(Path::new("/bin/busybox")));
    archive.file("init", INIT.as_bytes());
    archive.directory("modules");
    let mut order = String::new();
    for module in &kernel.modules {
        let name = module.file_name().expect("a file").to_string_lossy();
        archive.file(&format!("modules/{name}"), &read(module));
        order += &format!("{name}\n");
    }
    archive.file("modules/order", order.as_bytes());
    archive.finish()
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
