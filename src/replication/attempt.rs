//! One try to make a blob a version: prepare, count, commit; or withdraw, and know for sure that it will never be one.
//!
//! `write_quorum` durable yes votes are the decision; from then on the try is only ever committed. It is withdrawn only by
//! durable refusals of so many replicas that a decision has become impossible. Where neither can be brought about in time, the
//! outcome is unknown, and the replicas settle it among themselves.

use super::machine::{Event, Group, Machine, NodeSet, Round, Send, Signatures, Step, Time};
#[cfg(test)]
use super::mistake::{Mistake, is_planted};
use crate::base::topology::NodeId;
use crate::limits::{ASK_TIME, COMMIT_TIME, PREPARE_TIME};
use crate::wire::peer::{Held, Member, No, Proposal, Proven, Reply, Request, Response, Standing};

/// What a try comes to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It is a version, on disk at a write quorum.
    Committed,
    /// It never was one and never will be.
    Aborted(Vec<No>),
    /// It may become one.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    New,
    /// Votes are coming in.
    Preparing(Round),
    /// It cannot be decided, or not in time: refusals are asked for.
    Withdrawing(Round),
    /// Refused by enough: those that said yes are told, so that they can say yes to another try.
    Releasing(Round),
    /// Decided.
    Committing(Round),
    /// The outcome was told; late votes still get their commit.
    Over,
}

/// A try.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Try {
    group: Group,
    proposal: Proposal,
    /// Replicas that were sent the data.
    with_data: NodeSet,
    inline: Option<bytes::Bytes>,
    phase: Phase,
    /// Rounds begun.
    rounds: u32,
    /// The round in which votes are asked for: those that came back in another one are about another try.
    ballot_round: u32,
    /// Those that were asked to vote and have not.
    voting: NodeSet,
    yes: Signatures,
    refusals: Signatures,
    reasons: Vec<No>,
    committed: Signatures,
    /// As it was committed, where another has done that.
    held: Option<Held>,
}

impl Try {
    /// A try for `proposal`, voted about by those `with_data`. Its rounds are numbered from `round` on.
    pub fn new(
        group: Group,
        proposal: Proposal,
        with_data: NodeSet,
        inline: Option<bytes::Bytes>,
        round: u32,
    ) -> Self {
        Self {
            group,
            proposal,
            with_data,
            inline,
            phase: Phase::New,
            rounds: round,
            ballot_round: 0,
            voting: NodeSet::default(),
            yes: Signatures::default(),
            refusals: Signatures::default(),
            reasons: Vec::new(),
            committed: Signatures::default(),
            held: None,
        }
    }

    /// The replicas as it knows them by now.
    pub fn members(&self) -> &[Member] {
        &self.group.members
    }

    /// The version it is to become.
    pub fn row(&self) -> &crate::wire::peer::Row {
        &self.proposal.row
    }

    /// Where the numbers of another machine's rounds may begin.
    pub fn rounds(&self) -> u32 {
        self.rounds
    }

    fn begin(
        &mut self,
        now: Time,
        to: NodeSet,
        time: std::time::Duration,
        request: impl Fn() -> Request,
    ) -> (Round, Vec<Send>) {
        self.rounds += 1;
        Round::begin(self.rounds, to, now + time.as_millis() as u64, |_| request())
    }

    fn prepare(&mut self, now: Time) -> Step<Outcome> {
        let (proposal, inline) = (self.proposal.clone(), self.inline.clone());
        let (round, sends) = self.begin(now, self.with_data, PREPARE_TIME, || Request::Prepare {
            proposal: proposal.clone(),
            inline: inline.clone(),
        });
        self.ballot_round = round.number();
        self.voting = round.waiting();
        self.phase = Phase::Preparing(round);
        if self.with_data.len() < self.group.write_quorum {
            // Nobody was asked: nothing needs to be taken back.
            self.phase = Phase::Over;
            return Step::outcome(Outcome::Aborted(vec![No::NoData]));
        }
        Step::sends(sends)
    }

    /// Whether enough said yes; then it is decided.
    fn is_decided(&self) -> bool {
        self.yes.current(&self.group) >= self.group.write_quorum
    }

    /// Whether there is nothing left to decide.
    fn is_settled(&self) -> bool {
        self.is_decided() || self.committed.current(&self.group) > 0
    }

    fn vote(&mut self, from: NodeId, reply: Option<Response>) {
        let Some((identity, reply)) = self.group.open(from, reply) else { return };
        match reply {
            Reply::Yes => self.yes.insert(from, identity),
            Reply::No(no) => {
                match &no {
                    No::Refused => self.refusals.insert(from, identity),
                    No::Committed(held) => {
                        self.committed.insert(from, identity);
                        self.held = Some((**held).clone());
                    }
                    _ => {}
                }
                #[cfg(test)]
                if is_planted(Mistake::NoCountsAsRefusal) {
                    self.refusals.insert(from, self.group.identity_of(from).unwrap_or_default());
                }
                self.reasons.push(no);
            }
            _ => {}
        }
    }

    /// What makes it visible: the votes, or, where another has committed it, that.
    fn commit_request(&self) -> Request {
        let row = self.proposal.row.clone();
        match &self.held {
            Some(held) if !self.is_decided() => {
                let held = Held { hollow: false, ..held.clone() };
                let versions = vec![Proven { held, on: self.committed.all() }];
                Request::Finish { path: row.path, versions }
            }
            _ => Request::Commit { row, votes: self.yes.all() },
        }
    }

    /// Decided: everyone who has voted, or will not, is told; those whose vote is under way when it comes.
    fn commit(&mut self, now: Time) -> Step<Outcome> {
        let (to, request) = (self.group.all().without(self.voting), self.commit_request());
        let (round, sends) = self.begin(now, to, COMMIT_TIME, || request.clone());
        self.phase = Phase::Committing(round);
        Step::sends(sends)
    }

    fn withdraw(&mut self, now: Time) -> Step<Outcome> {
        #[cfg(test)]
        if is_planted(Mistake::NextVersionWithoutRefusals) {
            return self.aborted();
        }
        let (path, attempt) = (self.proposal.row.path.clone(), self.proposal.row.attempt);
        let to = self.group.all().without(self.yes.nodes()).without(self.refusals.nodes());
        let (round, sends) =
            self.begin(now, to, ASK_TIME, || Request::Ask { path: path.clone(), attempt, patient: false });
        self.phase = Phase::Withdrawing(round);
        let mut step = self.judge_withdrawal(now, round);
        step.sends.splice(0..0, sends);
        step
    }

    /// Goes on once the standings say what became of the try.
    fn judge_withdrawal(&mut self, now: Time, round: Round) -> Step<Outcome> {
        if self.is_settled() {
            self.voting = NodeSet::default();
            return self.commit(now);
        }
        if self.refusals.current(&self.group) >= self.group.refusal_quorum() {
            return self.release(now);
        }
        if round.waiting().is_empty() {
            self.phase = Phase::Over;
            return Step::outcome(Outcome::Unknown);
        }
        Step::none()
    }

    fn release(&mut self, now: Time) -> Step<Outcome> {
        let (path, attempt) = (self.proposal.row.path.clone(), self.proposal.row.attempt);
        let refusals = self.refusals.all();
        let (round, sends) = self.begin(now, self.yes.nodes(), ASK_TIME, || Request::Abort {
            path: path.clone(),
            attempt,
            refusals: refusals.clone(),
        });
        if round.waiting().is_empty() {
            return self.aborted();
        }
        self.phase = Phase::Releasing(round);
        Step::sends(sends)
    }

    fn aborted(&mut self) -> Step<Outcome> {
        self.phase = Phase::Over;
        Step::outcome(Outcome::Aborted(std::mem::take(&mut self.reasons)))
    }

    /// After a vote, or the end of waiting for votes.
    fn judge_votes(&mut self, now: Time, round: Round) -> Step<Outcome> {
        if self.is_settled() {
            return self.commit(now);
        }
        let possible = self.yes.current(&self.group) + round.waiting().len();
        if possible < self.group.write_quorum {
            return self.withdraw(now);
        }
        Step::none()
    }

    /// Whether an answer is a vote that had not come in time.
    fn is_late_vote(&mut self, from: NodeId, round: u32) -> bool {
        round == self.ballot_round && self.voting.remove(from)
    }

    /// A vote that was under way when the others decided: its commit.
    fn late_vote(&mut self, from: NodeId, reply: Option<Response>) -> Step<Outcome> {
        self.vote(from, reply);
        let request = self.commit_request();
        Step::sends(vec![Send { to: from, round: self.rounds, request }])
    }

    fn done(&mut self, from: NodeId, reply: Option<Response>) {
        if let Some((identity, Reply::Done { counts: true, .. })) = self.group.open(from, reply) {
            self.committed.insert(from, identity);
        }
    }
}

impl Machine for Try {
    type Outcome = Outcome;

    fn step(&mut self, now: Time, event: Event) -> Step<Outcome> {
        let (mut phase, event) = (self.phase.clone(), event);
        match (&mut phase, event) {
            (Phase::New, _) => self.prepare(now),
            (Phase::Preparing(round), Event::Reply { from, round: number, reply }) => {
                if !round.took(from, number) {
                    return Step::none();
                }
                self.voting.remove(from);
                self.vote(from, reply);
                self.phase = Phase::Preparing(*round);
                self.judge_votes(now, *round)
            }
            (Phase::Preparing(round), Event::Time) if now >= round.until() => {
                round.give_up();
                self.judge_votes(now, *round)
            }
            (Phase::Withdrawing(round), Event::Reply { from, round: number, reply }) => {
                if !round.took(from, number) {
                    // A vote from before may still come.
                    if self.is_late_vote(from, number) {
                        self.vote(from, reply);
                    }
                    return self.judge_withdrawal(now, *round);
                }
                self.phase = Phase::Withdrawing(*round);
                if let Some((identity, Reply::Standing(standing))) = self.group.open(from, reply) {
                    match standing {
                        Standing::Committed(held) => {
                            self.committed.insert(from, identity);
                            self.held = Some(*held);
                        }
                        Standing::Prepared(_) => self.yes.insert(from, identity),
                        Standing::Refused => self.refusals.insert(from, identity),
                        Standing::Live | Standing::Unknown => {}
                    }
                }
                self.judge_withdrawal(now, *round)
            }
            (Phase::Withdrawing(round), Event::Time) if now >= round.until() => {
                round.give_up();
                self.judge_withdrawal(now, *round)
            }
            (Phase::Releasing(round), Event::Reply { from, round: number, .. }) => {
                if round.took(from, number) {
                    self.phase = Phase::Releasing(*round);
                }
                if round.waiting().is_empty() { self.aborted() } else { Step::none() }
            }
            (Phase::Releasing(round), Event::Time) if now >= round.until() => self.aborted(),
            (Phase::Committing(round), Event::Reply { from, round: number, reply }) => {
                let took = round.took(from, number);
                if !took && self.is_late_vote(from, number) {
                    return self.late_vote(from, reply);
                }
                self.phase = Phase::Committing(*round);
                // Late votes get their commit in this round too; what came back in another was about something else.
                if number == round.number() {
                    self.done(from, reply);
                }
                #[cfg(test)]
                if is_planted(Mistake::CommitBelowQuorum) && self.committed.current(&self.group) > 0 {
                    self.phase = Phase::Over;
                    return Step::outcome(Outcome::Committed);
                }
                if self.committed.current(&self.group) >= self.group.write_quorum {
                    self.phase = Phase::Over;
                    return Step::outcome(Outcome::Committed);
                }
                Step::none()
            }
            (Phase::Committing(round), Event::Time) if now >= round.until() => {
                self.phase = Phase::Over;
                Step::outcome(Outcome::Unknown)
            }
            (Phase::Over, Event::Reply { from, round, reply })
                if self.is_late_vote(from, round) && self.is_settled() =>
            {
                self.late_vote(from, reply)
            }
            _ => Step::none(),
        }
    }

    fn wake(&self) -> Option<Time> {
        match &self.phase {
            Phase::New => Some(0),
            Phase::Preparing(round)
            | Phase::Withdrawing(round)
            | Phase::Releasing(round)
            | Phase::Committing(round) => Some(round.until()),
            Phase::Over => None,
        }
    }
}
