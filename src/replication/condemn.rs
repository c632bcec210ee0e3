//! Condemning objects of the archive (RFC 0005): all replicas are asked never to name them, and each must have agreed, in one view.

use super::machine::{Event, Group, Machine, Round, Signatures, Step, Time};
use crate::base::topology::NodeId;
use crate::limits::ARCHIVE_SPREAD_TIME;
use crate::wire::peer::{Reply, Request, Response, archive};

/// The condemnation of some objects.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Condemn {
    group: Group,
    path: String,
    targets: Vec<String>,
    /// Who has condemned each.
    agreed: Vec<Signatures>,
    /// None: not begun, or over.
    round: Option<Round>,
    begun: bool,
}

impl Condemn {
    /// Condemns objects of the slot of `path`.
    pub fn new(group: Group, path: &str, targets: Vec<String>) -> Self {
        let agreed = vec![Signatures::default(); targets.len()];
        Self { group, path: path.to_owned(), targets, agreed, round: None, begun: false }
    }

    fn begin(&mut self, now: Time) -> Step<Vec<bool>> {
        self.begun = true;
        let request = Request::Archive(archive::Request::Condemn {
            path: self.path.clone(),
            targets: self.targets.clone(),
        });
        let until = now + ARCHIVE_SPREAD_TIME.as_millis() as Time;
        let (round, sends) = Round::begin(1, self.group.all(), until, |_| request.clone());
        self.round = Some(round);
        Step::sends(sends)
    }

    fn hear(&mut self, from: NodeId, reply: Option<Response>) {
        if let Some((identity, Reply::Archive(archive::Reply::Condemned { condemned, counts: true }))) =
            self.group.open(from, reply)
        {
            for (agreed, _) in self.agreed.iter_mut().zip(condemned).filter(|(_, condemned)| *condemned) {
                agreed.insert(from, identity);
            }
        }
    }

    /// Those that all replicas have condemned.
    fn end(&mut self) -> Step<Vec<bool>> {
        self.round = None;
        let needed = needed(&self.group);
        let condemned = |agreed: &Signatures| agreed.current(&self.group) >= needed;
        Step::outcome(self.agreed.iter().map(condemned).collect())
    }
}

fn needed(group: &Group) -> usize {
    #[cfg(test)]
    if super::mistake::is_planted(super::mistake::Mistake::CondemnedByQuorum) {
        return group.write_quorum;
    }
    group.members.len()
}

impl Machine for Condemn {
    type Outcome = Vec<bool>;

    fn step(&mut self, now: Time, event: Event) -> Step<Vec<bool>> {
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
