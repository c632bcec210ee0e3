//! Takes away mounts and loop devices, of one's own and of test processes that were killed.
//!
//! Everything of a rig is below one directory whose name has the test's process in it, so what belongs to a process that is no
//! more can be told from what is in use.

use std::path::{Path, PathBuf};

use super::command::run;

const PREFIX: &str = "amberblob-blocks-";

/// A directory for a rig of this process.
pub fn new_home() -> std::io::Result<PathBuf> {
    let prefix = format!("{PREFIX}{}-", std::process::id());
    Ok(tempfile::Builder::new().prefix(&prefix).tempdir()?.keep())
}

/// Removes what processes that are no more have left behind.
pub fn remove_all() {
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')).map(|(pid, _)| pid);
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            remove(&entry.path());
        }
    }
}

/// Removes a rig's directory with everything that is mounted in it; a device that does not answer keeps nobody waiting here.
pub fn remove(home: &Path) {
    for point in mounts(home) {
        // Lazily: it is out of the tree at once, and goes when the last one who uses it does.
        if let Err(wrong) = run("umount", &["-l", &point]) {
            eprintln!("block devices: {wrong}");
        }
    }
    for device in loop_devices(home) {
        // One that is in use goes with its last user.
        let _ = run("losetup", &["-d", &device]);
    }
    // Never through a mount.
    if mounts(home).is_empty() {
        let _ = std::fs::remove_dir_all(home);
    }
}

/// Mount points below a directory, the innermost first.
fn mounts(home: &Path) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    let mut points: Vec<String> =
        points.filter(|point| Path::new(point).starts_with(home)).map(str::to_owned).collect();
    points.reverse();
    points
}

/// Loop devices over files below a directory.
fn loop_devices(home: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let backing = std::fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
        if Path::new(backing.trim_end()).starts_with(home) {
            found.push(format!("/dev/{}", entry.file_name().to_string_lossy()));
        }
    }
    found
}
