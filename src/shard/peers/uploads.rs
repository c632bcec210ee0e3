//! Blobs whose data is on this node's disk and about which it has not voted, or may be asked to vote again.
//!
//! In memory only: a crash leaves files that the sweep removes, after it has refused every try of the blob.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::base::ids::BlobId;
use crate::base::slot::Slot;
use crate::limits::{UPLOAD_KEEP, UPLOADS_MAX};
use crate::meta::replica::Uploaded;

#[derive(Debug)]
struct Entry {
    slot: Slot,
    data: Arc<Uploaded>,
    since: Instant,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Uploads(Mutex<HashMap<BlobId, Entry>>);

impl Uploads {
    /// Keeps the data of a blob; false: there are too many.
    pub(super) fn insert(&self, slot: Slot, data: Arc<Uploaded>) -> bool {
        let mut uploads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if uploads.len() >= UPLOADS_MAX {
            return false;
        }
        uploads.insert(data.blob_id, Entry { slot, data, since: Instant::now() });
        true
    }

    /// The data of a blob.
    pub(super) fn get(&self, blob: BlobId) -> Option<Arc<Uploaded>> {
        let uploads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        uploads.get(&blob).map(|entry| Arc::clone(&entry.data))
    }

    /// Forgets the data of a blob; whether it was here.
    pub(super) fn remove(&self, blob: BlobId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&blob).is_some()
    }

    /// Takes out what has waited for too long.
    pub(super) fn take_expired(&self) -> Vec<(Slot, BlobId)> {
        let mut uploads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let old = uploads.extract_if(|_, entry| entry.since.elapsed() > UPLOAD_KEEP);
        old.map(|(blob, entry)| (entry.slot, blob)).collect()
    }
}
