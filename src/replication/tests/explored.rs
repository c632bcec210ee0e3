//! The configurations that are explored, whole if `AMBERBLOB_MODEL_STATES` allows it; else as far as a test run has time.

use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

use super::history::{Asked, Condition};
use super::model::{Action, Before, Budget, Configuration, State, Step, blob_before, put};
use crate::replication::delete::Which;

/// States looked at, at most, unless `AMBERBLOB_MODEL_STATES` says otherwise.
const STATES: usize = 250_000;

/// Explores everything; a way to a state that must not be.
pub(super) fn explore(name: &str, model: &Configuration) -> Option<Vec<(State, Option<Action>)>> {
    let began = Instant::now();
    let limit =
        std::env::var("AMBERBLOB_MODEL_STATES").map_or(STATES, |text| text.parse().expect("a number"));
    let checker = || {
        let checker = model.clone().checker().threads(2).target_state_count(limit);
        checker.finish_when(HasDiscoveries::AnyFailures)
    };
    // Depth first needs little memory; breadth first finds the shortest way.
    let checked = checker().spawn_dfs().join();
    let is_cut = checked.state_count() >= limit;
    println!(
        "{name}: {} states, {} of them different, depth {}, {:.1?}{}",
        checked.state_count(),
        checked.unique_state_count(),
        checked.max_depth(),
        began.elapsed(),
        if is_cut { ", cut off" } else { "" },
    );
    let path = checked.discovery("everything holds");
    if path.is_none() {
        assert!(checked.discovery("someone is answered").is_some(), "{name}: nothing comes to an end");
        return None;
    }
    let shortest = checker().spawn_bfs().join().discovery("everything holds");
    shortest.or(path).map(|path| path.into_vec())
}

/// The trace in words.
pub(super) fn describe(trace: &[(State, Option<Action>)]) -> String {
    let mut text = String::new();
    for (state, action) in trace {
        let what = match action {
            Some(Action::Deliver(number) | Action::Double(number) | Action::Late(number)) => {
                format!("{:?} of {:?}", action.unwrap(), *state.world.net[*number])
            }
            Some(action) => format!("{action:?}"),
            None => format!("{:?}", state.world.broken),
        };
        text += &what;
        text.push('\n');
    }
    text
}

fn holds(name: &str, model: Configuration) {
    if let Some(trace) = explore(name, &model) {
        panic!("{name}\n{}", describe(&trace));
    }
}

pub(super) fn get(node: u8, version: Option<u64>, after: &[usize]) -> Step {
    Step { node, asked: Asked::Get { version }, after: after.to_vec(), with_data: vec![] }
}

pub(super) fn delete(node: u8, which: Which, after: &[usize]) -> Step {
    Step { node, asked: Asked::Delete { which }, after: after.to_vec(), with_data: vec![] }
}

pub(super) fn before(version: u64, on: &[u8]) -> Before {
    Before { version, deleted: false, on: on.to_vec() }
}

const PUT: fn(u8, u128) -> Step = |node, number| put(node, number, None, Condition::None, number as u8);

/// A PUT of a version, with some content.
fn put_at(node: u8, number: u128, version: u64, content: u8) -> Step {
    put(node, number, Some(version), Condition::None, content)
}

fn put_if(node: u8, number: u128, condition: Condition) -> Step {
    put(node, number, None, condition, number as u8)
}

fn after(step: Step, after: &[usize]) -> Step {
    Step { after: after.to_vec(), ..step }
}

fn budget() -> Budget {
    Budget { ballots: 1, pauses: 2, rounds: 9, ..Budget::default() }
}

#[test]
fn a_put() {
    for (name, budget) in [
        ("late", Budget { timers: 1, late: 2, settles: 1, ..budget() }),
        ("doubled", Budget { timers: 1, doubles: 2, settles: 1, ..budget() }),
        ("crash", Budget { crashes: 1, late: 1, settles: 2, ..budget() }),
    ] {
        holds(&format!("PUT, {name}"), Configuration::new(vec![PUT(0, 1), get(2, None, &[])], budget));
    }
}

#[test]
fn two_puts() {
    for (name, budget) in [
        ("late", Budget { late: 1, ..budget() }),
        ("impatient", Budget { timers: 1, ..budget() }),
        ("doubled", Budget { doubles: 1, ..budget() }),
        ("settled", Budget { settles: 1, ..budget() }),
    ] {
        holds(&format!("PUT and PUT, {name}"), Configuration::new(vec![PUT(0, 1), PUT(1, 2)], budget));
    }
}

#[test]
fn same_version() {
    for (name, budget) in [
        ("calm", budget()),
        ("late", Budget { late: 1, ..budget() }),
        ("settled", Budget { settles: 1, ..budget() }),
    ] {
        let steps = vec![put_at(0, 1, 5, 1), put_at(1, 2, 5, 2)];
        holds(&format!("PUT and PUT of a version, {name}"), Configuration::new(steps, budget));
    }
}

#[test]
fn conditional_and_delete() {
    for (name, budget) in [("calm", budget()), ("late", Budget { late: 1, ..budget() })] {
        let steps = vec![
            put_if(0, 1, Condition::Is(blob_before(1))),
            delete(1, Which::Version(1), &[]),
            get(2, None, &[1]),
        ];
        let mut model = Configuration::new(steps, budget);
        model.before = vec![before(1, &[0, 1, 2])];
        holds(&format!("If-Match and DELETE, {name}"), model);
    }
}

#[test]
fn conditional_and_lower() {
    for (name, budget) in [("calm", budget()), ("late", Budget { late: 1, ..budget() })] {
        let steps = vec![put_at(0, 1, 2, 1), put_if(1, 2, Condition::Absent), get(2, None, &[0])];
        holds(&format!("If-None-Match and PUT of a version, {name}"), Configuration::new(steps, budget));
    }
}

#[test]
fn put_get_delete() {
    let steps = vec![PUT(0, 1), get(1, None, &[]), delete(2, Which::Newest, &[]), get(1, None, &[1, 2])];
    let mut model = Configuration::new(steps, budget());
    model.before = vec![before(1, &[0, 1])];
    holds("PUT, GET, DELETE", model);
}

#[test]
fn retried() {
    let steps = vec![put_at(0, 1, 5, 1), put_at(1, 2, 5, 1), after(put_at(2, 3, 5, 1), &[1])];
    let model = Configuration::new(steps, Budget { crashes: 1, ..budget() });
    holds("PUT of a version, retried", model);
}

#[test]
fn wiped_put() {
    for disk in 0..3 {
        let steps = vec![PUT(0, 1), get(2, None, &[]), get(1, None, &[1])];
        let mut model = Configuration::new(steps, Budget { wipes: 1, late: 1, settles: 1, ..budget() });
        model.wipe = vec![disk];
        holds(&format!("PUT, a disk replaced at {disk}"), model);
    }
}

#[test]
fn wiped_delete() {
    for disk in 0..3 {
        let steps = vec![delete(0, Which::Version(1), &[]), get(2, None, &[0])];
        let mut model = Configuration::new(steps, Budget { wipes: 1, late: 1, ..budget() });
        model.before = vec![before(1, &[0, 1, 2])];
        model.wipe = vec![disk];
        holds(&format!("DELETE, a disk replaced at {disk}"), model);
    }
}

#[test]
fn swept() {
    let steps = vec![PUT(0, 1), get(2, None, &[])];
    let model = Configuration::new(steps, Budget { timers: 1, sweeps: 2, settles: 1, ..budget() });
    holds("PUT and sweep", model);
}

#[test]
fn trial() {
    let Ok(spec) = std::env::var("TRIAL") else { return };
    let mut words = spec.split_whitespace();
    let name = words.next().unwrap();
    let mut b = budget();
    let mut wipe = vec![];
    let mut nodes = 3;
    for word in words {
        let (key, value) = word.split_once('=').unwrap();
        let value: u8 = value.parse().unwrap();
        match key {
            "timers" => b.timers = value,
            "pauses" => b.pauses = value,
            "doubles" => b.doubles = value,
            "late" => b.late = value,
            "crashes" => b.crashes = value,
            "wipes" => b.wipes = value,
            "settles" => b.settles = value,
            "sweeps" => b.sweeps = value,
            "rounds" => b.rounds = u32::from(value),
            "ballots" => b.ballots = u32::from(value),
            "disk" => wipe.push(value),
            "nodes" => nodes = usize::from(value),
            _ => panic!(),
        }
    }
    let one = before(1, &[0, 1, 2]);
    let (steps, before) = match name {
        "put" => (vec![PUT(0, 1)], vec![]),
        "put,get" => (vec![PUT(0, 1), get(2, None, &[])], vec![]),
        "put,get,get" => (vec![PUT(0, 1), get(2, None, &[]), get(1, None, &[1])], vec![]),
        "put,put" => (vec![PUT(0, 1), PUT(1, 2)], vec![]),
        "same" => (vec![put_at(0, 1, 5, 1), put_at(1, 2, 5, 2)], vec![]),
        "if,delete" => {
            (vec![put_if(0, 1, Condition::Is(blob_before(1))), delete(1, Which::Version(1), &[])], vec![one])
        }
        "if,delete,get" => (
            vec![
                put_if(0, 1, Condition::Is(blob_before(1))),
                delete(1, Which::Version(1), &[]),
                get(2, None, &[1]),
            ],
            vec![one],
        ),
        "if,if" => (
            vec![put_if(0, 1, Condition::Is(blob_before(1))), put_if(1, 2, Condition::Is(blob_before(1)))],
            vec![one],
        ),
        "if,lower" => (vec![put_at(0, 1, 2, 1), put_if(1, 2, Condition::Absent)], vec![]),
        "if,lower,get" => {
            (vec![put_at(0, 1, 2, 1), put_if(1, 2, Condition::Absent), get(2, None, &[0])], vec![])
        }
        "delete,get" => (
            vec![delete(0, Which::Newest, &[]), get(1, None, &[]), get(2, None, &[0])],
            vec![before(1, &[0, 1])],
        ),
        "put,delete,get" => {
            (vec![PUT(0, 1), delete(2, Which::Newest, &[]), get(1, None, &[1])], vec![before(1, &[0, 1])])
        }
        "delete" => (vec![delete(0, Which::Version(1), &[]), get(2, None, &[0])], vec![one]),
        "retry" => (vec![put_at(0, 1, 5, 1), put_at(1, 2, 5, 1)], vec![]),
        _ => panic!(),
    };
    let mut model = Configuration::new(steps, b);
    model.before = before;
    model.wipe = wipe;
    if nodes > 3 {
        model.nodes = nodes;
        model.write_quorum = nodes / 2 + 1;
        for step in &mut model.steps {
            step.with_data = (0..nodes as u8).collect();
        }
    }
    holds(&spec, model);
}
