//! A file that holds some of a disk's space, to be given up when a delete finds none.

use std::path::{Path, PathBuf};

use super::steps;
use crate::limits::FULL_BELOW;

/// The ballast of one disk.
#[derive(Clone, Debug)]
pub struct Ballast {
    file: PathBuf,
    len: u64,
}

impl Ballast {
    /// The ballast of the disk at `root`, `len` bytes; [`Ballast::refill`] makes it.
    pub fn new(root: &Path, len: u64) -> Self {
        Self { file: root.join("ballast"), len }
    }

    /// Takes its space, where the disk has it.
    pub fn refill(&self) {
        if std::fs::metadata(&self.file).map_or(0, |meta| meta.len()) >= self.len {
            return;
        }
        if let Err(error) = steps::allocate_whole(&self.file, self.len) {
            tracing::warn!(file = %self.file.display(), %error, "no space for the ballast");
            // Half a ballast would count as a whole one.
            self.give_up();
        }
    }

    /// Takes `steps`; if they fail on a disk without space, gives the ballast up and takes them once more.
    ///
    /// # Errors
    /// Those of the steps.
    pub fn lend<T, E>(&self, steps: impl Fn() -> Result<T, E>) -> Result<T, E> {
        let is_full =
            || steps::space(self.file.parent().unwrap_or(Path::new("/"))).is_ok_and(|s| s.free < FULL_BELOW);
        match steps() {
            Err(_) if is_full() && self.give_up() => steps(),
            result => result,
        }
    }

    /// Gives its space back; false if there was none.
    pub fn give_up(&self) -> bool {
        let had = std::fs::metadata(&self.file).is_ok_and(|meta| meta.len() > 0);
        if had {
            tracing::warn!(file = %self.file.display(), "disk full: the ballast is given up for deletes");
        }
        std::fs::remove_file(&self.file).is_ok() && had
    }
}
