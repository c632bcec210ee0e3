//! What the metadata threads are asked and what they answer.

use futures_channel::oneshot;

use crate::base::clock::Timestamp;
use crate::base::error::{Error, Result};
use crate::base::ids::{BlobId, ChunkId};
use crate::base::parts::Parts;
use crate::limits::{CHUNK_SIZE, PART_SIZE};
use crate::wire::condition::Conditions;

/// Where an answer goes; a question whose asker is gone is answered into the void.
pub type Reply<T> = oneshot::Sender<Result<T>>;

/// The row number of a version in its slot; its parts are numbered below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Row(pub i64);

/// A blob whose chunks are on disk, to be made visible by one commit.
#[derive(Debug)]
pub struct NewBlob {
    /// Its path.
    pub path: String,
    /// The version asked for; else the highest ever + 1.
    pub version: Option<u64>,
    /// Its identity.
    pub blob_id: BlobId,
    /// Bytes.
    pub size: u64,
    /// All chunks in order.
    pub chunks: Vec<ChunkId>,
    /// Parts that were not staged before.
    pub parts: Parts,
    /// The row under which earlier parts were staged.
    pub staged: Option<Row>,
    /// Stored header fields, opaque here.
    pub headers: String,
    /// Conditions of the request, judged in the same transaction.
    pub conditions: Conditions,
}

impl NewBlob {
    /// Whether it just becomes the next version of its path, whatever is there.
    pub(super) fn is_plain(&self) -> bool {
        self.version.is_none() && self.conditions.is_empty() && self.staged.is_none()
    }
}

/// One version of a path, tombstoned or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobMeta {
    /// Its row.
    pub row: Row,
    /// Version number.
    pub version: u64,
    /// Identity.
    pub blob_id: BlobId,
    /// Bytes.
    pub size: u64,
    /// When it was committed.
    pub created_at: Timestamp,
    /// When it was deleted.
    pub tombstoned_at: Option<Timestamp>,
    /// Stored header fields, opaque here.
    pub headers: String,
    /// Whether its chunks are not here but on other replicas.
    pub hollow: bool,
}

impl BlobMeta {
    /// Parts of the blob.
    pub fn parts(&self) -> u64 {
        self.size.div_ceil(PART_SIZE)
    }

    /// Chunks of the blob.
    pub fn chunks(&self) -> u64 {
        self.size.div_ceil(CHUNK_SIZE)
    }
}

/// Outcome of a PUT.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The version that now holds the bytes.
    pub record: BlobMeta,
    /// False when the same version with the same bytes was there before.
    pub created: bool,
}

/// Which versions a DELETE names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The newest.
    Newest,
    /// This one.
    Version(u64),
    /// Every live one.
    All,
}

/// A row of the listing index: the newest version of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The path.
    pub path: String,
    /// Its newest version.
    pub version: u64,
    /// Identity of that version.
    pub blob_id: String,
    /// Bytes.
    pub size: u64,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339, when that version is a tombstone.
    pub tombstoned_at: Option<String>,
}

/// An error of the metadata layer: the request's own, or the database's.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The request is refused; nothing is wrong with the database.
    #[error(transparent)]
    Refused(#[from] Error),
    /// SQLite failed.
    #[error(transparent)]
    Sql(#[from] rusqlite::Error),
}
