//! Chunk files that lie on the disk before their version has them: what a fill that was cut off has left, or the files of a
//! database that was lost. They count only when their bytes were read and are the chunk's. All of it blocks.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

use rustix::fs::{Advice, fadvise};

use super::layout;
use crate::base::hashes::{ChunkHashes, Hashes};
use crate::base::ids::{BlobId, ChunkId};
use crate::base::parts::Part;
use crate::io::steps;
use crate::limits::{BUFFER_MAX, GRANULE_SIZE, PART_SIZE};

const GRANULES_PER_PART: usize = (PART_SIZE / GRANULE_SIZE) as usize;

/// The chunks that have a file in a blob's directory.
///
/// # Errors
/// Those of readdir(3).
pub fn named(slot_dir: &Path, blob: BlobId) -> io::Result<Vec<ChunkId>> {
    let mut chunks = Vec::new();
    for entry in entries(slot_dir, blob)? {
        chunks.extend(entry?.file_name().to_str().and_then(|name| name.parse::<ChunkId>().ok()));
    }
    Ok(chunks)
}

/// Removes all files of a blob but those of these chunks.
///
/// # Errors
/// Those of unlink(2).
pub fn tidy(slot_dir: &Path, blob: BlobId, chunks: &[ChunkId]) -> io::Result<()> {
    for entry in entries(slot_dir, blob)? {
        let entry = entry?;
        let chunk = entry.file_name().to_str().and_then(|name| name.parse::<ChunkId>().ok());
        if !chunk.is_some_and(|chunk| chunks.contains(&chunk)) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn entries(slot_dir: &Path, blob: BlobId) -> io::Result<Vec<io::Result<fs::DirEntry>>> {
    match fs::read_dir(layout::chunks_dir(slot_dir, blob)) {
        Ok(entries) => Ok(entries.collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The parts of a chunk of `len` bytes whose file is there and has its bytes; none where it has not. With `synced` it is on disk
/// when this returns, and so is its name.
///
/// # Errors
/// Those of fsync(2).
pub fn verify(
    slot_dir: &Path,
    blob: BlobId,
    chunk: ChunkId,
    len: u64,
    synced: bool,
) -> io::Result<Option<Vec<Part>>> {
    let path = layout::chunk_file(slot_dir, blob, chunk);
    let Ok(mut file) = File::open(path) else { return Ok(None) };
    // What cannot be read is fetched.
    let Ok(Some(ended)) = hash(&mut file, len) else { return Ok(None) };
    if ended.id != chunk.0 {
        return Ok(None);
    }
    // It was read once and is not needed in memory.
    let _ = fadvise(&file, 0, None, Advice::DontNeed);
    if synced {
        file.sync_data()?;
        let directories = [layout::chunks_dir(slot_dir, blob), layout::blob_dir(slot_dir, blob)];
        directories.iter().try_for_each(|dir| steps::sync_dir(dir))?;
        steps::sync_dir(&layout::blobs_dir(slot_dir))?;
        steps::sync_dir(slot_dir)?;
    }
    let parts = ended.sums.chunks(GRANULES_PER_PART);
    Ok(Some(parts.map(|sums| Part { chunk, sums: sums.to_vec() }).collect()))
}

/// The hashes of a file of `len` bytes; none where it has another length.
fn hash(file: &mut File, len: u64) -> io::Result<Option<ChunkHashes>> {
    if file.metadata()?.len() != len {
        return Ok(None);
    }
    let mut hashes = Hashes::new(false);
    let mut buffer = vec![0; BUFFER_MAX];
    let mut left = len;
    loop {
        let piece = usize::try_from(left).unwrap_or(BUFFER_MAX).min(BUFFER_MAX);
        file.read_exact(&mut buffer[..piece])?;
        left -= piece as u64;
        let granules = piece - piece % GRANULE_SIZE as usize;
        hashes.update(&buffer[..granules]);
        if left == 0 {
            return Ok(Some(hashes.end_chunk(&buffer[granules..piece])));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::checksum::first_mismatch;
    use crate::base::sha256::Sha256;

    #[test]
    fn only_a_file_with_the_bytes_of_its_name_counts() {
        let dir = tempfile::tempdir().unwrap();
        let (slot, blob) = (dir.path(), BlobId::generate());
        let bytes: Vec<u8> = (0..5_000_000_u32).map(|at| (at % 251) as u8).collect();
        let (len, chunk) = (bytes.len() as u64, ChunkId(Sha256::digest(&bytes)));
        let verified = |len| verify(slot, blob, chunk, len, true).unwrap();
        assert_eq!(named(slot, blob).unwrap(), [], "no directory, no chunks");
        assert_eq!(verified(len), None, "there is no file");
        let path = layout::chunk_file(slot, blob, chunk);
        fs::create_dir_all(layout::chunks_dir(slot, blob)).unwrap();
        fs::write(&path, &bytes).unwrap();
        let parts = verified(len).unwrap();
        assert_eq!(parts.len(), 3);
        for (part, bytes) in parts.iter().zip(bytes.chunks(PART_SIZE as usize)) {
            assert_eq!((part.chunk, first_mismatch(bytes, &part.sums)), (chunk, None));
        }
        assert_eq!(verified(len + 1), None, "another length");
        let mut flipped = bytes.clone();
        flipped[4_000_000] ^= 1;
        fs::write(&path, &flipped).unwrap();
        assert_eq!(verified(len), None, "other bytes");
        let other = layout::temporary_file(slot, blob, 0);
        fs::write(&other, b"cut off").unwrap();
        assert_eq!(named(slot, blob).unwrap(), [chunk]);
        tidy(slot, blob, &[chunk]).unwrap();
        assert!(path.exists() && !other.exists());
        tidy(slot, blob, &[]).unwrap();
        assert!(!path.exists());
    }
}
