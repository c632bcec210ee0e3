//! What the store and the other replicas say of the object that has a chunk.

use std::ops::Range;

use tokio::time::timeout;

use super::{Chunk, Known, Object, Step, Trouble, Version};
use crate::archive::failure::{Failure, Kind};
use crate::archive::location::Location;
use crate::archive::target::Target;
use crate::background::archive::Archiver;
use crate::base::sha256::Sha256;
use crate::limits::{ARCHIVE_READ_TIME, ARCHIVE_TRIES, PART_SIZE};

impl Archiver {
    /// Whether the store has a chunk, by what it says of its object.
    pub(super) async fn has(&self, object: &Object, chunk: &Chunk) -> Step<bool> {
        let Ok(at) = object.target.parse::<Location>() else { return Ok(false) };
        match self.is_at(&at, &object.range, chunk).await {
            Ok(has) => Ok(has),
            Err(Failure { kind: Kind::Missing | Kind::Wrong, .. }) => Ok(false),
            // It is from a time with another config.
            Err(Failure { kind: Kind::Denied, .. }) if at.bucket != self.settings.bucket => Ok(false),
            Err(failure) => Err(Trouble::Ends(failure.message)),
        }
    }

    /// Whether a range of an object has the SHA-256 of a chunk, which the store tells only of whole objects.
    async fn is_at(&self, at: &Location, range: &Range<u64>, chunk: &Chunk) -> Result<bool, Failure> {
        let stat = async |store: Target| store.stat(at).await;
        self.store.pace().await;
        let stat = self.store.ask("stat", &at.bucket, ARCHIVE_TRIES, stat).await?;
        if stat.size < range.end || range.end - range.start != chunk.len {
            return Ok(false);
        }
        let is_whole = *range == (0..stat.size);
        let hash = match stat.sha256.filter(|_| is_whole) {
            Some(hash) => hash,
            None => self.hash(at, range.clone()).await?,
        };
        Ok(hash == chunk.id.0)
    }

    /// SHA-256 of bytes of an object.
    pub(super) async fn hash(&self, at: &Location, bytes: Range<u64>) -> Result<[u8; 32], Failure> {
        let Range { start: mut from, end: len } = bytes;
        let mut hash = Sha256::default();
        loop {
            let range = from..len.min(from + PART_SIZE);
            from = range.end;
            let get = async |store: Target| store.get(at, range.clone()).await;
            self.store.pace().await;
            let asked = self.store.ask("get", &at.bucket, ARCHIVE_TRIES, get);
            let Ok(got) = timeout(ARCHIVE_READ_TIME, asked).await else {
                let message = format!("GET {at}: a part of it was not had within {ARCHIVE_READ_TIME:?}");
                return Err(Failure { kind: Kind::Unavailable, message });
            };
            let bytes = got?;
            self.node.metrics.archive.fetched_bytes.inc_by(bytes.len() as u64);
            if from >= len {
                return Ok(hash.finish(&bytes));
            }
            hash.update(bytes.as_chunks().0);
        }
    }

    /// Has the other replicas told of the row that names an object.
    pub(super) async fn spread(&self, version: &Version, chunk: &Chunk, target: &str) -> Step<Known> {
        let Some(cluster) = &self.node.cluster else { return Ok(Known::Here) };
        let (slot, whole) = (version.slot, &version.whole);
        let found = self.node.readers.archived_chunk(slot, whole.row, chunk.number).await?;
        let Some(found) = found else { return Err(self.changed(version).await) };
        if found.target != target {
            return Ok(Known::Another);
        }
        let row = found.row(whole.version, whole.blob);
        let told = self.desk.spread(slot, &whole.path, vec![row.clone()]).await?.pop().unwrap_or_default();
        if told.gone {
            return Err(Trouble::Gone);
        }
        if let Some(successor) = told.successor {
            // So that it is known here, too.
            self.desk.spread(slot, &whole.path, vec![successor]).await?;
            return Ok(Known::Another);
        }
        if told.condemned {
            return Ok(Known::Condemned);
        }
        if told.all {
            self.node.writers.mark_spread(slot, vec![row]).await?;
        } else {
            self.desk.note_unspread(slot);
        }
        let needed = cluster.topology().write_quorum();
        if told.holders < needed {
            return Err(Trouble::Ends(format!(
                "it is stored, and {} of the {needed} nodes that must know where, before a file goes, do: ask again when \
                 more of them answer",
                told.holders
            )));
        }
        Ok(Known::Everywhere)
    }
}
