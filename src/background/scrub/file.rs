//! One chunk file, read around the page cache through a registered buffer, and hashed.
//!
//! A pass has one buffer. Where the kernel does not register it, because of the limit of locked memory, it is an ordinary one.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::task::{spawn_blocking, yield_now};
use tokio::time::sleep_until;
use tokio_uring::buf::BoundedBuf as _;
use tokio_uring::buf::fixed::{FixedBuf, FixedBufPool};
use tokio_uring::fs::File;

use crate::base::ids::ChunkId;
use crate::base::sha256::Sha256;
use crate::io::steps;
use crate::limits::{DIRECT_ALIGN, HASH_SLICE, SCRUB_BUFFER, SCRUB_PASSES};

/// What a pass may read in a second.
pub(super) struct Rate {
    bytes: Option<u64>,
    next: Instant,
}

/// Buffers for all passes.
pub(super) struct Buffers {
    pool: FixedBufPool<Vec<u8>>,
    registered: bool,
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
    /// It has other bytes.
    #[error("its bytes have the SHA-256 {0}")]
    Hash(ChunkId),
}

/// With what begins off a block left out.
const CAPACITY: usize = SCRUB_BUFFER + DIRECT_ALIGN;

impl Rate {
    /// So many bytes a second.
    pub(super) fn of(bytes: u64) -> Self {
        Self { bytes: Some(bytes), next: Instant::now() }
    }

    /// As many as can be.
    pub(super) fn none() -> Self {
        Self { bytes: None, next: Instant::now() }
    }

    /// Waits until `bytes` more were read as slowly as wanted.
    pub(super) async fn spend(&mut self, bytes: u64) {
        let Some(rate) = self.bytes else { return };
        // Time that nobody used is not made up for.
        let begin = self.next.max(Instant::now());
        self.next = begin + Duration::from_secs_f64(bytes as f64 / rate as f64);
        sleep_until(self.next.into()).await;
    }
}

impl Buffers {
    /// To be made inside of the runtime, once.
    pub(super) fn new() -> Self {
        let pool = FixedBufPool::new((0..SCRUB_PASSES).map(|_| vec![0; CAPACITY]));
        let registered = match pool.register() {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(
                    %error,
                    "the scrub reads through buffers that are not registered: raise 'ulimit -l' by 4 MiB"
                );
                false
            }
        };
        Self { pool, registered }
    }

    /// Reads a chunk's file of `len` bytes and compares it with its hash.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) async fn check(
        &self,
        path: PathBuf,
        direct: bool,
        (chunk, len): (ChunkId, u64),
        rate: &mut Rate,
    ) -> Result<(), Fault> {
        let opened = spawn_blocking(move || {
            let file = steps::open_file(&path, direct)?;
            let found = file.metadata()?.len();
            Ok::<_, io::Error>((file, found))
        });
        let (file, found) = opened.await.map_err(|error| io::Error::other(error.to_string()))??;
        if found != len {
            return Err(Fault::Length { found, expected: len });
        }
        let file = File::from_std(file);
        let hashed = self.hash(&file, len, rate).await;
        // It was only read.
        let _ = file.close().await;
        match hashed? {
            hash if hash == chunk => Ok(()),
            hash => Err(Fault::Hash(hash)),
        }
    }

    async fn hash(&self, file: &File, len: u64, rate: &mut Rate) -> io::Result<ChunkId> {
        let mut buffer = self.pool.next(CAPACITY).await;
        let mut hash = Sha256::default();
        let mut at = 0;
        loop {
            let wanted = (len - at).min(SCRUB_BUFFER as u64) as usize;
            let whole = wanted.next_multiple_of(DIRECT_ALIGN);
            let start = buffer.as_ptr().align_offset(DIRECT_ALIGN);
            let (result, back) = self.read(file, buffer, start..start + whole, at).await;
            buffer = back;
            let read = result?.min(wanted);
            let last = at + read as u64 == len;
            // A short direct read ends on a block, unless the file ends.
            if !last && (read == 0 || !read.is_multiple_of(DIRECT_ALIGN)) {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let bytes = &buffer[start..start + read];
            let (blocks, rest) = bytes.split_at(read - read % HASH_SLICE);
            for slice in blocks.chunks(HASH_SLICE) {
                hash.update(slice.as_chunks().0);
                yield_now().await;
            }
            if last {
                rate.spend(read as u64).await;
                return Ok(ChunkId(hash.finish(rest)));
            }
            hash.update(rest.as_chunks().0);
            at += read as u64;
            rate.spend(read as u64).await;
        }
    }

    async fn read(
        &self,
        file: &File,
        buffer: FixedBuf,
        place: std::ops::Range<usize>,
        at: u64,
    ) -> (io::Result<usize>, FixedBuf) {
        let slice = buffer.slice(place);
        let (result, slice) =
            if self.registered { file.read_fixed_at(slice, at).await } else { file.read_at(slice, at).await };
        (result, slice.into_inner())
    }
}
