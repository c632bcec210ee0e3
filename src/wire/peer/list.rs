//! Listing over all nodes: what each one knows of some stretch of the paths.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Only paths that begin so.
    pub prefix: String,
    /// Paths that have this after the prefix are rolled up.
    pub delimiter: Option<String>,
    /// Where to begin.
    pub from: Vec<u8>,
    /// Lines at most, but for one more.
    pub limit: u32,
    /// Whether paths of which the newest version is a tombstone are rolled up too.
    pub include_tombstoned: bool,
}

/// A path or a common prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Where its text ends in all of them; it begins where the one before ends.
    pub key_end: u32,
    /// Where its JSON ends; that of a common prefix is empty.
    pub json_end: u32,
    /// The newest version of the path.
    pub version: u64,
    /// Whether that one is a tombstone.
    pub tombstone: bool,
}

/// Lines in byte order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lines {
    /// Their texts.
    pub keys: String,
    /// Their JSON.
    pub json: Bytes,
    /// The lines.
    pub lines: Vec<Line>,
    /// Where the listing goes on; none: this was the end.
    pub next: Option<Vec<u8>>,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Listed {
    /// Tombstones among the paths.
    Lines {
        /// The lines.
        lines: Lines,
        /// Slots of which this node is a replica and cannot vouch for what it knows.
        unsure: Vec<u16>,
    },
    /// Not now: the reason.
    No(String),
}
