//! What a crash can leave of uploads: directories of blobs that no row names, and files in them that no version names.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::layout;
use crate::base::ids::BlobId;
use crate::io::steps;

/// The blobs that uploads of this process are working on. A blob is in it before its directory exists and until it
/// is committed or discarded, so a directory whose blob is not in it, and then has no row, is an orphan.
#[derive(Clone, Debug, Default)]
pub struct LiveUploads(Arc<Mutex<HashSet<BlobId>>>);

impl LiveUploads {
    /// Enters a blob; false: it was in it.
    pub fn insert(&self, blob: BlobId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(blob)
    }

    /// Removes a blob.
    pub fn remove(&self, blob: BlobId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&blob);
    }

    /// Whether an upload is working on a blob.
    pub fn contains(&self, blob: BlobId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&blob)
    }
}

/// The blobs that have a directory in a slot; anything else that lies there is left alone.
///
/// # Errors
/// Those of readdir(3); a slot without a directory has no blobs.
pub fn blobs_on_disk(slot_dir: &Path) -> io::Result<Vec<BlobId>> {
    let entries = match std::fs::read_dir(layout::blobs_dir(slot_dir)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut blobs = Vec::new();
    for entry in entries {
        blobs.extend(entry?.file_name().to_str().and_then(|name| name.parse::<BlobId>().ok()));
    }
    Ok(blobs)
}

/// The files among a blob's chunks, by their names.
///
/// # Errors
/// Those of readdir(3); a blob without a directory has none.
pub fn files_of(slot_dir: &Path, blob: BlobId) -> io::Result<Vec<OsString>> {
    match std::fs::read_dir(layout::chunks_dir(slot_dir, blob)) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Removes a file among a blob's chunks; false: it was not there.
///
/// # Errors
/// Those of unlink(2) and fsync(2).
pub fn remove_file(slot_dir: &Path, blob: BlobId, name: &OsStr) -> io::Result<bool> {
    let dir = layout::chunks_dir(slot_dir, blob);
    match std::fs::remove_file(dir.join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        removed => removed.and_then(|()| steps::sync_dir(&dir)).map(|()| true),
    }
}
