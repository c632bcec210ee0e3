//! Blocking file steps: they run on storage threads and at the start, never on a ring's thread.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, OFlags};

/// Makes a directory and its parents, each one's entry on disk when this returns.
///
/// # Errors
/// Those of mkdir(2) and fsync(2).
pub fn create_dir_synced(dir: &Path) -> io::Result<()> {
    let Some(parent) = dir.parent().filter(|_| dir.file_name().is_some()) else { return Ok(()) };
    if !parent.as_os_str().is_empty() && !parent.is_dir() {
        create_dir_synced(parent)?;
    }
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        // Also when it is there: who made it may have been killed before the sync.
        _ => sync_dir(parent),
    }
}

/// Syncs a directory's entries.
///
/// # Errors
/// Those of open(2) and fsync(2).
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(if dir.as_os_str().is_empty() { Path::new(".") } else { dir })?.sync_all()
}

/// Makes a new file of `len` bytes for writing, its blocks reserved; `direct` bypasses the page cache.
///
/// # Errors
/// Those of open(2) and fallocate(2).
pub fn create_file(path: &Path, len: u64, direct: bool) -> io::Result<File> {
    let flags = if direct { OFlags::DIRECT } else { OFlags::empty() };
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    if len > 0 {
        allocate(&file, len)?;
    }
    Ok(file)
}

/// Reserves blocks; a file system without fallocate gets none, which costs speed only.
fn allocate(file: &File, len: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len) {
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Makes a file of `len` reserved bytes, or lengthens it.
///
/// # Errors
/// Those of open(2) and fallocate(2).
pub fn allocate_whole(path: &Path, len: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    Ok(rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, len)?)
}

/// Opens a file for reading.
///
/// # Errors
/// Those of open(2).
pub fn open_file(path: &Path, direct: bool) -> io::Result<File> {
    let flags = if direct { OFlags::DIRECT } else { OFlags::empty() };
    OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

/// Opens a file for writing that has no name in `dir`, and goes when it is closed.
///
/// # Errors
/// Those of open(2): EINVAL where `direct` cannot be.
pub fn open_unnamed(dir: &Path, direct: bool) -> io::Result<File> {
    let flags = if direct { OFlags::DIRECT | OFlags::TMPFILE } else { OFlags::TMPFILE };
    OpenOptions::new().write(true).custom_flags(flags.bits().cast_signed()).open(dir)
}

/// Space of a file system, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    /// All of it.
    pub total: u64,
    /// What may still be written.
    pub free: u64,
}

/// The space of the file system of `path`.
///
/// # Errors
/// Those of statvfs(3).
pub fn space(path: &Path) -> io::Result<Space> {
    let stat = rustix::fs::statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok(Space { total: bytes(stat.f_blocks), free: bytes(stat.f_bavail) })
}
