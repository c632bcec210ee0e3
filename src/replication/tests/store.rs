//! What a replica stores, in memory: rows by blob, so that even what must never be can be held and seen.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use super::shared::Shared;
use crate::base::clock::Timestamp;
use crate::base::ids::{BlobId, ChunkId};
use crate::replication::participant::{EVERY_BALLOT, Rows};
use crate::wire::peer::archive::ArchiveRow;
use crate::wire::peer::{Attempt, Held, Proposal, Query, Row};

/// Rows of one slot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Store {
    pub(super) held: BTreeMap<BlobId, Held>,
    pub(super) prepared: BTreeMap<BlobId, Proposal>,
    pub(super) refused: BTreeSet<Attempt>,
    pub(super) archived: BTreeMap<(BlobId, ChunkId), ArchiveRow>,
    pub(super) leftovers: BTreeSet<String>,
    pub(super) condemned: BTreeSet<String>,
}

impl Store {
    pub(super) fn has(&self, blob: BlobId) -> bool {
        self.held.contains_key(&blob)
    }

    pub(super) fn is_tombstoned(&self, path: &str, version: u64) -> bool {
        let is = |held: &Held| held.row.path == path && held.row.version == version;
        self.held.values().any(|held| is(held) && held.tombstoned_at.is_some())
    }

    pub(super) fn has_refused(&self, attempt: Attempt) -> bool {
        self.refused.contains(&attempt)
            || self.refused.contains(&Attempt { blob_id: attempt.blob_id, ballot: EVERY_BALLOT })
    }

    /// Takes over a row as another replica hands it over.
    pub(super) fn take(&mut self, theirs: &Held) {
        let mine = self.held.entry(theirs.row.attempt.blob_id).or_insert_with(|| Held {
            hollow: true,
            tombstoned_at: None,
            ..theirs.clone()
        });
        mine.tombstoned_at = mine.tombstoned_at.or(theirs.tombstoned_at);
    }
}

/// A store inside of one transaction: a copy is made when the first thing is written.
pub(super) struct Transaction<'a> {
    store: &'a mut Shared<Store>,
    pub(super) wrote: bool,
}

impl<'a> Transaction<'a> {
    pub(super) fn new(store: &'a mut Shared<Store>) -> Self {
        Self { store, wrote: false }
    }

    fn write(&mut self, change: impl FnOnce(&mut Store)) -> Result<(), Infallible> {
        self.wrote = true;
        self.store.change(change);
        Ok(())
    }
}

impl Rows for Transaction<'_> {
    type Error = Infallible;

    fn versions(&mut self, path: &str, query: Query) -> Result<Vec<Held>, Infallible> {
        let on_path = self.store.held.values().filter(|held| held.row.path == path);
        let mut found: Vec<&Held> = on_path
            .filter(|held| match query {
                Query::At(version) => held.row.version == version,
                Query::Below { version, .. } => held.row.version < version,
                Query::Newest => true,
            })
            .collect();
        found.sort_by_key(|held| std::cmp::Reverse(held.row.version));
        match query {
            Query::Newest => found.truncate(1),
            Query::At(_) => {}
            Query::Below { limit, .. } => found.truncate(limit as usize),
        }
        Ok(found.into_iter().cloned().collect())
    }

    fn committed(&mut self, blob: BlobId) -> Result<Option<Held>, Infallible> {
        Ok(self.store.held.get(&blob).cloned())
    }

    fn prepared(&mut self, blob: BlobId) -> Result<Option<Proposal>, Infallible> {
        Ok(self.store.prepared.get(&blob).cloned())
    }

    fn prepared_on(&mut self, path: &str) -> Result<Vec<Proposal>, Infallible> {
        Ok(self.store.prepared.values().filter(|proposal| proposal.row.path == path).cloned().collect())
    }

    fn is_refused(&mut self, attempt: Attempt) -> Result<bool, Infallible> {
        Ok(self.store.has_refused(attempt))
    }

    fn prepare(&mut self, proposal: &Proposal) -> Result<(), Infallible> {
        self.write(|store| {
            let before = store.prepared.insert(proposal.row.attempt.blob_id, proposal.clone());
            assert_eq!(before, None, "a blob is prepared once");
        })
    }

    fn forget(&mut self, attempt: Attempt) -> Result<(), Infallible> {
        self.write(|store| {
            if store.prepared.get(&attempt.blob_id).is_some_and(|mine| mine.row.attempt == attempt) {
                store.prepared.remove(&attempt.blob_id);
            }
        })
    }

    fn refuse(&mut self, attempt: Attempt) -> Result<(), Infallible> {
        self.write(|store| {
            store.refused.insert(attempt);
        })
    }

    fn commit(&mut self, attempt: Attempt) -> Result<(), Infallible> {
        self.write(|store| {
            let mine = store.prepared.remove(&attempt.blob_id).expect("what is committed was prepared");
            assert_eq!(mine.row.attempt, attempt);
            store.held.insert(attempt.blob_id, Held { row: mine.row, tombstoned_at: None, hollow: false });
        })
    }

    fn commit_hollow(&mut self, row: &Row) -> Result<(), Infallible> {
        self.write(|store| {
            let held = Held { row: row.clone(), tombstoned_at: None, hollow: true };
            let before = store.held.insert(row.attempt.blob_id, held);
            assert_eq!(before, None, "a blob is committed once");
        })
    }

    fn tombstone(&mut self, row: &Row, at: Timestamp) -> Result<(), Infallible> {
        self.write(|store| {
            let mine = store.held.get_mut(&row.attempt.blob_id).expect("what is tombstoned was committed");
            mine.tombstoned_at = Some(mine.tombstoned_at.map_or(at, |before| before.min(at)));
        })
    }

    fn archived(&mut self, blob: BlobId, chunk: ChunkId) -> Result<Option<ArchiveRow>, Infallible> {
        Ok(self.store.archived.get(&(blob, chunk)).cloned())
    }

    fn archive(&mut self, _: &str, row: &ArchiveRow) -> Result<(), Infallible> {
        self.write(|store| {
            store.leftovers.remove(&row.target);
            if let Some(before) = store.archived.insert((row.blob, row.chunk), row.clone()) {
                store.leftovers.insert(before.target);
            }
        })
    }

    fn naming(&mut self, target: &str) -> Result<Vec<BlobId>, Infallible> {
        let naming = self.store.archived.values().filter(|row| row.target == target);
        Ok(naming.map(|row| row.blob).collect())
    }

    fn unname(&mut self, blob: BlobId, target: &str) -> Result<(), Infallible> {
        self.write(|store| {
            let before = store.archived.len();
            store.archived.retain(|_, row| row.blob != blob || row.target != target);
            if store.archived.len() < before {
                store.leftovers.insert(target.to_owned());
            }
        })
    }

    fn is_condemned(&mut self, target: &str) -> Result<bool, Infallible> {
        Ok(self.store.condemned.contains(target))
    }

    fn condemn(&mut self, target: &str) -> Result<(), Infallible> {
        self.write(|store| {
            store.condemned.insert(target.to_owned());
        })
    }
}
