//! A blob on its way to the disk: hashed as it arrives, written behind the next receive, synced before it is named.
//!
//! Order for every chunk file: data written, tail cut, fdatasync, rename from its temporary name to its hash. After
//! the last one the directories are synced, from the chunks up to the slot. Only then may a commit name the blob. A
//! chunk of at most 64 KiB makes no file; its bytes go with the commit. Whatever fails, [`discard`] removes all of it.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::disk::Disk;
use super::layout;
use crate::base::checksum::GranuleSums;
use crate::base::ids::{BlobId, ChunkId};
use crate::base::parts::{Part, Parts};
use crate::io::buffer::Buffer;
use crate::io::file::{RingFile, Writing, on_storage_thread};
use crate::io::steps;
use crate::limits::{CHUNK_SIZE, DIRECT_ALIGN, GRANULE_SIZE, INLINE_MAX, PART_SIZE, PARTS_PER_CHUNK};

const GRANULES_PER_PART: usize = (PART_SIZE / GRANULE_SIZE) as usize;

/// A chunk's file, not yet named by its hash.
struct ChunkFile {
    /// For writes through the ring, and the same open file for blocking steps.
    ring: RingFile,
    file: File,
    path: PathBuf,
}

/// A blob that is being received.
pub struct Incoming {
    disk: Arc<Disk>,
    slot_dir: PathBuf,
    blob: BlobId,
    /// Whether files are synced before they are named.
    synced: bool,
    /// Bytes of the current chunk that were hashed, and that were handed to the disk.
    hashed: u64,
    queued: u64,
    hasher: Sha256,
    sums: GranuleSums,
    /// The hash of everything, beside the chunk's, where a digest of a blob of several chunks must be checked.
    whole: Option<Sha256>,
    whole_wanted: bool,
    file: Option<ChunkFile>,
    has_dir: bool,
    writing: VecDeque<Writing>,
    chunks: Vec<ChunkId>,
    parts: Parts,
    size: u64,
}

/// A blob whose chunks are on disk.
#[derive(Debug)]
pub struct Received {
    /// Bytes.
    pub size: u64,
    /// All chunks in order.
    pub chunks: Vec<ChunkId>,
    /// Parts that were not taken by [`Incoming::take_parts`].
    pub parts: Parts,
    /// SHA-256 of the whole blob, if it was wanted or is known anyway.
    pub digest: Option<[u8; 32]>,
}

impl Incoming {
    /// A blob of the slot in `slot_dir` on `disk`; with `digest` the hash of the whole is kept.
    pub fn new(disk: Arc<Disk>, slot_dir: PathBuf, blob: BlobId, synced: bool, digest: bool) -> Self {
        Self {
            disk,
            slot_dir,
            blob,
            synced,
            hashed: 0,
            queued: 0,
            hasher: Sha256::new(),
            sums: GranuleSums::default(),
            whole: None,
            whole_wanted: digest,
            file: None,
            has_dir: false,
            writing: VecDeque::new(),
            chunks: Vec::new(),
            parts: Parts::default(),
            size: 0,
        }
    }

    /// Bytes that the current chunk still takes.
    pub fn chunk_room(&self) -> u64 {
        CHUNK_SIZE - self.hashed
    }

    /// Bytes so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Takes the next bytes into the hashes, at most [`Incoming::chunk_room`].
    pub fn absorb(&mut self, bytes: &[u8]) {
        debug_assert!(bytes.len() as u64 <= self.chunk_room());
        self.hasher.update(bytes);
        if let Some(whole) = &mut self.whole {
            whole.update(bytes);
        }
        self.sums.update(bytes);
        self.hashed += bytes.len() as u64;
        self.size += bytes.len() as u64;
    }

    /// Hands a buffer of absorbed bytes over to the disk. `last`: the blob ends with it; `rest`: bytes that are known
    /// to follow; `in_flight`: writes that may go on when this returns. Only the last buffer of a chunk may end off a
    /// 4 KiB boundary. Gives back a buffer that came free, for the next receive.
    ///
    /// # Errors
    /// Those of the file steps and writes.
    pub async fn write(
        &mut self,
        mut buffer: Buffer,
        last: bool,
        rest: Option<u64>,
        in_flight: usize,
    ) -> io::Result<Option<Buffer>> {
        let len = buffer.len() as u64;
        let ends = last || self.hashed == CHUNK_SIZE;
        if ends && self.queued == 0 && len <= INLINE_MAX {
            if len > 0 {
                let first = self.chunks.len() as u64 * PARTS_PER_CHUNK;
                self.parts.inline.push((first, Bytes::copy_from_slice(&buffer)));
                self.end_chunk();
            }
            return Ok(Some(buffer));
        }
        if self.file.is_none() {
            let needed = self.queued + len;
            let expected = rest.map_or(CHUNK_SIZE, |rest| needed.saturating_add(rest)).min(CHUNK_SIZE);
            self.create_file(expected, if rest.is_some() { expected } else { needed }).await?;
        }
        let mut back = None;
        if len > 0
            && let Some(chunk) = &self.file
        {
            if self.disk.direct() {
                buffer.pad(DIRECT_ALIGN);
            }
            self.writing.push_back(chunk.ring.write(buffer, self.queued));
            self.queued += len;
            back = self.drain(in_flight).await?;
        }
        if ends {
            self.finish_file().await?;
        }
        Ok(back)
    }

    /// Waits until at most `most` writes are under way; gives back the last buffer that came free.
    async fn drain(&mut self, most: usize) -> io::Result<Option<Buffer>> {
        let mut back = None;
        while self.writing.len() > most
            && let Some(writing) = self.writing.pop_front()
        {
            let (result, buffer) = writing.await;
            result?;
            back = Some(buffer);
        }
        Ok(back)
    }

    /// Makes the file of the current chunk, `expected` bytes reserved; if the chunk may turn out shorter and there is no
    /// room for all of it, as much as is needed now.
    async fn create_file(&mut self, expected: u64, needed: u64) -> io::Result<()> {
        let dir = layout::chunks_dir(&self.slot_dir, self.blob);
        let path = layout::temporary_file(&self.slot_dir, self.blob, self.chunks.len());
        let (target, disk, has_dir) = (path.clone(), Arc::clone(&self.disk), self.has_dir);
        self.has_dir = true;
        let file = on_storage_thread(move || {
            if !has_dir {
                fs::create_dir_all(&dir)?;
            }
            let whole = |len: u64| len.next_multiple_of(DIRECT_ALIGN as u64);
            match disk.create_file(&target, whole(expected)) {
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && needed < expected => {
                    discard_file(&target)?;
                    disk.create_file(&target, whole(needed))
                }
                result => result,
            }
        })
        .await?;
        self.file = Some(ChunkFile { ring: RingFile::new(file.try_clone()?)?, file, path });
        Ok(())
    }

    async fn finish_file(&mut self) -> io::Result<()> {
        self.drain(0).await?;
        let (len, synced) = (self.queued, self.synced);
        let id = self.end_chunk();
        // The ring's share of the file stays here: it is closed on the ring's thread.
        let Some(ChunkFile { ring, file, path }) = self.file.take() else { return Ok(()) };
        let named = layout::chunk_file(&self.slot_dir, self.blob, id);
        on_storage_thread(move || {
            file.set_len(len)?;
            if synced {
                file.sync_data()?;
            }
            fs::rename(&path, named)
        })
        .await?;
        drop(ring);
        Ok(())
    }

    /// Closes the hashes of the current chunk.
    fn end_chunk(&mut self) -> ChunkId {
        if self.chunks.is_empty() && self.whole_wanted {
            self.whole = Some(self.hasher.clone());
        }
        let id = ChunkId(self.hasher.finalize_reset().into());
        let sums = self.sums.take();
        self.parts
            .parts
            .extend(sums.chunks(GRANULES_PER_PART).map(|sums| Part { chunk: id, sums: sums.to_vec() }));
        self.chunks.push(id);
        self.hashed = 0;
        self.queued = 0;
        id
    }

    /// Chunks whose parts are held in memory.
    pub fn held_chunks(&self) -> usize {
        self.parts.parts.len() / PARTS_PER_CHUNK as usize
    }

    /// Takes the parts so far, to be staged.
    pub fn take_parts(&mut self) -> Parts {
        let next = self.parts.first + self.parts.parts.len() as u64;
        std::mem::replace(&mut self.parts, Parts { first: next, ..Parts::default() })
    }

    /// After the last buffer: syncs the directories.
    ///
    /// # Errors
    /// Those of fsync(2).
    pub async fn finish(self) -> io::Result<Received> {
        if self.has_dir && self.synced {
            let (slot_dir, blob) = (self.slot_dir, self.blob);
            on_storage_thread(move || {
                steps::sync_dir(&layout::chunks_dir(&slot_dir, blob))?;
                steps::sync_dir(&layout::blob_dir(&slot_dir, blob))?;
                steps::sync_dir(&layout::blobs_dir(&slot_dir))?;
                steps::sync_dir(&slot_dir)
            })
            .await?;
        }
        let digest = match (self.whole, self.chunks.as_slice()) {
            (Some(whole), _) => Some(whole.finalize().into()),
            (None, []) => Some(Sha256::digest([]).into()),
            (None, [only]) => Some(only.0),
            _ => None,
        };
        let Self { size, chunks, parts, .. } = self;
        Ok(Received { size, chunks, parts, digest })
    }
}

fn discard_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes all files of a blob that nothing names.
///
/// # Errors
/// Those of unlink(2) and rmdir(2); a directory that is not there is no error.
pub fn discard(slot_dir: &Path, blob: BlobId) -> io::Result<()> {
    match fs::remove_dir_all(layout::blob_dir(slot_dir, blob)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
