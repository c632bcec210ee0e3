//! Files read and written through the core's ring, and blocking file steps beside it.

use std::io;
use std::rc::Rc;

use monoio::blocking::JoinError;
use monoio::buf::{IoBuf, IoBufMut};
use monoio::task::JoinHandle;

use super::buffer::Shared;
use crate::limits::DIRECT_ALIGN;

/// An open file of this core's ring.
#[derive(Clone)]
pub struct RingFile(Rc<monoio::fs::File>);

/// A write on its way; its buffer comes back with the result.
pub type Writing = JoinHandle<(io::Result<()>, Shared)>;

impl RingFile {
    /// Hands a file over to the ring.
    ///
    /// # Errors
    /// When the ring cannot take it.
    pub fn new(file: std::fs::File) -> io::Result<Self> {
        Ok(Self(Rc::new(monoio::fs::File::from_std(file)?)))
    }

    /// Starts writing all that the buffer holds at `offset`; both are multiples of 4 KiB under direct IO.
    pub fn write(&self, buffer: Shared, offset: u64) -> Writing {
        let file = self.clone();
        monoio::spawn(async move { file.0.write_all_at(buffer, offset).await })
    }

    /// Reads `len` bytes at `offset` to the beginning of `buffer`, to the end of the file at most; a direct read needs
    /// `offset` to be a multiple of 4 KiB, and the buffer to be aligned, with room for `len` rounded up to one.
    ///
    /// # Errors
    /// Those of read(2).
    pub async fn read<B: IoBuf + IoBufMut>(
        &self,
        mut buffer: B,
        offset: u64,
        len: usize,
    ) -> (io::Result<()>, B) {
        let whole = len.next_multiple_of(DIRECT_ALIGN);
        let mut at = 0;
        while at < len {
            let (result, slice) = self.0.read_at(buffer.slice_mut(at..whole), offset + at as u64).await;
            buffer = slice.into_inner();
            match result {
                Ok(0) => return (Err(io::ErrorKind::UnexpectedEof.into()), buffer),
                // A short direct read that does not end on a block is the end of the file.
                Ok(n) if n % DIRECT_ALIGN != 0 && at + n < len => {
                    return (Err(io::ErrorKind::UnexpectedEof.into()), buffer);
                }
                Ok(n) => at += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (Err(error), buffer),
            }
        }
        (Ok(()), buffer)
    }
}

/// Blocking file steps under way on a storage thread; they run to their end whether or not anybody waits.
pub struct Steps<T>(JoinHandle<Result<io::Result<T>, JoinError>>);

impl<T: Send + 'static> Steps<T> {
    /// Hands steps to a storage thread.
    pub fn start(steps: impl FnOnce() -> io::Result<T> + Send + 'static) -> Self {
        Self(monoio::spawn_blocking(steps))
    }

    /// Waits for their outcome.
    ///
    /// # Errors
    /// Those of the steps; or that the thread is gone.
    pub async fn outcome(self) -> io::Result<T> {
        self.0.await.unwrap_or_else(|_| Err(io::Error::other("the storage thread has stopped")))
    }
}

/// Runs blocking file steps on a storage thread.
///
/// # Errors
/// As [`Steps::outcome`].
pub async fn on_storage_thread<T: Send + 'static>(
    steps: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    Steps::start(steps).outcome().await
}
