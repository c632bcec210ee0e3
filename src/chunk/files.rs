//! The chunk files that a core has open for reading: opening one takes a storage thread and a walk through four
//! directories, and a random read of 64 KiB should not pay that every time.
//!
//! A chunk file never changes and its blob's name is never used again, so an open one is always right, unless it was damaged and is
//! replaced: then all are opened anew, and one that cannot be read is. Bounded in number; one that nobody reads is closed after a few seconds, because a file that was removed keeps its space until then.

use std::cell::{Cell, RefCell};
use std::io;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use lru::LruCache;

use crate::base::ids::BlobId;
use crate::io::file::{RingFile, on_storage_thread};
use crate::io::steps;
use crate::limits::OPEN_CHUNK_IDLE;

/// A chunk of a blob, by its number.
type Key = (BlobId, u64);

/// The open files of one core.
pub struct OpenFiles {
    files: RefCell<LruCache<Key, (RingFile, Instant)>>,
    /// Files that were replaced, all cores together, and how many of them are known here.
    replaced: Arc<AtomicU64>,
    seen: Cell<u64>,
}

impl OpenFiles {
    /// At most `most` files; `replaced` counts those that were replaced on the disk.
    pub fn new(most: usize, replaced: Arc<AtomicU64>) -> Self {
        let most = NonZeroUsize::new(most).unwrap_or(NonZeroUsize::MIN);
        Self { files: RefCell::new(LruCache::new(most)), replaced, seen: Cell::new(0) }
    }

    /// The file of chunk `number` of `blob`; `path` says where it is and whether the page cache is left out, when it
    /// must be opened.
    pub(super) async fn get(
        &self,
        blob: BlobId,
        number: u64,
        path: impl FnOnce() -> (PathBuf, bool),
    ) -> io::Result<RingFile> {
        let now = Instant::now();
        let replaced = self.replaced.load(Ordering::Acquire);
        if self.seen.replace(replaced) != replaced {
            self.files.borrow_mut().clear();
        }
        if let Some((file, used)) = self.files.borrow_mut().get_mut(&(blob, number)) {
            *used = now;
            return Ok(file.clone());
        }
        let (path, direct) = path();
        let file = RingFile::new(on_storage_thread(move || steps::open_file(&path, direct)).await?)?;
        // One that was opened before the last replacement may be the old one.
        if self.replaced.load(Ordering::Acquire) == replaced {
            self.files.borrow_mut().put((blob, number), (file.clone(), now));
        }
        Ok(file)
    }

    /// Closes the file of a chunk, so that the next read opens it anew.
    pub(super) fn forget(&self, blob: BlobId, number: u64) {
        self.files.borrow_mut().pop(&(blob, number));
    }

    /// Closes what nobody has read for a while.
    pub fn close_idle(&self) {
        let mut files = self.files.borrow_mut();
        while files.peek_lru().is_some_and(|(_, (_, used))| used.elapsed() > OPEN_CHUNK_IDLE) {
            files.pop_lru();
        }
    }
}
