//! What replicas tell each other of the archive: where chunks are, which objects nobody may name again, and orders of operators.

use serde::{Deserialize, Serialize};

use crate::base::ids::{BlobId, ChunkId};
use crate::limits::{ARCHIVE_TARGET_MAX, NUMBER_MAX};

/// Where the archive has a chunk of a version.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ArchiveRow {
    /// The version's number.
    pub version: u64,
    /// The blob that it is.
    pub blob: BlobId,
    /// The chunk; equal ones of a blob have one row.
    pub chunk: ChunkId,
    /// Bytes.
    pub length: u64,
    /// The object, `s3://<bucket>/<key>`.
    pub target: String,
    /// The chunk's first byte in the object.
    pub start: u64,
    /// The byte behind its last one.
    pub end: u64,
    /// How often it was stored under another key.
    pub generation: u64,
}

impl ArchiveRow {
    /// Whether it takes the other one's place, wherever both are known: by generation, then by object.
    pub fn succeeds(&self, other: &Self) -> bool {
        (self.generation, &self.target) > (other.generation, &other.target)
    }

    /// Whether it can be one: what a peer says is believed only so far.
    pub fn is_sound(&self) -> bool {
        self.end.checked_sub(self.start) == Some(self.length)
            && self.end <= NUMBER_MAX
            && self.generation < NUMBER_MAX
            && self.target.len() <= ARCHIVE_TARGET_MAX
    }
}

/// What a replica is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Request {
    /// To hold these rows.
    Rows {
        /// The path that their versions are of.
        path: String,
        /// The rows.
        rows: Vec<ArchiveRow>,
    },
    /// Never to hold a row that names one of these objects.
    Condemn {
        /// A path of their slot.
        path: String,
        /// The objects.
        targets: Vec<String>,
    },
}

impl Request {
    /// A path of the slot it is about.
    pub fn path(&self) -> &str {
        match self {
            Self::Rows { path, .. } | Self::Condemn { path, .. } => path,
        }
    }
}

/// What a replica says of a row.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Heard {
    /// What it holds now: the row it was told, or one that succeeds it.
    Row(ArchiveRow),
    /// It knows no such version.
    Lacking,
    /// The version is tombstoned.
    Gone,
    /// It will never hold a row that names the object.
    Condemned,
}

/// What a replica answers. What a recovering one says does not count.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Reply {
    /// To `Rows`.
    Rows {
        /// In their order.
        heard: Vec<Heard>,
        /// Whether it counts.
        counts: bool,
    },
    /// To `Condemn`.
    Condemned {
        /// In the order of the objects; false: a row of a live version names it.
        condemned: Vec<bool>,
        /// Whether it counts.
        counts: bool,
    },
}

/// What an operator has asked another node for; who hears of it does its own part, and reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// The chunks of a version go to the store, and their files go.
    Archive {
        /// Its path.
        path: String,
        /// Which; none: the newest.
        version: Option<u64>,
    },
    /// The chunks of a version come back.
    Restore {
        /// Its path.
        path: String,
        /// Which; none: the newest.
        version: Option<u64>,
    },
    /// The chunks of the newest versions of all paths that begin so come back.
    RestorePrefix {
        /// What they begin with.
        prefix: String,
    },
}

/// What came of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ordered {
    /// The report, as JSON.
    Done(String),
    /// There is no such version here.
    Missing(String),
    /// Why there is no report.
    Failed(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(generation: u64, target: &str) -> ArchiveRow {
        let (blob, chunk) = (BlobId::from_u128(1), ChunkId([2; 32]));
        ArchiveRow {
            version: 1,
            blob,
            chunk,
            length: 9,
            target: target.to_owned(),
            start: 0,
            end: 9,
            generation,
        }
    }

    #[test]
    fn what_can_be_no_row_is_recognised() {
        assert!(row(1, "s3://b/a").is_sound());
        let long = "s".repeat(ARCHIVE_TARGET_MAX + 1);
        for bad in [
            ArchiveRow { start: 10, ..row(1, "s3://b/a") },
            ArchiveRow { end: 10, ..row(1, "s3://b/a") },
            ArchiveRow { start: u64::MAX - 9, end: u64::MAX, ..row(1, "s3://b/a") },
            row(NUMBER_MAX, "s3://b/a"),
            row(1, &long),
        ] {
            assert!(!bad.is_sound(), "{bad:?}");
        }
    }

    #[test]
    fn of_two_rows_that_differ_just_one_succeeds_the_other() {
        let ordered = [row(1, "s3://b/a"), row(1, "s3://b/b"), row(2, "s3://b/a")];
        for (at, lower) in ordered.iter().enumerate() {
            assert!(!lower.succeeds(lower));
            for higher in &ordered[at + 1..] {
                assert!(higher.succeeds(lower) && !lower.succeeds(higher));
            }
        }
    }
}
