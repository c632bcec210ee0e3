//! What a crash can leave of uploads: directories of blobs that no row names.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::layout;
use crate::base::ids::BlobId;

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
