//! Which slots were born on a disk: `<disk>/born`, one bit for each.
//!
//! A slot's database comes first, then its bit, then the first commit in it. So a bit without a database is a database that was
//! lost, and a database without its bit is a birth that a crash cut off, or one by a release that kept no list. The list is
//! written whole beside the old one, synced and renamed; slots that are born at the same time, on all cores, share a write.
//! A list that is missing or damaged says nothing: what that means is not decided here.
//!
//! | bytes | field |
//! |---|---|
//! | 0..4 | `AmB1` |
//! | 4..260 | the bits, lowest slot first |
//! | 260..264 | CRC32C of the bytes above |

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::base::slot::Slot;
use crate::base::slot_set::{SLOT_BYTES, SlotSet};
use crate::io::steps;

/// Its name on a disk.
pub const FILE: &str = "born";
const NEW_FILE: &str = "born.tmp";
const MAGIC: [u8; 4] = *b"AmB1";
const LEN: usize = MAGIC.len() + SLOT_BYTES + 4;

/// Why a disk's list says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// It is not there.
    #[error("is missing")]
    Missing,
    /// It is not what was written.
    #[error("is damaged")]
    Damaged,
}

/// Reads the list of the disk at `root`.
///
/// # Errors
/// Those of open(2) and read(2).
pub fn read(root: &Path) -> io::Result<Result<SlotSet, Lost>> {
    let bytes = match fs::read(root.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Err(Lost::Missing)),
        bytes => bytes?,
    };
    let Ok(bytes) = <[u8; LEN]>::try_from(bytes) else { return Ok(Err(Lost::Damaged)) };
    let (summed, sum) = bytes.split_at(LEN - 4);
    let bits = summed.strip_prefix(&MAGIC).and_then(|bits| <&[u8; SLOT_BYTES]>::try_from(bits).ok());
    Ok(match bits {
        Some(bits) if crc32c::crc32c(summed).to_le_bytes() == *sum => Ok(SlotSet::from_bytes(bits)),
        _ => Err(Lost::Damaged),
    })
}

/// Writes the list of the disk at `root`: on disk when this returns.
///
/// # Errors
/// Those of the file steps; the old list may still be there.
pub fn write(root: &Path, born: &SlotSet) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(LEN);
    bytes.extend(MAGIC);
    bytes.extend(born.to_bytes());
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    let mut file = File::create(root.join(NEW_FILE))?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(root.join(NEW_FILE), root.join(FILE))?;
    steps::sync_dir(root)
}

struct List {
    root: PathBuf,
    /// Slots whose databases are there, on disk or not yet.
    wanted: Mutex<SlotSet>,
    /// What is on disk. Locked while it is written.
    written: Mutex<SlotSet>,
}

/// The lists of all disks of a node.
pub struct Births {
    disks: Vec<List>,
}

impl Births {
    /// From the disks' directories and what is on disk of their lists.
    pub fn new(disks: impl IntoIterator<Item = (PathBuf, SlotSet)>) -> Self {
        let list = |(root, born)| List { root, wanted: Mutex::new(born), written: Mutex::new(born) };
        Self { disks: disks.into_iter().map(list).collect() }
    }

    /// Lists slots whose databases are on disk: when this returns, the list is there too.
    ///
    /// # Errors
    /// Those of the file steps; then nothing may be committed in them.
    pub(super) fn add(&self, disk: usize, slots: &[Slot]) -> io::Result<()> {
        let list = &self.disks[disk];
        let mine: SlotSet = slots.iter().copied().collect();
        list.wanted.lock().unwrap_or_else(PoisonError::into_inner).extend(&mine);
        let mut written = list.written.lock().unwrap_or_else(PoisonError::into_inner);
        // Who wrote while this waited may have written these, too.
        if written.contains_all(&mine) {
            return Ok(());
        }
        let all = *list.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        write(&list.root, &all)?;
        *written = all;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(number: u16) -> Slot {
        Slot::new(number).unwrap()
    }

    #[test]
    fn a_list_is_read_back_as_written_and_whatever_else_is_there_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        assert_eq!(read(root).unwrap(), Err(Lost::Missing));
        let born: SlotSet = "0,7-9,2047".parse().unwrap();
        write(root, &born).unwrap();
        assert_eq!(read(root).unwrap(), Ok(born));
        let good = fs::read(root.join(FILE)).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(root.join(FILE), bad).unwrap();
            assert_eq!(read(root).unwrap(), Err(Lost::Damaged), "byte {at}");
        }
        for bad in [&[][..], &good[..good.len() - 1]] {
            fs::write(root.join(FILE), bad).unwrap();
            assert_eq!(read(root).unwrap(), Err(Lost::Damaged));
        }
    }

    #[test]
    fn births_of_many_threads_are_all_on_disk_when_they_are_told_so() {
        let dir = tempfile::tempdir().unwrap();
        let births = Births::new([(dir.path().to_owned(), SlotSet::default())]);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let births = &births;
                let root = dir.path();
                scope.spawn(move || {
                    for number in 0..10 {
                        let born = [slot(thread * 100 + number), slot(thread * 100 + number + 50)];
                        births.add(0, &born).unwrap();
                        let on_disk = read(root).unwrap().unwrap();
                        assert!(born.iter().all(|slot| on_disk.contains(*slot)));
                    }
                });
            }
        });
    }

    #[test]
    fn a_birth_that_cannot_be_listed_is_refused_and_listed_with_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("disk");
        let births = Births::new([(root.clone(), SlotSet::default())]);
        births.add(0, &[slot(1)]).unwrap_err();
        fs::create_dir(&root).unwrap();
        births.add(0, &[slot(2)]).unwrap();
        assert_eq!(read(&root).unwrap(), Ok("1-2".parse().unwrap()));
    }
}
