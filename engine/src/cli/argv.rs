//! A look at the command line before the parser's: `--host-loopback` with an optional value.
//!
//! The value of `--host-loopback` may be left out, and what follows may then be an option, `--` or the
//! command. So the next word is its value only if it looks like a list of ports; this pass writes
//! the value behind a `=`, where the parser can't take it for the command or the command for it.

use std::ffi::{OsStr, OsString};

const OPTION: &str = "--host-loopback";

/// Rewrites the words of a command line. `takes_value` says whether an option of the subcommand
/// (`--mtu`, `-x`), written without `=`, takes the next word. Words from the command on, or behind `--`,
/// are left alone.
pub(super) fn join_optional_values(
    words: impl IntoIterator<Item = OsString>,
    takes_value: impl Fn(&str) -> bool,
) -> Vec<OsString> {
    let mut words = words.into_iter();
    // The program and the subcommand.
    let mut joined: Vec<OsString> = words.by_ref().take(2).collect();
    let mut words = words.peekable();
    while let Some(word) = words.next() {
        let Some(text) = word
            .to_str()
            .filter(|text| text.starts_with('-') && *text != "-")
        else {
            joined.push(word);
            break;
        };
        if text == "--" {
            joined.push(word);
            break;
        }
        if text == OPTION {
            let ports = words.next_if(|next| looks_like_ports(next));
            let ports = ports.unwrap_or_else(|| OsString::from("all"));
            let mut whole = OsString::from(format!("{OPTION}="));
            whole.push(ports);
            joined.push(whole);
            continue;
        }
        let value_follows = takes_value(text);
        joined.push(word);
        if value_follows {
            joined.extend(words.next());
        }
    }
    joined.extend(words);
    joined
}

/// Digits, commas and hyphens, beginning with a digit: so that a mistake in a list of ports is told
/// as one, and not as a command that was not found.
fn looks_like_ports(word: &OsStr) -> bool {
    word.to_str().is_some_and(|text| {
        text == "all"
            || text.starts_with(|first: char| first.is_ascii_digit())
                && text
                    .chars()
                    .all(|c| c.is_ascii_digit() || c == ',' || c == '-')
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn join(line: &str) -> String {
        let takes_value = |option: &str| matches!(option, "--mtu" | "--dns");
        let words = line.split_whitespace().map(OsString::from);
        let joined = join_optional_values(words, takes_value);
        joined
            .iter()
            .map(|word| word.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn ports_are_taken_and_commands_are_not() {
        for (line, joined) in [
            (
                "t run --host-loopback 5201,8000-8010 curl",
                "t run --host-loopback=5201,8000-8010 curl",
            ),
            (
                "t run --host-loopback all curl",
                "t run --host-loopback=all curl",
            ),
            (
                "t run --host-loopback curl -s",
                "t run --host-loopback=all curl -s",
            ),
            (
                "t run --host-loopback 7z x",
                "t run --host-loopback=all 7z x",
            ),
            (
                "t run --host-loopback -- 80",
                "t run --host-loopback=all -- 80",
            ),
            (
                "t run --host-loopback -v curl",
                "t run --host-loopback=all -v curl",
            ),
            ("t run --host-loopback", "t run --host-loopback=all"),
            ("t run --host-loopback=22 80", "t run --host-loopback=22 80"),
            (
                "t run --mtu 1500 --host-loopback 80 x",
                "t run --mtu 1500 --host-loopback=80 x",
            ),
            // Wrong, and clearly meant as ports: the parser shall complain about it.
            (
                "t run --host-loopback 99999 x",
                "t run --host-loopback=99999 x",
            ),
        ] {
            assert_eq!(join(line), joined);
        }
    }

    #[test]
    fn the_command_and_values_of_other_options_are_left_alone() {
        for line in [
            "t run prog --host-loopback 80",
            "t run -- prog --host-loopback 80",
            "t run --dns --host-loopback 80",
            "t run --mtu=9 prog --host-loopback 80",
            "t run - --host-loopback 80",
            "t",
            "t run",
        ] {
            assert_eq!(join(line), line);
        }
    }

    proptest! {
        #[test]
        fn words_are_neither_lost_nor_invented(words in prop::collection::vec("[-a-z0-9=,]{0,9}", 0..9)) {
            let before: String = words.concat();
            let joined = join_optional_values(words.iter().map(OsString::from), |_| false);
            let after: String = joined.iter().map(|word| word.to_string_lossy()).collect();
            if !words.iter().any(|word| word == OPTION) {
                prop_assert_eq!(before, after);
            }
        }
    }
}
