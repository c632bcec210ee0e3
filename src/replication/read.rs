//! A strong read: a write quorum is asked, what it says is merged, and what fewer than a write quorum have is finished before
//! anyone is answered. So what was once read is never unread.
//!
//! A tombstone seen once counts, and so does a version. A miss is one only after a quorum said so.

use super::machine::{Event, Group, Machine, NodeSet, Round, Send, Signatures, Step, Time};
#[cfg(test)]
use super::mistake::{Mistake, is_planted};
use crate::base::topology::NodeId;
use crate::limits::{COMMIT_TIME, READ_TIME, READS_MAX};
use crate::wire::peer::{Held, Identity, InDoubt, Proven, Query, Reply, Request, Response, Signed};

/// What is known of a path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Known {
    /// Versions, newest first; `hollow` where no replica that answered has its chunks.
    pub held: Vec<Held>,
    /// Whether there are no more below them.
    pub complete: bool,
    /// The highest number known, of tries too.
    pub highest: u64,
    /// Tries for the very version that was asked for, else conditional ones that contradict this; they must be settled before
    /// anyone is told this.
    pub in_doubt: Vec<InDoubt>,
    /// Those that have the first version's chunks.
    pub whole: NodeSet,
    /// Those that have all of this on disk, a write quorum.
    pub signed: Vec<Signed>,
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
    identity: Identity,
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
    up_to_date: Signatures,
    /// How often it has begun.
    begun: u32,
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
            up_to_date: Signatures::default(),
            begun: 0,
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
        if let Query::At(version) = self.query
            && known.held.iter().any(|held| held.row.version == version)
        {
            known.held.retain(|held| held.row.version == version);
        }
        if !matches!(self.query, Query::Below { .. }) {
            known.held.truncate(1);
        }
        known.in_doubt.sort();
        known.in_doubt.dedup();
        let newest = known.held.first();
        match self.query {
            Query::At(version) => {
                known.in_doubt.retain(|_| newest.is_none_or(|held| held.row.version != version));
            }
            Query::Newest | Query::Below { .. } => known.in_doubt.retain(|other| other.contradicts(newest)),
        }
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

    /// Answers of disks that still are what they were.
    fn current(&self) -> usize {
        self.answers.iter().filter(|answer| self.group.is_current(&(answer.from, answer.identity))).count()
    }

    fn conclude(&mut self, now: Time) -> Step<Outcome> {
        let group = &self.group;
        self.answers.retain(|answer| group.is_current(&(answer.from, answer.identity)));
        let known = self.merge();
        let lacking: Vec<(NodeId, Vec<Held>)> =
            self.answers.iter().map(|answer| (answer.from, Self::lacks(answer, &known))).collect();
        let has_all = |node: NodeId| lacking.iter().any(|(other, lacks)| *other == node && lacks.is_empty());
        self.up_to_date = Signatures::default();
        for answer in self.answers.iter().filter(|answer| has_all(answer.from)) {
            self.up_to_date.insert(answer.from, answer.identity);
        }
        if self.up_to_date.current(&self.group) >= self.group.write_quorum {
            return self.tell(known);
        }
        self.rounds += 1;
        let to: NodeSet =
            lacking.iter().filter(|(_, lacks)| !lacks.is_empty()).map(|(node, _)| *node).collect();
        let until = now + COMMIT_TIME.as_millis() as u64;
        let request = |node| {
            let lacks = lacking.iter().find(|(other, _)| *other == node);
            let versions = lacks.map(|(_, lacks)| lacks.iter().map(|held| self.proven(held)).collect());
            Request::Finish { path: self.path.clone(), versions: versions.unwrap_or_default() }
        };
        let (round, sends) = Round::begin(self.rounds, to, until, request);
        self.phase = Phase::Finishing(round, known);
        Step::sends(sends)
    }

    fn proven(&self, held: &Held) -> Proven {
        let has = |answer: &&Answer| answer.held.iter().any(|theirs| theirs.row.version == held.row.version);
        let on = self.answers.iter().filter(has).map(|answer| (answer.from, answer.identity)).collect();
        Proven { held: held.clone(), on }
    }

    /// A replica has taken over what it lacked.
    fn finished(
        &mut self,
        now: Time,
        (from, round): (NodeId, Round),
        mut known: Known,
        reply: Option<Response>,
    ) -> Step<Outcome> {
        if let Some((identity, Reply::Done { counts: true, conditional, newer })) =
            self.group.open(from, reply)
        {
            if self.query == Query::Newest && newer.is_some() {
                return if self.begun < READS_MAX {
                    self.begin(now)
                } else {
                    self.over(Outcome::Unavailable)
                };
            }
            let newest = known.held.first();
            let bears = |other: &InDoubt| match self.query {
                Query::Newest | Query::Below { .. } => other.contradicts(newest),
                Query::At(version) => {
                    other.version == version && newest.is_none_or(|held| held.row.version != version)
                }
            };
            known.in_doubt.extend(conditional.into_iter().filter(bears));
            known.in_doubt.sort();
            known.in_doubt.dedup();
            self.up_to_date.insert(from, identity);
        }
        if self.up_to_date.current(&self.group) >= self.group.write_quorum {
            return self.tell(known);
        }
        if round.waiting().is_empty() {
            return self.over(Outcome::Unavailable);
        }
        self.phase = Phase::Finishing(round, known);
        Step::none()
    }

    fn tell(&mut self, mut known: Known) -> Step<Outcome> {
        known.signed = self.up_to_date.all();
        if let Query::At(version) = self.query {
            known.held.retain(|held| held.row.version == version);
        }
        self.over(Outcome::Known(known))
    }

    fn over(&mut self, outcome: Outcome) -> Step<Outcome> {
        self.phase = Phase::Over;
        Step::outcome(outcome)
    }

    fn begin(&mut self, now: Time) -> Step<Outcome> {
        self.rounds += 1;
        self.begun += 1;
        self.answers.clear();
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
                if let Some((identity, Reply::Known { held, complete, highest, in_doubt })) =
                    self.group.open(from, reply)
                {
                    self.answers.push(Answer { from, identity, held, complete, highest, in_doubt });
                    self.answers.sort_by_key(|answer| answer.from);
                }
                if self.current() >= self.group.write_quorum {
                    return self.conclude(now);
                }
                if self.current() + round.waiting().len() < self.group.write_quorum {
                    return self.over(Outcome::Unavailable);
                }
                Step::none()
            }
            (Phase::Asking(round), Event::Time) if now >= round.until() => self.over(Outcome::Unavailable),
            (Phase::Finishing(round, known), Event::Reply { from, round: number, reply }) => {
                if !round.took(from, number) {
                    return Step::none();
                }
                self.finished(now, (from, *round), std::mem::take(known), reply)
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
