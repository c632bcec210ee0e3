//! What one replica of a slot lacks of another one's rows (range-based set reconciliation, Meyer 2023, in one direction).
//!
//! A range is cut at the rows that are here; pieces whose digests differ are cut again, until few rows are left here; then the items
//! of both sides are compared. It asks for nothing twice, and ends with whatever the other side has said: an answer that cannot be
//! one is an error, and nothing of it is used.

use std::collections::BTreeSet;

use super::pieces::{self, Piece};
use crate::base::ids::BlobId;
use crate::limits::{SYNC_ITEMS, SYNC_LEAF, SYNC_ROWS};
use crate::wire::peer::sync::{Digest, Items, Range};

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// The rows here of a range are to be cut.
    Cut(Range),
    /// The other one is to be asked for the digests of consecutive ranges, which begin at these blobs and end with the last.
    Ranges(Vec<BlobId>, BlobId),
    /// The other one is to be asked for its items of a range; and then those here are wanted, as far as it answered.
    Items(Range),
    /// The other one is to be asked for these rows, which are then to be taken over.
    Rows(Vec<BlobId>),
    /// Nothing: all that it has is here, or was asked for.
    Done,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing yet.
    Begin,
    /// The pieces of the range.
    Cut(Vec<Piece>),
    /// What the other one answered.
    Ranges(Vec<Digest>),
    /// What the other one answered, and what is here of that.
    Items {
        /// The other one's items.
        theirs: Vec<Items>,
        /// Where its range goes on.
        next: Option<BlobId>,
        /// Those here, up to there.
        mine: Vec<Items>,
    },
    /// The rows were taken over.
    Taken,
}

/// An answer that cannot be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its answer does not fit the question")]
pub struct Rubbish;

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Versions that were not here.
    pub versions: u64,
    /// Tombstones that were not here.
    pub tombstones: u64,
    /// Blobs that are something else here than there, which nothing can mend.
    pub contradictions: u64,
}

/// A range and how many rows are here, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Open {
    range: Range,
    few: bool,
}

/// The search.
#[derive(Debug)]
pub struct Reconcile {
    /// Ranges that differ, the next one last.
    open: Vec<Open>,
    /// The pieces that were asked about.
    asked: Vec<Piece>,
    range: Range,
    missing: BTreeSet<BlobId>,
    found: Found,
}

impl Default for Reconcile {
    fn default() -> Self {
        Self {
            open: vec![Open { range: pieces::everything(), few: false }],
            asked: Vec::new(),
            range: pieces::everything(),
            missing: BTreeSet::new(),
            found: Found::default(),
        }
    }
}

impl Reconcile {
    /// What was found so far.
    pub fn found(&self) -> Found {
        self.found
    }

    /// Takes what was done, and says what is next.
    ///
    /// # Errors
    /// When the other one answered rubbish.
    pub fn step(&mut self, event: Event) -> Result<Next, Rubbish> {
        match event {
            Event::Begin | Event::Taken => {}
            Event::Cut(pieces) => {
                if let [only] = pieces[..]
                    && only.rows <= SYNC_LEAF as u64
                {
                    return Ok(Next::Items(self.range));
                }
                let firsts = pieces.iter().map(|piece| piece.first).collect();
                self.asked = pieces;
                return Ok(Next::Ranges(firsts, self.range.last));
            }
            Event::Ranges(digests) => self.compare(&digests)?,
            Event::Items { theirs, next, mine } => self.items(&theirs, next, &mine)?,
        }
        Ok(self.next())
    }

    fn next(&mut self) -> Next {
        if self.missing.len() >= SYNC_ROWS || self.open.is_empty() && !self.missing.is_empty() {
            let wanted: Vec<BlobId> = self.missing.iter().take(SYNC_ROWS).copied().collect();
            self.missing.retain(|blob| wanted.binary_search(blob).is_err());
            return Next::Rows(wanted);
        }
        let Some(Open { range, few }) = self.open.pop() else { return Next::Done };
        self.range = range;
        if few { Next::Items(range) } else { Next::Cut(range) }
    }

    fn compare(&mut self, theirs: &[Digest]) -> Result<(), Rubbish> {
        let asked = std::mem::take(&mut self.asked);
        if theirs.len() != asked.len() {
            return Err(Rubbish);
        }
        let firsts: Vec<BlobId> = asked.iter().map(|piece| piece.first).collect();
        let ranges = pieces::ranges(&firsts, self.range.last);
        // The first one is looked at first: blobs are asked for in order.
        let differing = ranges.zip(&asked).zip(theirs).filter(|((_, mine), theirs)| {
            // Where it has nothing, nothing is lacking here.
            mine.digest != **theirs && theirs.count > 0
        });
        let open: Vec<Open> =
            differing.map(|((range, mine), _)| Open { range, few: mine.rows <= SYNC_LEAF as u64 }).collect();
        self.open.extend(open.into_iter().rev());
        Ok(())
    }

    fn items(&mut self, theirs: &[Items], next: Option<BlobId>, mine: &[Items]) -> Result<(), Rubbish> {
        let Range { first, last } = self.range;
        let in_order = theirs.windows(2).all(|pair| pair[0].blob < pair[1].blob);
        let inside = |blob: BlobId| first <= blob && blob <= last;
        let goes_on = match (next, theirs.last()) {
            (None, _) => true,
            (Some(next), Some(before)) => before.blob < next && inside(next),
            (Some(_), None) => false,
        };
        if theirs.len() > SYNC_ITEMS || !in_order || !goes_on || !theirs.iter().all(|it| inside(it.blob)) {
            return Err(Rubbish);
        }
        for theirs in theirs {
            let place = mine.binary_search_by_key(&theirs.blob, |mine| mine.blob);
            match place.map(|at| &mine[at]) {
                Ok(mine) if mine.version != theirs.version => self.found.contradictions += 1,
                Ok(mine) if theirs.tombstone.is_none() || mine.tombstone == theirs.tombstone => {}
                // Of two times the earlier one counts: whoever takes the rows over sees to that.
                Ok(mine) => {
                    self.found.tombstones += u64::from(mine.tombstone.is_none());
                    self.missing.insert(theirs.blob);
                }
                Err(_) => {
                    self.found.versions += 1;
                    self.found.tombstones += u64::from(theirs.tombstone.is_some());
                    self.missing.insert(theirs.blob);
                }
            }
        }
        if let Some(next) = next {
            self.open.push(Open { range: Range { first: next, last }, few: true });
        }
        Ok(())
    }
}
