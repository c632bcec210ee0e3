//! What clients of one path asked and were told, and whether some order of single steps explains it (linearizability, Herlihy and
//! Wing 1990).
//!
//! A DELETE is two steps, as the contract says: it chooses a version, then it tombstones that one. Whoever was told that the outcome is unknown
//! may have done all of it, at any later time, or nothing.

use std::collections::HashSet;

use crate::base::ids::BlobId;
use crate::replication::delete::Which;
use crate::replication::put::Refusal;

/// What the newest version of a path has to be for a PUT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Condition {
    None,
    /// `If-None-Match: *`.
    Absent,
    /// `If-Match`.
    Is(BlobId),
}

/// What a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Asked {
    Put {
        version: Option<u64>,
        condition: Condition,
        content: u8,
        blob: BlobId,
    },
    Delete {
        which: Which,
    },
    /// The newest, or this one.
    Get {
        version: Option<u64>,
    },
}

/// A version as a reader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Seen {
    pub(super) version: u64,
    pub(super) blob: BlobId,
    pub(super) content: u8,
    pub(super) deleted: bool,
}

/// What it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Told {
    Stored {
        version: u64,
        blob: BlobId,
        created: bool,
    },
    Refused(Refusal),
    Deleted(u64),
    Missing,
    Precondition,
    Read(Option<Seen>),
    /// Nothing has happened, and nothing will.
    Nothing,
    Unknown,
}

/// An operation of a client; times are places in the order of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Operation {
    asked: Asked,
    begun: u32,
    told: Option<(u32, Told)>,
}

/// All operations on a path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct History {
    /// What was there before.
    before: Vec<Seen>,
    operations: Vec<Option<Operation>>,
    events: u32,
    last_was_end: bool,
}

/// Where an operation stands in an attempt to explain the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Progress {
    Waiting,
    /// A DELETE has chosen.
    Chosen(u64),
    Done,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Explained {
    versions: Vec<Seen>,
    progress: Vec<Progress>,
}

impl History {
    pub(super) fn new(before: Vec<Seen>) -> Self {
        Self { before, ..Self::default() }
    }

    /// Consecutive ends are at one time, as are consecutive beginnings: which came first changes no order between operations.
    pub(super) fn begin(&mut self, operation: usize, asked: Asked) {
        if self.last_was_end {
            self.events += 1;
            self.last_was_end = false;
        }
        if self.operations.len() <= operation {
            self.operations.resize(operation + 1, None);
        }
        self.operations[operation] = Some(Operation { asked, begun: self.events, told: None });
    }

    pub(super) fn end(&mut self, operation: usize, told: Told) {
        if !self.last_was_end {
            self.events += 1;
            self.last_was_end = true;
        }
        let operation = self.operations[operation].as_mut().expect("it has begun");
        assert_eq!(operation.told, None, "a client is told once");
        operation.told = Some((self.events, told));
    }

    pub(super) fn told(&self, operation: usize) -> Option<Told> {
        let operation = self.operations.get(operation).copied().flatten()?;
        operation.told.map(|(_, told)| told)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (Asked, Option<Told>)> {
        self.operations
            .iter()
            .flatten()
            .map(|operation| (operation.asked, operation.told.map(|(_, told)| told)))
    }

    /// Whether some order explains everything; `there` says which versions came to be.
    pub(super) fn is_explained(&self, there: &[Seen]) -> bool {
        let operations: Vec<Operation> = self.operations.iter().flatten().copied().collect();
        let mut came = there.to_vec();
        for operation in &operations {
            match (operation.asked, operation.told) {
                (_, Some((_, Told::Read(Some(seen))))) => came.push(seen),
                (Asked::Put { content, .. }, Some((_, Told::Stored { version, blob, .. }))) => {
                    came.push(Seen { version, blob, content, deleted: false });
                }
                _ => {}
            }
        }
        let start =
            Explained { versions: self.before.clone(), progress: vec![Progress::Waiting; operations.len()] };
        explain(&operations, &came, start, &mut HashSet::new())
    }
}

/// When an operation must have happened at the latest.
fn deadline(operation: &Operation) -> u32 {
    match operation.told {
        None | Some((_, Told::Unknown)) => u32::MAX,
        Some((at, _)) => at,
    }
}

fn explain(
    operations: &[Operation],
    came: &[Seen],
    state: Explained,
    tried: &mut HashSet<Explained>,
) -> bool {
    let waiting = |number: &usize| state.progress[*number] != Progress::Done;
    let open = || (0..operations.len()).filter(waiting);
    let first = open().map(|number| deadline(&operations[number])).min().unwrap_or(u32::MAX);
    if first == u32::MAX {
        return true;
    }
    if !tried.insert(state.clone()) {
        return false;
    }
    open().filter(|number| operations[*number].begun < first).any(|number| {
        step(&operations[number], came, &state, number)
            .into_iter()
            .any(|next| explain(operations, came, next, tried))
    })
}

/// What one step of an operation can come to; none: it cannot happen now.
fn step(operation: &Operation, came: &[Seen], state: &Explained, number: usize) -> Option<Explained> {
    let mut next = state.clone();
    let told = operation.told.map(|(_, told)| told).unwrap_or(Told::Unknown);
    next.progress[number] = match operation.asked {
        Asked::Put { version, condition, content, blob } => {
            put(&mut next.versions, came, told, (version, condition, content, blob))
                .then_some(Progress::Done)?
        }
        Asked::Delete { which } => delete(&mut next.versions, told, which, state.progress[number])?,
        Asked::Get { version } => {
            let seen = match version {
                None => next.versions.iter().max(),
                Some(version) => next.versions.iter().find(|seen| seen.version == version),
            };
            match told {
                Told::Read(read) => (read == seen.copied()).then_some(Progress::Done)?,
                _ => Progress::Done,
            }
        }
    };
    Some(next)
}

fn put(
    versions: &mut Vec<Seen>,
    came: &[Seen],
    told: Told,
    (explicit, condition, content, mine): (Option<u64>, Condition, u8, BlobId),
) -> bool {
    let judged = match explicit {
        None => versions.iter().max(),
        Some(version) => versions.iter().find(|seen| seen.version == version),
    };
    let holds = match (condition, judged.filter(|seen| !seen.deleted)) {
        (Condition::None, _) | (Condition::Absent, None) => true,
        (Condition::Is(blob), Some(seen)) => seen.blob == blob,
        (Condition::Absent, Some(_)) | (Condition::Is(_), None) => false,
    };
    let version = match told {
        Told::Refused(Refusal::Precondition) => return !holds,
        Told::Refused(Refusal::Tombstoned(version)) => {
            return versions.iter().any(|seen| seen.version == version && seen.deleted);
        }
        Told::Refused(Refusal::OtherBytes(version)) => {
            return versions.iter().any(|seen| seen.version == version && seen.content != content);
        }
        Told::Stored { version, blob, created: false } => {
            return versions.contains(&Seen { version, blob, content, deleted: false });
        }
        Told::Stored { version, .. } => version,
        Told::Unknown => match came.iter().find(|seen| seen.blob == mine) {
            Some(seen) => seen.version,
            None => return false,
        },
        _ => return true,
    };
    let is_new = versions.iter().all(|seen| seen.version != version);
    // A condition on the newest version holds for the version that becomes the newest.
    let is_next = condition == Condition::None
        || explicit.is_some()
        || versions.iter().all(|seen| seen.version < version);
    versions.push(Seen { version, blob: mine, content, deleted: false });
    versions.sort_unstable();
    holds && is_new && is_next
}

fn delete(versions: &mut [Seen], told: Told, which: Which, progress: Progress) -> Option<Progress> {
    if let Progress::Chosen(version) = progress {
        versions.iter_mut().filter(|seen| seen.version == version).for_each(|seen| seen.deleted = true);
        return Some(Progress::Done);
    }
    let chosen = match which {
        Which::Version(version) => versions.iter().find(|seen| seen.version == version),
        _ => versions.iter().max(),
    };
    let chosen = chosen.filter(|seen| !seen.deleted).map(|seen| seen.version);
    match told {
        Told::Missing => chosen.is_none().then_some(Progress::Done),
        Told::Deleted(version) => (chosen == Some(version)).then_some(Progress::Chosen(version)),
        Told::Unknown => chosen.map(Progress::Chosen),
        _ => Some(Progress::Done),
    }
}
