//! What a server owes its clients after a crash: everything it acknowledged, and nothing by halves.
//!
//! Each client keeps a journal of what it asked and what it was told, with the moments of both in one order. After a restart
//! [`Ledger::settle`] holds the journals and the ledger of all earlier rounds against what the server now shows: whatever
//! was in flight is then either there or not, and stays so from then on.
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

use std::collections::{BTreeMap, BTreeSet};

use super::support::bytes;

/// Bytes that say of themselves which they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Blob {
    pub seed: u64,
    pub len: usize,
}

impl Blob {
    /// The shortest that is not empty.
    pub const SHORTEST: usize = 16;

    pub fn content(self) -> Vec<u8> {
        let mut content = bytes(self.seed, self.len);
        if self.len >= Self::SHORTEST {
            content[..8].copy_from_slice(&self.seed.to_le_bytes());
            content[8..16].copy_from_slice(&(self.len as u64).to_le_bytes());
        }
        content
    }

    /// Which blob these bytes are, if they are one in whole. All that are empty are the same.
    pub fn of(body: &[u8]) -> Result<Self, String> {
        let Some((seed, rest)) = body.split_first_chunk() else { return Ok(Self { seed: 0, len: 0 }) };
        let Some((len, _)) = rest.split_first_chunk() else {
            return Err(format!("{} bytes of no blob", body.len()));
        };
        let (seed, len) = (u64::from_le_bytes(*seed), u64::from_le_bytes(*len));
        let blob = Self { seed, len: body.len() };
        if len != body.len() as u64 {
            return Err(format!("{} bytes that begin like the {len} of blob {seed:#x}", body.len()));
        }
        if blob.content() != body {
            return Err(format!("{len} bytes that begin like blob {seed:#x} and go on otherwise"));
        }
        Ok(blob)
    }

    fn is(self, other: Self) -> bool {
        self == other || (self.len, other.len) == (0, 0)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    Newest,
    Version(u64),
    All,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// `tag` is the blob_id of an `If-Match`.
    Put {
        version: Option<u64>,
        tag: Option<String>,
        if_absent: bool,
        blob: Blob,
    },
    Delete(Which),
    Get(Option<u64>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    Stored {
        version: u64,
        blob_id: String,
        created: bool,
    },
    Deleted {
        version: u64,
    },
    Read {
        version: u64,
        blob_id: String,
        blob: Blob,
    },
    Refused(u16),
    /// No answer, or not all of one.
    Nothing,
}

/// One request of a round; `asked` and `answered` are moments in an order that all clients share, from 1 on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub path: String,
    pub ask: Ask,
    pub asked: u64,
    pub told: Told,
    pub answered: u64,
}

/// A version as the server lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub version: u64,
    pub blob_id: String,
    pub size: u64,
    pub tombstoned: bool,
}

/// What is known for certain of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub blob_id: String,
    pub blob: Blob,
    pub deleted: bool,
}

#[derive(Debug, Default)]
pub struct Ledger {
    paths: BTreeMap<String, BTreeMap<u64, Known>>,
    /// Of each path, the tags that a PUT without a number has replaced.
    replaced: BTreeSet<(String, String)>,
}

/// Reads a version of a path that is not known yet.
pub type Read<'a> = dyn FnMut(&str, u64) -> Result<(String, Blob), String> + 'a;

impl Ledger {
    /// Every path that was ever written.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.paths.iter().filter(|(_, versions)| !versions.is_empty()).map(|(path, _)| path.as_str())
    }

    /// The newest version of a path, as the server should list it.
    pub fn newest(&self, path: &str) -> Option<Row> {
        let (&version, known) = self.paths.get(path)?.last_key_value()?;
        let (blob_id, size) = (known.blob_id.clone(), known.blob.len as u64);
        Some(Row { version, blob_id, size, tombstoned: known.deleted })
    }

    /// Every version that can be read.
    pub fn live(&self) -> impl Iterator<Item = (&str, u64, &Known)> {
        self.paths.iter().flat_map(|(path, versions)| {
            let live = versions.iter().filter(|(_, known)| !known.deleted);
            live.map(move |(&version, known)| (path.as_str(), version, known))
        })
    }

    pub fn live_bytes(&self) -> usize {
        self.live().map(|(_, _, known)| known.blob.len).sum()
    }

    /// Holds one path's part of a round against the rows that the server shows after it, all versions of the path.
    pub fn settle(
        &mut self,
        path: &str,
        journal: &[Entry],
        rows: &[Row],
        read: &mut Read<'_>,
    ) -> Result<(), String> {
        let versions = self.paths.entry(path.to_owned()).or_default();
        let mut round = Round { path, journal, before: versions.clone(), spent: BTreeSet::new() };
        let rows: BTreeMap<u64, &Row> = rows.iter().map(|row| (row.version, row)).collect();
        let settled = round.settle(&rows, read)?;
        for tag in round.replaced() {
            if !self.replaced.insert((path.to_owned(), tag.clone())) {
                return Err(format!("{path}: two writes under If-Match replaced the same {tag}"));
            }
        }
        *versions = settled;
        Ok(())
    }
}

/// One path's part of a round.
struct Round<'a> {
    path: &'a str,
    journal: &'a [Entry],
    before: BTreeMap<u64, Known>,
    /// Entries in flight that explain a version.
    spent: BTreeSet<usize>,
}

impl Round<'_> {
    fn settle(
        &mut self,
        rows: &BTreeMap<u64, &Row>,
        read: &mut Read<'_>,
    ) -> Result<BTreeMap<u64, Known>, String> {
        let given = self.given()?;
        for version in self.before.keys().chain(given.keys()) {
            if !rows.contains_key(version) {
                return Err(self.wrong(format!("version {version} was acknowledged and is lost")));
            }
        }
        let mut after = BTreeMap::new();
        for (&version, row) in rows {
            let told = self.before.get(&version).or_else(|| given.get(&version));
            let (blob_id, blob) = match told {
                Some(known) => (known.blob_id.clone(), known.blob),
                None => self.explain(row, read)?,
            };
            if (&row.blob_id, row.size) != (&blob_id, blob.len as u64) {
                return Err(
                    self.wrong(format!("version {version} was {blob_id} of {} bytes, now {row:?}", blob.len))
                );
            }
            after.insert(version, Known { blob_id, blob, deleted: row.tombstoned });
        }
        self.judge_answers(&after)?;
        self.judge_tombstones(&after)?;
        Ok(after)
    }

    fn wrong(&self, what: String) -> String {
        let last: Vec<String> = self.journal.iter().map(|entry| format!("{entry:?}")).collect();
        format!("{}: {what}; this round:\n  {}", self.path, last.join("\n  "))
    }

    /// The versions that were acknowledged as new.
    fn given(&self) -> Result<BTreeMap<u64, Known>, String> {
        let mut given: BTreeMap<u64, Known> = BTreeMap::new();
        for entry in self.journal {
            let (Ask::Put { blob, .. }, Told::Stored { version, blob_id, created: true }) =
                (&entry.ask, &entry.told)
            else {
                continue;
            };
            let known = Known { blob_id: blob_id.clone(), blob: *blob, deleted: false };
            let twice = self.before.contains_key(version) || given.insert(*version, known).is_some();
            if twice {
                return Err(self.wrong(format!("version {version} was given twice")));
            }
            self.judge_number(entry, *version)?;
        }
        Ok(given)
    }

    /// A number that the server chose is higher than every one it had told of before it was asked.
    fn judge_number(&self, entry: &Entry, version: u64) -> Result<(), String> {
        let Ask::Put { version: None, .. } = entry.ask else { return Ok(()) };
        if version <= self.highest_before(entry) {
            return Err(
                self.wrong(format!("version {version} is not above those that were there: {entry:?}"))
            );
        }
        Ok(())
    }

    /// The highest version known to be there when `entry` was asked.
    fn highest_before(&self, entry: &Entry) -> u64 {
        let told =
            self.journal.iter().filter(|other| other.answered < entry.asked).filter_map(|other| match other
                .told
            {
                Told::Stored { version, .. } | Told::Read { version, .. } => Some(version),
                _ => None,
            });
        told.chain(self.before.keys().copied()).max().unwrap_or(0)
    }

    /// A version nobody was told of: a PUT that was in flight, in whole.
    fn explain(&mut self, row: &Row, read: &mut Read<'_>) -> Result<(String, Blob), String> {
        let content = if row.tombstoned { None } else { Some(read(self.path, row.version)?) };
        let fits = |entry: &Entry| match &entry.ask {
            Ask::Put { version, blob, .. } => {
                entry.told == Told::Nothing
                    && version.is_none_or(|version| version == row.version)
                    && content.as_ref().map_or(blob.len as u64 == row.size, |(_, found)| blob.is(*found))
            }
            _ => false,
        };
        // Empty blobs, and tombstones of one size, look the same: one that may have the number goes first.
        let mut fitting: Vec<usize> = (0..self.journal.len())
            .filter(|at| !self.spent.contains(at) && fits(&self.journal[*at]))
            .collect();
        fitting.sort_by_key(|at| self.judge_number(&self.journal[*at], row.version).is_err());
        let Some(&found) = fitting.first() else {
            return Err(self.wrong(format!("nobody wrote {row:?}, which holds {content:?}")));
        };
        self.spent.insert(found);
        let entry = &self.journal[found];
        self.judge_number(entry, row.version)?;
        match (&entry.ask, content) {
            (_, Some(content)) => Ok(content),
            (Ask::Put { blob, .. }, None) => Ok((row.blob_id.clone(), *blob)),
            _ => unreachable!("only PUTs fit"),
        }
    }

    /// What clients were told agrees with what is there now.
    fn judge_answers(&self, after: &BTreeMap<u64, Known>) -> Result<(), String> {
        for entry in self.journal {
            let same = |version: &u64, blob_id: &String, blob: &Blob| {
                after.get(version).is_some_and(|known| known.blob_id == *blob_id && known.blob.is(*blob))
            };
            let right = match (&entry.ask, &entry.told) {
                (_, Told::Nothing) => true,
                (Ask::Put { version: asked, blob, .. }, Told::Stored { version, blob_id, .. }) => {
                    asked.is_none_or(|asked| asked == *version) && same(version, blob_id, blob)
                }
                // It was read, so it was there for good; and nothing newer was hidden by it.
                (Ask::Get(asked), Told::Read { version, blob_id, blob }) => {
                    same(version, blob_id, blob)
                        && asked.map_or(*version >= self.highest_before(entry), |asked| asked == *version)
                }
                (Ask::Delete(Which::Newest), Told::Deleted { version }) => {
                    *version >= self.highest_before(entry)
                }
                (Ask::Delete(Which::Version(asked)), Told::Deleted { version }) => asked == version,
                (Ask::Delete(Which::All), Told::Deleted { .. }) => true,
                (Ask::Put { version: Some(version), .. }, Told::Refused(409)) => after.contains_key(version),
                (Ask::Put { tag, if_absent, .. }, Told::Refused(412)) => tag.is_some() || *if_absent,
                (Ask::Delete(which), Told::Refused(404)) => self.may_be_absent(entry, *which),
                (Ask::Get(version), Told::Refused(404)) => {
                    self.may_be_absent(entry, version.map_or(Which::Newest, Which::Version))
                }
                _ => false,
            };
            if !right {
                return Err(self.wrong(format!("a wrong answer: {entry:?}")));
            }
        }
        Ok(())
    }

    /// Whether a 404 is right: nothing that was there before the round and must still have been.
    fn may_be_absent(&self, entry: &Entry, which: Which) -> bool {
        let other_deletes = |version: Option<u64>| {
            self.journal.iter().any(|other| {
                let covers = match other.ask {
                    Ask::Delete(Which::Version(other)) => version.is_none_or(|version| version == other),
                    Ask::Delete(_) => true,
                    _ => false,
                };
                !std::ptr::eq(other, entry) && covers && other.asked < entry.answered
            })
        };
        let live = |version: u64| self.before.get(&version).is_some_and(|known| !known.deleted);
        match which {
            Which::Version(version) => !live(version) || other_deletes(Some(version)),
            Which::Newest => {
                self.before.last_key_value().is_none_or(|(_, newest)| newest.deleted) || other_deletes(None)
            }
            Which::All => !self.before.values().any(|known| !known.deleted) || other_deletes(None),
        }
    }

    /// Deleted stays deleted; and whatever is deleted now, somebody deleted.
    fn judge_tombstones(&self, after: &BTreeMap<u64, Known>) -> Result<(), String> {
        let mut spare =
            self.count(|entry| entry.ask == Ask::Delete(Which::Newest) && entry.told == Told::Nothing);
        for (&version, known) in after {
            let born = self.journal.iter().find(
                |entry| matches!(entry.told, Told::Stored { version: told, created: true, .. } if told == version),
            );
            let old = self.before.get(&version);
            let (born_asked, born_answered) = match (old, born) {
                (Some(_), _) => (0, 0),
                (None, Some(entry)) => (entry.asked, entry.answered),
                (None, None) => (0, u64::MAX),
            };
            let named = self.count(|entry| {
                entry.told == Told::Deleted { version }
                    && matches!(entry.ask, Ask::Delete(Which::Newest | Which::Version(_)))
            });
            let swept = self.count(|entry| {
                entry.ask == Ask::Delete(Which::All)
                    && matches!(entry.told, Told::Deleted { .. })
                    && entry.asked > born_answered
            });
            let must = old.is_some_and(|old| old.deleted) || named > 0 || swept > 0;
            if must && !known.deleted {
                return Err(self.wrong(format!("version {version} was deleted and is back")));
            }
            if old.is_some_and(|old| old.deleted) && named > 0 {
                return Err(self.wrong(format!("version {version} was deleted twice")));
            }
            if known.deleted && !must {
                let open = self.count(|entry| {
                    let by_number =
                        entry.ask == Ask::Delete(Which::Version(version)) && entry.told == Told::Nothing;
                    let by_all = entry.ask == Ask::Delete(Which::All)
                        && !matches!(entry.told, Told::Refused(_))
                        && entry.answered > born_asked;
                    by_number || by_all
                });
                if open == 0 {
                    let Some(left) = spare.checked_sub(1) else {
                        return Err(self.wrong(format!("nobody deleted version {version}")));
                    };
                    spare = left;
                }
            }
        }
        Ok(())
    }

    fn count(&self, is_it: impl Fn(&Entry) -> bool) -> usize {
        self.journal.iter().filter(|entry| is_it(entry)).count()
    }

    /// The tags that writes of this round under If-Match have replaced.
    fn replaced(&self) -> Vec<String> {
        let tag_of = |at: usize, entry: &Entry| match (&entry.ask, &entry.told) {
            (Ask::Put { version: None, tag: Some(tag), .. }, Told::Stored { .. }) => Some(tag.clone()),
            (Ask::Put { version: None, tag: Some(tag), .. }, Told::Nothing) if self.spent.contains(&at) => {
                Some(tag.clone())
            }
            _ => None,
        };
        self.journal.iter().enumerate().filter_map(|(at, entry)| tag_of(at, entry)).collect()
    }
}
