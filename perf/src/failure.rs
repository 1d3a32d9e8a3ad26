//! The one error type of the harness: a sentence for the person who runs it.
//!
//! Nothing in the harness acts on the kind of an error; it ends the run, or stands in the table
//! beside the run.

use std::fmt;

/// Why something could not be done, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure(String);

/// A result whose error is a sentence.
pub(crate) type Outcome<T> = Result<T, Failure>;

impl Failure {
    /// A failure with this text.
    pub(crate) fn new(text: impl Into<String>) -> Failure {
        Failure(text.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Adds what was being done to an error.
pub(crate) trait Context<T> {
    /// Turns the error into a [`Failure`] that reads `doing: error`.
    fn doing(self, what: impl fmt::Display) -> Outcome<T>;
}

impl<T, E: fmt::Display> Context<T> for Result<T, E> {
    fn doing(self, what: impl fmt::Display) -> Outcome<T> {
        self.map_err(|error| Failure(format!("{what}: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_stands_before_the_cause() {
        let failed: Result<(), &str> = Err("no such file");
        assert_eq!(
            failed.doing("open x").unwrap_err().to_string(),
            "open x: no such file"
        );
    }
}
