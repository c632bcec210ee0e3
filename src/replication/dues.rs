//! What a write owes before its client is answered: conditional tries on its path that were judged without it have an outcome, and
//! the newest version that a replica met is on a write quorum.
//!
//! Without the first, a conditional PUT that was decided before a DELETE could show after it; without the second, one that is
//! already committed somewhere, and so no longer in doubt there, could.

use super::machine::{Group, Signatures};
use super::settle::Settle;
use crate::base::topology::NodeId;
use crate::wire::peer::{Attempt, Held, Identity, InDoubt};

/// What is owed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Dues {
    conditional: Vec<InDoubt>,
    newer: Option<(Held, Signatures)>,
}

impl Dues {
    /// Takes note of a replica's answer to a try, to the commit of one, or to tombstones; `mine` is what the answer is about.
    pub fn note(
        &mut self,
        mine: Option<Attempt>,
        (from, identity): (NodeId, Identity),
        conditional: Vec<InDoubt>,
        newer: Option<Box<Held>>,
    ) {
        for other in conditional {
            if Some(other.attempt) != mine && !self.conditional.contains(&other) {
                self.conditional.push(other);
            }
        }
        self.conditional.sort();
        let Some(newer) = newer else { return };
        match &mut self.newer {
            Some((known, signed)) if known.row.attempt == newer.row.attempt => signed.insert(from, identity),
            Some((known, _)) if known.row.version > newer.row.version => {}
            _ => {
                let mut signed = Signatures::default();
                signed.insert(from, identity);
                self.newer = Some((*newer, signed));
            }
        }
    }

    /// What is to be settled next; none: nothing is owed any more.
    pub fn next(&self, group: &Group, path: &str, rounds: u32) -> Option<Settle> {
        if let Some(in_doubt) = self.conditional.last() {
            return Some(Settle::new(group.clone(), path, in_doubt, rounds));
        }
        let (held, signed) = self.newer.as_ref()?;
        let is_owed = signed.current(group) < group.write_quorum;
        is_owed.then(|| Settle::finish(group.clone(), path, held.clone(), signed.clone(), rounds))
    }

    /// That is settled.
    pub fn paid(&mut self) {
        if self.conditional.pop().is_none() {
            self.newer = None;
        }
    }
}
