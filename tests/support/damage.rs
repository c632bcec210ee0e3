//! Damage to files, as disks and cosmic rays do it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Flips one bit of the byte at `offset`, and has it on disk.
pub fn flip(file: &Path, offset: u64) {
    try_flip(file, offset).unwrap();
}

/// The same of a file that may be gone.
pub fn try_flip(file: &Path, offset: u64) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(file)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset)?;
    file.write_all_at(&[byte[0] ^ 0x10], offset)?;
    file.sync_all()
}

/// Flips a byte of `data` close to `near`, where a database has it in one piece.
pub fn flip_in_database(slot: &Path, data: &[u8], near: usize) {
    let database = slot.join("meta.sqlite3");
    // Everything into the file itself, so that no log repairs it.
    let db = rusqlite::Connection::open(&database).unwrap();
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(db);
    let mut content = Vec::new();
    File::open(&database).unwrap().read_to_end(&mut content).unwrap();
    let found = (near..near + 64).find_map(|at| {
        let needle = data.get(at..at + 24)?;
        content.windows(24).position(|window| window == needle)
    });
    flip(&database, found.expect("the bytes of the blob in its database") as u64);
}
