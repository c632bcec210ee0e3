//! A turn of the ring: how a long computation lets the other tasks of its core go first.
//!
//! A task that wakes itself goes to the front of monoio's queue, before all others; and for as long as the queue does not
//! run empty, monoio hears no other thread (storage, metadata) and no timer. So a task that gives way waits for an operation of the
//! ring that is done as soon as it is submitted: everything that is ready runs first, and then what the kernel, other threads
//! and timers have brought meanwhile.

use std::fs::File;
use std::io;

use monoio::fs;

/// What to wait for.
#[derive(Debug)]
pub(super) struct Turn(fs::File);

impl Turn {
    /// # Errors
    /// When `/dev/null` cannot be opened.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(fs::File::from_std(File::open("/dev/null")?)?))
    }

    /// Lets everything that is ready go first.
    pub(super) async fn pass(&self) {
        // The end of the file, at once; an error would have let the others go first as well.
        let _ = self.0.read_at(vec![0; 1], 0).await;
    }
}
