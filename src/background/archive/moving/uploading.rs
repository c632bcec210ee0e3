//! A chunk is stored under a key of its own, and a row names it.

use std::pin::pin;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::{Chunk, Object, Step, Stored, Trouble, Version};
use crate::archive::failure::{Failure, Kind};
use crate::archive::location::Location;
use crate::background::archive::Archiver;
use crate::background::archive::source::{Fault, Source};
use crate::background::archive::store::pause;
use crate::base::error::Code;
use crate::base::parts::Part;
use crate::chunk::{kept, layout};
use crate::limits::{ARCHIVE_TRIES, PART_SIZE, PARTS_PER_CHUNK};
use crate::meta::archives;

impl Archiver {
    /// The file of a chunk, and its checksums.
    pub(super) async fn source(&self, version: &Version, chunk: &Chunk) -> Step<Source> {
        let (slot, whole) = (version.slot, &version.whole);
        let first = chunk.number * PARTS_PER_CHUNK;
        let count = chunk.len.div_ceil(PART_SIZE);
        let parts: Vec<Part> = match self.node.readers.parts(slot, whole.row, first, count).await {
            Ok(parts) => parts.parts,
            // Its chunks may be gone.
            Err(error) if error.code == Code::BlobNotFound => return Err(Trouble::Gone),
            Err(error) => return Err(error.into()),
        };
        let path = layout::chunk_file(self.node.slot_dir(slot), whole.blob, chunk.id);
        Ok(Source::new(path, chunk.len, parts))
    }

    /// Stores a chunk's object under a key of its own, and has a row name it, in place of `expected`.
    pub(super) async fn upload(
        &self,
        version: &Version,
        chunk: &Chunk,
        source: &Source,
        expected: Option<String>,
    ) -> Step<Stored> {
        let mut tried = 0;
        loop {
            version.go_on()?;
            let at = Location::of_chunk(&self.settings.bucket, &self.settings.prefix, version.slot);
            let target = at.to_string();
            let object = Object { target: target.clone(), range: 0..chunk.len };
            let held = self.keys.hold(&self.desk, version.slot, target.clone());
            self.node.writers.begin_object(version.slot, target.clone(), version.whole.path.clone()).await?;
            self.budget.begin(chunk.len).await;
            self.store.pace().await;
            let (credentials, store) = self.store.target();
            let (sender, body) = mpsc::channel(1);
            let mut feeding = pin!(source.feed(sender, &self.budget));
            let mut storing = pin!(store.put(&at, chunk.len, chunk.id.0, body));
            let (fed, stored) = tokio::select! {
                fed = &mut feeding => (Some(fed), storing.await),
                // A store that has answered may take no more, and nobody waits for it to.
                stored = &mut storing => (timeout(Duration::ZERO, feeding).await.ok(), stored),
            };
            let stored = match fed {
                Some(Err(fault)) => return Err(self.damaged(version, chunk, &fault).await),
                Some(Ok(true)) => stored,
                Some(Ok(false)) | None => stored.and_then(|()| Err(not_all(&at))),
            };
            self.store.note("put", &at.bucket, &stored);
            let stored = match stored {
                Ok(()) if self.node.cluster.is_some() && !self.has(&object, chunk).await? => {
                    Err(not_there(&at))
                }
                stored => stored,
            };
            let Err(failure) = stored else {
                self.node.metrics.archive.uploaded_bytes.inc_by(chunk.len);
                let replaces = expected.is_some();
                let stored = self.name(version, chunk, object, expected).await?;
                if matches!(stored, Stored::Named(_)) {
                    held.named();
                    if replaces {
                        // The object before is named by nothing any more.
                        self.desk.note_leftovers(version.slot);
                    }
                }
                return Ok(stored);
            };
            if failure.kind == Kind::Wrong
                && let Some(trouble) = self.blame(version, chunk).await
            {
                return Err(trouble);
            }
            tried += 1;
            if !self.store.is_worth_a_try(&failure, credentials).await || tried >= ARCHIVE_TRIES {
                return Err(Trouble::Ends(failure.message));
            }
            drop(held);
            sleep(pause(tried)).await;
        }
    }

    /// Makes the row that names an object, in place of `expected`.
    pub(super) async fn name(
        &self,
        version: &Version,
        chunk: &Chunk,
        object: Object,
        expected: Option<String>,
    ) -> Step<Stored> {
        let (slot, row, Object { target, range }) = (version.slot, version.whole.row, object.clone());
        let place = archives::Place { chunk: chunk.id, length: chunk.len, target, range };
        if self.node.writers.archive(slot, row, place, expected.clone()).await? {
            self.node.metrics.archive.chunks_archived.inc();
            return Ok(Stored::Named(object));
        }
        let found = self.node.readers.archived_chunk(slot, row, chunk.number).await?;
        match found.filter(|found| Some(&found.target) != expected.as_ref()) {
            Some(other) => Ok(Stored::Another(other.into())),
            None => Err(self.changed(version).await),
        }
    }

    /// Whether the file is what is wrong where the store got other bytes than it should: its checksums in the database may be, too.
    pub(super) async fn blame(&self, version: &Version, chunk: &Chunk) -> Option<Trouble> {
        let slot_dir = self.node.slot_dir(version.slot).to_path_buf();
        let (blob, id, len) = (version.whole.blob, chunk.id, chunk.len);
        let verified = spawn_blocking(move || kept::verify(&slot_dir, blob, id, len, false)).await;
        match verified {
            Ok(Ok(Some(_))) => None,
            Ok(Ok(None) | Err(_)) => Some(self.damaged(version, chunk, &Fault::Hash).await),
            Err(_) => Some(Trouble::Over),
        }
    }
}

/// The store says that it has taken an object, and then that it has not.
fn not_there(at: &Location) -> Failure {
    let message = format!(
        "PUT {at}: the archive says that it has stored it, and then that it has not: see to the store"
    );
    Failure { kind: Kind::Wrong, message }
}

/// The store has not taken all, and says that it has.
fn not_all(at: &Location) -> Failure {
    Failure { kind: Kind::Wrong, message: format!("PUT {at}: the store says it is done before it has all") }
}
