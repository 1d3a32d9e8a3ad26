//! From samples to flame graphs, one per thread, and to the functions in which the time went.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use inferno::collapse::Collapse;
use inferno::collapse::perf::{Folder, Options as FoldOptions};
use inferno::flamegraph::{self, Options as GraphOptions, Palette, color::MultiPalette};
use serde::Serialize;

use crate::failure::{Context, Failure, Outcome};

/// Functions named per thread.
const FUNCTIONS: usize = 12;
/// How inferno marks a kernel's frame.
const KERNEL: &str = "_[k]";
/// A thread with a smaller share of all samples gets no graph.
const SHARE_MIN: f64 = 0.01;

/// The samples of one thread.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Thread {
    pub(crate) name: String,
    pub(crate) id: u32,
    pub(crate) samples: u64,
    /// Share of its samples in the kernel, 0 to 1.
    pub(crate) kernel: f64,
    /// Share of its samples in functions that copy bytes, 0 to 1.
    pub(crate) copying: f64,
    /// File of its flame graph, beside the JSON; `None` for a thread that hardly ran.
    pub(crate) graph: Option<String>,
    /// Where the samples were, most first.
    pub(crate) functions: Vec<Function>,
}

/// A function and the share of a thread's samples that hit it itself, not what it calls.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) kernel: bool,
    pub(crate) share: f64,
}

/// A thread's stacks in folded form, with how often each was seen.
#[derive(Debug, Default)]
struct Stacks(BTreeMap<String, u64>);

/// Collapses what `perf script` printed and draws `flame-NAME.svg` for each thread; with `-ID` behind
/// a name that several have.
///
/// # Errors
/// There are no samples, or a file cannot be written.
pub(crate) fn draw(script: &[u8], title: &str, directory: &Path) -> Outcome<Vec<Thread>> {
    let threads = fold(script)?;
    let all: u64 = threads.values().map(Stacks::samples).sum();
    let mut drawn = Vec::new();
    for ((name, id), stacks) in &threads {
        let mut thread = stacks.thread(name, *id);
        if thread.samples as f64 >= all as f64 * SHARE_MIN {
            let several = threads.keys().filter(|(other, _)| other == name).count() > 1;
            let id = if several {
                format!("-{id}")
            } else {
                String::new()
            };
            let file = format!("flame-{}{id}.svg", file_name(name));
            let subtitle = format!("thread {name}, {} samples", thread.samples);
            graph(stacks, title, &subtitle, &directory.join(&file))?;
            thread.graph = Some(file);
        }
        drawn.push(thread);
    }
    drawn.sort_by_key(|thread| std::cmp::Reverse(thread.samples));
    Ok(drawn)
}

/// The stacks of each thread, by its name and id.
fn fold(script: &[u8]) -> Outcome<BTreeMap<(String, u32), Stacks>> {
    let mut options = FoldOptions::default();
    options.include_tid = true;
    options.annotate_kernel = true;
    options.nthreads = 1;
    let mut folded = Vec::new();
    Folder::from(options)
        .collapse(script, &mut folded)
        .doing("fold the samples")?;
    let mut threads: BTreeMap<_, Stacks> = BTreeMap::new();
    for line in String::from_utf8_lossy(&folded).lines() {
        if let Some((thread, stack, count)) = parse(line) {
            *threads
                .entry(thread)
                .or_default()
                .0
                .entry(stack)
                .or_default() += count;
        }
    }
    if threads.is_empty() {
        return Err(Failure::new("no sample was taken: the engine hardly ran"));
    }
    Ok(threads)
}

/// A folded line `NAME-PID/TID;outer;inner COUNT`.
fn parse(line: &str) -> Option<((String, u32), String, u64)> {
    let (stack, count) = line.rsplit_once(' ')?;
    let (thread, stack) = stack.split_once(';').unwrap_or((stack, "unknown"));
    let (name, ids) = thread.rsplit_once('-')?;
    let (_, id) = ids.split_once('/')?;
    let id = id.parse().ok()?;
    Some(((name.to_owned(), id), stack.to_owned(), count.parse().ok()?))
}

impl Stacks {
    fn samples(&self) -> u64 {
        self.0.values().sum()
    }

    fn thread(&self, name: &str, id: u32) -> Thread {
        let samples = self.samples();
        let share = |count: u64| count as f64 / samples.max(1) as f64;
        let mut own: HashMap<&str, u64> = HashMap::new();
        for (stack, count) in &self.0 {
            let leaf = stack.rsplit(';').next().unwrap_or(stack);
            *own.entry(leaf).or_default() += count;
        }
        let sum = |of: fn(&str) -> bool| {
            let counts = own.iter().filter(|(leaf, _)| of(leaf));
            share(counts.map(|(_, count)| count).sum())
        };
        let (kernel, copying) = (sum(|leaf| leaf.ends_with(KERNEL)), sum(copies));
        let mut functions: Vec<_> = own.into_iter().collect();
        functions.sort_by_key(|&(leaf, count)| (std::cmp::Reverse(count), leaf));
        let functions = functions.into_iter().take(FUNCTIONS);
        Thread {
            name: name.to_owned(),
            id,
            samples,
            kernel,
            copying,
            graph: None,
            functions: functions
                .map(|(leaf, count)| Function {
                    name: leaf.trim_end_matches(KERNEL).to_owned(),
                    kernel: leaf.ends_with(KERNEL),
                    share: share(count),
                })
                .collect(),
        }
    }
}

/// Whether a function does nothing but copy bytes, in the kernel or in libc.
fn copies(leaf: &str) -> bool {
    let name = leaf.trim_end_matches(KERNEL);
    const PARTS: [&str; 6] = [
        "rep_movs",
        "copy_user",
        "copy_from_user",
        "copy_to_user",
        "memcpy",
        "memmove",
    ];
    // The same by their other names: the kernel's iterators, which inline the copy on some
    // processors, and ARM's.
    const MORE: [&str; 4] = [
        "_copy_to_iter",
        "_copy_from_iter",
        "csum_partial_copy",
        "__arch_copy",
    ];
    PARTS.iter().chain(&MORE).any(|part| name.contains(part))
}

fn graph(stacks: &Stacks, title: &str, subtitle: &str, path: &Path) -> Outcome<()> {
    let mut options = GraphOptions::default();
    options.title = title.to_owned();
    options.subtitle = Some(subtitle.to_owned());
    // Tells the kernel's frames (orange) from the program's.
    options.colors = Palette::Multi(MultiPalette::Java);
    options.deterministic = true;
    let lines: Vec<String> = stacks
        .0
        .iter()
        .map(|(stack, count)| format!("{stack} {count}"))
        .collect();
    let file = File::create(path).doing(format_args!("make {}", path.display()))?;
    flamegraph::from_lines(
        &mut options,
        lines.iter().map(String::as_str),
        BufWriter::new(file),
    )
    .doing(format_args!("draw {}", path.display()))
}

/// A thread's name with nothing in it that a path or a shell would take for something else.
fn file_name(thread: &str) -> String {
    let safe = |c: char| {
        if c.is_ascii_alphanumeric() || c == '-' || c == '.' {
            c
        } else {
            '_'
        }
    };
    thread.chars().map(safe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two threads of one program, as `perf script` prints them.
    const SCRIPT: &str = "\
core-0   10/11   100.000001: cpu-clock:pppH: 
\tffffffff81000001 rep_movs_alternative+0x1 ([kernel.kallsyms])
\tffffffff81000002 tun_get_user+0x2 ([kernel.kallsyms])
\t          401000 towpath::run+0x3 (/bin/towpath)

core-0   10/11   100.000002: cpu-clock:pppH: 
\t          401000 towpath::run+0x3 (/bin/towpath)

main   10/10   100.000003: cpu-clock:pppH: 
\tffffffff81000003 schedule+0x1 ([kernel.kallsyms])

";

    #[test]
    fn threads_are_kept_apart_and_their_shares_add_up() {
        let directory = tempfile::tempdir().unwrap();
        let threads = draw(SCRIPT.as_bytes(), "a title", directory.path()).unwrap();
        assert_eq!(threads.len(), 2);
        let core = &threads[0];
        assert_eq!((core.id, core.samples), (11, 2));
        assert_eq!((core.kernel, core.copying), (0.5, 0.5));
        assert_eq!(core.functions.len(), 2);
        let copy = core.functions.iter().find(|one| one.kernel).unwrap();
        assert_eq!(copy.name, "rep_movs_alternative");
        let svg = directory.path().join(core.graph.as_ref().unwrap());
        let svg = std::fs::read_to_string(svg).unwrap();
        assert!(svg.contains("tun_get_user") && svg.contains("a title"));
        assert!(!svg.contains("schedule"));
    }

    #[test]
    fn no_samples_are_an_error_and_not_an_empty_picture() {
        let directory = tempfile::tempdir().unwrap();
        assert!(draw(b"", "t", directory.path()).is_err());
    }

    #[test]
    fn names_cannot_leave_the_directory() {
        assert_eq!(file_name("../a b"), ".._a_b");
    }
}
