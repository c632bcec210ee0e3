//! A strong read: a write quorum is asked, what it says is merged, and what fewer than a write quorum have is finished before
//! anyone is answered. So what was once read is never unread.
//!
//! A tombstone seen once counts, and so does a version. A miss is one only after a quorum said so.

use super::machine::{Event, Group, Machine, NodeSet, Round, Send, Step, Time};
#[cfg(test)]
use super::mistake::{Mistake, is_planted};
use crate::base::topology::NodeId;
use crate::limits::{COMMIT_TIME, READ_TIME};
use crate::wire::peer::{Held, InDoubt, Query, Reply, Request};

/// What is known of a path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Known {
    /// Versions, newest first; `hollow` where no replica that answered has its chunks.
    pub held: Vec<Held>,
    /// Whether there are no more below them.
    pub complete: bool,
    /// The highest number known, of tries too.
    pub highest: u64,
    /// Tries for the very version that was asked for.
    pub in_doubt: Vec<InDoubt>,
    /// Those that have the first version's chunks.
    pub whole: NodeSet,
}

/// What a strong read comes to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// This is what there is.
    Known(Known),
    /// Less than a quorum can be asked.
    Unavailable,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    New,
    Asking(Round),
    Finishing(Round, Known),
    Over,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Answer {
    from: NodeId,
    held: Vec<Held>,
    complete: bool,
    highest: u64,
    in_doubt: Vec<InDoubt>,
}

/// A strong read of one path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Read {
    group: Group,
    path: String,
    query: Query,
    ask: NodeSet,
    phase: Phase,
    rounds: u32,
    answers: Vec<Answer>,
    /// Replicas that have all of what was read by now.
    up_to_date: NodeSet,
}

impl Read {
    /// Reads from all of a slot's replicas. Its rounds are numbered from `round` on.
    pub fn new(group: Group, path: &str, query: Query, round: u32) -> Self {
        Self {
            ask: group.all(),
            group,
            path: path.to_owned(),
            query,
            phase: Phase::New,
            rounds: round,
            answers: Vec::new(),
            up_to_date: NodeSet::default(),
        }
    }

    /// Where the numbers of another machine's rounds may begin.
    pub fn rounds(&self) -> u32 {
        self.rounds
    }

    fn merge(&self) -> Known {
        let mut known = Known { complete: true, ..Known::default() };
        // Below the last line of a page that goes on, a replica may have versions that it did not list.
        let cut = self.answers.iter().filter(|answer| !answer.complete);
        let floor = cut.map(|answer| answer.held.last().map_or(u64::MAX, |held| held.row.version)).max();
        for answer in &self.answers {
            known.highest = known.highest.max(answer.highest);
            known.in_doubt.extend(answer.in_doubt.iter().cloned());
            known.complete &= answer.complete;
            for held in &answer.held {
                #[cfg(test)]
                if is_planted(Mistake::TombstonesLeftOutOfReads) && held.tombstoned_at.is_some() {
                    continue;
                }
                match known.held.iter_mut().find(|other| other.row.version == held.row.version) {
                    Some(other) => {
                        other.hollow &= held.hollow;
                        other.tombstoned_at = match (other.tombstoned_at, held.tombstoned_at) {
                            (Some(one), Some(two)) => Some(one.min(two)),
                            (one, two) => one.or(two),
                        };
                    }
                    None => known.held.push(held.clone()),
                }
            }
        }
        known.held.sort_by_key(|held| std::cmp::Reverse(held.row.version));
        if let Some(floor) = floor {
            known.held.retain(|held| held.row.version >= floor);
        }
        if self.query == Query::Newest {
            known.held.truncate(1);
        }
        known.in_doubt.sort();
        known.in_doubt.dedup();
        known.in_doubt.retain(|try_| known.held.iter().all(|held| held.row.version != try_.version));
        if let Some(first) = known.held.first() {
            let has = |answer: &&Answer| {
                answer.held.iter().any(|held| held.row.version == first.row.version && !held.hollow)
            };
            known.whole = self.answers.iter().filter(has).map(|answer| answer.from).collect();
        }
        known
    }

    /// What a replica that answered lacks of what is known.
    fn lacks(answer: &Answer, known: &Known) -> Vec<Held> {
        let lacks = |held: &&Held| {
            let theirs = answer.held.iter().find(|other| other.row.version == held.row.version);
            theirs.is_none_or(|theirs| theirs.tombstoned_at.is_none() && held.tombstoned_at.is_some())
        };
        known.held.iter().filter(lacks).cloned().collect()
    }

    fn conclude(&mut self, now: Time) -> Step<Outcome> {
        let known = self.merge();
        let lacking: Vec<(NodeId, Vec<Held>)> =
            self.answers.iter().map(|answer| (answer.from, Self::lacks(answer, &known))).collect();
        self.up_to_date =
            lacking.iter().filter(|(_, lacks)| lacks.is_empty()).map(|(node, _)| *node).collect();
        if self.up_to_date.len() >= self.group.write_quorum {
            self.phase = Phase::Over;
            return Step::outcome(Outcome::Known(known));
        }
        self.rounds += 1;
        let to: NodeSet =
            lacking.iter().filter(|(_, lacks)| !lacks.is_empty()).map(|(node, _)| *node).collect();
        let until = now + COMMIT_TIME.as_millis() as u64;
        let request = |node| Request::Finish {
            path: self.path.clone(),
            held: lacking
                .iter()
                .find(|(other, _)| *other == node)
                .map(|(_, lacks)| lacks.clone())
                .unwrap_or_default(),
        };
        let (round, sends) = Round::begin(self.rounds, to, until, request);
        self.phase = Phase::Finishing(round, known);
        Step::sends(sends)
    }

    fn over(&mut self, outcome: Outcome) -> Step<Outcome> {
        self.phase = Phase::Over;
        Step::outcome(outcome)
    }

    fn begin(&mut self, now: Time) -> Step<Outcome> {
        self.rounds += 1;
        let (path, query) = (self.path.clone(), self.query);
        let until = now + READ_TIME.as_millis() as u64;
        let (round, sends): (Round, Vec<Send>) =
            Round::begin(self.rounds, self.ask, until, |_| Request::Read { path: path.clone(), query });
        self.phase = Phase::Asking(round);
        Step::sends(sends)
    }
}

impl Machine for Read {
    type Outcome = Outcome;

    fn step(&mut self, now: Time, event: Event) -> Step<Outcome> {
        let mut phase = self.phase.clone();
        match (&mut phase, event) {
            (Phase::New, _) => self.begin(now),
            (Phase::Asking(round), Event::Reply { from, round: number, reply }) => {
                if !round.took(from, number) {
                    return Step::none();
                }
                self.phase = Phase::Asking(*round);
                if let Some(Reply::Known { held, complete, highest, in_doubt }) = reply {
                    self.answers.push(Answer { from, held, complete, highest, in_doubt });
                    self.answers.sort_by_key(|answer| answer.from);
                }
                if self.answers.len() >= self.group.write_quorum {
                    return self.conclude(now);
                }
                if self.answers.len() + round.waiting().len() < self.group.write_quorum {
                    return self.over(Outcome::Unavailable);
                }
                Step::none()
            }
            (Phase::Asking(round), Event::Time) if now >= round.until() => self.over(Outcome::Unavailable),
            (Phase::Finishing(round, known), Event::Reply { from, round: number, reply }) => {
                if !round.took(from, number) {
                    return Step::none();
                }
                if matches!(reply, Some(Reply::Done { counts: true, .. })) {
                    self.up_to_date.insert(from);
                }
                self.phase = Phase::Finishing(*round, known.clone());
                if self.up_to_date.len() >= self.group.write_quorum {
                    return self.over(Outcome::Known(std::mem::take(known)));
                }
                if round.waiting().is_empty() { self.over(Outcome::Unavailable) } else { Step::none() }
            }
            (Phase::Finishing(round, _), Event::Time) if now >= round.until() => {
                self.over(Outcome::Unavailable)
            }
            _ => Step::none(),
        }
    }

    fn wake(&self) -> Option<Time> {
        match &self.phase {
            Phase::New => Some(0),
            Phase::Asking(round) | Phase::Finishing(round, _) => Some(round.until()),
            Phase::Over => None,
        }
    }
}
