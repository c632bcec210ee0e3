//! Ranges of objects that reads, repairs and bringing back want: the longest waiting first, so many at once.

use std::ops::Range;
use std::rc::Rc;

use tokio::time::timeout;

use super::Archiver;
use crate::archive::failure::Kind;
use crate::archive::location::Location;
use crate::base::slot::Slot;
use crate::limits::{ARCHIVE_READ_TIME, ARCHIVE_RETRY_PAUSE, ARCHIVE_TRIES};
use crate::shard::archive::desk::Fetch;

/// Serves for as long as there is a desk: one of several that do.
pub(super) async fn serve(archiver: Rc<Archiver>) {
    let wanted = archiver.desk.fetches();
    while let Ok(Fetch { slot, target, range, mut reply }) = wanted.recv().await {
        let fetched = tokio::select! {
            fetched = archiver.fetch(slot, &target, range) => fetched,
            () = reply.cancellation() => continue,
        };
        // Who asked may have gone just now.
        let _ = reply.send(fetched);
    }
}

impl Archiver {
    /// Bytes of an object, or what the store said.
    async fn fetch(&self, slot: Slot, target: &str, range: Range<u64>) -> Result<Vec<u8>, String> {
        let at = target.parse::<Location>().map_err(|error| format!("{target}: {error}"))?;
        let asked = self
            .store
            .ask("get", &at.bucket, ARCHIVE_TRIES, async |store| store.get(&at, range.clone()).await);
        // A little less than who asked waits, so that it hears the reason.
        match timeout(ARCHIVE_READ_TIME.saturating_sub(ARCHIVE_RETRY_PAUSE), asked).await {
            Ok(Ok(bytes)) => {
                self.node.metrics.archive.fetched_bytes.inc_by(bytes.len() as u64);
                self.desk.lost.found(target);
                Ok(bytes)
            }
            Ok(Err(failure)) if failure.kind == Kind::Missing => {
                // Another one may have taken its place since it was looked up.
                if !matches!(self.node.readers.knows_object(slot, target.to_owned()).await, Ok(Some(true))) {
                    return Err(format!("{}: it is not needed any more", failure.message));
                }
                if self.desk.lost.miss(target) {
                    tracing::error!(object = %target, "the archive has lost what it alone should have");
                }
                Err(format!("{}: the archive has lost it", failure.message))
            }
            Ok(Err(failure)) => Err(failure.message),
            Err(_) => Err(format!("GET {at}: no answer in time")),
        }
    }
}
