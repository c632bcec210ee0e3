//! A chunk that is written anew beside its damaged file, and takes the name from it.
//!
//! Order: data written and synced, the damaged file put into quarantine, the new one renamed, directories synced. Only bytes
//! with the chunk's SHA-256 take the name. A crash in between leaves the chunk missing, which is damage again, or a temporary
//! file, which the next repair removes. Whatever fails leaves the damaged file where it was.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::disk::Disk;
use super::layout;
use super::write::{ChunkFile, Finish, discard_file};
use crate::base::hashes::Hashes;
use crate::base::ids::{BlobId, ChunkId};
use crate::io::buffer::{Buffer, Shared};
use crate::io::file::on_storage_thread;
use crate::io::hashing::{Hasher, Hashing};
use crate::limits::{DIRECT_ALIGN, GRANULE_SIZE, WRITES_IN_FLIGHT};

/// A chunk by its place.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its slot's directory.
    pub slot_dir: PathBuf,
    /// Its blob.
    pub blob: BlobId,
    /// Its number.
    pub number: u64,
    /// Its name.
    pub chunk: ChunkId,
    /// Its length in bytes.
    pub len: u64,
}

/// A chunk that is written anew.
pub struct Mending {
    disk: Arc<Disk>,
    place: Place,
    file: ChunkFile,
    hasher: Hasher,
    written: u64,
    /// The last bytes, which do not fill a granule.
    tail: Vec<u8>,
}

impl Place {
    /// Its file.
    pub fn file(&self) -> PathBuf {
        layout::chunk_file(&self.slot_dir, self.blob, self.chunk)
    }

    fn temporary(&self) -> PathBuf {
        layout::repaired_file(&self.slot_dir, self.blob, self.number)
    }
}

impl Mending {
    /// Begins; what a repair that was cut off has left goes.
    ///
    /// # Errors
    /// Those of the file steps; `ENOSPC`.
    pub async fn begin(disk: Arc<Disk>, place: Place, hashing: Hashing) -> io::Result<Self> {
        let (left, path) = (place.temporary(), place.temporary());
        on_storage_thread(move || discard_file(&left)).await?;
        let dir = layout::chunks_dir(&place.slot_dir, place.blob);
        let file = ChunkFile::create(Arc::clone(&disk), Some(dir), path, place.len, place.len).await?;
        let hasher = Hasher::new(hashing, Hashes::new(false));
        Ok(Self { disk, place, file, hasher, written: 0, tail: Vec::new() })
    }

    /// Takes the next bytes: whole granules, unless they are the last.
    ///
    /// # Errors
    /// Those of the writes.
    pub async fn write(&mut self, mut buffer: Buffer) -> io::Result<()> {
        let len = buffer.len();
        let granules = len - len % GRANULE_SIZE as usize;
        self.tail = buffer[granules..].to_vec();
        if self.disk.direct() {
            buffer.pad(DIRECT_ALIGN);
        }
        let buffer = Shared::new(buffer);
        self.file.write(buffer.clone(), self.written);
        self.written += len as u64;
        self.hasher.update(buffer, granules).await?;
        self.file.drain(WRITES_IN_FLIGHT).await.map(drop)
    }

    /// Ends; false: the bytes are not the chunk's, and nothing has changed.
    ///
    /// # Errors
    /// Those of the writes and the file steps.
    pub async fn finish(mut self, synced: bool) -> io::Result<bool> {
        let is_it = self.is_it().await?;
        self.file.drain(0).await?;
        if !is_it {
            self.discard().await;
            return Ok(false);
        }
        let Self { disk, place, file, .. } = self;
        let quarantine = layout::quarantine_dir(disk.root());
        let aside = quarantine.join(format!("{}-{}", place.blob, place.chunk));
        let directories = if synced {
            vec![
                quarantine,
                layout::chunks_dir(&place.slot_dir, place.blob),
                layout::blob_dir(&place.slot_dir, place.blob),
                layout::blobs_dir(&place.slot_dir),
                place.slot_dir.clone(),
            ]
        } else {
            Vec::new()
        };
        let finish = Finish { len: place.len, named: place.file(), synced, aside: Some(aside), directories };
        file.finish(finish).outcome().await.map(|()| true)
    }

    /// Whether all the bytes that it got are the chunk's.
    async fn is_it(&mut self) -> io::Result<bool> {
        let ended = self.hasher.settle().await?.end_chunk(&self.tail);
        Ok(ChunkId(ended.id) == self.place.chunk && self.written == self.place.len)
    }

    /// Gives it up; whether its bytes were the chunk's.
    ///
    /// # Errors
    /// When they could not be hashed.
    pub async fn discard_checked(mut self) -> io::Result<bool> {
        let is_it = self.is_it().await;
        self.discard().await;
        is_it
    }

    /// Gives it up.
    pub async fn discard(mut self) {
        // It has failed anyway.
        let _ = self.hasher.settle().await;
        while self.file.drain(0).await.is_err() {}
        let path = self.place.temporary();
        let _ = on_storage_thread(move || discard_file(&path)).await;
    }
}

/// Removes a chunk that was written anew for a version that went meanwhile, and its directories if they are empty.
pub fn withdraw(place: &Place) {
    // What is left is the sweep's.
    let _ = fs::remove_file(place.file());
    let _ = fs::remove_dir(layout::chunks_dir(&place.slot_dir, place.blob));
    let _ = fs::remove_dir(layout::blob_dir(&place.slot_dir, place.blob));
}

/// What is in the quarantine of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quarantined {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Removes the files that have been in a disk's quarantine for longer than `keep`; says what is left. Blocks.
///
/// # Errors
/// Those of readdir(3) and unlink(2).
pub fn empty_quarantine(root: &Path, keep: Duration) -> io::Result<Quarantined> {
    let entries = match fs::read_dir(layout::quarantine_dir(root)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Quarantined::default()),
        Err(error) => return Err(error),
    };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut left = Quarantined::default();
    for entry in entries {
        let entry = entry?;
        let metadata = entry.metadata()?;
        // The time of its last change is that of its renaming.
        let since = Duration::from_secs(metadata.ctime().try_into().unwrap_or(0));
        if now.saturating_sub(since) >= keep {
            discard_file(&entry.path())?;
        } else {
            left.files += 1;
            left.bytes += metadata.len();
        }
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_quarantine_stays_for_its_time_and_is_counted() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path();
        let empty = |keep| empty_quarantine(root, keep).unwrap();
        assert_eq!(empty(Duration::ZERO), Quarantined::default(), "there is none");
        fs::create_dir(layout::quarantine_dir(root)).unwrap();
        fs::write(layout::quarantine_dir(root).join("damaged"), [7; 100]).unwrap();
        assert_eq!(empty(Duration::from_hours(1)), Quarantined { files: 1, bytes: 100 });
        assert_eq!(empty(Duration::ZERO), Quarantined::default());
        assert_eq!(fs::read_dir(layout::quarantine_dir(root)).unwrap().count(), 0);
    }
}
