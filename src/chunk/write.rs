//! The file of a chunk on its way to the disk.
//!
//! Order: data written, tail cut, fdatasync, rename from its temporary name to its hash, directories synced. It is
//! made and finished on storage threads; between, the ring writes.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::Disk;
use crate::io::buffer::{Buffer, Shared};
use crate::io::file::{RingFile, Steps, Writing, on_storage_thread};
use crate::io::steps;
use crate::limits::DIRECT_ALIGN;

/// A chunk's file, not yet named by its hash.
pub(super) struct ChunkFile {
    /// For writes through the ring, and the same open file for blocking steps.
    ring: RingFile,
    file: File,
    path: PathBuf,
    /// Bytes of the file as it was made.
    made: u64,
    writing: VecDeque<Writing>,
}

/// How a chunk's file ends up.
pub(super) struct Finish {
    /// Its length in bytes.
    pub(super) len: u64,
    /// Its name.
    pub(super) named: PathBuf,
    /// Whether to sync it before that.
    pub(super) synced: bool,
    /// Where a file goes that has the name already; else it is overwritten.
    pub(super) aside: Option<PathBuf>,
    /// Directories to sync after that, in this order.
    pub(super) directories: Vec<PathBuf>,
}

impl ChunkFile {
    /// Makes a file at `path`, its directory too if that is given, with `expected` bytes reserved; if the chunk may turn
    /// out shorter and there is no room for all of it, as much as is needed now.
    pub(super) async fn create(
        disk: Arc<Disk>,
        directory: Option<PathBuf>,
        path: PathBuf,
        expected: u64,
        needed: u64,
    ) -> io::Result<Self> {
        let whole = |len: u64| len.next_multiple_of(DIRECT_ALIGN as u64);
        let target = path.clone();
        let (file, made) = on_storage_thread(move || {
            if let Some(directory) = directory {
                fs::create_dir_all(directory)?;
            }
            let create = |len| disk.create_file(&target, len).map(|file| (file, len));
            match create(whole(expected)) {
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && needed < expected => {
                    discard_file(&target)?;
                    create(whole(needed))
                }
                result => result,
            }
        })
        .await?;
        let ring = RingFile::new(file.try_clone()?)?;
        Ok(Self { ring, file, path, made, writing: VecDeque::new() })
    }

    /// Starts writing a buffer at `offset`.
    pub(super) fn write(&mut self, buffer: Shared, offset: u64) {
        self.writing.push_back(self.ring.write(buffer, offset));
    }

    /// Waits until at most `most` writes are under way; gives back the last buffer that came free.
    pub(super) async fn drain(&mut self, most: usize) -> io::Result<Option<Buffer>> {
        let mut back = None;
        while self.writing.len() > most
            && let Some(writing) = self.writing.pop_front()
        {
            let (result, buffer) = writing.await;
            result?;
            back = buffer.into_inner().or(back);
        }
        Ok(back)
    }

    /// Begins the last steps. All writes are done.
    pub(super) fn finish(self, finish: Finish) -> Steps<()> {
        let Self { ring, file, path, made, writing } = self;
        debug_assert!(writing.is_empty());
        // The ring's share of the file is closed on the ring's thread.
        drop(ring);
        Steps::start(move || {
            // What was made is written to its end, otherwise; so its length is right.
            if made != finish.len {
                file.set_len(finish.len)?;
            }
            if finish.synced {
                file.sync_data()?;
            }
            let moved = finish.aside.as_ref().map_or(Ok(false), |aside| put_aside(&finish.named, aside))?;
            fs::rename(&path, &finish.named).inspect_err(|_| {
                // What is damaged is better than nothing: some of it may be good.
                if let Some(aside) = finish.aside.as_ref().filter(|_| moved) {
                    let _ = fs::rename(aside, &finish.named);
                }
            })?;
            finish.directories.iter().try_for_each(|directory| steps::sync_dir(directory))
        })
    }
}

/// Moves a file, if there is one, and says whether; makes the directory that it goes to.
fn put_aside(path: &Path, aside: &Path) -> io::Result<bool> {
    if let Some(directory) = aside.parent() {
        steps::create_dir_synced(directory)?;
    }
    match fs::rename(path, aside) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes a file, if there is one.
pub(super) fn discard_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
