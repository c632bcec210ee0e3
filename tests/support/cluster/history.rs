//! What clients asked, what they were told, and when.
//!
//! Two operations are in order if one was answered before the other was asked; else they are concurrent and either may have
//! come first. A write whose answer is missing, or is 503, may take effect at any time after it was asked, or never.

use std::fmt;

use super::ledger::Blob;

/// Nanoseconds since the run began, on one clock for all clients.
pub type Moment = u64;

/// The answer never came.
pub const NEVER: Moment = u64::MAX;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    Always,
    /// `If-None-Match: *`
    Absent,
    /// `If-Match` with the tag of a blob_id.
    Match(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    Newest,
    Version(u64),
    All,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    Put { version: Option<u64>, condition: Condition, blob: Blob },
    Get { version: Option<u64>, head: bool },
    Delete { which: Which, condition: Condition },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    Stored {
        version: u64,
        blob_id: String,
        created: bool,
    },
    /// `seed` is that of the bytes, if there were any and they are a whole blob.
    Read {
        version: u64,
        blob_id: String,
        size: u64,
        seed: Option<u64>,
    },
    Deleted {
        version: u64,
    },
    /// 404, 409, 412, 507: it did not happen.
    Refused(u16),
    /// No answer, not all of one, or 503: a read says nothing, a write may happen.
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Op {
    pub path: String,
    pub client: usize,
    pub node: usize,
    pub ask: Ask,
    pub asked: Moment,
    pub told: Told,
    /// [`NEVER`] for an unknown outcome.
    pub answered: Moment,
}

impl Op {
    /// Whether this ended before `other` began.
    pub fn before(&self, other: &Op) -> bool {
        self.answered < other.asked
    }

    /// The version that the answer shows to be there: stored or read, not deleted.
    pub fn shows(&self) -> Option<(u64, &str, u64)> {
        match (&self.ask, &self.told) {
            (Ask::Put { blob, .. }, Told::Stored { version, blob_id, .. }) => {
                Some((*version, blob_id, blob.len as u64))
            }
            (_, Told::Read { version, blob_id, size, .. }) => Some((*version, blob_id, *size)),
            _ => None,
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |moment: Moment| match moment {
            NEVER => format!("{:>10}", "..."),
            moment => format!("{:>10.3}", moment as f64 / 1e6),
        };
        write!(
            out,
            "{} - {} ms  client {:>2} node {}  ",
            ms(self.asked),
            ms(self.answered),
            self.client,
            self.node + 1
        )?;
        let condition = |condition: &Condition| match condition {
            Condition::Always => String::new(),
            Condition::Absent => " If-None-Match:*".to_owned(),
            Condition::Match(tag) => format!(" If-Match:{}", short(tag)),
        };
        match &self.ask {
            Ask::Put { version, condition: when, blob } => {
                let version = version.map_or_else(String::new, |version| format!("?version={version}"));
                write!(out, "PUT{version}{} #{}", condition(when), blob.len)?;
            }
            Ask::Get { version, head } => {
                let version = version.map_or_else(String::new, |version| format!("?version={version}"));
                write!(out, "{}{version}", if *head { "HEAD" } else { "GET" })?;
            }
            Ask::Delete { which, condition: when } => {
                let which = match which {
                    Which::Newest => String::new(),
                    Which::Version(version) => format!("?version={version}"),
                    Which::All => "?versions".to_owned(),
                };
                write!(out, "DELETE{which}{}", condition(when))?;
            }
        }
        match &self.told {
            Told::Stored { version, blob_id, created } => {
                write!(out, " -> {} v{version} {}", if *created { 201 } else { 200 }, short(blob_id))
            }
            Told::Read { version, blob_id, size, .. } => {
                write!(out, " -> 200 v{version} {} #{size}", short(blob_id))
            }
            Told::Deleted { version } => write!(out, " -> 200 v{version} deleted"),
            Told::Refused(status) => write!(out, " -> {status}"),
            Told::Unknown => write!(out, " -> unknown"),
        }
    }
}

/// The end of a ULID: its beginning is the time, and nearly the same for all.
fn short(blob_id: &str) -> &str {
    blob_id.get(blob_id.len().saturating_sub(8)..).unwrap_or(blob_id)
}
