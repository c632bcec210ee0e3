//! The judge of histories against thousands of made ones: a small store in memory, correct by its few lines, answers concurrent
//! clients, some answers get lost, some writes happen late or never. None of its histories may be called wrong; and with a fault
//! planted in the store, some must be.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

#[path = "support/cluster/mod.rs"]
mod cluster;
mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cluster::history::NEVER;
use cluster::problem::Listed;
use cluster::report::{Judgement, judge};
use cluster::{Ask, Blob, Condition, Op, Told, Which, invariants};
use support::Random;

/// What the store does wrong, one time in ten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plant {
    Nothing,
    /// A read of the newest gives the one before.
    StaleRead,
    /// A read finds what is tombstoned.
    Revived,
    /// If-Match is not looked at.
    LostUpdate,
    /// If-None-Match is not looked at.
    TwoFirst,
    /// A PUT is acknowledged and not done.
    LostPut,
    /// A DELETE is acknowledged and not done.
    LostDelete,
    /// A DELETE of the newest takes the one before.
    WrongVictim,
    /// A number is chosen from what was there before the last PUT.
    OldNumber,
}

/// A version: the number of its PUT, whether it is dead.
type Versions = BTreeMap<u64, (u64, bool)>;

struct Store {
    versions: Versions,
    plant: Plant,
}

/// What a request is about to do to the store.
enum Stage {
    /// Nothing yet; whether it will at all.
    Asked(bool),
    /// It chose versions, and will tombstone them; what it will tell.
    Chose(Vec<u64>, Told),
    Done(Told),
}

fn blob(number: u64) -> Blob {
    Blob { seed: number, len: 1000 + number as usize }
}

fn id(number: u64) -> String {
    format!("blob-{number}")
}

impl Store {
    fn newest(&self) -> Option<(u64, u64)> {
        self.versions.last_key_value().filter(|(_, of)| !of.1).map(|(version, of)| (*version, of.0))
    }

    fn fails(&self, plant: Plant, random: &mut Random) -> bool {
        self.plant == plant && random.below(10) == 0
    }

    fn met(&self, condition: &Condition, random: &mut Random) -> bool {
        match condition {
            Condition::Always => true,
            Condition::Absent => self.newest().is_none() || self.fails(Plant::TwoFirst, random),
            Condition::Match(tag) => {
                self.newest().is_some_and(|(_, number)| id(number) == *tag)
                    || self.fails(Plant::LostUpdate, random)
            }
        }
    }

    /// The moment of a request; a DELETE has another one after it.
    fn happen(&mut self, ask: &Ask, random: &mut Random) -> Stage {
        let read = |version: u64, number: u64, head: bool| Told::Read {
            version,
            blob_id: id(number),
            size: 1000 + number,
            seed: (!head).then_some(number),
        };
        let missing = Stage::Done(Told::Refused(404));
        match ask {
            Ask::Put { version, condition, blob } => {
                let number = blob.seed;
                if let Some((known, dead)) = version.and_then(|version| self.versions.get(&version)) {
                    let same = *known == number && !dead;
                    let stored =
                        Told::Stored { version: version.unwrap(), blob_id: id(number), created: false };
                    return Stage::Done(if same { stored } else { Told::Refused(409) });
                }
                if !self.met(condition, random) {
                    return Stage::Done(Told::Refused(412));
                }
                let highest = self.versions.keys().next_back().copied().unwrap_or(0);
                let version = version.unwrap_or(match self.fails(Plant::OldNumber, random) {
                    true => (1..).find(|free| !self.versions.contains_key(free)).unwrap(),
                    false => highest + 1 + random.below(2),
                });
                if !self.fails(Plant::LostPut, random) {
                    self.versions.insert(version, (number, false));
                }
                Stage::Done(Told::Stored { version, blob_id: id(number), created: true })
            }
            Ask::Get { version: None, head } => {
                let stale = self.fails(Plant::StaleRead, random);
                let mut below = self.versions.iter().rev().skip(usize::from(stale));
                match below.next().filter(|(_, of)| !of.1) {
                    Some((version, of)) => Stage::Done(read(*version, of.0, *head)),
                    None => missing,
                }
            }
            Ask::Get { version: Some(version), head } => {
                let revived = self.fails(Plant::Revived, random);
                match self.versions.get(version).filter(|of| !of.1 || revived) {
                    Some(of) => Stage::Done(read(*version, of.0, *head)),
                    None => missing,
                }
            }
            Ask::Delete { which, condition } => {
                let live = |version: &u64| self.versions.get(version).is_some_and(|of| !of.1);
                let chosen: Vec<u64> = match which {
                    Which::Newest => self.newest().map(|(version, _)| version).into_iter().collect(),
                    Which::Version(version) => Some(*version).filter(live).into_iter().collect(),
                    Which::All => self.versions.keys().copied().filter(live).collect(),
                };
                let Some(&highest) = chosen.last() else { return missing };
                if !self.met(condition, random) {
                    return Stage::Done(Told::Refused(412));
                }
                let victim = match self.fails(Plant::WrongVictim, random) {
                    true => self.versions.keys().rev().nth(1).copied().unwrap_or(highest),
                    false => highest,
                };
                let lost = self.fails(Plant::LostDelete, random);
                let told = Told::Deleted { version: victim };
                Stage::Chose(
                    if lost {
                        Vec::new()
                    } else if *which == Which::All {
                        chosen
                    } else {
                        vec![victim]
                    },
                    told,
                )
            }
        }
    }
}

fn choose(store: &Store, random: &mut Random, numbers: &mut u64, explicit: &mut Option<(u64, u64)>) -> Ask {
    let highest = store.versions.keys().next_back().copied().unwrap_or(0);
    let tag = store.newest().map_or(Condition::Absent, |(_, number)| Condition::Match(id(number)));
    let any = |random: &mut Random| 1 + random.below(highest + 2);
    let mut put = |version, condition| {
        *numbers += 1;
        Ask::Put { version, condition, blob: blob(*numbers) }
    };
    match random.below(20) {
        0..4 => put(None, Condition::Always),
        4 | 5 => put(None, tag),
        6 => put(None, Condition::Absent),
        7 => match explicit.take() {
            Some((version, number)) => {
                Ask::Put { version: Some(version), condition: Condition::Always, blob: blob(number) }
            }
            None => {
                let ask = put(Some(any(random)), Condition::Always);
                if let Ask::Put { version: Some(version), blob, .. } = &ask {
                    *explicit = Some((*version, blob.seed));
                }
                ask
            }
        },
        8 | 9 => Ask::Delete { which: Which::Newest, condition: Condition::Always },
        10 => Ask::Delete { which: Which::Newest, condition: tag },
        11 => Ask::Delete { which: Which::Version(any(random)), condition: Condition::Always },
        12 if random.below(4) == 0 => Ask::Delete { which: Which::All, condition: Condition::Always },
        12..17 => Ask::Get { version: None, head: random.below(2) == 0 },
        _ => Ask::Get { version: Some(any(random)), head: random.below(2) == 0 },
    }
}

/// A history of so many requests by so many clients, and what is listed at its end.
fn make(seed: u64, clients: usize, count: usize, plant: Plant) -> (Vec<Op>, Vec<Listed>) {
    let random = &mut Random::new(seed);
    let mut store = Store { versions: Versions::new(), plant };
    let mut running: Vec<Option<(Op, Stage)>> = (0..clients).map(|_| None).collect();
    // Without an answer, and not done yet.
    let mut late: Vec<(Ask, Stage)> = Vec::new();
    let (mut history, mut numbers, mut explicit) = (Vec::new(), 0, None);
    let mut now = 0;
    while history.len() < count {
        now += 1;
        if !late.is_empty() && random.below(30) == 0 {
            let at = random.below(late.len() as u64) as usize;
            let (ask, stage) = late.swap_remove(at);
            advance(&mut store, &ask, stage, random)
                .into_iter()
                .for_each(|stage| late.push((ask.clone(), stage)));
            continue;
        }
        let client = random.below(clients as u64) as usize;
        running[client] = match running[client].take() {
            None => {
                let ask = choose(&store, random, &mut numbers, &mut explicit);
                let path = "made".to_owned();
                let op = Op { path, client, node: 0, ask, asked: now, told: Told::Unknown, answered: NEVER };
                Some((op, Stage::Asked(random.below(40) != 0)))
            }
            Some((mut op, Stage::Done(told))) => {
                if random.below(25) != 0 {
                    (op.told, op.answered) = (told, now);
                }
                history.push(op);
                None
            }
            // It never comes about, or later than its client waits.
            Some((op, Stage::Asked(false))) => {
                if random.below(2) == 0 {
                    late.push((op.ask.clone(), Stage::Asked(true)));
                }
                history.push(op);
                None
            }
            Some((op, stage)) => advance(&mut store, &op.ask.clone(), stage, random).map(|stage| (op, stage)),
        };
    }
    for (op, _) in running.into_iter().flatten() {
        history.push(op);
    }
    // What is still to come comes before the end, or never.
    for (version, (number, dead)) in store.versions.clone() {
        now += 2;
        let (ask, path) = (Ask::Get { version: Some(version), head: false }, "made".to_owned());
        let told = match dead {
            true => Told::Refused(404),
            false => Told::Read { version, blob_id: id(number), size: 1000 + number, seed: Some(number) },
        };
        history.push(Op { path, client: 99, node: 0, ask, asked: now, told, answered: now + 1 });
    }
    let row = |(version, (number, tombstoned)): (&u64, &(u64, bool))| Listed {
        version: *version,
        blob_id: id(*number),
        size: 1000 + number,
        tombstoned: *tombstoned,
    };
    let listed = store.versions.iter().rev().map(row).collect();
    (history, listed)
}

/// The next stage of a request that is under way; none after the last.
fn advance(store: &mut Store, ask: &Ask, stage: Stage, random: &mut Random) -> Option<Stage> {
    match stage {
        Stage::Asked(_) => Some(store.happen(ask, random)),
        Stage::Chose(mut versions, told) => {
            // In any order; all of a path take a few moments.
            for _ in 0..versions.len().div_ceil(3) {
                let at = random.below(versions.len() as u64) as usize;
                store.versions.entry(versions.swap_remove(at)).and_modify(|of| of.1 = true);
            }
            Some(if versions.is_empty() { Stage::Done(told) } else { Stage::Chose(versions, told) })
        }
        Stage::Done(_) => None,
    }
}

#[test]
fn a_correct_store_is_never_called_wrong() {
    for seed in 0..3000 {
        let clients = 2 + seed as usize % 9;
        let (ops, listed) = make(seed, clients, 20 + 4 * (seed as usize % 40), Plant::Nothing);
        let judgement = judge(&ops, &listed);
        assert_eq!(judgement, Judgement::Right, "seed {seed}");
        let wrong = invariants::check(&ops, &listed);
        assert!(wrong.is_empty(), "seed {seed}: {}", wrong.join("\n"));
    }
}

#[test]
fn every_planted_fault_is_found() {
    use Plant::*;
    for plant in [StaleRead, Revived, LostUpdate, TwoFirst, LostPut, LostDelete, WrongVictim, OldNumber] {
        let (mut by_search, mut by_rule) = (0, 0);
        for seed in 0..200 {
            let (ops, listed) = make(seed, 5, 120, plant);
            by_search += usize::from(matches!(judge(&ops, &listed), Judgement::Wrong(_)));
            by_rule += usize::from(!invariants::check(&ops, &listed).is_empty());
        }
        println!("{plant:?}: of 200 histories, {by_search} by search, {by_rule} by rule");
        assert!(by_search >= 40, "{plant:?} is hardly found: {by_search} of 200");
    }
}

#[test]
fn a_long_history_is_judged_in_time() {
    for seed in 0..4 {
        let (ops, listed) = make(seed, 12, 4000, Plant::Nothing);
        let started = Instant::now();
        assert_eq!(judge(&ops, &listed), Judgement::Right, "seed {seed}");
        assert!(started.elapsed() < Duration::from_secs(10), "seed {seed}: {:?}", started.elapsed());
    }
}
