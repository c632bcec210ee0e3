//! A blob on its way to the disk: hashed and written behind the next receive, synced before it is named. One that comes from
//! a node that has hashed it is held against the seals of that node instead.
//!
//! Order for every chunk file: data written, tail cut, fdatasync, rename from its temporary name to its hash. After
//! the last one the directories are synced, from the chunks up to the slot. Only then may a commit name the blob. The
//! last steps of a chunk go on while the next one is received, those of one chunk at a time. A
//! chunk of at most 64 KiB makes no file; its bytes go with the commit. Whatever fails, [`Incoming::settle`] and then
//! [`discard`] removes all of it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::disk::Disk;
use super::layout;
use super::write::{ChunkFile, Finish};
use crate::base::checksum::GranuleSums;
use crate::base::hashes::{ChunkHashes, Hashes};
use crate::base::ids::{BlobId, ChunkId};
use crate::base::parts::{Part, Parts};
use crate::base::seal::Seal;
use crate::base::sha256::Sha256;
use crate::io::buffer::{Buffer, Shared};
use crate::io::file::{Steps, on_storage_thread};
use crate::io::hashing::{Hasher, Hashing};
use crate::io::steps;
use crate::limits::{CHUNK_SIZE, DIRECT_ALIGN, GRANULE_SIZE, INLINE_MAX, PART_SIZE, PARTS_PER_CHUNK};

const GRANULES_PER_PART: usize = (PART_SIZE / GRANULE_SIZE) as usize;

/// Bytes that were handed over, for whoever wants them too.
#[derive(Clone, Debug)]
pub enum Piece {
    /// The first so many bytes of a buffer that is being written.
    Large(Shared, usize),
    /// A last chunk that makes no file.
    Small(Bytes),
    /// The [`Seal`] of the chunk whose bytes were the last ones.
    Seal(Bytes),
}

/// How the bytes become chunks of a name.
enum Checks {
    /// Whatever they are is hashed.
    Hashed(Hasher),
    /// They come from a node that has hashed them, with the seal of each chunk.
    Sealed(GranuleSums),
}

/// A blob that is being received.
pub struct Incoming {
    disk: Arc<Disk>,
    slot_dir: PathBuf,
    blob: BlobId,
    /// Whether files are synced before they are named.
    synced: bool,
    checks: Checks,
    /// Bytes of the current chunk that were handed over to the disk.
    queued: u64,
    /// The last of them, which are in no hash yet; or all of a chunk that makes no file.
    tail: Bytes,
    file: Option<ChunkFile>,
    /// The last steps of the chunk before.
    finishing: Option<Steps<()>>,
    has_dir: bool,
    /// Whether the directories have entries that are not synced.
    unsynced: bool,
    chunks: Vec<ChunkId>,
    parts: Parts,
    size: u64,
    /// SHA-256 of everything up to the last chunk's end, where it is wanted.
    whole: Option<[u8; 32]>,
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
    pub fn new(
        disk: Arc<Disk>,
        slot_dir: PathBuf,
        blob: BlobId,
        synced: bool,
        digest: bool,
        hashing: Hashing,
    ) -> Self {
        let checks = Checks::Hashed(Hasher::new(hashing, Hashes::new(digest)));
        Self::with(disk, slot_dir, blob, synced, checks)
    }

    /// The same of bytes that another node has hashed: every chunk comes with its seal.
    pub fn sealed(disk: Arc<Disk>, slot_dir: PathBuf, blob: BlobId, synced: bool) -> Self {
        Self::with(disk, slot_dir, blob, synced, Checks::Sealed(GranuleSums::default()))
    }

    fn with(disk: Arc<Disk>, slot_dir: PathBuf, blob: BlobId, synced: bool, checks: Checks) -> Self {
        Self {
            disk,
            slot_dir,
            blob,
            synced,
            checks,
            queued: 0,
            tail: Bytes::new(),
            file: None,
            finishing: None,
            has_dir: false,
            unsynced: false,
            chunks: Vec::new(),
            parts: Parts::default(),
            size: 0,
            whole: None,
        }
    }

    /// Bytes that the current chunk still takes.
    pub fn chunk_room(&self) -> u64 {
        CHUNK_SIZE - self.queued
    }

    /// Bytes handed over so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Takes a buffer, of at most [`Incoming::chunk_room`] bytes, and hands it over to the disk. `ends`: its chunk ends with it, or
    /// has ended; `rest`: bytes that are known to follow; `in_flight`: buffers that may be under way when this returns; `tee` gets the bytes
    /// too. Only the last buffer of a chunk may end off a granule. Gives back a buffer that came free, for the next receive.
    ///
    /// # Errors
    /// Those of the file steps and writes.
    pub async fn write(
        &mut self,
        mut buffer: Buffer,
        ends: bool,
        rest: Option<u64>,
        in_flight: usize,
        tee: &mut dyn FnMut(Piece),
    ) -> io::Result<Option<Buffer>> {
        let len = buffer.len() as u64;
        self.size += len;
        if ends && self.queued == 0 && len <= INLINE_MAX {
            if len > 0 {
                let first = self.chunks.len() as u64 * PARTS_PER_CHUNK;
                self.tail = Bytes::copy_from_slice(&buffer);
                tee(Piece::Small(self.tail.clone()));
                self.parts.inline.push((first, self.tail.clone()));
            }
            return Ok(Some(buffer));
        }
        if self.file.is_none() && len > 0 {
            let needed = self.queued + len;
            let expected = rest.map_or(CHUNK_SIZE, |rest| needed.saturating_add(rest)).min(CHUNK_SIZE);
            self.create_file(expected, if rest.is_some() { expected } else { needed }).await?;
        }
        let granules = buffer.len() - buffer.len() % GRANULE_SIZE as usize;
        self.tail = Bytes::copy_from_slice(&buffer[granules..]);
        debug_assert!(ends || self.tail.is_empty());
        let Some(file) = &mut self.file else { return Ok(None) };
        if len > 0 {
            if self.disk.direct() {
                buffer.pad(DIRECT_ALIGN);
            }
            let buffer = Shared::new(buffer);
            tee(Piece::Large(buffer.clone(), len as usize));
            // The disk reads it while it is hashed.
            file.write(buffer.clone(), self.queued);
            self.queued += len;
            match &mut self.checks {
                Checks::Hashed(hasher) => hasher.update(buffer, granules).await?,
                Checks::Sealed(sums) => sums.update(&buffer[..granules]),
            }
        }
        if let Checks::Hashed(hasher) = &mut self.checks
            && in_flight == 0
        {
            hasher.settle().await?;
        }
        file.drain(in_flight).await
    }

    /// Whether there are bytes of a chunk that has no name yet.
    pub fn is_in_chunk(&self) -> bool {
        self.queued > 0 || !self.tail.is_empty()
    }

    /// Waits until nothing is under way to the disk.
    ///
    /// # Errors
    /// Those of the writes.
    pub async fn drain(&mut self) -> io::Result<()> {
        match &mut self.file {
            Some(file) => file.drain(0).await.map(drop),
            None => Ok(()),
        }
    }

    /// Names the chunk that was handed over; `seal`: what the node said that hashed it, where one has. `tee` gets its seal.
    ///
    /// # Errors
    /// `InvalidData` for a chunk that does not fit its seal.
    pub async fn name_chunk(
        &mut self,
        seal: Option<Seal>,
        tee: &mut dyn FnMut(Piece),
    ) -> io::Result<ChunkId> {
        let tail = std::mem::take(&mut self.tail);
        let (id, sums) = match &mut self.checks {
            Checks::Hashed(hasher) => {
                let ChunkHashes { id, sums, whole } = hasher.settle().await?.end_chunk(&tail);
                self.whole = whole;
                (ChunkId(id), sums)
            }
            Checks::Sealed(made) => {
                made.update(&tail);
                let sums = made.take();
                let seal = seal.filter(|seal| seal.fits(&sums)).ok_or(io::ErrorKind::InvalidData)?;
                (seal.chunk, sums)
            }
        };
        tee(Piece::Seal(Bytes::copy_from_slice(&Seal::new(id, &sums).to_bytes())));
        self.parts
            .parts
            .extend(sums.chunks(GRANULES_PER_PART).map(|sums| Part { chunk: id, sums: sums.to_vec() }));
        self.chunks.push(id);
        Ok(id)
    }

    /// Makes the file of the current chunk, `expected` bytes reserved, or `needed` if that is too much.
    async fn create_file(&mut self, expected: u64, needed: u64) -> io::Result<()> {
        let dir = layout::chunks_dir(&self.slot_dir, self.blob);
        let path = layout::temporary_file(&self.slot_dir, self.blob, self.chunks.len());
        let dir = (!std::mem::replace(&mut self.has_dir, true)).then_some(dir);
        self.file = Some(ChunkFile::create(Arc::clone(&self.disk), dir, path, expected, needed).await?);
        Ok(())
    }

    /// Begins the last steps of the chunk that was named, with those of the directories if no other chunk follows. Those of the one
    /// before have ended when this returns.
    ///
    /// # Errors
    /// Those of the file steps and writes.
    pub async fn finish_chunk(&mut self, id: ChunkId, last: bool) -> io::Result<()> {
        let Some(mut file) = self.file.take() else { return Ok(()) };
        let (len, synced) = (std::mem::take(&mut self.queued), self.synced);
        file.drain(0).await?;
        if let Some(before) = self.finishing.take() {
            before.outcome().await?;
        }
        self.unsynced = synced && !last;
        let directories = if synced && last { self.directories() } else { Vec::new() };
        let named = layout::chunk_file(&self.slot_dir, self.blob, id);
        self.finishing = Some(file.finish(Finish { len, named, synced, aside: None, directories }));
        Ok(())
    }

    /// The directories that name the chunks, from the chunks up to the slot.
    fn directories(&self) -> Vec<PathBuf> {
        let (slot_dir, blob) = (&self.slot_dir, self.blob);
        vec![
            layout::chunks_dir(slot_dir, blob),
            layout::blob_dir(slot_dir, blob),
            layout::blobs_dir(slot_dir),
            slot_dir.clone(),
        ]
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

    /// After the last buffer: waits until everything is on disk.
    ///
    /// # Errors
    /// Those of the file steps.
    pub async fn finish(&mut self) -> io::Result<Received> {
        if let Some(last) = self.finishing.take() {
            last.outcome().await?;
        }
        if std::mem::take(&mut self.unsynced) {
            let directories = self.directories();
            on_storage_thread(move || directories.iter().try_for_each(|dir| steps::sync_dir(dir))).await?;
        }
        let digest = match (self.whole, self.chunks.as_slice()) {
            (Some(whole), _) => Some(whole),
            (None, []) => Some(Sha256::digest(&[])),
            (None, [only]) => Some(only.0),
            _ => None,
        };
        let (chunks, parts) = (std::mem::take(&mut self.chunks), std::mem::take(&mut self.parts));
        Ok(Received { size: self.size, chunks, parts, digest })
    }

    /// After a failure: waits until nothing of it is under way, neither on the disk nor in memory.
    pub async fn settle(&mut self) {
        // It has failed anyway.
        if let Checks::Hashed(hasher) = &mut self.checks {
            let _ = hasher.settle().await;
        }
        if let Some(mut file) = self.file.take() {
            while file.drain(0).await.is_err() {}
        }
        if let Some(finishing) = self.finishing.take() {
            let _ = finishing.outcome().await;
        }
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
