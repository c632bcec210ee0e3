//! How a disk is: good, slow, or failed.
//!
//! Whoever meets an error that the disk itself may be to blame for notes it here; what it means is decided by a probe
//! ([`probe`]), which runs on a thread of its own. A disk that has failed stays so until the next start: what was believed to be on it
//! may not be.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::buffer::Buffer;
use super::steps;
use crate::limits::{DIRECT_ALIGN, DISK_SLOW, READ_ERRORS, READ_ERRORS_TIME};

/// The file that a probe writes and removes.
pub const PROBE: &str = "probe";

/// How a disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It does what it is asked.
    Good,
    /// It takes its time.
    Slow,
    /// It does not, or does not answer.
    Failed,
}

const STATES: [State; 3] = [State::Good, State::Slow, State::Failed];

impl State {
    /// Its name, for people.
    pub fn name(self) -> &'static str {
        ["good", "slow", "failed"][self as usize]
    }
}

/// The health of one disk.
#[derive(Debug, Default)]
pub struct Health {
    state: AtomicU8,
    /// Whether it is to be probed now.
    suspected: AtomicBool,
    /// Of the last probe, in microseconds.
    latency: AtomicU64,
    /// Failed reads, and when the first of them was.
    reads: Mutex<Option<(Instant, u32)>>,
    reason: Mutex<String>,
}

impl Health {
    /// How it is.
    pub fn state(&self) -> State {
        STATES[usize::from(self.state.load(Ordering::Acquire))]
    }

    /// Whether it has failed.
    pub fn has_failed(&self) -> bool {
        self.state() == State::Failed
    }

    /// Why it has failed.
    pub fn reason(&self) -> String {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the last probe took.
    pub fn latency(&self) -> Duration {
        Duration::from_micros(self.latency.load(Ordering::Relaxed))
    }

    /// Has it probed soon.
    pub fn suspect(&self) {
        self.suspected.store(true, Ordering::Release);
    }

    /// Whether it is to be probed now; from then on it is not.
    pub fn take_suspicion(&self) -> bool {
        self.suspected.load(Ordering::Acquire) && self.suspected.swap(false, Ordering::AcqRel)
    }

    /// A write, a sync or another change has failed.
    pub fn note_write(&self, error: &io::Error) {
        if !is_full(error) {
            self.suspect();
        }
    }

    /// A read has failed: several in a short time are a reason to look.
    pub fn note_read(&self, error: &io::Error) {
        // A file that is not there, or ends early, is damage of its own.
        if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) {
            return;
        }
        let mut reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, count) = reads
            .filter(|(since, _)| since.elapsed() < READ_ERRORS_TIME)
            .map_or_else(|| (Instant::now(), 1), |(since, count)| (since, count + 1));
        if count >= READ_ERRORS {
            *reads = None;
            self.suspect();
        } else {
            *reads = Some((since, count));
        }
    }

    /// A probe has found nothing wrong. One that has failed stays so.
    pub fn answered(&self, latency: Duration) {
        self.latency.store(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        let now = if latency > DISK_SLOW { State::Slow } else { State::Good };
        // Only who probes changes it.
        if !self.has_failed() {
            self.state.store(now as u8, Ordering::Release);
        }
    }

    /// A probe has failed; false: that was known.
    pub fn fail(&self, reason: &str) -> bool {
        let mut known = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        if self.has_failed() {
            return false;
        }
        reason.clone_into(&mut known);
        self.state.store(State::Failed as u8, Ordering::Release);
        true
    }
}

/// Whether an error says that there is no space.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}

/// Has the disk at `root` write, sync, read and remove a small file; on a full one, sync and read. Blocks, for ever if the disk
/// does not answer.
///
/// # Errors
/// What the disk said; or that it read something else than was written.
pub fn probe(root: &Path, direct: bool) -> io::Result<()> {
    let path = root.join(PROBE);
    let written = write_probe(&path, direct);
    let removed = match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    match written {
        Err(error) if is_full(&error) => steps::sync_dir(root).and(removed),
        written => written.and(removed),
    }
}

fn write_probe(path: &Path, direct: bool) -> io::Result<()> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let wanted = since.as_nanos().to_le_bytes().repeat(DIRECT_ALIGN / 16);
    let mut file = File::create(path)?;
    file.write_all(&wanted)?;
    file.sync_all()?;
    // What is in memory proves nothing.
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    let mut found = Buffer::new(DIRECT_ALIGN);
    found.set_len(DIRECT_ALIGN);
    steps::open_file(path, direct)?.read_exact(&mut found)?;
    if found[..] == wanted[..] {
        Ok(())
    } else {
        Err(io::Error::other("what was read is not what was written"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_leaves_nothing_and_tells_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        probe(dir.path(), false).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        fs::create_dir(dir.path().join(PROBE)).unwrap();
        probe(dir.path(), false).unwrap_err();
        probe(&dir.path().join("gone"), false).unwrap_err();
    }

    #[test]
    fn only_what_the_disk_may_be_to_blame_for_is_a_suspicion() {
        let health = Health::default();
        health.note_write(&io::Error::from_raw_os_error(libc::ENOSPC));
        (0..READ_ERRORS * 2).for_each(|_| health.note_read(&io::ErrorKind::NotFound.into()));
        assert!(!health.take_suspicion());
        health.note_write(&io::Error::from_raw_os_error(libc::EIO));
        assert!(health.take_suspicion() && !health.take_suspicion());
        for count in 1..=READ_ERRORS {
            health.note_read(&io::Error::from_raw_os_error(libc::EIO));
            assert_eq!(health.take_suspicion(), count == READ_ERRORS);
        }
    }

    #[test]
    fn a_disk_that_has_failed_stays_so() {
        let health = Health::default();
        health.answered(DISK_SLOW * 2);
        assert_eq!(health.state(), State::Slow);
        health.answered(DISK_SLOW / 2);
        assert_eq!(health.state(), State::Good);
        assert!(health.fail("EIO") && !health.fail("later"));
        health.answered(DISK_SLOW / 2);
        assert_eq!((health.state(), health.reason().as_str()), (State::Failed, "EIO"));
    }
}
