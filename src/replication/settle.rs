//! Settling a try in doubt by asking: first its coordinator, which may still work on it, then all replicas.
//!
//! One commit: it is a version. A write quorum of yes votes: it is decided, and committed now. Refusals of so many that this
//! has become impossible: it never will be one. Else it waits, and is asked about again later.

use super::machine::{Event, Group, Machine, NodeSet, Round, Signatures, Step, Time};
use crate::base::topology::NodeId;
use crate::limits::{ASK_TIME, COMMIT_TIME};
use crate::wire::peer::{Attempt, Held, InDoubt, Proven, Reply, Request, Response, Row, Standing};

/// What became of a try.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It is a version, on disk at a write quorum.
    Committed,
    /// It never will be one.
    Aborted,
    /// Its coordinator still works on it.
    Live,
    /// Not enough replicas can be asked.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    New,
    AskingCoordinator(Round),
    AskingAll(Round),
    Committing(Round),
    Aborting(Round),
    Over,
}

/// The settling of one try.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Settle {
    group: Group,
    path: String,
    attempt: Attempt,
    coordinator: NodeId,
    /// Whether a coordinator that still works on it may go on.
    patient: bool,
    phase: Phase,
    rounds: u32,
    row: Option<Row>,
    /// Known to be committed, with its tombstone where it has one.
    held: Option<Held>,
    yes: Signatures,
    refusals: Signatures,
    committed: Signatures,
}

impl Settle {
    /// Settles a try on `path`. Its rounds are numbered from `round` on.
    pub fn new(group: Group, path: &str, in_doubt: &InDoubt, round: u32) -> Self {
        Self {
            group,
            path: path.to_owned(),
            attempt: in_doubt.attempt,
            coordinator: in_doubt.coordinator,
            patient: true,
            phase: Phase::New,
            rounds: round,
            row: None,
            held: None,
            yes: Signatures::default(),
            refusals: Signatures::default(),
            committed: Signatures::default(),
        }
    }

    /// Settles a try that a read of its version met. If it is conditional, the read may not say that it is not there yet while its
    /// coordinator goes on: what it was judged on may be gone, and then it should have been there before.
    pub fn of_version(group: Group, path: &str, in_doubt: &InDoubt, round: u32) -> Self {
        Self { patient: in_doubt.basis.is_none(), ..Self::new(group, path, in_doubt, round) }
    }

    /// Settles a try now, even if its coordinator still works on it: for an answer that it contradicts.
    pub fn at_once(group: Group, path: &str, in_doubt: &InDoubt, round: u32) -> Self {
        Self { patient: false, ..Self::new(group, path, in_doubt, round) }
    }

    /// Where the numbers of another machine's rounds may begin.
    pub fn rounds(&self) -> u32 {
        self.rounds
    }

    fn ask(&mut self, now: Time, to: NodeSet, patient: bool) -> (Round, Vec<super::machine::Send>) {
        self.rounds += 1;
        let (path, attempt) = (self.path.clone(), self.attempt);
        Round::begin(self.rounds, to, now + ASK_TIME.as_millis() as u64, |_| Request::Ask {
            path: path.clone(),
            attempt,
            patient,
        })
    }

    fn ask_all(&mut self, now: Time) -> Step<Outcome> {
        let (round, sends) = self.ask(now, self.group.all(), self.patient);
        self.phase = Phase::AskingAll(round);
        Step::sends(sends)
    }

    fn hear(&mut self, from: NodeId, reply: Option<Response>) -> bool {
        let Some((identity, Reply::Standing(standing))) = self.group.open(from, reply) else { return false };
        match standing {
            Standing::Committed(held) => {
                self.row = Some(held.row.clone());
                self.committed.insert(from, identity);
                if self.held.as_ref().is_none_or(|known| known.tombstoned_at.is_none()) {
                    self.held = Some(*held);
                }
            }
            Standing::Prepared(proposal) => {
                self.yes.insert(from, identity);
                self.row.get_or_insert(proposal.row);
            }
            Standing::Refused => self.refusals.insert(from, identity),
            Standing::Live => return true,
            Standing::Unknown => {}
        }
        false
    }

    fn judge(&mut self, now: Time, round: Round) -> Step<Outcome> {
        if self.committed.current(&self.group) >= self.group.write_quorum {
            return self.over(Outcome::Committed);
        }
        if self.committed.current(&self.group) > 0
            && let Some(held) = self.held.clone()
        {
            return self.bring(now, held);
        }
        if self.yes.current(&self.group) >= self.group.write_quorum
            && let Some(row) = self.row.clone()
        {
            self.rounds += 1;
            let (to, votes) = (self.group.all(), self.yes.all());
            let until = now + COMMIT_TIME.as_millis() as u64;
            let (round, sends) = Round::begin(self.rounds, to, until, |_| Request::Commit {
                row: row.clone(),
                votes: votes.clone(),
            });
            self.phase = Phase::Committing(round);
            return Step::sends(sends);
        }
        if self.refusals.current(&self.group) >= self.group.refusal_quorum() {
            self.rounds += 1;
            let (to, path, attempt) = (self.yes.nodes(), self.path.clone(), self.attempt);
            let refusals = self.refusals.all();
            let until = now + ASK_TIME.as_millis() as u64;
            let (round, sends) = Round::begin(self.rounds, to, until, |_| Request::Abort {
                path: path.clone(),
                attempt,
                refusals: refusals.clone(),
            });
            if sends.is_empty() {
                return self.over(Outcome::Aborted);
            }
            self.phase = Phase::Aborting(round);
            return Step::sends(sends);
        }
        if round.waiting().is_empty() {
            return self.over(Outcome::Unknown);
        }
        Step::none()
    }

    /// Those that were asked and have it need not hear of it again.
    fn bring(&mut self, now: Time, mut held: Held) -> Step<Outcome> {
        held.hollow = false;
        self.rounds += 1;
        let (to, path) = (self.group.all().without(self.committed.nodes()), self.path.clone());
        let (until, version) =
            (now + COMMIT_TIME.as_millis() as u64, Proven { held, on: self.committed.all() });
        let (round, sends) = Round::begin(self.rounds, to, until, |_| Request::Finish {
            path: path.clone(),
            versions: vec![version.clone()],
        });
        self.phase = Phase::Committing(round);
        Step::sends(sends)
    }

    fn over(&mut self, outcome: Outcome) -> Step<Outcome> {
        self.phase = Phase::Over;
        Step::outcome(outcome)
    }
}

impl Machine for Settle {
    type Outcome = Outcome;

    fn step(&mut self, now: Time, event: Event) -> Step<Outcome> {
        let mut phase = self.phase.clone();
        match (&mut phase, event) {
            (Phase::New, _) => {
                if !self.patient || !self.group.all().contains(self.coordinator) {
                    return self.ask_all(now);
                }
                let (round, sends) = self.ask(now, [self.coordinator].into_iter().collect(), true);
                self.phase = Phase::AskingCoordinator(round);
                Step::sends(sends)
            }
            (Phase::AskingCoordinator(round), Event::Reply { from, round: number, reply }) => {
                if !round.took(from, number) {
                    return Step::none();
                }
                if self.hear(from, reply) { self.over(Outcome::Live) } else { self.ask_all(now) }
            }
            (Phase::AskingCoordinator(round), Event::Time) if now >= round.until() => self.ask_all(now),
            (Phase::AskingAll(round), Event::Reply { from, round: number, reply }) => {
                if !round.took(from, number) {
                    return Step::none();
                }
                self.phase = Phase::AskingAll(*round);
                if self.hear(from, reply) {
                    return self.over(Outcome::Live);
                }
                self.judge(now, *round)
            }
            (Phase::AskingAll(round), Event::Time) if now >= round.until() => {
                round.give_up();
                self.judge(now, *round)
            }
            (Phase::Committing(round), Event::Reply { from, round: number, reply }) => {
                if !round.took(from, number) {
                    return Step::none();
                }
                self.phase = Phase::Committing(*round);
                if let Some((identity, Reply::Done { counts: true, .. })) = self.group.open(from, reply) {
                    self.committed.insert(from, identity);
                }
                if self.committed.current(&self.group) >= self.group.write_quorum {
                    return self.over(Outcome::Committed);
                }
                if round.waiting().is_empty() { self.over(Outcome::Unknown) } else { Step::none() }
            }
            (Phase::Committing(round), Event::Time) if now >= round.until() => self.over(Outcome::Unknown),
            (Phase::Aborting(round), Event::Reply { from, round: number, .. }) => {
                if round.took(from, number) {
                    self.phase = Phase::Aborting(*round);
                }
                if round.waiting().is_empty() { self.over(Outcome::Aborted) } else { Step::none() }
            }
            (Phase::Aborting(round), Event::Time) if now >= round.until() => self.over(Outcome::Aborted),
            _ => Step::none(),
        }
    }

    fn wake(&self) -> Option<Time> {
        match &self.phase {
            Phase::New => Some(0),
            Phase::AskingCoordinator(round)
            | Phase::AskingAll(round)
            | Phase::Committing(round)
            | Phase::Aborting(round) => Some(round.until()),
            Phase::Over => None,
        }
    }
}
