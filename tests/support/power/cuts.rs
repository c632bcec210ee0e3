//! Where the power goes, and what is lost then.

use super::device::Loss;
use super::support::Random;

/// What happened when, in one order.
#[derive(Debug, Default)]
pub struct Moments {
    /// Before the nodes were started.
    pub begun: u64,
    pub ended: u64,
    pub writes: Vec<u64>,
    pub flushes: Vec<u64>,
    pub answers: Vec<u64>,
}

#[derive(Debug, Clone)]
pub struct Cut {
    /// Everything before this has happened.
    pub at: u64,
    /// For each disk, with a seed.
    pub losses: Vec<(Loss, u64)>,
    /// A node whose disk never comes back.
    pub lost: Option<usize>,
}

impl Cut {
    pub fn choose(moments: &Moments, disks: usize, random: &mut Random) -> Self {
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
        let losses = (0..disks).map(|_| (loss(random), random.next_u64())).collect();
        let lost = (disks > 1 && random.below(2) == 0).then(|| random.below(disks as u64) as usize);
        Self { at, losses, lost }
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
