//! Which driver carries the I/O: io_uring where it works, epoll where it is forbidden.

use super::support::command::Ended;
use super::support::harness::{Test, tests};
use super::support::reexec;
use super::support::world::{SUBNETS, World};

pub(crate) fn tests() -> Vec<Test> {
    tests![
        without_io_uring_a_run_falls_back_and_says_why,
        io_uring_that_is_asked_for_and_forbidden_is_a_failure,
        the_doctor_shows_the_driver,
    ]
}

/// `towpath ARGUMENTS` where io_uring is forbidden or not.
fn towpath(world: &World, forbidden: bool, arguments: &[&str]) -> Ended {
    let own = std::env::current_exe().expect("the test binary has a path");
    let mut command = if forbidden {
        let mut command = world.command(own);
        command.arg(reexec::WITHOUT_IO_URING);
        command.arg(env!("CARGO_BIN_EXE_towpath"));
        command
    } else {
        world.towpath()
    };
    command.args(arguments);
    super::support::command::end(world.spawn(command))
}

fn run(world: &World, forbidden: bool, driver: &str, command: &str) -> Ended {
    let shell = ["--driver", driver, "-v", "--", "sh", "-c", command];
    let arguments: Vec<_> = ["run"].into_iter().chain(SUBNETS).chain(shell).collect();
    towpath(world, forbidden, &arguments)
}

fn without_io_uring_a_run_falls_back_and_says_why(world: &World) {
    // Every run has a gateway that answers; whatever the driver does is needed for that.
    const PING: &str = "ping -c 1 -W 5 10.77.0.1 && ping -c 1 -W 5 fd77::1";
    let ended = run(world, true, "auto", PING);
    assert_eq!(ended.code, 0, "{}{}", ended.stdout, ended.stderr);
    assert!(ended.stdout.contains("1 received"), "{}", ended.stdout);
    let reason = "on epoll, which is slower, as io_uring can't be used: Operation not permitted";
    assert!(ended.stderr.contains(reason), "{}", ended.stderr);
    // Where it works, nothing is said.
    let ended = run(world, false, "auto", PING);
    assert_eq!(ended.code, 0, "{}{}", ended.stdout, ended.stderr);
    assert!(!ended.stderr.contains("epoll"), "{}", ended.stderr);
}

fn io_uring_that_is_asked_for_and_forbidden_is_a_failure(world: &World) {
    let ended = run(world, true, "uring", "echo started");
    assert_ne!(ended.code, 0, "{}{}", ended.stdout, ended.stderr);
    assert_eq!(ended.stdout, "", "the command has no network");
    assert!(ended.stderr.contains("io_uring"), "{}", ended.stderr);
}

fn the_doctor_shows_the_driver(world: &World) {
    let line = |forbidden| {
        let ended = towpath(world, forbidden, &["doctor"]);
        assert_eq!(ended.code, 0, "{}{}", ended.stdout, ended.stderr);
        let mut lines = ended.stdout.lines().map(str::to_owned);
        let line = lines.find(|line| line.contains(" driver "));
        line.unwrap_or_else(|| panic!("{}", ended.stdout))
    };
    assert!(line(false).ends_with("io_uring"), "{}", line(false));
    let forbidden = line(true);
    assert!(forbidden.starts_with("degraded"), "{forbidden}");
    assert!(
        forbidden.contains("epoll") && forbidden.contains("not permitted"),
        "{forbidden}"
    );
}
