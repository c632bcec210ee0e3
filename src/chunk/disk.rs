//! A disk of a node: its identity, its lock, its space.
//!
//! The first start writes an identity into an empty directory: which of how many disks it is. Slots are placed by
//! that number, so the disks may be named in any order later, but none may be missing, added, or of another node.
//!
//! The identity is also what the disk's votes are signed with in a cluster. A disk that has lost what it promised must not vote
//! as if it had not: one that was replaced has a new identity, and one that was written to without syncs gets one after a
//! stop that was not orderly. Its slots then recover from the other nodes. Nobody would give a node that runs alone its data back,
//! so there an empty disk among used ones is refused.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use ulid::Ulid;

use super::layout;
use crate::io::ballast::Ballast;
use crate::io::health::{self, Health};
use crate::io::steps;
use crate::limits::{BALLAST, DISK_RESERVE};

const IDENTITY: &str = "amberblob.json";
const NEW_IDENTITY: &str = "amberblob.json.tmp";
const LOCK: &str = "lock";
/// There while a disk is at rest after an orderly stop: everything on it is synced.
const CLEAN: &str = "clean";
/// There while what was promised may not be synced.
const RELAXED: &str = "relaxed";
const FORMAT: u32 = 1;

/// How the disks of a node are used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Whether files are read and written around the page cache.
    pub direct: bool,
    /// Whether the node is one of a cluster.
    pub clustered: bool,
    /// Whether it promises what is not synced.
    pub relaxed: bool,
}

/// What `amberblob.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    format: u32,
    node_id: String,
    disk_id: Ulid,
    disk: usize,
    disks: usize,
    /// Whether the disk has a list of the slots that were born on it; a release before that list says nothing.
    #[serde(default)]
    births: bool,
}

/// Whether what was promised on a disk may not be synced.
#[derive(Clone, Copy, Debug)]
struct Relaxed {
    /// By the last node on it, which did not stop in order.
    before: bool,
    /// By this one.
    now: bool,
}

/// A disk that is open and locked.
#[derive(Debug)]
pub struct Disk {
    root: PathBuf,
    id: Mutex<Ulid>,
    relaxed: Relaxed,
    /// Whether files are read and written around the page cache.
    direct: bool,
    /// Whether the last node on it stopped in order.
    clean: bool,
    /// Held for as long as the node runs.
    _lock: File,
    total: u64,
    free: AtomicU64,
    allocating: Mutex<()>,
    health: Health,
}

/// Opens and locks the disks of a node, in the order of their identities.
///
/// # Errors
/// One line: which directory, what is wrong with it, and what to do.
pub fn open_all(roots: &[PathBuf], usage: Usage) -> Result<Vec<Disk>, String> {
    let mut found = Vec::new();
    for root in roots {
        let describe = |what: &str, error: io::Error| format!("{}: {what}: {error}", root.display());
        steps::create_dir_synced(root).map_err(|error| describe("cannot make the data directory", error))?;
        // Before the lock, so that a foreign directory is left as it is; and under it, since another start may form it.
        read_identity(root)?;
        let lock = lock(root)?;
        let identity = read_identity(root)?;
        found.push((root.clone(), identity, lock));
    }
    let mut formed = form(found, usage.clustered)?;
    formed.sort_by_key(|(_, identity, _)| identity.disk);
    formed.into_iter().map(|(root, identity, lock)| Disk::open(root, identity, lock, usage)).collect()
}

type Found = (PathBuf, Option<Identity>, File);
type Formed = (PathBuf, Identity, File);

fn read_identity(root: &Path) -> Result<Option<Identity>, String> {
    match fs::read_to_string(root.join(IDENTITY)) {
        Ok(text) => {
            let identity: Identity = serde_json::from_str(&text)
                .map_err(|error| format!("{}: {IDENTITY} is damaged: {error}", root.display()))?;
            if identity.format != FORMAT {
                return Err(format!(
                    "{}: written by another release (format {}, this one reads {FORMAT})",
                    root.display(),
                    identity.format
                ));
            }
            Ok(Some(identity))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let entries = fs::read_dir(root).map_err(|error| format!("{}: {error}", root.display()))?;
            for entry in entries {
                let name = entry.map_err(|error| format!("{}: {error}", root.display()))?.file_name();
                if !["lost+found", LOCK, NEW_IDENTITY].iter().any(|known| name.to_str() == Some(known)) {
                    return Err(format!(
                        "{}: not empty and not a disk of AmberBlob (it holds '{}'): name an empty directory",
                        root.display(),
                        name.display()
                    ));
                }
            }
            Ok(None)
        }
        Err(error) => Err(format!("{}: cannot read {IDENTITY}: {error}", root.display())),
    }
}

fn lock(root: &Path) -> Result<File, String> {
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(root.join(LOCK))
        .map_err(|error| format!("{}: cannot be written: {error}", root.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(format!(
            "{}: in use by another running node: stop it, or name another directory",
            root.display()
        )),
        Err(TryLockError::Error(error)) => Err(format!("{}: cannot be locked: {error}", root.display())),
    }
}

/// Checks that the disks belong together, and makes identities where all of them are new; in a cluster, where any is.
fn form(found: Vec<Found>, clustered: bool) -> Result<Vec<Formed>, String> {
    let total = found.len();
    let known = found
        .iter()
        .find_map(|(root, identity, _)| identity.clone().map(|identity| (root.clone(), identity)));
    let node_id =
        known.as_ref().map_or_else(|| Ulid::generate().to_string(), |(_, first)| first.node_id.clone());
    let mut taken = vec![false; total];
    for (root, identity, _) in &found {
        let Some(identity) = identity else { continue };
        if identity.node_id != node_id {
            return Err(format!("{}: belongs to another node than the other disks", root.display()));
        }
        if identity.disks != total {
            return Err(format!(
                "{}: is disk {} of {}, but {total} are given: name all disks of this node, and no others",
                root.display(),
                identity.disk + 1,
                identity.disks
            ));
        }
        if std::mem::replace(&mut taken[identity.disk], true) {
            return Err(format!(
                "{}: is disk {} and so is another one: a copy?",
                root.display(),
                identity.disk + 1
            ));
        }
    }
    // A crash in the first start leaves some disks with an identity and none with data.
    let in_use = |root: &Path| layout::slots_dir(root).exists();
    let used = found.iter().find(|(root, ..)| in_use(root)).map(|(root, ..)| root.clone());
    let mut formed = Vec::with_capacity(total);
    for (root, identity, lock) in found {
        if let Some(identity) = identity {
            formed.push((root, identity, lock));
            continue;
        }
        if let Some(used) = &used {
            if !clustered {
                return Err(format!(
                    "{}: is empty, but its node has data (in {}): mount the disk that belongs here",
                    root.display(),
                    used.display()
                ));
            }
            tracing::warn!(disk = %root.display(), "the disk is empty: it recovers from the other nodes");
        }
        let disk = taken.iter().position(|taken| !taken).unwrap_or(0);
        taken[disk] = true;
        let new = Identity {
            format: FORMAT,
            node_id: node_id.clone(),
            disk_id: Ulid::generate(),
            disk,
            disks: total,
            births: false,
        };
        write_identity(&root, &new)
            .map_err(|error| format!("{}: cannot be written: {error}", root.display()))?;
        formed.push((root, new, lock));
    }
    Ok(formed)
}

fn write_identity(root: &Path, identity: &Identity) -> io::Result<()> {
    let mut file = File::create(root.join(NEW_IDENTITY))?;
    file.write_all(serde_json::to_string_pretty(identity)?.as_bytes())?;
    file.sync_all()?;
    fs::rename(root.join(NEW_IDENTITY), root.join(IDENTITY))?;
    steps::sync_dir(root)
}

impl Disk {
    fn open(root: PathBuf, mut identity: Identity, lock: File, usage: Usage) -> Result<Self, String> {
        let describe = |error: io::Error| format!("{}: {error}", root.display());
        let was_relaxed = mark(&root, &mut identity, usage).map_err(describe)?;
        steps::create_dir_synced(&layout::slots_dir(&root)).map_err(describe)?;
        let direct = usage.direct && probe_direct(&root).map_err(describe)?;
        let space = steps::space(&root).map_err(describe)?;
        let clean = match fs::remove_file(root.join(CLEAN)) {
            Ok(()) => steps::sync_dir(&root).map(|()| true).map_err(describe)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(describe(error)),
        };
        Ok(Self {
            root,
            id: Mutex::new(identity.disk_id),
            relaxed: Relaxed { before: was_relaxed, now: usage.relaxed },
            direct,
            clean,
            _lock: lock,
            total: space.total,
            free: AtomicU64::new(space.free),
            allocating: Mutex::new(()),
            health: Health::default(),
        })
    }

    /// Its identity, which no other disk has, and which its votes are signed with.
    pub fn id(&self) -> Ulid {
        *self.id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives it a new one, so that nothing counts any more that it has ever signed. Blocks.
    ///
    /// # Errors
    /// Those of the file steps; it is then what it was, or will be at the next start.
    pub fn renew(&self) -> Result<Ulid, String> {
        let mut id = self.id.lock().unwrap_or_else(PoisonError::into_inner);
        *id = self.change(|identity| identity.disk_id = Ulid::generate())?.disk_id;
        Ok(*id)
    }

    /// Whether it has a list of the slots that were born on it, so that one that is missing is lost.
    ///
    /// # Errors
    /// When its identity cannot be read.
    pub fn promises_births(&self) -> Result<bool, String> {
        Ok(read_identity(&self.root)?.is_some_and(|identity| identity.births))
    }

    /// Notes that it has such a list from now on. Blocks.
    ///
    /// # Errors
    /// Those of the file steps.
    pub fn promise_births(&self) -> Result<(), String> {
        let _id = self.id.lock().unwrap_or_else(PoisonError::into_inner);
        self.change(|identity| identity.births = true).map(drop)
    }

    /// Changes what is on disk of its identity.
    fn change(&self, change: impl FnOnce(&mut Identity)) -> Result<Identity, String> {
        let mut identity =
            read_identity(&self.root)?.ok_or_else(|| format!("{}: no {IDENTITY}", self.root.display()))?;
        change(&mut identity);
        write_identity(&self.root, &identity)
            .map_err(|error| format!("{}: {IDENTITY} cannot be written: {error}", self.root.display()))?;
        Ok(identity)
    }

    /// Its directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// How it is.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Has it write and read a small file. Blocks, for ever if it does not answer.
    ///
    /// # Errors
    /// What it said.
    pub fn probe(&self) -> io::Result<()> {
        health::probe(&self.root, self.direct)
    }

    /// Whether files are read and written around the page cache.
    pub fn direct(&self) -> bool {
        self.direct
    }

    /// Whether the last node on it stopped in order, so that nothing on it waits to be synced.
    pub fn was_clean(&self) -> bool {
        self.clean
    }

    /// Whether the last node on it may have lost what it had promised: it synced nothing, and did not stop in order.
    pub fn was_relaxed(&self) -> bool {
        self.relaxed.before
    }

    /// From now on nothing is promised that is not synced, and what was lost has had its consequences. Blocks.
    ///
    /// # Errors
    /// Those of the file steps.
    pub fn take_mark_off(&self) -> io::Result<()> {
        if self.relaxed.before && !self.relaxed.now {
            fs::remove_file(self.root.join(RELAXED))?;
            steps::sync_dir(&self.root)?;
        }
        Ok(())
    }

    /// Whether there is any slot on it.
    ///
    /// # Errors
    /// Those of readdir(3).
    pub fn has_slots(&self) -> io::Result<bool> {
        Ok(fs::read_dir(layout::slots_dir(&self.root))?.next().transpose()?.is_some())
    }

    /// Notes that the node has stopped in order; what cannot be noted costs the next start some syncs, or a recovery.
    pub fn rest(&self) {
        if self.relaxed.now
            && let Err(error) = unmark(&self.root)
        {
            tracing::warn!(disk = %self.root.display(), %error, "cannot be synced: the next start recovers it");
            return;
        }
        let _ = File::create(self.root.join(CLEAN));
    }

    /// Its ballast.
    pub fn ballast(&self) -> Ballast {
        Ballast::new(&self.root, BALLAST.min(self.total / 50))
    }

    fn reserve(&self) -> u64 {
        DISK_RESERVE.min(self.total / 20)
    }

    /// Whether a write of `len` bytes would leave the reserve untouched, by the last look at the disk. Never blocks.
    pub fn has_room(&self, len: u64) -> bool {
        self.free.load(Ordering::Relaxed) >= len.saturating_add(self.reserve())
    }

    /// Whether more than so many percent are used, by the last look at the disk. Never blocks.
    pub fn is_above(&self, percent: u64) -> bool {
        let used = self.total.saturating_sub(self.free.load(Ordering::Relaxed));
        u128::from(used) * 100 > u128::from(self.total) * u128::from(percent)
    }

    /// Looks at the free space. Blocks.
    ///
    /// # Errors
    /// Those of statvfs(3).
    pub fn look(&self) -> io::Result<u64> {
        let free = steps::space(&self.root)?.free;
        self.free.store(free, Ordering::Relaxed);
        Ok(free)
    }

    /// Makes a new file with `len` bytes reserved, one at a time on a disk, so that together they leave the reserve
    /// untouched. Blocks.
    ///
    /// # Errors
    /// `ENOSPC`, and those of open(2) and fallocate(2).
    pub fn create_file(&self, path: &Path, len: u64) -> io::Result<File> {
        let _one_at_a_time = self.allocating.lock().unwrap_or_else(PoisonError::into_inner);
        if self.look()? < len.saturating_add(self.reserve()) {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        steps::create_file(path, len, self.direct)
    }
}

/// Gives a disk that may have lost what it promised a new identity, where that helps, and marks it if from now on it may lose
/// some; whether it was marked.
fn mark(root: &Path, identity: &mut Identity, usage: Usage) -> io::Result<bool> {
    let path = root.join(RELAXED);
    let marked = path.try_exists()?;
    if marked && usage.clustered {
        tracing::warn!(disk = %root.display(), "not synced before the last stop: it recovers from the other nodes");
        identity.disk_id = Ulid::generate();
        write_identity(root, identity)?;
    }
    if !marked && usage.relaxed {
        File::create(path)?.sync_all()?;
        steps::sync_dir(root)?;
    }
    Ok(marked)
}

/// Syncs all of a disk and takes the mark off.
fn unmark(root: &Path) -> io::Result<()> {
    rustix::fs::syncfs(File::open(root)?)?;
    fs::remove_file(root.join(RELAXED))?;
    steps::sync_dir(root)
}

/// Whether the file system takes direct IO; a warning where it does not.
fn probe_direct(root: &Path) -> io::Result<bool> {
    let path = root.join(NEW_IDENTITY);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Only a refusal of the flag says so; a full disk says nothing.
    let direct = match steps::create_file(&path, 0, true) {
        Err(error) => error.raw_os_error() != Some(libc::EINVAL),
        Ok(_) => true,
    };
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if !direct {
        tracing::warn!(disk = %root.display(), "the file system has no direct IO: using the page cache");
    }
    Ok(direct)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(roots: &[PathBuf], usage: Usage) -> Vec<Ulid> {
        open_all(roots, usage).unwrap().iter().map(Disk::id).collect()
    }

    #[test]
    fn an_empty_disk_among_used_ones_is_a_replaced_one_only_in_a_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let roots = [dir.path().join("a"), dir.path().join("b")];
        let clustered = Usage { clustered: true, ..Usage::default() };
        let first = open(&roots, clustered);
        assert_eq!(open(&roots, clustered), first, "identities stay");
        fs::remove_dir_all(&roots[0]).unwrap();
        let error = open_all(&roots, Usage::default()).unwrap_err();
        assert!(error.contains("is empty, but its node has data"), "{error}");
        let replaced = open(&roots, clustered);
        assert_eq!(replaced[1], first[1]);
        assert_ne!(replaced[0], first[0]);
        assert_eq!(open(&roots, Usage::default()), replaced, "the order is that of the numbers");
    }

    #[test]
    fn without_syncs_only_an_orderly_stop_keeps_the_identity() {
        let dir = tempfile::tempdir().unwrap();
        let roots = [dir.path().join("a")];
        let full = Usage { clustered: true, ..Usage::default() };
        let relaxed = Usage { relaxed: true, ..full };
        let identity = |usage, orderly| {
            let disks = open_all(&roots, usage).unwrap();
            disks[0].take_mark_off().unwrap();
            if orderly {
                disks[0].rest();
            }
            disks[0].id()
        };
        let first = identity(full, false);
        assert_eq!(identity(relaxed, true), first, "everything was synced");
        assert_eq!(identity(relaxed, false), first, "and again");
        let second = identity(full, false);
        assert_ne!(second, first, "what was promised meanwhile may be lost");
        assert_eq!(identity(full, false), second);
        assert_eq!(identity(relaxed, false), second);
        assert_ne!(identity(relaxed, true), second);
    }
}
