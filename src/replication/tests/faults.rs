//! What goes wrong in a simulation, and how much of it.

use super::chance::Chance;
use crate::base::topology::NodeId;
use crate::replication::machine::Time;

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    Crash,
    /// A node does nothing for a while, and then goes on as if nothing had been.
    Sleep,
    /// A node's clock leaps ahead.
    Jump,
    Cut,
    Heal,
    Full,
    Sweep,
    Wipe,
}

/// The state of the outer world.
#[derive(Clone, Debug)]
pub(super) struct Weather {
    /// In a thousand messages.
    pub(super) losses: u64,
    pub(super) doubles: u64,
    slow: u64,
    /// In a thousand syncs.
    pub(super) failed_syncs: u64,
    faults: Vec<Fault>,
    /// Side of the cut on which a node is.
    sides: Vec<bool>,
    pub(super) down_until: Vec<Time>,
    pub(super) sleeps_until: Vec<Time>,
    ahead: Vec<Time>,
}

impl Weather {
    pub(super) fn new(chance: &mut Chance, nodes: usize) -> Self {
        let mut faults = vec![Fault::None, Fault::None];
        for fault in
            [Fault::Crash, Fault::Sleep, Fault::Jump, Fault::Cut, Fault::Full, Fault::Sweep, Fault::Wipe]
        {
            if chance.happens(500) {
                faults.push(fault);
            }
        }
        if faults.contains(&Fault::Cut) {
            faults.extend([Fault::Heal, Fault::Heal]);
        }
        Self {
            losses: chance.one_of(&[0, 5, 30, 100, 250]),
            doubles: chance.one_of(&[0, 10, 100]),
            slow: chance.one_of(&[0, 10, 50, 150]),
            failed_syncs: chance.one_of(&[0, 0, 2, 10]),
            faults,
            sides: vec![true; nodes],
            down_until: vec![0; nodes],
            sleeps_until: vec![0; nodes],
            ahead: (0..nodes).map(|_| chance.within(0..100_000)).collect(),
        }
    }

    pub(super) fn next_fault(&self, chance: &mut Chance) -> Fault {
        chance.one_of(&self.faults)
    }

    pub(super) fn delay(&self, chance: &mut Chance) -> Time {
        if chance.happens(self.slow) { chance.within(20..30_000) } else { chance.within(1..20) }
    }

    pub(super) fn is_up(&self, node: NodeId, now: Time) -> bool {
        self.down_until[node.index()] <= now
    }

    pub(super) fn is_cut(&self, one: NodeId, other: NodeId) -> bool {
        self.sides[one.index()] != self.sides[other.index()]
    }

    pub(super) fn cut(&mut self, chance: &mut Chance, node: NodeId) {
        self.sides.iter_mut().for_each(|side| *side = chance.happens(700));
        self.sides[node.index()] = false;
    }

    pub(super) fn heal(&mut self) {
        self.sides.iter_mut().for_each(|side| *side = true);
    }

    pub(super) fn jump(&mut self, node: NodeId, time: Time) {
        self.ahead[node.index()] += time;
    }

    /// The clock of a node.
    pub(super) fn clock(&self, node: NodeId, now: Time) -> Time {
        now + self.ahead[node.index()]
    }

    /// Everything works again.
    pub(super) fn clear(&mut self, now: Time) {
        self.heal();
        self.slow = 0;
        self.down_until.iter_mut().chain(&mut self.sleeps_until).for_each(|until| *until = (*until).min(now));
    }
}
