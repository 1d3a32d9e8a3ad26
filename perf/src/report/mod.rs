//! What people read of a comparison: tables in the terminal, a page with plots, and what changed
//! since an earlier comparison.

mod against;
mod html;
mod notes;
mod plot;
mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub(crate) use self::against::Changes;
pub(crate) use self::html::to_html;
pub(crate) use self::table::to_text;
use crate::failure::{Context, Outcome};
use crate::results::Report;

/// Options of `report`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The results.json of a comparison
    results: PathBuf,
    /// The results.json of an earlier comparison: shows what changed
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Where to write the page [default: report.html beside the results]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Makes tables and page again from results that were written before.
///
/// # Errors
/// A file cannot be read or written.
pub(crate) fn run(args: &Args) -> Outcome<ExitCode> {
    let report = read(&args.results)?;
    let old = args.against.as_deref().map(read).transpose()?;
    let changes = old.map(|old| Changes::between(&old, &report));
    print!("{}", to_text(&report));
    if let Some(changes) = &changes {
        print!("{}", changes.to_text());
    }
    let out = args.out.clone();
    let out = out.unwrap_or_else(|| args.results.with_file_name("report.html"));
    let page = to_html(&report, changes.as_ref())?;
    fs::write(&out, page).doing(format_args!("write {}", out.display()))?;
    println!("\nThe page is {}", out.display());
    Ok(ExitCode::SUCCESS)
}

/// Reads the results of a comparison.
///
/// # Errors
/// There is no such file, or it was not written by this version of the harness.
pub(crate) fn read(path: &Path) -> Outcome<Report> {
    let json = fs::read_to_string(path).doing(format_args!("read {}", path.display()))?;
    serde_json::from_str(&json).doing(format_args!(
        "{} does not hold the results of a comparison by this version",
        path.display()
    ))
}
