//! Spreading archive rows (RFC 0005): all replicas are told, and say what they hold then.

use super::machine::{Event, Group, Machine, Round, Signatures, Step, Time};
use crate::limits::ARCHIVE_SPREAD_TIME;
use crate::wire::peer::archive::{self, ArchiveRow, Heard};
use crate::wire::peer::{Reply, Request};

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
    group: Group,
    path: String,
    rows: Vec<Spreading>,
    /// None: not begun, or over.
    round: Option<Round>,
    begun: bool,
}

impl Spread {
    /// Spreads rows of versions of `path`.
    pub fn new(group: Group, path: &str, rows: Vec<ArchiveRow>) -> Self {
        let spreading =
            |row: ArchiveRow| Spreading { row, holders: Signatures::default(), told: Told::default() };
        let rows = rows.into_iter().map(spreading).collect();
        Self { group, path: path.to_owned(), rows, round: None, begun: false }
    }

    fn begin(&mut self, now: Time) -> Step<Vec<Told>> {
        self.begun = true;
        let request = Request::Archive(archive::Request::Rows {
            path: self.path.clone(),
            rows: self.rows.iter().map(|spreading| spreading.row.clone()).collect(),
        });
        let until = now + ARCHIVE_SPREAD_TIME.as_millis() as Time;
        let (round, sends) = Round::begin(1, self.group.all(), until, |_| request.clone());
        self.round = Some(round);
        Step::sends(sends)
    }

    fn hear(&mut self, from: crate::base::topology::NodeId, reply: Option<crate::wire::peer::Response>) {
        let Some((identity, Reply::Archive(archive::Reply::Rows { heard, counts }))) =
            self.group.open(from, reply)
        else {
            return;
        };
        for (Spreading { row, holders, told }, heard) in self.rows.iter_mut().zip(heard) {
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
    }

    fn end(&mut self) -> Step<Vec<Told>> {
        self.round = None;
        let group = &self.group;
        let end = |Spreading { holders, told, .. }: Spreading| {
            let holders = holders.current(group);
            Told { holders, all: holders == group.members.len(), ..told }
        };
        Step::outcome(std::mem::take(&mut self.rows).into_iter().map(end).collect())
    }
}

impl Machine for Spread {
    type Outcome = Vec<Told>;

    fn step(&mut self, now: Time, event: Event) -> Step<Vec<Told>> {
        if !self.begun {
            return self.begin(now);
        }
        let Some(mut round) = self.round else { return Step::none() };
        if let Event::Reply { from, round: number, reply } = event
            && round.took(from, number)
        {
            self.round = Some(round);
            self.hear(from, reply);
        }
        if round.waiting().is_empty() || now >= round.until() { self.end() } else { Step::none() }
    }

    fn wake(&self) -> Option<Time> {
        if self.begun { self.round.map(|round| round.until()) } else { Some(0) }
    }
}
