//! The archive of a cluster, explored: configurations that hold in every state that there is time for, and mistakes that are
//! noticed in them.

use stateright::{Checker, CheckerBuilder, HasDiscoveries, Model, Property};

use super::archive_world::{Action, Budget, World, row};
use crate::replication::mistake::{self, Mistake};

/// States looked at of each configuration in each of two orders, at most, unless `AMBERBLOB_MODEL_STATES` says otherwise.
const STATES: usize = 60_000;
const HOLDS: &str = "everything holds";

#[derive(Clone)]
struct Configuration {
    begin: World,
    mistake: Option<Mistake>,
}

impl Model for Configuration {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![self.begin.clone()]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if world.broken().is_none() {
            actions.extend(world.actions());
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        mistake::with(self.mistake, || next.step(action));
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(HOLDS, |_, world: &World| world.broken().is_none()),
            Property::sometimes("a file goes", |_, world: &World| world.has_dropped()),
            Property::sometimes("an object goes", |_, world: &World| world.has_deleted()),
        ]
    }
}

/// What was seen of a configuration.
struct Seen {
    /// A way to a state that must not be.
    broken: Option<String>,
    /// Whether files went on some way.
    drops: bool,
    /// Whether objects did.
    deletes: bool,
}

/// The shortest ways first; if there are too many, the depths too.
fn explore(name: &str, model: &Configuration) -> Seen {
    let states = states();
    let (wide, is_cut) = explore_wide(name, model, states);
    if wide.broken.is_some() || !is_cut {
        return wide;
    }
    let (deep, _) = look(name, states, &checker(model, states).spawn_dfs().join());
    Seen { broken: deep.broken, drops: wide.drops || deep.drops, deletes: wide.deletes || deep.deletes }
}

/// The shortest ways alone.
fn explore_wide(name: &str, model: &Configuration, states: usize) -> (Seen, bool) {
    look(name, states, &checker(model, states).spawn_bfs().join())
}

fn checker(model: &Configuration, states: usize) -> CheckerBuilder<Configuration> {
    let checker = model.clone().checker().threads(2).target_state_count(states);
    checker.finish_when(HasDiscoveries::AnyFailures)
}

/// What a checker has seen, and whether it was cut off.
fn look(name: &str, states: usize, checked: &impl Checker<Configuration>) -> (Seen, bool) {
    let is_cut = checked.state_count() >= states;
    let cut = if is_cut { ", cut off" } else { "" };
    println!("{name}: {} states, depth {}{cut}", checked.unique_state_count(), checked.max_depth());
    let broken = checked.discovery(HOLDS).map(|path| {
        let path = path.into_vec();
        let last = path.last().and_then(|(world, _)| world.broken());
        let steps: Vec<_> = path.iter().filter_map(|(_, action)| *action).collect();
        format!("{last:?} after {steps:?}")
    });
    let happens = |what| checked.discovery(what).is_some();
    (Seen { broken, drops: happens("a file goes"), deletes: happens("an object goes") }, is_cut)
}

fn states() -> usize {
    std::env::var("AMBERBLOB_MODEL_STATES").map_or(STATES, |text| text.parse().expect("a number"))
}

/// Two replicas store the chunk at the same time; what came of it is spread halfway: the last one holds the lower row, and has
/// dropped its file.
fn rivals() -> World {
    let mut world = World::new(Budget { rounds: 3, losses: 1, ..Budget::default() });
    let (lower, higher) = (row("s3://b/1", 1), row("s3://b/2", 1));
    world.hold(0, &lower);
    world.hold(2, &lower);
    world.drop_file(2);
    world.hold(1, &higher);
    world.hold(0, &higher);
    world
}

/// All know where the chunk is, and two have no file of it any more.
fn stored() -> World {
    let budget = Budget { objects: 1, rewrites: 1, rounds: 4, losses: 1, ..Budget::default() };
    let mut world = World::new(budget);
    for node in 0..3 {
        world.hold(node, &row("s3://b/1", 1));
    }
    world.drop_file(0);
    world.drop_file(2);
    world
}

fn configurations() -> Vec<(&'static str, World, bool)> {
    let budget = Budget { objects: 2, rounds: 3, ..Budget::default() };
    vec![
        ("two archivers", World::new(Budget { losses: 1, ..budget }), false),
        ("crashes", World::new(Budget { objects: 1, crashes: 1, ..budget }), true),
        ("a deletion", World::new(Budget { objects: 1, deletes: 1, doubles: 1, ..budget }), true),
        ("another disk", World::new(Budget { objects: 1, wipes: 1, ..budget }), false),
        ("rivals", rivals(), true),
        ("rivals, another disk", with(rivals(), |left| left.wipes = 1), true),
        (
            "rivals, a deletion and another disk",
            with(rivals(), |left| (left.deletes, left.wipes) = (1, 1)),
            false,
        ),
        ("rivals, messages that come twice", with(rivals(), |left| left.doubles = 2), true),
        ("a rewrite", stored(), true),
        ("a rewrite, a deletion", with(stored(), |left| left.deletes = 1), true),
        ("a rewrite, another disk", with(stored(), |left| left.wipes = 1), true),
    ]
}

fn with(mut world: World, change: impl FnOnce(&mut Budget)) -> World {
    change(&mut world.left);
    world
}

#[test]
fn a_chunk_keeps_a_copy_and_no_object_goes_that_a_row_names() {
    for (name, begin, goes) in configurations() {
        let seen = explore(name, &Configuration { begin, mistake: None });
        assert_eq!(seen.broken, None, "{name}");
        assert!(seen.drops && (seen.deletes || !goes), "{name}: nothing comes of it");
    }
}

/// In what state a mistake shows.
fn shown_in(mistake: Mistake) -> World {
    let none = Budget { rounds: 2, ..Budget::default() };
    match mistake {
        Mistake::CondemnedByQuorum => rivals(),
        Mistake::CondemnedKeyNamedAgain => {
            let mut world = World::new(Budget { losses: 2, ..none });
            world.hold(0, &row("s3://b/1", 1));
            world.hold(1, &row("s3://b/2", 1));
            world
        }
        Mistake::HandOverWithoutArchive => {
            let mut world = World::new(Budget { wipes: 1, ..none });
            for node in [0, 2] {
                world.hold(node, &row("s3://b/1", 1));
            }
            world.drop_file(0);
            world
        }
        _ => World::new(Budget { objects: 1, losses: 2, ..none }),
    }
}

#[test]
fn mistakes_in_the_archive_of_a_cluster_are_noticed() {
    for mistake in [
        Mistake::CondemnedByQuorum,
        Mistake::CondemnedKeyNamedAgain,
        Mistake::DroppedOnOwnRow,
        Mistake::HandOverWithoutArchive,
    ] {
        for planted in [Some(mistake), None] {
            let model = Configuration { begin: shown_in(mistake), mistake: planted };
            let name = format!("{planted:?} of {mistake:?}");
            let found = explore_wide(&name, &model, 8 * STATES).0.broken;
            assert_eq!(found.is_some(), planted.is_some(), "{mistake:?}, planted: {planted:?}: {found:?}");
        }
    }
}

/// Who asks holds the row that it spreads, or a successor of what it condemns, or a tombstone, since before it asked; and a new disk
/// is told all of that before it counts. So nothing rests here on what the disk before it has said, as it does in a vote.
#[test]
fn answers_of_two_views_do_no_harm_to_the_archive() {
    for (name, begin, _) in configurations().into_iter().filter(|(_, begin, _)| begin.left.wipes > 0) {
        let model = Configuration { begin, mistake: Some(Mistake::AnswersOfTwoViewsAdded) };
        assert_eq!(explore(&format!("{name}, two views"), &model).broken, None, "{name}");
    }
}
