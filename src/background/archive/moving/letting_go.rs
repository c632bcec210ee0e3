//! A row says that there is no file of a chunk, then the file goes.

use std::io;
use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::{Chunk, Moved, Object, Step, Trouble, Version};
use crate::background::archive::Archiver;
use crate::chunk::layout;
use crate::shard::repair::damage::Place;

impl Archiver {
    /// Notes that there is no file of a chunk, then removes it.
    pub(super) async fn let_go(&self, version: &Version, chunk: &Chunk, target: String) -> Step<Moved> {
        let (slot, whole) = (version.slot, &version.whole);
        if !self.node.writers.drop_chunk(slot, whole.row, chunk.id, target).await? {
            return Err(self.changed(version).await);
        }
        self.node.metrics.archive.chunks_dropped.inc();
        self.remove_file(version, chunk).await?;
        self.desk.pressure.note(self.node.slots.disk(slot));
        self.node.damages.found_good(Place { slot, row: whole.row, number: chunk.number });
        Ok(Moved::Dropped)
    }

    /// Removes the file of a chunk that has none by its row, as a crash between the two leaves it.
    pub(super) async fn let_go_again(&self, version: &Version, chunk: &Chunk, object: Object) -> Step<Moved> {
        let path = layout::chunk_file(self.node.slot_dir(version.slot), version.whole.blob, chunk.id);
        if matches!(spawn_blocking(move || path.try_exists()).await, Ok(Ok(true))) {
            if !self.has(&object, chunk).await? {
                return Err(Trouble::Chunk(format!(
                    "the archive does not have {} any more, and a file of the chunk is still here: restore it",
                    object.target
                )));
            }
            self.remove_file(version, chunk).await?;
        }
        Ok(Moved::Already)
    }

    pub(super) async fn remove_file(&self, version: &Version, chunk: &Chunk) -> Step<()> {
        let path = layout::chunk_file(self.node.slot_dir(version.slot), version.whole.blob, chunk.id);
        let disk = Arc::clone(self.node.disk(version.slot));
        let remove = move || {
            let removed = std::fs::remove_file(path);
            // For uploads that wait for room; who sees to the watermark looks again anyhow.
            let _ = disk.look();
            removed
        };
        let removed = spawn_blocking(remove).await;
        match removed.unwrap_or_else(|error| Err(io::Error::other(error.to_string()))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Trouble::Chunk(format!(
                "the archive has it, and its file cannot be removed: {error}: see to the disk"
            ))),
            _ => Ok(()),
        }
    }
}
