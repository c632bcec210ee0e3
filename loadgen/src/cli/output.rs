//! Where reports go.
//!
//! At most one kind goes to standard output, in place of the summary for people. A path that cannot be written is refused before the run,
//! not after it.

use clap::Args;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Files to write.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Output {
    /// Write the report as JSON, raw histograms included, to a file, or with - to standard output instead of the summary
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write the figures as CSV, one line for each run, or with - to standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) csv: Option<PathBuf>,
    /// Write the time series as CSV, one line for each second, or with - to standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) series_csv: Option<PathBuf>,
    /// Write a page with plots, complete in one file
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

impl Output {
    /// Refuses what could not be written.
    pub(super) fn check(&self) -> Result<(), String> {
        let files = [
            ("--json", &self.json),
            ("--csv", &self.csv),
            ("--series-csv", &self.series_csv),
            ("--html", &self.html),
        ];
        let mut on_stdout = None;
        for (option, file) in files {
            let Some(file) = file else { continue };
            if is_stdout(file) {
                if let Some(other) = on_stdout.replace(option) {
                    return Err(format!(
                        "{other} - and {option} - cannot both go to standard output: name a file"
                    ));
                }
                continue;
            }
            let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
            let folder = parent.unwrap_or(Path::new("."));
            if !folder.is_dir() {
                return Err(format!(
                    "{option} {}: there is no directory {}: make it first",
                    file.display(),
                    folder.display()
                ));
            }
            if file.is_dir() {
                return Err(format!("{option} {}: is a directory: name a file in it", file.display()));
            }
        }
        Ok(())
    }

    /// Whether standard output is taken by one of the files.
    pub(crate) fn takes_stdout(&self) -> bool {
        [&self.json, &self.csv, &self.series_csv, &self.html]
            .into_iter()
            .flatten()
            .any(|file| is_stdout(file))
    }
}

/// Writes `text` to a file, or to standard output for `-`.
pub(crate) fn write(file: &Path, text: &str) -> Result<(), String> {
    if is_stdout(file) {
        return print(text);
    }
    std::fs::write(file, text).map_err(|error| format!("cannot write {}: {error}", file.display()))
}

/// Writes `text` to standard output.
pub(crate) fn print(text: &str) -> Result<(), String> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| format!("cannot write to standard output: {error}"))
}

fn is_stdout(file: &Path) -> bool {
    file == Path::new("-")
}
