//! Results as files that programs read.

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::failure::{Context, Outcome};

/// Writes `results` to the file at `path`, in place of what was there.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn write(path: &Path, results: &impl Serialize) -> Outcome<()> {
    let json = serde_json::to_string_pretty(results).doing("write the results as JSON")?;
    fs::write(path, json).doing(format_args!("write {}", path.display()))
}
