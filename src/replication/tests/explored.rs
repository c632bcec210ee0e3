//! The configurations that are explored, whole if `AMBERBLOB_MODEL_STATES` allows it; else as far as a test run has time.

use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

use super::history::{Asked, Condition};
use super::model::{Action, Before, Budget, Configuration, State, Step, blob_before, put};
use crate::replication::delete::Which;

/// States looked at in each of two orders, at most, unless `AMBERBLOB_MODEL_STATES` says otherwise.
const STATES: usize = 120_000;
/// What must hold.
const EVERYTHING: &str = "everything holds";

/// Explores everything, else the depths and what is near the beginning; a way to a state that must not be.
pub(super) fn explore(name: &str, model: &Configuration) -> Option<Vec<(State, Option<Action>)>> {
    let limit =
        std::env::var("AMBERBLOB_MODEL_STATES").map_or(STATES, |text| text.parse().expect("a number"));
    let checker = || {
        let checker = model.clone().checker().threads(2).target_state_count(limit);
        checker.finish_when(HasDiscoveries::AnyFailures)
    };
    let deep = look(name, limit, || checker().spawn_dfs().join());
    // Breadth first finds the shortest way, and what depth first had no time for.
    let is_done = deep.state_count() < limit && deep.discovery(EVERYTHING).is_none();
    let wide = (!is_done).then(|| look(name, limit, || checker().spawn_bfs().join()));
    let wide = wide.as_ref().and_then(|checked| checked.discovery(EVERYTHING));
    let found = wide.or_else(|| deep.discovery(EVERYTHING));
    if found.is_none() {
        assert!(deep.discovery("someone is answered").is_some(), "{name}: nothing comes to an end");
    }
    found.map(|path| path.into_vec())
}

fn look<C: Checker<Configuration>>(name: &str, limit: usize, check: impl FnOnce() -> C) -> C {
    let began = Instant::now();
    let checked = check();
    println!(
        "{name}: {} states, {} of them different, depth {}, {:.1?}{}",
        checked.state_count(),
        checked.unique_state_count(),
        checked.max_depth(),
        began.elapsed(),
        if checked.state_count() >= limit { ", cut off" } else { "" },
    );
    checked
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

pub(super) const PUT: fn(u8, u128) -> Step =
    |node, number| put(node, number, None, Condition::None, number as u8);

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

pub(super) fn budget() -> Budget {
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
fn four_and_five() {
    for nodes in [4, 5] {
        for (name, budget) in [
            ("late", Budget { timers: 1, late: 2, ..budget() }),
            ("crash", Budget { crashes: 1, settles: 2, ..budget() }),
        ] {
            let model = Configuration::new(vec![PUT(0, 1), get(2, None, &[])], budget).of(nodes);
            holds(&format!("PUT of {nodes}, {name}"), model);
        }
        let mut model = Configuration::new(
            vec![PUT(0, 1), get(2, None, &[0])],
            Budget { wipes: 1, settles: 1, ..budget() },
        );
        model.wipe = vec![1];
        holds(&format!("PUT of {nodes}, a disk replaced"), model.of(nodes));
        let steps = vec![delete(0, Which::Version(1), &[]), get(2, None, &[0])];
        let mut model = Configuration::new(steps, Budget { late: 1, ..budget() });
        model.before = vec![before(1, &[0, 1, 2])];
        holds(&format!("DELETE of {nodes}"), model.of(nodes));
    }
}

/// Writing and syncing are two steps, and between them a node may crash.
#[test]
fn power_cuts() {
    let puts = vec![PUT(0, 1), get(2, None, &[])];
    let deletes = vec![delete(0, Which::Version(1), &[]), get(2, None, &[])];
    for (name, steps, budget) in [
        ("PUT", puts.clone(), Budget { crashes: 2, settles: 1, ..budget() }),
        ("PUT, a disk replaced", puts, Budget { crashes: 1, wipes: 1, settles: 1, ..budget() }),
        ("DELETE", deletes.clone(), Budget { crashes: 2, ..budget() }),
        ("DELETE, a disk replaced", deletes, Budget { crashes: 1, wipes: 1, ..budget() }),
    ] {
        let mut model = Configuration::new(steps, budget);
        (model.late_sync, model.wipe) = (true, vec![1]);
        model.before = vec![before(1, &[0, 1, 2])];
        holds(&format!("{name}, power cuts"), model);
    }
}

#[test]
fn full_disks() {
    for full in [vec![1, 2], vec![0, 2]] {
        let budget = Budget { timers: 1, doubles: 1, settles: 1, rooms: 1, ballots: 2, ..budget() };
        let mut model = Configuration::new(vec![PUT(0, 1), get(2, None, &[])], budget);
        let name = format!("PUT, {full:?} full");
        model.full = full;
        holds(&name, model);
    }
}
