//! Putting a database aside that has lost what it promised, so that another one takes its place.
//!
//! It is kept for people, as `meta.sqlite3.damaged-<time>`, and never opened again. Its log goes before it: a new database
//! beside an old log would take it for its own. A crash in between leaves a slot that was born and has no database, or an older
//! one, which the next start finds out. Nothing may vote on the strength of what comes after: who calls this has taken care.

use std::fs;
use std::io;
use std::path::Path;

use super::schema::{DAMAGED, FILE};
use crate::base::clock::Timestamp;
use crate::io::steps;

/// Moves what there is of a slot's database out of the way, whether or not there is any.
///
/// # Errors
/// Those of rename(2), unlink(2) and fsync(2); it can be done again.
pub(super) fn put_aside(dir: &Path) -> io::Result<()> {
    let time: String = Timestamp::now().to_string().chars().filter(char::is_ascii_alphanumeric).collect();
    for ending in ["-journal", "-wal", ""] {
        let (from, to) = (dir.join(format!("{FILE}{ending}")), dir.join(format!("{DAMAGED}{time}{ending}")));
        match fs::rename(from, to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    // Shared memory of those that have it open still; it says nothing that the log does not.
    match fs::remove_file(dir.join(format!("{FILE}-shm"))) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    match steps::sync_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        synced => synced,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::schema::{self, Found};

    #[test]
    fn everything_of_a_database_goes_and_nothing_of_its_blobs() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("7");
        put_aside(&dir).unwrap();
        fs::create_dir_all(dir.join("blobs")).unwrap();
        for ending in ["", "-wal", "-shm"] {
            fs::write(dir.join(format!("{FILE}{ending}")), ending).unwrap();
        }
        put_aside(&dir).unwrap();
        let mut names: Vec<String> =
            fs::read_dir(&dir).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names.len(), 3, "{names:?}");
        assert!(
            names[0] == "blobs" && names[1].starts_with(DAMAGED) && names[2].ends_with("-wal"),
            "{names:?}"
        );
        assert_eq!(schema::find(&dir).unwrap(), Found::Remains, "its blobs name a database that is gone");
        fs::remove_dir(dir.join("blobs")).unwrap();
        assert_eq!(schema::find(&dir).unwrap(), Found::Nothing);
    }
}
