//! A DELETE: choose what is live by a strong read, then tombstone it at a write quorum, then answer. Tombstones only grow, so
//! nothing ever has to be taken back.

use super::get::{self, Get};
use super::machine::{Event, Group, Machine, Round, Signatures, Step, Time};
use super::put::check;
use super::read::Known;
use crate::base::clock::Timestamp;
use crate::limits::{COMMIT_TIME, DELETE_PAGE, NUMBER_MAX, WRITE_TIME};
use crate::wire::condition::Conditions;
use crate::wire::peer::{Held, Proven, Query, Reply, Request};

/// Which versions are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Which {
    /// The newest.
    Newest,
    /// This one.
    Version(u64),
    /// Every live one.
    All,
    /// Every live one but so many of the newest, and this one.
    AllBut {
        /// So many stay.
        keep: u64,
        /// This one stays.
        spare: u64,
    },
}

/// What a DELETE comes to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Tombstoned at a write quorum: the highest of the versions.
    Deleted(u64),
    /// There is no such live version.
    Missing,
    /// A condition does not hold.
    Precondition,
    /// What it hinges on has no outcome yet.
    InDoubt,
    /// Less than a quorum can be asked; nothing was deleted.
    NoQuorum,
    /// It may be deleted, or become so.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stage {
    New,
    Reading(Box<Get>),
    Burying(Round, Signatures),
    Over,
}

/// A DELETE.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Delete {
    group: Group,
    path: String,
    which: Which,
    conditions: Conditions,
    at: Timestamp,
    stage: Stage,
    rounds: u32,
    until: Time,
    /// Versions below this one are still to be looked at.
    below: u64,
    /// Live versions that were passed over.
    kept: u64,
    highest: Option<u64>,
    more: bool,
}

impl Delete {
    /// A DELETE at a time.
    pub fn new(group: Group, path: &str, which: Which, conditions: Conditions, at: Timestamp) -> Self {
        Self {
            group,
            path: path.to_owned(),
            which,
            conditions,
            at,
            stage: Stage::New,
            rounds: 0,
            until: 0,
            below: NUMBER_MAX + 1,
            kept: 0,
            highest: None,
            more: false,
        }
    }

    fn over(&mut self, outcome: Outcome) -> Step<Outcome> {
        self.stage = Stage::Over;
        Step::outcome(outcome)
    }

    /// After some were tombstoned, what is not known is whether all were.
    fn fail(&mut self, outcome: Outcome) -> Step<Outcome> {
        let outcome = if self.highest.is_some() { Outcome::Unknown } else { outcome };
        self.over(outcome)
    }

    fn read(&mut self, now: Time) -> Step<Outcome> {
        let query = match self.which {
            Which::Newest => Query::Newest,
            Which::Version(version) => Query::At(version),
            Which::All | Which::AllBut { .. } => Query::Below { version: self.below, limit: DELETE_PAGE },
        };
        let read = Get::new(self.group.clone(), &self.path, query, self.rounds);
        self.stage = Stage::Reading(Box::new(read));
        self.go_on(now, Event::Time)
    }

    fn choose(&mut self, now: Time, known: Known) -> Step<Outcome> {
        let sources = known.signed;
        self.more = !known.complete;
        self.below = known.held.last().map_or(0, |held| held.row.version);
        let mut live: Vec<Held> =
            known.held.into_iter().filter(|held| held.tombstoned_at.is_none()).collect();
        if self.highest.is_none() && self.kept == 0 {
            let Some(target) = live.first() else {
                return if self.more { self.read(now) } else { self.over(Outcome::Missing) };
            };
            if !check(&self.conditions, Some(target)) {
                return self.over(Outcome::Precondition);
            }
        }
        if let Which::AllBut { keep, spare } = self.which {
            let passed = (keep - self.kept).min(live.len() as u64);
            self.kept += passed;
            live.drain(..passed as usize);
            live.retain(|held| held.row.version != spare);
        }
        if live.is_empty() {
            return self.next(now);
        }
        self.highest = self.highest.or(live.first().map(|held| held.row.version));
        let bury = |held| Held { tombstoned_at: Some(self.at), ..held };
        let versions: Vec<Proven> =
            live.into_iter().map(|held| Proven { held: bury(held), on: sources.clone() }).collect();
        self.rounds += 1;
        let (path, until) = (self.path.clone(), now + COMMIT_TIME.as_millis() as u64);
        let (round, sends) = Round::begin(self.rounds, self.group.all(), until, |_| Request::Finish {
            path: path.clone(),
            versions: versions.clone(),
        });
        self.stage = Stage::Burying(round, Signatures::default());
        Step::sends(sends)
    }

    /// The next page, or the end.
    fn next(&mut self, now: Time) -> Step<Outcome> {
        if self.more && now < self.until {
            return self.read(now);
        }
        if self.more {
            return self.fail(Outcome::NoQuorum);
        }
        let outcome = self.highest.map_or(Outcome::Missing, Outcome::Deleted);
        self.over(outcome)
    }

    fn go_on(&mut self, now: Time, event: Event) -> Step<Outcome> {
        let mut stage = std::mem::replace(&mut self.stage, Stage::New);
        let (sends, mut step) = match &mut stage {
            Stage::Reading(read) => {
                let inner = read.step(now, event);
                self.rounds = read.rounds();
                self.stage = stage;
                let step = match inner.outcome {
                    Some(get::Outcome::Known(known)) => self.choose(now, known),
                    Some(get::Outcome::InDoubt) => self.fail(Outcome::InDoubt),
                    Some(get::Outcome::Unavailable) => self.fail(Outcome::NoQuorum),
                    None => Step::none(),
                };
                (inner.sends, step)
            }
            Stage::Burying(round, done) => {
                if let Event::Reply { from, round: number, reply } = event
                    && round.took(from, number)
                    && let Some((identity, Reply::Done { counts: true, .. })) = self.group.open(from, reply)
                {
                    done.insert(from, identity);
                }
                let (enough, lost) = (
                    done.current(&self.group) >= self.group.write_quorum,
                    round.waiting().is_empty() || now >= round.until(),
                );
                self.stage = stage;
                let step = match (enough, lost) {
                    (true, _) => self.next(now),
                    (false, true) => self.over(Outcome::Unknown),
                    (false, false) => Step::none(),
                };
                (Vec::new(), step)
            }
            Stage::New | Stage::Over => {
                self.stage = stage;
                (Vec::new(), Step::none())
            }
        };
        step.sends.splice(0..0, sends);
        step
    }
}

impl Machine for Delete {
    type Outcome = Outcome;

    fn step(&mut self, now: Time, event: Event) -> Step<Outcome> {
        match &self.stage {
            Stage::New => {
                self.until = now + WRITE_TIME.as_millis() as u64;
                self.read(now)
            }
            _ => self.go_on(now, event),
        }
    }

    fn wake(&self) -> Option<Time> {
        match &self.stage {
            Stage::New => Some(0),
            Stage::Reading(read) => read.wake(),
            Stage::Burying(round, _) => Some(round.until()),
            Stage::Over => None,
        }
    }
}
