//! Where things lie on a disk:
//!
//! ```text
//! <disk>/amberblob.json                               the disk's identity
//! <disk>/index.sqlite3                                listing index, derived
//! <disk>/scrub.json                                   where the scrub is
//! <disk>/quarantine/<blob_id>-<sha256>                damaged chunks that were repaired
//! <disk>/slots/<slot>/meta.sqlite3                    metadata
//! <disk>/slots/<slot>/blobs/<blob_id>/chunks/<sha256> chunks
//! ```

use std::path::{Path, PathBuf};

use crate::base::ids::{BlobId, ChunkId};
use crate::base::slot::Slot;

/// Where the scrub of the disk at `root` is.
pub fn scrub_file(root: &Path) -> PathBuf {
    root.join("scrub.json")
}

/// Directory of damaged chunks that were repaired.
pub fn quarantine_dir(root: &Path) -> PathBuf {
    root.join("quarantine")
}

/// Directory of all slots of the disk at `root`.
pub fn slots_dir(root: &Path) -> PathBuf {
    root.join("slots")
}

/// Directory of a slot.
pub fn slot_dir(root: &Path, slot: Slot) -> PathBuf {
    slots_dir(root).join(slot.to_string())
}

/// Directory of a slot's blobs.
pub fn blobs_dir(slot_dir: &Path) -> PathBuf {
    slot_dir.join("blobs")
}

/// Directory of a blob.
pub fn blob_dir(slot_dir: &Path, blob: BlobId) -> PathBuf {
    blobs_dir(slot_dir).join(blob.to_string())
}

/// Directory of a blob's chunks.
pub fn chunks_dir(slot_dir: &Path, blob: BlobId) -> PathBuf {
    blob_dir(slot_dir, blob).join("chunks")
}

/// A chunk's file.
pub fn chunk_file(slot_dir: &Path, blob: BlobId, chunk: ChunkId) -> PathBuf {
    chunks_dir(slot_dir, blob).join(chunk.to_string())
}

/// The file of chunk number `index` while its hash is not known.
pub fn temporary_file(slot_dir: &Path, blob: BlobId, index: usize) -> PathBuf {
    chunks_dir(slot_dir, blob).join(format!("{index}.tmp"))
}

/// The file of chunk number `number` while it is repaired.
pub fn repaired_file(slot_dir: &Path, blob: BlobId, number: u64) -> PathBuf {
    chunks_dir(slot_dir, blob).join(format!("{number}.repair.tmp"))
}
