//! Where the power goes, and what is lost then.

use super::device::{Disk, Loss, What};
use super::ledger::Entry;
use super::support::Random;

/// What happened when, in one order.
#[derive(Debug, Default)]
pub struct Moments {
    /// Before the nodes were started.
    pub begun: u64,
    /// When they had all been ready.
    pub ready: u64,
    pub ended: u64,
    pub writes: Vec<u64>,
    pub flushes: Vec<u64>,
    pub answers: Vec<u64>,
}

impl Moments {
    /// Those of one run of nodes.
    pub fn of([begun, ready, ended]: [u64; 3], disks: &[Disk], entries: &[Entry]) -> Self {
        let mut this = Self { begun, ready, ended, ..Self::default() };
        let within = |at: &u64| (begun..ended).contains(at);
        this.answers.extend(entries.iter().map(|entry| entry.answered).filter(within));
        for event in disks.iter().flat_map(Disk::events).filter(|event| within(&event.at)) {
            match event.what {
                What::Flush => this.flushes.push(event.at),
                What::Write { .. } => this.writes.push(event.at),
            }
        }
        this
    }
}

#[derive(Debug, Clone)]
pub struct Cut {
    /// Everything before this has happened.
    pub at: u64,
    /// For each disk, with a seed.
    pub losses: Vec<(Loss, u64)>,
    /// A node whose disk never comes back.
    pub lost: Option<usize>,
    /// The power goes once more, while the nodes recover or when they have.
    pub again: bool,
}

impl Cut {
    pub fn choose(moments: &Moments, nodes: usize, disks: usize, random: &mut Random) -> Self {
        let pick = |from: &[u64], random: &mut Random| match from.len() {
            0 => moments.ended,
            len => from[random.below(len as u64) as usize],
        };
        let at = match random.below(10) {
            // Just answered: what was not synced for it is lost.
            0..4 => pick(&moments.answers, random) + 1,
            // Just before a flush, when the most is open, and just after.
            4..7 => pick(&moments.flushes, random) + random.below(2),
            7..9 => pick(&moments.writes, random) + 1,
            _ => moments.begun + random.below(moments.ended - moments.begun + 1),
        };
        let losses = (0..nodes * disks).map(|_| (loss(random), random.next_u64())).collect();
        // A cluster that was not formed yet needs all of its nodes for that.
        let lost = (nodes > 1 && at > moments.ready && random.below(2) == 0)
            .then(|| random.below(nodes as u64) as usize);
        Self { at, losses, lost, again: random.below(8) == 0 }
    }
}

fn loss(random: &mut Random) -> Loss {
    let kept = 50 + random.below(900);
    match random.below(20) {
        0..8 => Loss::All,
        8 => Loss::None,
        9..12 => Loss::Later,
        12..16 => Loss::Writes { kept },
        16..18 => Loss::Torn { kept, size: 4096 },
        _ => Loss::Torn { kept, size: 512 },
    }
}
