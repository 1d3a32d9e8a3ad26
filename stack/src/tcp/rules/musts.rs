//! The list of what RFC 9293 demands, `musts.md`: every number is in it, and every test that it
//! names exists.

use alloc::string::String;
use std::path::{Path, PathBuf};
use std::{env, fs};

use super::*;

/// The last number in appendix B.
const MUSTS: usize = 69;

#[test]
fn every_must_is_answered_by_a_test_that_exists_or_by_a_reason() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let list = fs::read_to_string(root.join("src/tcp/musts.md")).expect("the list");
    let mut sources = Vec::new();
    for place in ["src", "../engine/src", "../engine/tests/net"] {
        collect(&root.join(place), &mut sources);
    }
    let mut number = 0;
    for line in list.lines() {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let [_, must, demand, answer, _] = cells[..] else {
            assert!(!line.starts_with('|'), "not three columns: {line}");
            continue;
        };
        let Ok(stated) = must.parse::<usize>() else {
            continue;
        };
        number += 1;
        assert_eq!(stated, number, "out of order: {line}");
        assert!(!demand.is_empty(), "demands nothing: {line}");
        let reason = ["Not met: ", "No matter: "]
            .iter()
            .any(|word| answer.starts_with(word));
        let names: Vec<_> = answer.split('`').skip(1).step_by(2).collect();
        assert!(
            reason || !names.is_empty(),
            "neither test nor reason: {line}"
        );
        for name in names {
            assert!(
                sources.iter().any(|source| is_test(source, name)),
                "no test {name}: {line}"
            );
        }
    }
    assert_eq!(number, MUSTS);
}

/// A test by the attribute, or one of the tests over a real link, which are listed by name.
fn is_test(source: &str, name: &str) -> bool {
    source
        .match_indices(&alloc::format!("fn {name}("))
        .any(|(at, _)| {
            let before = source[..at].trim_end();
            before.ends_with("#[test]")
                || source[at..].starts_with(&alloc::format!("fn {name}(world: "))
        })
}

fn collect(place: &Path, sources: &mut Vec<String>) {
    for entry in fs::read_dir(place).expect("the source tree") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push(fs::read_to_string(&path).expect("a source"));
        }
    }
}
