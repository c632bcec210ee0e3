//! AmberBlob in memory: what the contract says each request answers, for one client at a time.
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
use std::rc::Rc;

/// One version of a path. What only the server can know is learned from its first answer, and must stay.
#[derive(Debug, Clone)]
pub struct Version {
    pub blob_id: String,
    pub data: Rc<Vec<u8>>,
    /// `Content-Type` and a field of the client's own.
    pub media_type: Option<String>,
    pub note: Option<String>,
    /// `Last-Modified`, in seconds since 1970.
    pub modified: u64,
    pub created_at: Option<String>,
    pub tombstoned: bool,
    pub tombstoned_at: Option<String>,
}

#[derive(Debug, Default)]
pub struct Blobs {
    paths: BTreeMap<String, BTreeMap<u64, Version>>,
}

/// What a conditional field names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tags {
    Any,
    /// Each with whether it is weak.
    These(Vec<(bool, String)>),
}

impl Tags {
    fn matches(&self, version: Option<&Version>, weakly: bool) -> bool {
        match (self, version) {
            (_, None) => false,
            (Self::Any, Some(_)) => true,
            (Self::These(tags), Some(version)) => {
                tags.iter().any(|(weak, tag)| *tag == version.blob_id && (weakly || !weak))
            }
        }
    }

    /// As it stands in a field.
    pub fn field(&self) -> String {
        match self {
            Self::Any => "*".to_owned(),
            Self::These(tags) => {
                let shown =
                    |(weak, tag): &(bool, String)| format!("{}\"{tag}\"", if *weak { "W/" } else { "" });
                tags.iter().map(shown).collect::<Vec<_>>().join(", ")
            }
        }
    }
}

/// The conditions of a request; dates in seconds since 1970.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conditions {
    pub if_match: Option<Tags>,
    pub if_none_match: Option<Tags>,
    pub if_modified_since: Option<u64>,
    pub if_unmodified_since: Option<u64>,
}

impl Conditions {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// RFC 9110, section 13.2.2, up to where reading and writing part.
    fn holds(&self, version: Option<&Version>) -> bool {
        match (&self.if_match, self.if_unmodified_since, version) {
            (Some(tags), _, _) => tags.matches(version, false),
            (None, Some(date), Some(version)) => version.modified <= date,
            _ => true,
        }
    }

    /// Whether a write may go on.
    pub fn allow_write(&self, version: Option<&Version>) -> bool {
        self.holds(version) && !self.if_none_match.as_ref().is_some_and(|tags| tags.matches(version, true))
    }

    /// The status that a read ends with before its body is looked at, if any.
    pub fn end_read(&self, version: &Version) -> Option<u16> {
        if !self.holds(Some(version)) {
            return Some(412);
        }
        let seen = match (&self.if_none_match, self.if_modified_since) {
            (Some(tags), _) => tags.matches(Some(version), true),
            (None, Some(date)) => version.modified <= date,
            (None, None) => false,
        };
        seen.then_some(304)
    }
}

/// What a PUT is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put {
    /// 201 under this number.
    Created(u64),
    /// 200: these bytes have that number already.
    Same(u64),
    /// 409
    Conflict,
    /// 412
    Failed,
}

/// Which versions a DELETE means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    Newest,
    Number(u64),
    All,
}

/// What a DELETE is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delete {
    /// 200, with the highest of the versions that went.
    Done(u64),
    /// 404
    Nothing,
    /// 412
    Failed,
}

/// What a listing shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Path and its newest version.
    pub objects: Vec<(String, u64)>,
    pub prefixes: Vec<String>,
}

impl Blobs {
    /// All versions of a path, oldest first.
    pub fn versions(&self, path: &str) -> impl DoubleEndedIterator<Item = (u64, &Version)> {
        self.paths.get(path).into_iter().flatten().map(|(&number, version)| (number, version))
    }

    pub fn highest(&self, path: &str) -> u64 {
        self.versions(path).next_back().map_or(0, |(number, _)| number)
    }

    pub fn version(&self, path: &str, number: u64) -> Option<&Version> {
        self.paths.get(path)?.get(&number)
    }

    pub fn version_mut(&mut self, path: &str, number: u64) -> Option<&mut Version> {
        self.paths.get_mut(path)?.get_mut(&number)
    }

    /// What a request for `number`, or for the newest version, finds. The newest version decides: behind a tombstone there
    /// is nothing.
    pub fn find(&self, path: &str, number: Option<u64>) -> Option<(u64, &Version)> {
        let found = match number {
            None => self.versions(path).next_back(),
            Some(number) => self.version(path, number).map(|version| (number, version)),
        };
        found.filter(|(_, version)| !version.tombstoned)
    }

    /// What a PUT will answer.
    pub fn put(&self, path: &str, number: Option<u64>, conditions: &Conditions, data: &[u8]) -> Put {
        let there = number.and_then(|number| Some((number, self.version(path, number)?)));
        if there.is_some_and(|(_, version)| version.tombstoned) {
            return Put::Conflict;
        }
        if !conditions.allow_write(self.find(path, number).map(|(_, version)| version)) {
            return Put::Failed;
        }
        match there {
            Some((number, version)) if *version.data == data => Put::Same(number),
            Some(_) => Put::Conflict,
            None => Put::Created(number.unwrap_or(self.highest(path) + 1)),
        }
    }

    /// Takes in what the server created.
    pub fn insert(&mut self, path: &str, number: u64, version: Version) {
        let before = self.paths.entry(path.to_owned()).or_default().insert(number, version);
        assert!(before.is_none(), "{path} version {number} was there");
    }

    /// Does a DELETE.
    pub fn delete(&mut self, path: &str, which: Which, conditions: &Conditions) -> Delete {
        let target = match which {
            Which::Newest => self.find(path, None),
            Which::Number(number) => self.find(path, Some(number)),
            Which::All => self.versions(path).rfind(|(_, version)| !version.tombstoned),
        };
        let Some((highest, version)) = target else { return Delete::Nothing };
        if !conditions.allow_write(Some(version)) {
            return Delete::Failed;
        }
        let versions = self.paths.get_mut(path).into_iter().flatten();
        for (_, version) in versions.filter(|(number, _)| which == Which::All || **number == highest) {
            version.tombstoned = true;
        }
        Delete::Done(highest)
    }

    /// All pages of a listing.
    pub fn list(&self, prefix: &str, delimiter: Option<&str>, tombstoned: bool) -> Listing {
        let mut listing = Listing::default();
        let mut prefixes = BTreeSet::new();
        for path in self.paths.keys().filter(|path| path.starts_with(prefix)) {
            let Some((number, newest)) = self.versions(path).next_back() else { continue };
            if newest.tombstoned && !tombstoned {
                continue;
            }
            let below = delimiter.and_then(|delimiter| {
                let at = path[prefix.len()..].find(delimiter)?;
                Some(&path[..prefix.len() + at + delimiter.len()])
            });
            match below {
                Some(below) => {
                    prefixes.insert(below.to_owned());
                }
                None => listing.objects.push((path.clone(), number)),
            }
        }
        listing.prefixes = prefixes.into_iter().collect();
        listing
    }
}

/// What a read of parts is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parts {
    Whole,
    /// From and to, both inclusive.
    One(usize, usize),
    Many(Vec<(usize, usize)>),
    Unsatisfiable,
    /// The contract leaves it to the server: any of these.
    Either(Vec<Parts>),
}

/// One range of a `Range` field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spec {
    FromTo(u64, u64),
    From(u64),
    Suffix(u64),
}

impl Spec {
    pub fn field(self) -> String {
        match self {
            Self::FromTo(from, to) => format!("{from}-{to}"),
            Self::From(from) => format!("{from}-"),
            Self::Suffix(len) => format!("-{len}"),
        }
    }

    fn within(self, size: usize) -> Option<(usize, usize)> {
        let size = size as u64;
        let (from, end) = match self {
            Self::FromTo(from, to) => (from, size.min(to + 1)),
            Self::From(from) => (from, size),
            Self::Suffix(len) => (size - size.min(len), size),
        };
        (from < end).then(|| (from as usize, end as usize - 1))
    }
}

/// What a well-formed `Range` asks for.
pub fn ranges(specs: &[Spec], size: usize) -> Parts {
    if specs.iter().any(|spec| matches!(spec, Spec::FromTo(from, to) if from > to)) {
        return Parts::Whole;
    }
    if specs.len() > 16 {
        return Parts::Unsatisfiable;
    }
    let found: Vec<(usize, usize)> = specs.iter().filter_map(|spec| spec.within(size)).collect();
    match found[..] {
        // RFC 9110 calls any suffix satisfiable, even of nothing; no Content-Range can say so.
        [] if specs.iter().any(|spec| matches!(spec, Spec::Suffix(1..))) => {
            Parts::Either(vec![Parts::Unsatisfiable, Parts::Whole])
        }
        [] => Parts::Unsatisfiable,
        [(from, to)] => Parts::One(from, to),
        _ => {
            let sum: usize = found.iter().map(|(from, to)| to - from + 1).sum();
            let covered = covered(&found);
            match () {
                () if sum >= 3 * covered => Parts::Unsatisfiable,
                () if sum == covered => Parts::Many(found),
                () => Parts::Either(vec![Parts::Many(found), Parts::Unsatisfiable]),
            }
        }
    }
}

/// How many bytes lie in at least one of the ranges.
fn covered(ranges: &[(usize, usize)]) -> usize {
    let mut ranges = ranges.to_vec();
    ranges.sort_unstable();
    let (mut sum, mut next) = (0, 0);
    for (from, to) in ranges {
        sum += (to + 1).saturating_sub(from.max(next));
        next = next.max(to + 1);
    }
    sum
}
