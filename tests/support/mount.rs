//! A small file system of its own, for what happens when a disk is full.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure in it is a failed test"
)]

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// An ext4 in a file, mounted; it goes when this goes, so a server on it must go first.
pub struct Mounted {
    home: TempDir,
}

impl Mounted {
    /// Makes one of `bytes`, or says why that is not possible here.
    pub fn new(bytes: u64) -> Result<Self, String> {
        let this =
            Self { home: tempfile::Builder::new().prefix("amberblob-disk-").tempdir().expect("a directory") };
        let image = this.home.path().join("image");
        let file = File::create(&image).map_err(|error| error.to_string())?;
        file.set_len(bytes).map_err(|error| error.to_string())?;
        std::fs::create_dir(this.path()).map_err(|error| error.to_string())?;
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(this.path()))?;
        Ok(this)
    }

    pub fn path(&self) -> PathBuf {
        self.home.path().join("mounted")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for options in [&[][..], &["-l"]] {
            if run(Command::new("umount").args(options).arg(self.path())).is_ok() {
                return;
            }
        }
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("{command:?}: {error}")),
    }
}

/// Takes all the space that the file system of `file` has left, to the last block.
pub fn fill(file: &Path) {
    let mut out = File::create(file).expect("a file to fill the disk with");
    for size in [1 << 20, 64 << 10, 4096, 512] {
        let block = vec![0x5a; size];
        loop {
            match out.write_all(&block) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => panic!("filling {}: {error}", file.display()),
            }
        }
    }
    // What was delayed finds no space either; that is what is wanted.
    let _ = out.sync_all();
}
