//! A download under way on the disk: its bytes, and how much of each chunk is there (`rfc/0008-client.md`).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::blob::Blob;
use crate::limits::{CHUNK_SIZE, CLIENT_HEADER, CLIENT_PIECE};

/// Of which blob the bytes are.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    format: u32,
    path: String,
    version: u64,
    blob_id: String,
    size: u64,
}

impl Header {
    fn of(blob: &Blob) -> Self {
        let (path, blob_id) = (blob.path.clone(), blob.id.clone());
        Self { format: 1, path, version: blob.version, blob_id, size: blob.size }
    }

    fn read(file: &File) -> Option<Self> {
        let mut bytes = vec![0; CLIENT_HEADER as usize];
        file.read_exact_at(&mut bytes, 0).ok()?;
        let line = bytes.split(|byte| *byte == b'\n').next()?;
        serde_json::from_slice(line).ok()
    }

    fn write(&self, file: &File) -> io::Result<()> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        if line.len() as u64 > CLIENT_HEADER {
            return Err(io::Error::other("the name of the blob is too long for the progress file"));
        }
        line.resize(CLIENT_HEADER as usize, 0);
        file.write_all_at(&line, 0)
    }
}

/// The two files of a download.
#[derive(Debug)]
pub(super) struct Partial {
    to: PathBuf,
    data_path: PathBuf,
    progress_path: PathBuf,
    data: File,
    progress: File,
}

fn beside(to: &Path, ending: &str) -> PathBuf {
    let mut name = to.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

impl Partial {
    /// Goes on with what an earlier download of the same blob has left, or begins anew.
    ///
    /// # Errors
    /// Those of the files; another download of the same file.
    pub(super) fn open(to: &Path, blob: &Blob) -> io::Result<Self> {
        let data_path = beside(to, ".amberblob-partial");
        let progress_path = beside(to, ".amberblob-progress");
        let open =
            |path: &Path| OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let progress = open(&progress_path)?;
        if flock(&progress, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(io::Error::other("another get is writing it"));
        }
        let data = open(&data_path)?;
        if data.metadata()?.len() != blob.size || Header::read(&progress) != Some(Header::of(blob)) {
            // Nothing of what was there counts before the header says so.
            progress.set_len(0)?;
            data.set_len(0)?;
            data.set_len(blob.size)?;
            progress.set_len(CLIENT_HEADER + 4 * blob.size.div_ceil(CHUNK_SIZE))?;
            Header::of(blob).write(&progress)?;
        }
        Ok(Self { to: to.to_owned(), data_path, progress_path, data, progress })
    }

    /// How much of a chunk of `len` bytes is there.
    pub(super) fn have(&self, number: u64, len: u64) -> io::Result<u64> {
        let mut count = [0; 4];
        self.progress.read_exact_at(&mut count, CLIENT_HEADER + 4 * number)?;
        Ok(u64::from(u32::from_le_bytes(count)).min(len))
    }

    /// Hashes what is there of a chunk.
    pub(super) fn hash(&self, number: u64, have: u64, hash: &mut Sha256) -> io::Result<()> {
        let mut piece = vec![0; CLIENT_PIECE];
        let mut at = 0;
        while at < have {
            let most = (have - at).min(CLIENT_PIECE as u64) as usize;
            self.data.read_exact_at(&mut piece[..most], number * CHUNK_SIZE + at)?;
            hash.update(&piece[..most]);
            at += most as u64;
        }
        Ok(())
    }

    /// Writes what comes after the first `have` bytes of a chunk.
    pub(super) fn write(&self, number: u64, have: u64, bytes: &[u8]) -> io::Result<()> {
        self.data.write_all_at(bytes, number * CHUNK_SIZE + have)?;
        self.note(number, have + bytes.len() as u64)
    }

    /// What was there of a chunk does not count any more.
    pub(super) fn restart(&self, number: u64) -> io::Result<()> {
        self.note(number, 0)
    }

    fn note(&self, number: u64, have: u64) -> io::Result<()> {
        self.progress.write_all_at(&(have as u32).to_le_bytes(), CLIENT_HEADER + 4 * number)
    }

    /// Gives the file its name: it is whole.
    pub(super) fn finish(self) -> io::Result<()> {
        self.data.sync_all()?;
        fs::rename(&self.data_path, &self.to)?;
        fs::remove_file(&self.progress_path)?;
        let dir = self.to.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(version: u64, size: u64) -> Blob {
        Blob { path: "a".to_owned(), version, id: "B".to_owned(), size, chunks: Vec::new() }
    }

    #[test]
    fn a_download_goes_on_where_it_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("a");
        let first = Partial::open(&to, &blob(1, CHUNK_SIZE + 5)).unwrap();
        assert!(
            Partial::open(&to, &blob(1, CHUNK_SIZE + 5)).unwrap_err().to_string().contains("another get")
        );
        first.write(1, 0, b"abc").unwrap();
        drop(first);
        let again = Partial::open(&to, &blob(1, CHUNK_SIZE + 5)).unwrap();
        assert_eq!((again.have(0, CHUNK_SIZE).unwrap(), again.have(1, 5).unwrap()), (0, 3));
        let mut hash = Sha256::new();
        again.hash(1, 3, &mut hash).unwrap();
        assert_eq!(hash.finalize(), Sha256::digest(b"abc"));
        again.restart(1).unwrap();
        assert_eq!(again.have(1, 5).unwrap(), 0);
        assert!(!to.exists());
        again.finish().unwrap();
        assert_eq!(fs::metadata(&to).unwrap().len(), CHUNK_SIZE + 5);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left over");
    }

    #[test]
    fn another_blob_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("a");
        Partial::open(&to, &blob(1, 5)).unwrap().write(0, 0, b"abc").unwrap();
        let other = Partial::open(&to, &blob(2, 5)).unwrap();
        assert_eq!(other.have(0, 5).unwrap(), 0);
        drop(other);
        fs::remove_file(dir.path().join("a.amberblob-partial")).unwrap();
        let bare = Partial::open(&to, &blob(2, 5)).unwrap();
        bare.write(0, 0, b"ab").unwrap();
        drop(bare);
        fs::write(dir.path().join("a.amberblob-progress"), b"rubbish").unwrap();
        assert_eq!(Partial::open(&to, &blob(2, 5)).unwrap().have(0, 5).unwrap(), 0);
    }
}
