//! Small configurations of the world explored whole: every order of messages, timers, crashes and replaced disks within a budget.
//!
//! A request that is never delivered is lost, so losing needs no step of its own. A replica writes, syncs and answers in one step, unless a
//! configuration is about what happens in between; a crash of a replica that does not coordinate is then the loss of messages.
//! An answer reaches its machine in the same step, but for so many that are late: between the two nothing else can happen that the machine
//! would see, except its timers, its crash and other answers, and these can as well come before the request is delivered.

use std::fmt::Debug;

use stateright::{Model, Property};

use super::history::{Asked, Condition, History, Seen};
use super::node::{Body, Envelope};
use super::run::Any;
use super::store::Store;
use super::world::{Planned, World, path_name};
use crate::base::clock::Timestamp;
use crate::base::ids::BlobId;
use crate::base::topology::NodeId;
use crate::replication::machine::NodeSet;
use crate::replication::mistake::{self, Mistake};
use crate::wire::peer::{Attempt, Held, Reply, Request, Response, Row};

/// How often things go wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Budget {
    /// Timers that fire although an answer may still come.
    pub(super) timers: u8,
    /// Timers that fire when nothing else can happen to their machine.
    pub(super) pauses: u8,
    /// Messages that come twice.
    pub(super) doubles: u8,
    /// Answers that are late, or lost.
    pub(super) late: u8,
    pub(super) crashes: u8,
    pub(super) wipes: u8,
    /// Replicas that ask about a try they voted for.
    pub(super) settles: u8,
    pub(super) sweeps: u8,
    /// Full disks that get room.
    pub(super) rooms: u8,
    /// Tries of one PUT; the machine stops before the next.
    pub(super) ballots: u32,
    /// Rounds of one machine, as well.
    pub(super) rounds: u32,
}

/// A version that is there at the beginning.
#[derive(Clone, Debug)]
pub(super) struct Before {
    pub(super) version: u64,
    pub(super) deleted: bool,
    /// The replicas that have it.
    pub(super) on: Vec<u8>,
}

/// A request, and those that must have been answered before it is made.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) node: u8,
    pub(super) asked: Asked,
    pub(super) after: Vec<usize>,
    pub(super) with_data: Vec<u8>,
}

/// A configuration.
#[derive(Clone, Debug)]
pub(super) struct Configuration {
    pub(super) nodes: usize,
    pub(super) write_quorum: usize,
    pub(super) before: Vec<Before>,
    pub(super) steps: Vec<Step>,
    pub(super) budget: Budget,
    pub(super) late_sync: bool,
    /// Replicas whose disks are full at the beginning.
    pub(super) full: Vec<u8>,
    /// The only replicas whose disks may be replaced.
    pub(super) wipe: Vec<u8>,
    pub(super) mistake: Option<Mistake>,
}

/// A state: the world, and what is left of the budget.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) world: World,
    budget: Budget,
    /// Requests made, by number.
    begun: Vec<bool>,
    stopped: Vec<usize>,
}

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Action {
    Begin(usize),
    Deliver(usize),
    Double(usize),
    /// A request is delivered, and its answer is late.
    Late(usize),
    Timer(usize),
    Crash(NodeId),
    Wipe(NodeId),
    HandOver(NodeId, NodeId),
    Settle(NodeId, Attempt),
    Sweep(NodeId, BlobId),
    Sync(NodeId),
    Room(NodeId),
}

pub(super) fn blob(number: u128) -> BlobId {
    BlobId::from_u128(number)
}

/// The blob that stands at a version at the beginning.
pub(super) fn blob_before(version: u64) -> BlobId {
    blob(1000 + u128::from(version))
}

impl Configuration {
    pub(super) fn new(steps: Vec<Step>, budget: Budget) -> Self {
        Self {
            nodes: 3,
            write_quorum: 2,
            before: Vec::new(),
            steps,
            budget,
            late_sync: false,
            full: Vec::new(),
            wipe: Vec::new(),
            mistake: None,
        }
    }

    /// The same with so many nodes, which all get the data of every PUT, and a majority of them as the quorum.
    pub(super) fn of(self, nodes: u8) -> Self {
        let (nodes, all): (usize, Vec<u8>) = (usize::from(nodes), (0..nodes).collect());
        let with_data = |step: Step| Step { with_data: all.clone(), ..step };
        let steps = self.steps.into_iter().map(with_data).collect();
        Self { nodes, write_quorum: nodes / 2 + 1, steps, ..self }
    }

    pub(super) fn init(&self) -> State {
        let mut stores = vec![Store::default(); self.nodes];
        let mut seen = Vec::new();
        for before in &self.before {
            let blob_id = blob_before(before.version);
            seen.push(Seen { version: before.version, blob: blob_id, content: 9, deleted: before.deleted });
            let row = Row {
                path: path_name(0),
                version: before.version,
                attempt: Attempt { blob_id, ballot: 1 },
                size: 1,
                content: [9; 32],
                created_at: Timestamp(0),
                headers: String::new(),
            };
            let tombstoned_at = before.deleted.then_some(Timestamp(1));
            let held = Held { row, tombstoned_at, hollow: false };
            before.on.iter().for_each(|node| {
                stores[usize::from(*node)].held.insert(blob_id, held.clone());
            });
        }
        let mut world = World::new(self.write_quorum, stores, vec![History::new(seen)]);
        world.late_sync = self.late_sync;
        for node in &self.full {
            world.nodes[usize::from(*node)].change(|node| node.is_full = true);
        }
        let begun = vec![false; self.steps.len()];
        let mut state = State { world, budget: self.budget, begun, stopped: Vec::new() };
        // A request that is made late cannot be told from one whose messages are late.
        for (number, step) in self.steps.iter().enumerate() {
            if step.after.is_empty() {
                mistake::with(self.mistake, || self.act(&mut state, Action::Begin(number)));
            }
        }
        state
    }

    fn may_begin(&self, state: &State, number: usize) -> bool {
        let told = |step: &usize| state.world.histories[0].told(*step).is_some();
        !state.begun[number] && self.steps[number].after.iter().all(told)
    }

    fn list(&self, state: &State, actions: &mut Vec<Action>) {
        let (world, budget) = (&state.world, &state.budget);
        if world.broken.is_some() {
            return;
        }
        actions.extend((0..self.steps.len()).filter(|n| self.may_begin(state, *n)).map(Action::Begin));
        for (number, envelope) in world.net.iter().enumerate() {
            if number > 0 && world.net[number - 1] == *envelope {
                continue;
            }
            actions.push(Action::Deliver(number));
            if budget.doubles > 0 && matches!(envelope.body, Body::Request(_)) {
                actions.push(Action::Double(number));
            }
            if budget.late > 0 && matches!(envelope.body, Body::Request(_)) {
                actions.push(Action::Late(number));
            }
        }
        for (number, run) in world.runs.iter().enumerate() {
            let is_idle = || !world.net.iter().any(|envelope| envelope.run == number);
            if run.is_running()
                && run.machine.wake().is_some()
                && !state.stopped.contains(&number)
                && (if is_idle() { budget.pauses > 0 } else { budget.timers > 0 })
            {
                actions.push(Action::Timer(number));
            }
        }
        for node in &world.nodes {
            self.list_of_node(state, node.context.me, actions);
        }
    }

    fn list_of_node(&self, state: &State, me: NodeId, actions: &mut Vec<Action>) {
        let (world, budget) = (&state.world, &state.budget);
        let node = &world.nodes[me.index()];
        if node.synced.is_some() {
            actions.push(Action::Sync(me));
        }
        let coordinates = world.runs.iter().any(|run| run.node == me && run.is_running());
        if budget.crashes > 0 && (coordinates || node.synced.is_some()) {
            actions.push(Action::Crash(me));
        }
        let recovering = world.nodes.iter().filter(|node| node.context.recovering).count();
        if budget.wipes > 0 && self.wipe.contains(&me.0) && recovering < self.nodes - self.write_quorum {
            actions.push(Action::Wipe(me));
        }
        if node.context.recovering {
            let from = (0..self.nodes as u8).map(NodeId);
            let missing = from.filter(|from| *from != me && !node.handed.contains(*from));
            actions.extend(missing.map(|from| Action::HandOver(from, me)));
        }
        if budget.settles > 0 {
            actions.extend(node.prepared().map(|attempt| Action::Settle(me, attempt)));
        }
        if budget.rooms > 0 && node.is_full {
            actions.push(Action::Room(me));
        }
        if budget.sweeps > 0 {
            actions.extend(node.files.iter().map(|blob| Action::Sweep(me, *blob)));
        }
    }

    fn act(&self, state: &mut State, action: Action) {
        let world = &mut state.world;
        match action {
            Action::Begin(number) => {
                let step = &self.steps[number];
                let with_data: NodeSet = step.with_data.iter().map(|node| NodeId(*node)).collect();
                let planned = Planned { node: NodeId(step.node), path: 0, asked: step.asked, with_data };
                state.begun[number] = true;
                world.begin(number, &planned, 0);
            }
            Action::Deliver(number) => {
                let envelope = world.net.remove(number);
                self.deliver(world, &envelope, false);
            }
            Action::Late(number) => {
                state.budget.late -= 1;
                let envelope = world.net.remove(number);
                self.deliver(world, &envelope, true);
            }
            Action::Double(number) => {
                state.budget.doubles -= 1;
                let envelope = world.net[number].clone();
                self.deliver(world, &envelope, false);
            }
            Action::Timer(number) => {
                if world.net.iter().any(|envelope| envelope.run == number) {
                    state.budget.timers -= 1;
                } else {
                    state.budget.pauses -= 1;
                }
                let run = &world.runs[number];
                let now = run.machine.wake().unwrap_or_default().max(run.clock);
                world.event(number, now, crate::replication::machine::Event::Time);
            }
            Action::Crash(node) => {
                state.budget.crashes -= 1;
                world.crash(node);
            }
            Action::Wipe(node) => {
                state.budget.wipes -= 1;
                world.wipe(node);
            }
            Action::HandOver(from, to) => world.hand_over(from, to),
            Action::Settle(node, attempt) => {
                state.budget.settles -= 1;
                world.settle(node, attempt, 0);
            }
            Action::Sweep(node, blob) => {
                state.budget.sweeps -= 1;
                world.sweep(node, blob);
            }
            Action::Room(node) => {
                state.budget.rooms -= 1;
                world.nodes[node.index()].change(|node| node.is_full = false);
            }
            Action::Sync(node) => {
                let before = world.net.len();
                world.sync(node);
                self.pass_on(world, before);
            }
        }
        self.tidy(state);
    }

    fn deliver(&self, world: &mut World, envelope: &Envelope, late: bool) {
        let now = world.runs[envelope.run].clock;
        let before = world.net.len();
        world.deliver(envelope, now);
        if !late && matches!(envelope.body, Body::Request(_)) {
            self.pass_on(world, before);
        }
    }

    /// Answers that were sent just now reach their machines.
    fn pass_on(&self, world: &mut World, before: usize) {
        let answers = world.net.split_off(before);
        for answer in answers {
            self.deliver(world, &answer, false);
        }
    }

    /// Messages that can have no effect any more go, and the others are put in order: fewer states that are the same.
    fn tidy(&self, state: &mut State) {
        let world = &mut state.world;
        let too_many = |envelope: &Envelope| match &envelope.body {
            Body::Request(_) if envelope.round > self.budget.rounds => true,
            Body::Request(Request::Prepare { proposal, .. }) => {
                proposal.row.attempt.ballot > self.budget.ballots
            }
            _ => false,
        };
        for envelope in &world.net {
            if too_many(envelope) && !state.stopped.contains(&envelope.run) {
                state.stopped.push(envelope.run);
            }
        }
        let (runs, stopped) = (&world.runs, &state.stopped);
        world.net.retain(|envelope| {
            let run = &runs[envelope.run];
            let late_votes = matches!(run.machine, Any::Put(..));
            let listens = !run.is_dead && !stopped.contains(&envelope.run);
            match &envelope.body {
                Body::Request(Request::Read { .. }) => listens && !run.is_over,
                Body::Request(_) => !too_many(envelope),
                Body::Reply(Response { reply: Reply::Yes | Reply::No(_), .. }) => {
                    listens && (!run.is_over || late_votes)
                }
                Body::Reply(_) => listens && !run.is_over,
            }
        });
        world.net.sort_by_key(super::shared::Shared::order);
    }
}

impl Model for Configuration {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.init()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.list(state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        mistake::with(self.mistake, || self.act(&mut next, action));
        Some(next)
    }

    fn format_action(&self, action: &Action) -> String
    where
        Action: Debug,
    {
        format!("{action:?}")
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("everything holds", |_, state: &State| state.world.broken.is_none()),
            Property::sometimes("someone is answered", |_, state: &State| {
                state.world.histories[0].all().any(|(_, told)| told.is_some())
            }),
        ]
    }
}

/// A PUT at a node, with the data on all of three replicas.
pub(super) fn put(node: u8, number: u128, version: Option<u64>, condition: Condition, content: u8) -> Step {
    let asked = Asked::Put { version, condition, content, blob: blob(number) };
    Step { node, asked, after: Vec::new(), with_data: vec![0, 1, 2] }
}
