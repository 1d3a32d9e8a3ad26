//! From a function to a test: what it needs, a world, a hard time-out.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use libtest_mimic::{Completion, Failed, Trial};

use super::needs::Need;
use super::process::Registry;
use super::world::World;

/// No test takes a tenth of this on an idle machine; it only keeps a hang from lasting.
const TIME_LIMIT: Duration = Duration::from_secs(120);

/// The environment variable that makes a missing prerequisite a failure.
const MUST_RUN: &str = "TOWPATH_TESTS_MUST_RUN";

/// One test: a body that gets a world of its own.
pub(crate) struct Test {
    name: String,
    needs: Vec<Need>,
    body: Box<dyn FnOnce(&World) + Send>,
}

impl Test {
    /// A test of the given name, which begins with its module's.
    pub(crate) fn new(name: impl Into<String>, body: impl FnOnce(&World) + Send + 'static) -> Self {
        let name = name.into();
        let name = name.strip_prefix("net::").unwrap_or(&name).to_owned();
        Self {
            name,
            needs: vec![Need::Namespaces, Need::Tun],
            body: Box::new(body),
        }
    }

    /// Adds something that the test cannot do without.
    pub(crate) fn needs(mut self, need: Need) -> Self {
        self.needs.push(need);
        self
    }

    /// The test as the harness wants it.
    pub(crate) fn into_trial(self) -> Trial {
        let Self { name, needs, body } = self;
        Trial::ignorable_test(name.clone(), move || {
            if let Some(reason) = needs.iter().find_map(|need| need.missing()) {
                if std::env::var_os(MUST_RUN).is_some_and(|value| value == "1") {
                    return Err(Failed::from(format!("cannot run: {reason}")));
                }
                eprintln!("IGNORED {name}: {reason}");
                return Ok(Completion::ignored_with(reason));
            }
            supervise(name, body)
        })
    }
}

/// Lists functions that take a `&World` as tests named after them.
macro_rules! tests {
    ($($body:ident),* $(,)?) => {
        vec![$($crate::support::harness::Test::new(
            concat!(module_path!(), "::", stringify!($body)),
            $body,
        )),*]
    };
}
pub(crate) use tests;

/// Runs a body on a thread of its own, which the world's namespaces belong to and end with.
fn supervise(name: String, body: Box<dyn FnOnce(&World) + Send>) -> Result<Completion, Failed> {
    let registry = Registry::default();
    let (done, outcome) = mpsc::channel();
    let processes = registry.clone();
    let thread = thread::Builder::new().name(name).spawn(move || {
        let result = catch_unwind(AssertUnwindSafe(|| {
            let world = World::new(&processes);
            body(&world);
            world.assert_nothing_left();
        }));
        // The other end is gone only when the time was up.
        let _ = done.send(result.is_ok());
    });
    thread.map_err(|error| Failed::from(format!("no thread: {error}")))?;
    match outcome.recv_timeout(TIME_LIMIT) {
        Ok(true) => Ok(Completion::Completed),
        // The panic's own message is on stderr already, with the test's name.
        Ok(false) => Err(Failed::from(registry.report())),
        Err(_) => {
            // The thread may hang in a system call for ever; its processes must not.
            registry.kill_all();
            let report = registry.report();
            Err(Failed::from(format!(
                "not done after {} s\n{report}",
                TIME_LIMIT.as_secs()
            )))
        }
    }
}
