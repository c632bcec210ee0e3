//! Spreading archive rows (RFC 0005): all replicas are told, and say what they hold then.

use super::everyone::{Everyone, Turn};
use super::machine::{Event, Group, Machine, Signatures, Step, Time};
use crate::wire::peer::archive::{self, ArchiveRow, Heard};
use crate::wire::peer::{Reply, Request, Signed};

/// What is known of a row when the replicas have answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Told {
    /// Replicas that hold it or a successor, by disks that still are what they were.
    pub holders: usize,
    /// Whether those are all.
    pub all: bool,
    /// The greatest one that was heard of that succeeds it.
    pub successor: Option<ArchiveRow>,
    /// Whether a replica has condemned its object.
    pub condemned: bool,
    /// Whether a replica has a tombstone of its version.
    pub gone: bool,
}

/// A row, and what was heard of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Spreading {
    row: ArchiveRow,
    holders: Signatures,
    told: Told,
}

/// The spreading of some rows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Spread {
    everyone: Everyone,
    rows: Vec<Spreading>,
}

impl Spread {
    /// Spreads rows of versions of `path`.
    pub fn new(group: Group, path: &str, rows: Vec<ArchiveRow>) -> Self {
        let spreading = |row: &ArchiveRow| Spreading {
            row: row.clone(),
            holders: Signatures::default(),
            told: Told::default(),
        };
        let spread = rows.iter().map(spreading).collect();
        let request = Request::Archive(archive::Request::Rows { path: path.to_owned(), rows });
        Self { everyone: Everyone::new(group, request), rows: spread }
    }
}

impl Spreading {
    fn hear(&mut self, heard: Heard, counts: bool, (from, identity): Signed) {
        let Self { row, holders, told } = self;
        match heard {
            Heard::Row(held) if held == *row || held.succeeds(row) => {
                if counts {
                    holders.insert(from, identity);
                }
                if held != *row && told.successor.as_ref().is_none_or(|known| held.succeeds(known)) {
                    told.successor = Some(held);
                }
            }
            Heard::Row(_) | Heard::Lacking => {}
            Heard::Gone => told.gone = true,
            Heard::Condemned => told.condemned = true,
        }
    }

    fn end(self, group: &Group) -> Told {
        let holders = self.holders.current(group);
        Told { holders, all: holders == group.members.len(), ..self.told }
    }
}

impl Machine for Spread {
    /// Of each row.
    type Outcome = Vec<Told>;

    fn step(&mut self, now: Time, event: Event) -> Step<Vec<Told>> {
        let Self { everyone, rows } = self;
        let Turn { sends, ends } = everyone.step(now, event, |from, identity, reply| {
            if let Reply::Archive(archive::Reply::Rows { heard, counts }) = reply {
                for (row, heard) in rows.iter_mut().zip(heard) {
                    row.hear(heard, counts, (from, identity));
                }
            }
        });
        let group = &everyone.group;
        let end = || std::mem::take(rows).into_iter().map(|row| row.end(group)).collect();
        Step { sends, outcome: ends.then(end) }
    }

    fn wake(&self) -> Option<Time> {
        self.everyone.wake()
    }
}
