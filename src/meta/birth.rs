//! Births: a slot's directory and its empty database, whole and on disk when they have their names.
//!
//! The first database of a process is made by SQLite; the others are copies of its bytes. Several are born at once on
//! threads of their own, since a birth is mostly waiting for syncs, which the file system gathers.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::OnceLock;
use std::thread;

use super::schema::{self, CreateError, FILE, NEW_FILE};
use crate::io::steps;
use crate::limits::SETTLERS;

/// An empty database, byte by byte.
static EMPTY: OnceLock<Vec<u8>> = OnceLock::new();

/// Makes the slots of these directories; each has its own outcome.
pub(super) fn bear(dirs: &[&Path]) -> Vec<Result<(), CreateError>> {
    let [dir] = dirs else {
        return dirs.chunks(SETTLERS).flat_map(bear_together).collect();
    };
    vec![steps::create_dir_synced(dir).map_err(CreateError::from).and_then(|()| create(dir))]
}

fn bear_together(dirs: &[&Path]) -> Vec<Result<(), CreateError>> {
    let bear = |dir: &Path| -> Result<(), CreateError> {
        match fs::create_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => steps::create_dir_synced(dir)?,
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
            _ => {}
        }
        create(dir)
    };
    let mut outcomes: Vec<_> = thread::scope(|scope| {
        let bear = &bear;
        let births: Vec<_> = dirs.iter().map(|dir| scope.spawn(move || bear(dir))).collect();
        let gone = || io::Error::other("a birth ended in a panic").into();
        births.into_iter().map(|birth| birth.join().unwrap_or_else(|_| Err(gone()))).collect()
    });
    // The entries of all of them, with one sync for each parent.
    let mut parents: Vec<&Path> = dirs.iter().filter_map(|dir| dir.parent()).collect();
    parents.dedup();
    if let Err(error) = parents.into_iter().try_for_each(steps::sync_dir) {
        for outcome in &mut outcomes {
            *outcome = Err(io::Error::new(error.kind(), error.to_string()).into());
        }
    }
    outcomes
}

/// Makes a new database in `dir`: whole and on disk, or not there at all. One that is there already was made before and could not be
/// listed; somebody may have it open.
fn create(dir: &Path) -> Result<(), CreateError> {
    if dir.join(FILE).try_exists()? {
        return Ok(steps::sync_dir(dir)?);
    }
    let new = dir.join(NEW_FILE);
    schema::clear(dir)?;
    if let Some(empty) = EMPTY.get() {
        let mut file = fs::File::create_new(&new)?;
        file.write_all(empty)?;
        file.sync_all()?;
    } else {
        schema::make(&new)?;
        fs::File::open(&new)?.sync_all()?;
        // Another thread may have been first: theirs is as good.
        let _ = EMPTY.set(fs::read(&new)?);
    }
    fs::rename(&new, dir.join(FILE))?;
    steps::sync_dir(dir)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_databases_like_the_first() {
        let root = tempfile::tempdir().unwrap();
        let dirs: Vec<_> = (0..40).map(|number| root.path().join("slots").join(number.to_string())).collect();
        let dirs: Vec<&Path> = dirs.iter().map(std::path::PathBuf::as_path).collect();
        assert!(bear(&dirs[..1]).iter().all(Result::is_ok));
        assert!(bear(&dirs[1..]).iter().all(Result::is_ok));
        let first = fs::read(dirs[0].join(FILE)).unwrap();
        for dir in &dirs {
            assert_eq!(fs::read(dir.join(FILE)).unwrap(), first);
            assert!(!dir.join(NEW_FILE).exists());
        }
        schema::open_writer(dirs[39], schema::Durability::Full).unwrap();
    }

    #[test]
    fn a_birth_that_fails_leaves_the_others_alone() {
        let root = tempfile::tempdir().unwrap();
        let (good, bad) = (root.path().join("good"), root.path().join("bad"));
        fs::write(&bad, b"a file where a directory should be").unwrap();
        let outcomes = bear(&[&good, &bad]);
        assert!(outcomes[0].is_ok() && outcomes[1].is_err());
        assert!(good.join(FILE).exists());
    }
}
