//! Condemning objects of the archive (RFC 0005): all replicas are asked never to name them, and each must have agreed, in one view.

use super::everyone::{Everyone, Turn};
use super::machine::{Event, Group, Machine, Signatures, Step, Time};
use crate::wire::peer::{Reply, Request, archive};

/// The condemnation of some objects.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Condemn {
    everyone: Everyone,
    /// Who has condemned each.
    agreed: Vec<Signatures>,
}

impl Condemn {
    /// Condemns objects of the slot of `path`.
    pub fn new(group: Group, path: &str, targets: Vec<String>) -> Self {
        let agreed = vec![Signatures::default(); targets.len()];
        let request = Request::Archive(archive::Request::Condemn { path: path.to_owned(), targets });
        Self { everyone: Everyone::new(group, request), agreed }
    }
}

/// How many must have condemned an object.
fn needed(group: &Group) -> usize {
    #[cfg(test)]
    if super::mistake::is_planted(super::mistake::Mistake::CondemnedByQuorum) {
        return group.write_quorum;
    }
    group.members.len()
}

impl Machine for Condemn {
    /// Of each object whether all replicas have condemned it.
    type Outcome = Vec<bool>;

    fn step(&mut self, now: Time, event: Event) -> Step<Vec<bool>> {
        let Self { everyone, agreed } = self;
        let Turn { sends, ends } = everyone.step(now, event, |from, identity, reply| {
            if let Reply::Archive(archive::Reply::Condemned { condemned, counts: true }) = reply {
                for (agreed, _) in agreed.iter_mut().zip(condemned).filter(|(_, condemned)| *condemned) {
                    agreed.insert(from, identity);
                }
            }
        });
        let group = &everyone.group;
        let outcome =
            ends.then(|| agreed.iter().map(|agreed| agreed.current(group) >= needed(group)).collect());
        Step { sends, outcome }
    }

    fn wake(&self) -> Option<Time> {
        self.everyone.wake()
    }
}
