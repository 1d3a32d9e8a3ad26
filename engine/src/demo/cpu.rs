//! Processor time of a part of this process.

use std::fs;
use std::time::Duration;

/// What the threads of this process whose names begin with `prefix` have used so far.
pub(crate) fn of_threads(prefix: &str) -> Duration {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else {
        return Duration::ZERO;
    };
    tasks
        .flatten()
        .filter(|task| {
            fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.starts_with(prefix))
        })
        .filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok())
        // The first field is the time on a processor in nanoseconds (Documentation/scheduler).
        .filter_map(|stat| stat.split_whitespace().next()?.parse().ok())
        .map(Duration::from_nanos)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::of_threads;

    #[test]
    fn only_threads_of_that_name_count() {
        let busy = std::thread::Builder::new()
            .name("demo-cpu-test".into())
            .spawn(|| {
                let sum = (0..20_000_000_u64).fold(0, |sum: u64, n| sum.wrapping_mul(31) ^ n);
                (
                    std::hint::black_box(sum),
                    of_threads("demo-cpu-test"),
                    of_threads("no-such-thread"),
                )
            });
        let (_, own, none) = busy.unwrap().join().unwrap();
        assert!(own.as_nanos() > 0);
        assert_eq!(none.as_nanos(), 0);
    }
}
