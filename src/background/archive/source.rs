//! The file of a chunk, read part by part and compared with the checksums of its granules in the database.
//!
//! A part is passed on only after it was compared, so a damaged file never becomes a whole object. A part is in memory at most
//! three times over: being read, waiting, being sent.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::{Advice, fadvise};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::budget::Budget;
use crate::base::checksum::first_mismatch;
use crate::base::parts::Part;
use crate::limits::{GRANULE_SIZE, PART_SIZE};

/// The file of a chunk, and what it should have.
pub(super) struct Source {
    path: PathBuf,
    len: u64,
    parts: Vec<Part>,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// It is not there, or cannot be read.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It is short or long.
    #[error("it has {found} bytes instead of {expected}")]
    Length { found: u64, expected: u64 },
    /// A granule has another checksum.
    #[error("the checksum of the 16 KiB at byte {0} is wrong")]
    Sum(u64),
    /// It has other bytes than the chunk.
    #[error("its bytes have another SHA-256")]
    Hash,
}

impl Fault {
    /// Whether it is the file's, and not one of a process that has too much in hand.
    pub(super) fn is_damage(&self) -> bool {
        let Self::Io(error) = self else { return true };
        matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof)
            || error.raw_os_error() == Some(libc::EIO)
    }
}

impl Source {
    /// Of a chunk of `len` bytes with these parts.
    pub(super) fn new(path: PathBuf, len: u64, parts: Vec<Part>) -> Self {
        Self { path, len, parts }
    }

    /// Compares all of it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) async fn compare(&self) -> Result<(), Fault> {
        let file = self.open().await?;
        for number in 0..self.count() {
            self.part(&file, number).await?;
        }
        forget(&file);
        Ok(())
    }

    /// All of it; for small ones.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) async fn read(&self) -> Result<Vec<u8>, Fault> {
        let file = self.open().await?;
        let mut bytes = Vec::with_capacity(self.len as usize);
        for number in 0..self.count() {
            bytes.extend_from_slice(&self.part(&file, number).await?);
        }
        forget(&file);
        Ok(bytes)
    }

    /// Passes all of it on, as fast as the budget allows; false: nobody takes it any more.
    ///
    /// # Errors
    /// What is wrong with it, which ends what was passed on.
    pub(super) async fn feed(
        &self,
        to: mpsc::Sender<Result<Bytes, io::Error>>,
        budget: &Budget,
    ) -> Result<bool, Fault> {
        let fed = self.pass_on(&to, budget).await;
        if let Err(fault) = &fed {
            // Who has given up need not know.
            let _ = to.send(Err(io::Error::other(fault.to_string()))).await;
        }
        fed
    }

    async fn pass_on(
        &self,
        to: &mpsc::Sender<Result<Bytes, io::Error>>,
        budget: &Budget,
    ) -> Result<bool, Fault> {
        let file = self.open().await?;
        for number in 0..self.count() {
            let part = self.part(&file, number).await?;
            budget.go_on(part.len() as u64).await;
            if to.send(Ok(part)).await.is_err() {
                return Ok(false);
            }
        }
        forget(&file);
        Ok(true)
    }

    fn count(&self) -> u64 {
        self.len.div_ceil(PART_SIZE)
    }

    async fn open(&self) -> Result<Arc<File>, Fault> {
        let path = self.path.clone();
        let open = move || {
            let file = File::open(path)?;
            let found = file.metadata()?.len();
            Ok::<_, io::Error>((file, found))
        };
        let (file, found) = spawn_blocking(open).await.map_err(|error| cut_off(&error))??;
        if found == self.len { Ok(Arc::new(file)) } else { Err(Fault::Length { found, expected: self.len }) }
    }

    /// One part, good by its checksums.
    async fn part(&self, file: &Arc<File>, number: u64) -> Result<Bytes, Fault> {
        let at = number * PART_SIZE;
        let len = (self.len - at).min(PART_SIZE) as usize;
        let sums = self.parts.get(number as usize).map(|part| part.sums.clone()).unwrap_or_default();
        let file = Arc::clone(file);
        let read = move || {
            let mut bytes = vec![0; len];
            file.read_exact_at(&mut bytes, at)?;
            match first_mismatch(&bytes, &sums) {
                None => Ok(Bytes::from(bytes)),
                Some(granule) => Err(Fault::Sum(at + granule as u64 * GRANULE_SIZE)),
            }
        };
        spawn_blocking(read).await.map_err(|error| cut_off(&error))?
    }
}

fn cut_off(error: &dyn std::fmt::Display) -> Fault {
    Fault::Io(io::Error::other(error.to_string()))
}

/// It was read once and is not needed in memory.
fn forget(file: &File) {
    let _ = fadvise(file, 0, None, Advice::DontNeed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::checksum::GranuleSums;
    use crate::base::ids::ChunkId;
    use crate::base::sha256::Sha256;

    /// A file of two parts and a bit, and the source that reads it.
    fn source(dir: &tempfile::TempDir) -> (Vec<u8>, Source) {
        let bytes: Vec<u8> = (0..2 * PART_SIZE as u32 + 77).map(|at| (at * 7 % 251) as u8).collect();
        let chunk = ChunkId(Sha256::digest(&bytes));
        let part = |bytes: &[u8]| {
            let mut sums = GranuleSums::default();
            sums.update(bytes);
            Part { chunk, sums: sums.take() }
        };
        let path = dir.path().join(chunk.to_string());
        std::fs::write(&path, &bytes).unwrap();
        let parts = bytes.chunks(PART_SIZE as usize).map(part).collect();
        let len = bytes.len() as u64;
        (bytes, Source::new(path, len, parts))
    }

    async fn fed(source: &Source) -> (Vec<Result<Bytes, io::Error>>, Result<bool, Fault>) {
        let (sender, mut body) = mpsc::channel(1);
        let budget = Budget::new(0, 1);
        let take = async {
            let mut taken = Vec::new();
            while let Some(piece) = body.recv().await {
                taken.push(piece);
            }
            taken
        };
        tokio::join!(take, source.feed(sender, &budget))
    }

    #[tokio::test]
    async fn a_good_file_is_passed_on_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (bytes, source) = source(&dir);
        source.compare().await.unwrap();
        let (pieces, outcome) = fed(&source).await;
        assert!(outcome.unwrap());
        let pieces: Vec<Bytes> = pieces.into_iter().map(Result::unwrap).collect();
        assert_eq!(pieces.concat(), bytes);
    }

    #[tokio::test]
    async fn a_damaged_part_is_not_passed_on() {
        let dir = tempfile::tempdir().unwrap();
        let (mut bytes, source) = source(&dir);
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&source.path, &bytes).unwrap();
        assert!(matches!(source.compare().await, Err(Fault::Sum(at)) if at == 2 * PART_SIZE));
        let (pieces, outcome) = fed(&source).await;
        assert!(matches!(outcome, Err(Fault::Sum(_))));
        assert_eq!(pieces.iter().filter(|piece| piece.is_ok()).count(), 2);
        assert!(pieces.last().unwrap().is_err(), "what was passed on has no good end");
    }

    #[tokio::test]
    async fn a_file_that_is_short_or_missing_is_at_fault() {
        let dir = tempfile::tempdir().unwrap();
        let (bytes, source) = source(&dir);
        std::fs::write(&source.path, &bytes[1..]).unwrap();
        assert!(matches!(source.compare().await, Err(Fault::Length { .. })));
        std::fs::remove_file(&source.path).unwrap();
        assert!(matches!(source.compare().await, Err(Fault::Io(_))));
    }

    #[tokio::test]
    async fn it_ends_when_nobody_takes_it_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let (_, source) = source(&dir);
        let (sender, body) = mpsc::channel(1);
        drop(body);
        assert!(!source.feed(sender, &Budget::new(0, 1)).await.unwrap());
    }
}
