//! Where the scrub of a disk is: `<disk>/scrub.json`, written beside and renamed. Nothing rests on it: without it a pass begins
//! later, or again.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::pass::Position;
use crate::chunk::disk::Disk;
use crate::chunk::layout;
use crate::limits::PROBE_TIME;

/// Times are milliseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Progress {
    /// When the last pass began.
    pub(super) begun: i64,
    /// When the last whole one ended; 0: none has.
    pub(super) finished: i64,
    /// Where it is; none: it is through.
    pub(super) position: Option<Position>,
}

/// What is noted on a disk; none: nothing, or nothing that can be read in time.
pub(super) async fn load(disk: &Arc<Disk>) -> Option<Progress> {
    let place = Arc::clone(disk);
    timeout(PROBE_TIME, spawn_blocking(move || read(place.root()))).await.ok()?.ok()?
}

/// Notes it; what cannot be noted, or not in time, is done again after a restart.
pub(super) async fn save(disk: &Arc<Disk>, progress: &Progress) {
    let (place, progress) = (Arc::clone(disk), progress.clone());
    let written = timeout(PROBE_TIME, spawn_blocking(move || write(place.root(), &progress))).await;
    if written.is_err() {
        tracing::warn!(disk = %disk.root().display(), "where the scrub is cannot be noted: the disk does not answer");
    }
}

fn read(root: &Path) -> Option<Progress> {
    let path = layout::scrub_file(root);
    let read = fs::read(&path).and_then(|text| Ok(serde_json::from_slice(&text)?));
    match read {
        Ok(progress) => Some(progress),
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(path = %path.display(), %error, "where the scrub was cannot be read: its next pass begins later");
            }
            None
        }
    }
}

fn write(root: &Path, progress: &Progress) {
    let path = layout::scrub_file(root);
    let new = path.with_extension("json.tmp");
    let write = || {
        fs::write(&new, serde_json::to_vec(progress)?)?;
        fs::rename(&new, &path)
    };
    if let Err(error) = write() {
        tracing::warn!(path = %path.display(), %error, "where the scrub is cannot be noted");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_back_as_written_and_rubbish_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()), None);
        let position = Some(Position { slot: 7, row: 9, chunk: 3 });
        let progress = Progress { begun: 1, finished: 2, position };
        write(dir.path(), &progress);
        assert_eq!(read(dir.path()), Some(progress));
        fs::write(layout::scrub_file(dir.path()), "{").unwrap();
        assert_eq!(read(dir.path()), None);
    }
}
