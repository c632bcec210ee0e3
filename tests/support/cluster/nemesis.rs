//! What goes wrong, in an order that a seed decides.
//!
//! A plan is a list of faults, each with how long it lasts until the next comes or until everything is healed. Nodes are killed
//! and stopped, a minority mostly, sometimes all; links are cut, swallowed, delayed, broken off in the middle, throttled; and at most
//! once in a plan a disk is lost for good, which is what a cluster of three with a quorum of two promises to survive.

use std::fmt;
use std::time::Duration;

use super::formation::Cluster;
use super::links::Mode;
use super::store::Store;
use super::support::Random;

#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    Kill(Vec<usize>),
    Pause(Vec<usize>),
    /// These can reach each other, and so can the others, and none of these the others.
    Split(Vec<usize>, Mode),
    /// From, to.
    Link(usize, usize, Mode),
    /// All links.
    Everywhere(Mode),
    /// Kills a node, takes its disk away, and starts it again.
    Lose(usize),
    /// The registry stands still.
    FreezeRegistry,
    /// The registry dies, and comes back empty when everything is healed.
    KillRegistry,
    /// The registry dies, and comes back empty at once.
    EmptyRegistry,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    pub fault: Fault,
    pub lasts: Duration,
    /// Whether everything is healed after it, or the next comes on top.
    pub heals: bool,
}

/// A plan for a cluster of so many nodes; `may_lose` allows the loss of a disk.
pub fn plan(random: &mut Random, nodes: usize, may_lose: bool) -> Vec<Step> {
    let count = 1 + random.below(4);
    let mut lost = !may_lose;
    (0..count)
        .map(|_| {
            let fault = fault(random, nodes, &mut lost);
            let lasts = Duration::from_millis(100 + random.below(1400));
            Step { fault, lasts, heals: random.below(2) == 0 }
        })
        .collect()
}

/// A plan for a cluster with a registry: that fails, and around it nodes are killed and stopped. There are no proxies on its links.
pub fn plan_with_registry(random: &mut Random, nodes: usize, may_lose: bool) -> Vec<Step> {
    let mut lost = !may_lose;
    let mut plan = Vec::new();
    for _ in 0..1 + random.below(3) {
        let registry = match random.below(3) {
            0 => Fault::FreezeRegistry,
            1 => Fault::KillRegistry,
            _ => Fault::EmptyRegistry,
        };
        let node = match random.below(5) {
            0 if !lost => {
                lost = true;
                Fault::Lose(random.below(nodes as u64) as usize)
            }
            0 | 1 => Fault::Pause(some(random, nodes)),
            _ => Fault::Kill(some(random, nodes)),
        };
        let both = if random.below(2) == 0 { [registry, node] } else { [node, registry] };
        for fault in both {
            let lasts = Duration::from_millis(100 + random.below(1900));
            plan.push(Step { fault, lasts, heals: random.below(3) == 0 });
        }
    }
    plan
}

fn fault(random: &mut Random, nodes: usize, lost: &mut bool) -> Fault {
    let one = random.below(nodes as u64) as usize;
    let other = (one + 1 + random.below(nodes.max(2) as u64 - 1) as usize) % nodes;
    if !*lost && random.below(5) == 0 {
        *lost = true;
        return Fault::Lose(one);
    }
    match random.below(92) {
        0..22 => Fault::Kill(some(random, nodes)),
        22..36 => Fault::Pause(some(random, nodes)),
        36..56 => Fault::Split(minority(random, nodes), broken(random)),
        56..74 if one != other => Fault::Link(one, other, broken(random)),
        74..82 if one != other => Fault::Link(one, other, slow(random)),
        82..92 => Fault::Everywhere(slow(random)),
        _ => Fault::Kill(vec![one]),
    }
}

/// A minority mostly, sometimes a majority, sometimes all.
fn some(random: &mut Random, nodes: usize) -> Vec<usize> {
    match random.below(10) {
        0 => (0..nodes).collect(),
        1 | 2 => {
            let spared = minority(random, nodes);
            (0..nodes).filter(|node| !spared.contains(node)).collect()
        }
        _ => minority(random, nodes),
    }
}

/// At least one node, and fewer than half of them where that is possible.
fn minority(random: &mut Random, nodes: usize) -> Vec<usize> {
    let most = (nodes.saturating_sub(1) / 2).max(1) as u64;
    let count = 1 + random.below(most) as usize;
    let first = random.below(nodes as u64) as usize;
    (0..count).map(|step| (first + step) % nodes).collect()
}

fn broken(random: &mut Random) -> Mode {
    match random.below(4) {
        0 => Mode::CutAfter(1 + random.below(200_000)),
        1 => Mode::BlackHole,
        _ => Mode::Cut,
    }
}

fn slow(random: &mut Random) -> Mode {
    match random.below(3) {
        0 => Mode::Throttle(20_000 + random.below(2_000_000)),
        _ => Mode::Delay(Duration::from_millis(1 + random.below(200))),
    }
}

impl Fault {
    /// Breaks it.
    pub fn strike(&self, cluster: &mut Cluster) {
        match self {
            Self::Kill(nodes) => nodes.iter().for_each(|node| cluster.nodes[*node].kill()),
            Self::Pause(nodes) => nodes.iter().for_each(|node| cluster.nodes[*node].pause()),
            Self::Split(side, mode) => cluster.links().split(side, *mode),
            Self::Link(from, to, mode) => cluster.links().set(*from, *to, *mode),
            Self::Everywhere(mode) => {
                for (from, to) in cluster.links().pairs().collect::<Vec<_>>() {
                    cluster.links().set(from, to, *mode);
                }
            }
            Self::Lose(node) => {
                let node = &mut cluster.nodes[*node];
                node.kill();
                node.wipe();
                node.spawn();
            }
            Self::FreezeRegistry => cluster.registry.iter().for_each(Store::freeze),
            Self::KillRegistry => cluster.registry.iter_mut().for_each(Store::kill),
            Self::EmptyRegistry => cluster.registry.iter_mut().for_each(|store| {
                store.kill();
                store.start_empty();
            }),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.lasts.as_millis();
        write!(out, "{:?} for {ms} ms{}", self.fault, if self.heals { ", then heal" } else { "" })
    }
}
