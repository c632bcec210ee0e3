//! Asks a node, through its admin listener, to do something now, and waits for the outcome.

use std::fmt::Write as _;

use serde_json::Value;

use super::http::{self, Answer};

/// What a node can be asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Read every chunk, compare it with its hash, and repair what is damaged.
    Scrub,
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// What the node reports.
    pub json: Value,
    /// The same for a person, in one line.
    pub line: String,
    /// Whether all is well now.
    pub good: bool,
}

impl Operation {
    const fn name(self) -> &'static str {
        match self {
            Self::Scrub => "scrub",
        }
    }

    fn describe(self, report: &Value) -> String {
        match self {
            Self::Scrub => scrubbed(report),
        }
    }
}

/// Has the node behind `admin` do it.
///
/// # Errors
/// One line: the thing, the cause, the way out.
pub fn ask(operation: Operation, admin: &str) -> Result<Report, String> {
    let name = operation.name();
    let authority = http::authority(admin).map_err(|error| format!("{name}: {error}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("{name}: cannot start: {error}"))?;
    let Answer { status, body } =
        runtime.block_on(http::post(&authority, &format!("/{name}"))).map_err(|error| {
            format!(
                "{name}: the node's admin listener at {admin} cannot be asked: {error}: start the node, or name its \
                 admin listener with --admin URL or AMBERBLOB_ADMIN"
            )
        })?;
    if !status.is_success() {
        let message = body.pointer("/error/message").and_then(Value::as_str).unwrap_or("see the node's log");
        return Err(format!("{name}: the node at {admin} refuses ({status}): {message}"));
    }
    let good = body.get("good").and_then(Value::as_bool).unwrap_or(false);
    Ok(Report { line: format!("{name}: {}", operation.describe(&body)), json: body, good })
}

fn scrubbed(report: &Value) -> String {
    let number = |name: &str| report.get(name).and_then(Value::as_u64).unwrap_or(0);
    let seconds = report.get("seconds").and_then(Value::as_f64).unwrap_or(0.0);
    let mut line = format!(
        "{} chunks, {} bytes checked in {seconds:.1} s; {} damaged, {} repaired",
        number("chunks"),
        number("bytes"),
        number("damaged"),
        number("repaired"),
    );
    if number("unrepaired") > 0 {
        // Writing to a String cannot fail.
        let _ = write!(line, ", {} not: see /readyz", number("unrepaired"));
    }
    if number("unchecked") > 0 {
        let _ = write!(line, "; {} slots could not be checked", number("unchecked"));
    }
    line
}
