//! A strong read that answers a client: where a try for the very version asked for has no outcome yet, that is settled first.

use super::machine::{Event, Group, Machine, Step, Time};
use super::read::{self, Known, Read};
use super::settle::{self, Settle};
use crate::limits::READS_MAX;
use crate::wire::peer::{InDoubt, Query};

/// What a GET comes to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// This is what there is.
    Known(Known),
    /// The version asked for is in doubt.
    InDoubt,
    /// Less than a quorum can be asked.
    Unavailable,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Reading(Box<Read>),
    Settling(Box<Settle>, Vec<InDoubt>),
    Over,
}

/// A GET.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Get {
    group: Group,
    path: String,
    query: Query,
    rounds: u32,
    /// How often what was in doubt has been settled.
    settled: u32,
    stage: Stage,
}

impl Get {
    /// Reads what a query asks for. Its rounds are numbered from `round` on.
    pub fn new(group: Group, path: &str, query: Query, round: u32) -> Self {
        let read = Read::new(group.clone(), path, query, round);
        Self {
            group,
            path: path.to_owned(),
            query,
            rounds: round,
            settled: 0,
            stage: Stage::Reading(Box::new(read)),
        }
    }

    /// Where the numbers of another machine's rounds may begin.
    pub fn rounds(&self) -> u32 {
        self.rounds
    }

    fn over(&mut self, outcome: Outcome) -> Step<Outcome> {
        self.stage = Stage::Over;
        Step::outcome(outcome)
    }

    fn may_wait(&self, known: &Known) -> bool {
        matches!(self.query, Query::At(_)) && known.in_doubt.iter().all(|other| other.basis.is_none())
    }

    fn settle(&mut self, now: Time, mut doubts: Vec<InDoubt>) -> Step<Outcome> {
        let Some(next) = doubts.pop() else {
            self.settled += 1;
            let read = Read::new(self.group.clone(), &self.path, self.query, self.rounds);
            self.stage = Stage::Reading(Box::new(read));
            return self.step(now, Event::Time);
        };
        let (group, path) = (self.group.clone(), self.path.as_str());
        let settle = match self.query {
            Query::At(_) => Settle::of_version(group, path, &next, self.rounds),
            Query::Newest | Query::Below { .. } => Settle::at_once(group, path, &next, self.rounds),
        };
        self.stage = Stage::Settling(Box::new(settle), doubts);
        self.step(now, Event::Time)
    }
}

impl Machine for Get {
    type Outcome = Outcome;

    fn step(&mut self, now: Time, event: Event) -> Step<Outcome> {
        let (sends, mut step) = match &mut self.stage {
            Stage::Reading(read) => {
                let inner = read.step(now, event);
                self.rounds = read.rounds();
                let step = match inner.outcome {
                    Some(read::Outcome::Known(known)) if known.in_doubt.is_empty() => {
                        self.over(Outcome::Known(known))
                    }
                    Some(read::Outcome::Known(known)) if self.settled > 0 && self.may_wait(&known) => {
                        // They appeared meanwhile: their requests run while this one does.
                        self.over(Outcome::Known(known))
                    }
                    Some(read::Outcome::Known(_)) if self.settled >= READS_MAX => self.over(Outcome::InDoubt),
                    Some(read::Outcome::Known(known)) => self.settle(now, known.in_doubt),
                    Some(read::Outcome::Unavailable) => self.over(Outcome::Unavailable),
                    None => Step::none(),
                };
                (inner.sends, step)
            }
            Stage::Settling(settle, rest) => {
                let inner = settle.step(now, event);
                self.rounds = settle.rounds();
                let rest = rest.clone();
                let step = match inner.outcome {
                    Some(settle::Outcome::Unknown) => self.over(Outcome::InDoubt),
                    // One that is still worked on has not been answered: not to see it yet is right.
                    Some(_) => self.settle(now, rest),
                    None => Step::none(),
                };
                (inner.sends, step)
            }
            Stage::Over => (Vec::new(), Step::none()),
        };
        step.sends.splice(0..0, sends);
        step
    }

    fn wake(&self) -> Option<Time> {
        match &self.stage {
            Stage::Reading(read) => read.wake(),
            Stage::Settling(settle, _) => settle.wake(),
            Stage::Over => None,
        }
    }
}
