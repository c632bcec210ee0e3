//! What coordinators have in common: events in, requests out, an outcome once; and rounds, in which several replicas are asked
//! the same and answer or are lost.

use crate::base::topology::NodeId;
use crate::wire::peer::{Identity, Member, Members, Reply, Request, Response, Signed};

/// Milliseconds on a clock that never goes back, from any start.
pub type Time = u64;

/// What a coordinator is told.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// To begin, or that the time has come that [`Machine::wake`] names.
    Time,
    /// The answer to a request; none: there will be none, and whether the request arrived is not known.
    Reply {
        /// Who was asked.
        from: NodeId,
        /// In which round.
        round: u32,
        /// What it said.
        reply: Option<Response>,
    },
}

/// A request on its way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Send {
    /// Who is asked.
    pub to: NodeId,
    /// In which round.
    pub round: u32,
    /// What.
    pub request: Request,
}

/// What a step comes to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Step<O> {
    /// Requests to send.
    pub sends: Vec<Send>,
    /// The outcome, once. Replies that come later still matter: they are to be passed on.
    pub outcome: Option<O>,
}

impl<O> Step<O> {
    /// Nothing but requests.
    pub fn sends(sends: Vec<Send>) -> Self {
        Self { sends, outcome: None }
    }

    /// Nothing but an outcome.
    pub fn outcome(outcome: O) -> Self {
        Self { sends: Vec::new(), outcome: Some(outcome) }
    }

    /// Nothing.
    pub fn none() -> Self {
        Self { sends: Vec::new(), outcome: None }
    }
}

/// A coordinator.
pub trait Machine {
    /// What it comes to.
    type Outcome;

    /// Goes on; the first event is [`Event::Time`].
    fn step(&mut self, now: Time, event: Event) -> Step<Self::Outcome>;

    /// When it wants to be told the time, if nothing happens before.
    fn wake(&self) -> Option<Time>;
}

/// What all coordinators of a slot go by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Group {
    /// This node, a replica of the slot.
    pub me: NodeId,
    /// The replicas as this node knows them.
    pub members: Members,
    /// So many yes votes decide.
    pub write_quorum: usize,
}

impl Group {
    /// The replicas.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.members.iter().map(|member| member.node)
    }

    /// All of them as a set.
    pub fn all(&self) -> NodeSet {
        self.nodes().collect()
    }

    /// Refusals that make a decision impossible.
    pub fn refusal_quorum(&self) -> usize {
        self.members.len() - self.write_quorum + 1
    }

    /// Whether an identity is that of its node.
    pub fn is_current(&self, signed: &Signed) -> bool {
        self.members.iter().any(|member| (member.node, member.identity) == *signed)
    }

    /// The identity of a replica.
    pub fn identity_of(&self, node: NodeId) -> Option<Identity> {
        self.members.iter().find(|member| member.node == node).map(|member| member.identity)
    }

    /// Takes note of the replicas that an answer knows; the answer, and the disk it stands for.
    pub fn open(&mut self, from: NodeId, response: Option<Response>) -> Option<(Identity, Reply)> {
        let Response { members, reply } = response?;
        self.learn(&members);
        let member = members.iter().find(|member| member.node == from)?;
        Some((member.identity, reply))
    }

    /// Takes over what another node knows of replaced disks; whether that was news.
    pub fn learn(&mut self, members: &[Member]) -> bool {
        let mut news = false;
        for (mine, theirs) in self.members.iter_mut().zip(members) {
            if mine.node == theirs.node && theirs.generation > mine.generation {
                *mine = *theirs;
                news = true;
            }
        }
        news
    }
}

/// A set of nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct NodeSet(u32);

impl NodeSet {
    /// How many.
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether a node is in it.
    pub fn contains(self, node: NodeId) -> bool {
        self.0 >> node.0 & 1 == 1
    }

    /// Puts a node in.
    pub fn insert(&mut self, node: NodeId) {
        self.0 |= 1 << node.0;
    }

    /// Takes a node out; whether it was in.
    pub fn remove(&mut self, node: NodeId) -> bool {
        let was = self.contains(node);
        self.0 &= !(1 << node.0);
        was
    }

    /// Those in both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Those not in the other.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The nodes.
    pub fn iter(self) -> impl Iterator<Item = NodeId> {
        (0..32).map(NodeId).filter(move |node| self.contains(*node))
    }
}

impl FromIterator<NodeId> for NodeSet {
    fn from_iter<I: IntoIterator<Item = NodeId>>(nodes: I) -> Self {
        let mut set = Self::default();
        nodes.into_iter().for_each(|node| set.insert(node));
        set
    }
}

/// A round of requests: who has not answered, and until when they are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Round {
    number: u32,
    waiting: NodeSet,
    until: Time,
}

impl Round {
    /// Asks `to` the same; the number is that of the round.
    pub fn begin(
        number: u32,
        to: NodeSet,
        until: Time,
        request: impl Fn(NodeId) -> Request,
    ) -> (Self, Vec<Send>) {
        let sends = to.iter().map(|to| Send { to, round: number, request: request(to) }).collect();
        (Self { number, waiting: to, until }, sends)
    }

    /// Its number.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// When it is over, whoever has not answered.
    pub fn until(&self) -> Time {
        self.until
    }

    /// Who has not answered.
    pub fn waiting(&self) -> NodeSet {
        self.waiting
    }

    /// Takes note of an answer; false: it is not one of this round, or the second one.
    pub fn took(&mut self, from: NodeId, round: u32) -> bool {
        round == self.number && self.waiting.remove(from)
    }

    /// Nobody is waited for any more.
    pub fn give_up(&mut self) {
        self.waiting = NodeSet::default();
    }
}

/// Signatures of different nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Signatures(Vec<Signed>);

impl Signatures {
    /// Takes one; a node signs once.
    pub fn insert(&mut self, node: NodeId, identity: Identity) {
        if !self.0.iter().any(|(known, _)| *known == node) {
            self.0.push((node, identity));
            self.0.sort_unstable();
        }
    }

    /// How many are of disks that still are what they were.
    pub fn current(&self, group: &Group) -> usize {
        #[cfg(test)]
        if super::mistake::is_planted(super::mistake::Mistake::AnswersOfTwoViewsAdded) {
            return self.0.len();
        }
        self.0.iter().filter(|signed| group.is_current(signed)).count()
    }

    /// Whether a node has signed.
    pub fn contains(&self, node: NodeId) -> bool {
        self.0.iter().any(|(known, _)| *known == node)
    }

    /// Who has signed.
    pub fn nodes(&self) -> NodeSet {
        self.0.iter().map(|(node, _)| *node).collect()
    }

    /// All of them.
    pub fn all(&self) -> Vec<Signed> {
        self.0.clone()
    }
}
