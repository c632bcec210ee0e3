//! Asks a node, through its admin listener, to do something now, and waits for the outcome.

use std::fmt::Write as _;

use hyper::Method;
use percent_encoding::utf8_percent_encode;
use serde_json::Value;

use super::http::{self, Answer};
use super::link::PLAIN;
use super::{archive, runtime};

/// What a node can be asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Read every chunk, compare it with its hash, and repair what is damaged.
    Scrub,
    /// Compare all replicas with those of the other nodes, and fetch what is lacking.
    Sync,
    /// Move the chunks of a version to the archive.
    Archive {
        /// Its path.
        path: String,
        /// Which; none: the newest.
        version: Option<u64>,
    },
    /// Tell how the archive is, and what is being moved.
    ArchiveStatus,
    /// Compare what is archived with what is in the store.
    ArchiveCheck,
    /// Bring the chunks of a version back.
    Restore {
        /// Its path.
        path: String,
        /// Which; none: the newest.
        version: Option<u64>,
    },
    /// Bring the chunks of the newest versions back whose paths begin so.
    RestorePrefix {
        /// What they begin with.
        prefix: String,
    },
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
    const fn name(&self) -> &'static str {
        match self {
            Self::Scrub => "scrub",
            Self::Sync => "sync",
            Self::Archive { .. } | Self::ArchiveStatus | Self::ArchiveCheck => "archive",
            Self::Restore { .. } | Self::RestorePrefix { .. } => "restore",
        }
    }

    /// How it is asked for.
    fn request(&self) -> (Method, String) {
        let name = self.name();
        let of_version = |path: &str, version: Option<u64>| {
            let query = version.map_or_else(String::new, |version| format!("?version={version}"));
            format!("/{name}/{}{query}", utf8_percent_encode(path, &PLAIN))
        };
        match self {
            Self::Scrub | Self::Sync => (Method::POST, format!("/{name}")),
            Self::ArchiveStatus => (Method::GET, format!("/{name}")),
            Self::ArchiveCheck => (Method::POST, format!("/{name}?check")),
            Self::Archive { path, version } | Self::Restore { path, version } => {
                (Method::POST, of_version(path, *version))
            }
            Self::RestorePrefix { prefix } => (Method::POST, format!("{}?prefix", of_version(prefix, None))),
        }
    }

    fn describe(&self, report: &Value) -> String {
        match self {
            Self::Scrub => scrubbed(report),
            Self::Sync => synced(report),
            Self::Archive { .. } => archive::archived(report),
            Self::ArchiveStatus => archive::status(report),
            Self::ArchiveCheck => archive::checked(report),
            Self::Restore { .. } | Self::RestorePrefix { .. } => archive::restored(report),
        }
    }
}

/// Has the node behind `admin` do it.
///
/// # Errors
/// One line: the thing, the cause, the way out.
pub fn ask(operation: &Operation, admin: &str) -> Result<Report, String> {
    let name = operation.name();
    let authority = http::authority(admin, "an admin listener", "http://127.0.0.1:8081")
        .map_err(|error| format!("{name}: {error}"))?;
    let runtime = runtime().map_err(|why| format!("{name}: {why}"))?;
    let (method, path) = operation.request();
    let answer = runtime.block_on(http::ask(method, &authority, &path));
    let Answer { status, body } = answer.map_err(|error| {
        format!(
            "{name}: the node's admin listener at {admin} cannot be asked: {error}: start the node, or name its \
             admin listener with --admin URL or AMBERBLOB_ADMIN"
        )
    })?;
    // A report that is no success is still one.
    if !status.is_success() && body.get("good").is_none() {
        let message = body.pointer("/error/message").and_then(Value::as_str).unwrap_or("see the node's log");
        return Err(format!("{name}: the node at {admin} refuses ({status}): {message}"));
    }
    let good = body.get("good").and_then(Value::as_bool).unwrap_or(false);
    Ok(Report { line: format!("{name}: {}", operation.describe(&body)), json: body, good })
}

fn synced(report: &Value) -> String {
    let number = |name: &str| report.get(name).and_then(Value::as_u64).unwrap_or(0);
    let names = |name: &str| {
        let names = report.get(name).and_then(Value::as_array).into_iter().flatten();
        names.filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
    };
    let mut line = format!(
        "compared with {}; {} slots differed; {} versions, {} tombstones taken over, {} bytes fetched",
        Some(names("compared"))
            .filter(|names| !names.is_empty())
            .unwrap_or_else(|| "no other node".to_owned()),
        number("differed"),
        number("versions"),
        number("tombstones"),
        number("bytes"),
    );
    let silent = names("silent");
    if !silent.is_empty() {
        // Writing to a String cannot fail.
        let _ = write!(line, "; no answer from {silent}: start them, and ask again");
    }
    if number("lacking") > 0 {
        let _ = write!(
            line,
            "; {} versions still lack their chunks: no node that answers has them",
            number("lacking")
        );
    }
    if number("unsure") > 0 {
        let _ = write!(line, "; {} slots could not be compared: see /readyz of the nodes", number("unsure"));
    }
    line
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_asked_for_by_its_page() {
        let path = "a/b c?é".to_owned();
        let encoded = "a/b%20c%3F%C3%A9";
        for (operation, method, target) in [
            (Operation::Scrub, Method::POST, "/scrub".to_owned()),
            (Operation::ArchiveStatus, Method::GET, "/archive".to_owned()),
            (Operation::ArchiveCheck, Method::POST, "/archive?check".to_owned()),
            (
                Operation::Archive { path: path.clone(), version: None },
                Method::POST,
                format!("/archive/{encoded}"),
            ),
            (
                Operation::Restore { path: path.clone(), version: Some(7) },
                Method::POST,
                format!("/restore/{encoded}?version=7"),
            ),
            (
                Operation::RestorePrefix { prefix: path.clone() },
                Method::POST,
                format!("/restore/{encoded}?prefix"),
            ),
            (Operation::RestorePrefix { prefix: String::new() }, Method::POST, "/restore/?prefix".to_owned()),
        ] {
            assert_eq!(operation.request(), (method, target), "{operation:?}");
        }
    }
}
