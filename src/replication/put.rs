//! A PUT: judged on a strong read where it is conditional or names its version, then tried until a try is decided.
//!
//! Another try begins only after the last one was refused by so many that it can never be decided; the same holds before
//! anything is refused because of what a try met. So one PUT never becomes two versions.

use super::attempt::{self, Try};
use super::get::{self, Get};
use super::machine::{Event, Group, Machine, NodeSet, Step, Time};
use super::read::Known;
use super::settle::{self, Settle};
use crate::base::clock::Timestamp;
use crate::base::ids::BlobId;
use crate::limits::{NUMBER_MAX, RETRY_PAUSE, TRIES_MAX, WRITE_TIME};
use crate::wire::condition::{Conditions, Current, Verdict};
use crate::wire::peer::{Attempt, Basis, Content, Held, InDoubt, No, Proposal, Query, Row};

/// What is to be stored.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// The path.
    pub path: String,
    /// The version asked for; else one above all others.
    pub version: Option<u64>,
    /// The blob.
    pub blob_id: BlobId,
    /// Bytes.
    pub size: u64,
    /// What the bytes are.
    pub content: Content,
    /// Now.
    pub created_at: Timestamp,
    /// Stored header fields, opaque here.
    pub headers: String,
    /// Conditions of the request.
    pub conditions: Conditions,
    /// The bytes, if they make no file.
    pub inline: Option<bytes::Bytes>,
}

/// What a PUT comes to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The version that has the bytes, on disk at a write quorum; not `created`: it was there before.
    Stored {
        /// The version.
        row: Row,
        /// Whether this PUT made it.
        created: bool,
    },
    /// Nothing was stored.
    Refused(Refusal),
    /// It may be stored, or may become so.
    Unknown,
}

/// Why nothing was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The version exists and is deleted.
    Tombstoned(u64),
    /// The version exists with other bytes.
    OtherBytes(u64),
    /// A condition does not hold.
    Precondition,
    /// The path has the highest version there can be.
    NoVersionLeft,
    /// Too many replicas have no space.
    DiskFull,
    /// Less than a quorum can be asked.
    NoQuorum,
    /// What it hinges on has no outcome yet.
    InDoubt,
    /// Others were always faster.
    Contended,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stage {
    New,
    Reading(Box<Get>),
    Trying(Box<Try>),
    /// What stands in the way is settled: the first of them now.
    Clearing(Box<Settle>, Vec<InDoubt>),
    /// Before another try.
    Pausing(Time),
    /// The outcome was told; the last try may still have commits to send.
    Over(Option<Box<Try>>),
}

/// A PUT.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Put {
    group: Group,
    wanted: Wanted,
    with_data: NodeSet,
    /// The highest version that is known.
    highest: u64,
    basis: Option<Basis>,
    ballot: u32,
    rounds: u32,
    until: Time,
    stage: Stage,
}

impl Put {
    /// A PUT whose bytes the replicas `with_data` have; `highest` is the highest version that is known here.
    pub fn new(group: Group, wanted: Wanted, with_data: NodeSet, highest: u64) -> Self {
        Self {
            group,
            wanted,
            with_data,
            highest,
            basis: None,
            ballot: 0,
            rounds: 0,
            until: 0,
            stage: Stage::New,
        }
    }

    /// The replicas as they are known by now.
    pub fn group(&self) -> &Group {
        &self.group
    }

    fn depends(&self) -> bool {
        self.wanted.version.is_some() || !self.wanted.conditions.is_empty()
    }

    fn over(&mut self, outcome: Outcome) -> Step<Outcome> {
        self.stage = Stage::Over(None);
        Step::outcome(outcome)
    }

    fn refuse(&mut self, refusal: Refusal) -> Step<Outcome> {
        self.over(Outcome::Refused(refusal))
    }

    /// Begins, or begins again.
    fn start(&mut self, now: Time) -> Step<Outcome> {
        if !self.depends() {
            return self.attempt(now);
        }
        let query = self.wanted.version.map_or(Query::Newest, Query::At);
        let read = Get::new(self.group.clone(), &self.wanted.path, query, self.rounds);
        self.stage = Stage::Reading(Box::new(read));
        self.go_on(now, Event::Time)
    }

    fn attempt(&mut self, now: Time) -> Step<Outcome> {
        let version = match self.wanted.version {
            Some(version) => version,
            None if self.highest >= NUMBER_MAX => return self.refuse(Refusal::NoVersionLeft),
            None => self.highest + 1,
        };
        self.ballot += 1;
        let wanted = &self.wanted;
        let row = Row {
            path: wanted.path.clone(),
            version,
            attempt: Attempt { blob_id: wanted.blob_id, ballot: self.ballot },
            size: wanted.size,
            content: wanted.content,
            created_at: wanted.created_at,
            headers: wanted.headers.clone(),
        };
        let proposal = Proposal {
            row,
            allocated: wanted.version.is_none(),
            basis: self.basis,
            coordinator: self.group.me,
            members: self.group.members.clone(),
        };
        let attempt =
            Try::new(self.group.clone(), proposal, self.with_data, wanted.inline.clone(), self.rounds);
        self.stage = Stage::Trying(Box::new(attempt));
        self.go_on(now, Event::Time)
    }

    /// Judges the request on what a quorum says.
    fn judge(&mut self, now: Time, known: &Known) -> Step<Outcome> {
        self.highest = self.highest.max(known.highest);
        if let Some(version) = self.wanted.version {
            if let Some(held) = known.held.first() {
                return self.judge_existing(version, held);
            }
            if !known.in_doubt.is_empty() {
                // Others work on this version.
                return self.pause(now);
            }
        } else {
            let newest = known.held.first();
            self.basis = Some(Basis {
                version: newest.map_or(0, |held| held.row.version),
                tombstoned: newest.is_some_and(|held| held.tombstoned_at.is_some()),
            });
        }
        if check(&self.wanted.conditions, known.held.first()) {
            self.attempt(now)
        } else {
            self.refuse(Refusal::Precondition)
        }
    }

    fn judge_existing(&mut self, version: u64, held: &Held) -> Step<Outcome> {
        if held.tombstoned_at.is_some() {
            return self.refuse(Refusal::Tombstoned(version));
        }
        if !check(&self.wanted.conditions, Some(held)) {
            return self.refuse(Refusal::Precondition);
        }
        if (held.row.size, held.row.content) != (self.wanted.size, self.wanted.content) {
            return self.refuse(Refusal::OtherBytes(version));
        }
        let created = held.row.attempt.blob_id == self.wanted.blob_id;
        self.over(Outcome::Stored { row: held.row.clone(), created })
    }

    fn clear(&mut self, now: Time, mut obstacles: Vec<InDoubt>) -> Step<Outcome> {
        let Some(first) = obstacles.pop() else { return self.pause(now) };
        let settle = Settle::new(self.group.clone(), &self.wanted.path, &first, self.rounds);
        self.stage = Stage::Clearing(Box::new(settle), obstacles);
        self.go_on(now, Event::Time)
    }

    /// Waits a little, each PUT and each of its tries another time, so that two that are in each other's way part.
    fn pause(&mut self, now: Time) -> Step<Outcome> {
        if now >= self.until || self.ballot >= TRIES_MAX {
            return self.refuse(Refusal::Contended);
        }
        let seed = self.wanted.blob_id.to_u128() as u64 ^ u64::from(self.ballot) << 32;
        let spread = xxhash_rust::xxh3::xxh3_64(&seed.to_le_bytes());
        let most = RETRY_PAUSE.as_millis() as u64 * u64::from(self.ballot.clamp(1, 8));
        self.stage = Stage::Pausing(now + 1 + spread % most);
        Step::none()
    }

    /// After a try that came to nothing.
    fn aborted(&mut self, now: Time, reasons: &[No]) -> Step<Outcome> {
        let (mut full, mut away, mut doubts) = (0, 0, Vec::new());
        for no in reasons {
            match no {
                No::NoSpace => full += 1,
                No::NoData | No::Recovering => away += 1,
                No::InDoubt(other) => {
                    self.highest = self.highest.max(other.version);
                    doubts.push(other.clone());
                }
                No::Below(highest) => self.highest = self.highest.max(*highest),
                No::Taken(held) => self.highest = self.highest.max(held.row.version),
                No::Refused | No::Fenced | No::Committed(_) | No::Known(_) | No::Stale => {}
            }
        }
        if self.with_data.len() < self.group.write_quorum {
            return self.refuse(Refusal::NoQuorum);
        }
        let votes = self.with_data.len() - away;
        if votes < self.group.write_quorum {
            return self.refuse(Refusal::NoQuorum);
        }
        if votes - full < self.group.write_quorum {
            return self.refuse(Refusal::DiskFull);
        }
        doubts.sort();
        doubts.dedup();
        // Only who needs a certain number or a certain newest version waits for the outcome of others.
        if self.depends() && !doubts.is_empty() {
            return self.clear(now, doubts);
        }
        self.pause(now)
    }

    /// Passes an event to the machine within, and goes on with what it comes to.
    fn go_on(&mut self, now: Time, event: Event) -> Step<Outcome> {
        let mut stage = std::mem::replace(&mut self.stage, Stage::New);
        let (sends, mut step) = match &mut stage {
            Stage::Reading(read) => {
                let inner = read.step(now, event);
                self.rounds = read.rounds();
                let outcome = inner.outcome;
                self.stage = stage;
                let step = match outcome {
                    Some(get::Outcome::Known(known)) => self.judge(now, &known),
                    Some(get::Outcome::InDoubt) => self.refuse(Refusal::InDoubt),
                    Some(get::Outcome::Unavailable) => self.refuse(Refusal::NoQuorum),
                    None => Step::none(),
                };
                (inner.sends, step)
            }
            Stage::Trying(attempt) => {
                let inner = attempt.step(now, event);
                self.rounds = attempt.rounds();
                let outcome = inner.outcome;
                self.group.learn(attempt.members());
                let row = attempt.row().clone();
                self.stage = stage;
                let step = match outcome {
                    Some(attempt::Outcome::Committed) => self.stored(row),
                    Some(attempt::Outcome::Aborted(reasons)) => self.aborted(now, &reasons),
                    Some(attempt::Outcome::Unknown) => self.over(Outcome::Unknown),
                    None => Step::none(),
                };
                (inner.sends, step)
            }
            Stage::Clearing(settle, rest) => {
                let inner = settle.step(now, event);
                self.rounds = settle.rounds();
                let (outcome, rest) = (inner.outcome, rest.clone());
                self.stage = stage;
                let step = match outcome {
                    Some(settle::Outcome::Committed | settle::Outcome::Aborted) => self.clear(now, rest),
                    Some(settle::Outcome::Live) => self.pause(now),
                    Some(settle::Outcome::Unknown) => self.refuse(Refusal::InDoubt),
                    None => Step::none(),
                };
                (inner.sends, step)
            }
            Stage::Over(Some(attempt)) => {
                // Its outcome was told.
                let sends = attempt.step(now, event).sends;
                self.stage = stage;
                (sends, Step::none())
            }
            _ => {
                self.stage = stage;
                (Vec::new(), Step::none())
            }
        };
        step.sends.splice(0..0, sends);
        step
    }

    /// Late votes still get their commits.
    fn stored(&mut self, row: Row) -> Step<Outcome> {
        let attempt = match std::mem::replace(&mut self.stage, Stage::Over(None)) {
            Stage::Trying(attempt) => Some(attempt),
            _ => None,
        };
        self.stage = Stage::Over(attempt);
        Step::outcome(Outcome::Stored { row, created: true })
    }
}

/// Whether the conditions hold for what is there.
pub fn check(conditions: &Conditions, current: Option<&Held>) -> bool {
    let live = current.filter(|held| held.tombstoned_at.is_none());
    let etag = live.map(|held| held.row.attempt.blob_id.to_string());
    let current = live
        .zip(etag.as_deref())
        .map(|(held, etag)| Current { etag, modified: held.row.created_at.seconds() });
    conditions.evaluate_write(current) == Verdict::Proceed
}

impl Machine for Put {
    type Outcome = Outcome;

    fn step(&mut self, now: Time, event: Event) -> Step<Outcome> {
        match &self.stage {
            Stage::New => {
                self.until = now + WRITE_TIME.as_millis() as u64;
                self.start(now)
            }
            Stage::Pausing(until) if now >= *until => self.start(now),
            _ => self.go_on(now, event),
        }
    }

    fn wake(&self) -> Option<Time> {
        match &self.stage {
            Stage::New => Some(0),
            Stage::Reading(read) => read.wake(),
            Stage::Trying(attempt) => attempt.wake(),
            Stage::Clearing(settle, _) => settle.wake(),
            Stage::Pausing(until) => Some(*until),
            Stage::Over(_) => None,
        }
    }
}
