//! Long random histories of larger clusters: several paths and clients, messages that are lost, doubled and very late, partitions, crashes, pauses,
//! clocks that jump, syncs that fail, full disks, replaced disks. Then everything works again, and everything must settle.
//!
//! A seed decides everything. `AMBERBLOB_SIM_SEED` runs one of them, and says what happens; `AMBERBLOB_SIM_SEEDS` says how many.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use super::chance::Chance;
use super::faults::{Fault, Weather};
use super::history::{Asked, Condition, History, Told};
use super::node::{Body, Envelope};
use super::properties::{Broken, check_told};
use super::shared::Shared;
use super::store::Store;
use super::world::{HandedOver, Planned, World};
use crate::base::ids::BlobId;
use crate::base::topology::NodeId;
use crate::replication::delete::Which;
use crate::replication::machine::{Event, NodeSet, Time};
use crate::wire::peer::Attempt;

/// Until then things go wrong, and clients ask.
const TROUBLE: Time = 40_000;
/// By then everything has settled.
const CALM: Time = TROUBLE + 120_000;
/// How often a node looks after what it left undone.
const CHORES: Time = 700;
/// Requests per path: explaining many that overlap takes long.
const REQUESTS_MAX: usize = 26;

/// What happens at some time.
#[derive(Clone, Debug)]
enum Happening {
    Arrive(Shared<Envelope>),
    /// A request or its answer is known to be lost.
    Gone {
        run: usize,
        replica: NodeId,
        round: u32,
    },
    Wake(usize),
    Sync(NodeId),
    Chores(NodeId),
    HandedOver(NodeId, Box<HandedOver>),
    Client(usize),
    Fault,
}

/// A client: what it does next depends on what it was told.
#[derive(Clone, Debug, Default)]
struct Client {
    /// Path and number of its request, and when it gives up waiting.
    waiting: Option<(usize, usize, Time)>,
    last: Option<(usize, Asked)>,
}

/// A run of one seed.
pub(super) struct Simulator {
    world: World,
    chance: Chance,
    weather: Weather,
    now: Time,
    queue: BinaryHeap<Reverse<(Time, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    scheduled: u64,
    clients: Vec<Client>,
    requests: Vec<usize>,
    blobs: u128,
    /// When a replica was first seen with a try in doubt.
    doubts: BTreeMap<(NodeId, Attempt), Time>,
    syncing: BTreeSet<NodeId>,
    talks: bool,
    steps: u64,
}

/// What went wrong with a seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    Broken(Broken),
    /// A client has no answer.
    NoAnswer,
    StillInDoubt,
    StillRecovering,
}

impl Simulator {
    pub(super) fn new(seed: u64, talks: bool) -> Self {
        let mut chance = Chance::new(seed);
        let nodes = chance.one_of(&[3, 3, 3, 4, 5]);
        let paths = chance.within(1..4) as usize;
        let clients = chance.within(2..6) as usize;
        let mut world =
            World::new(nodes / 2 + 1, vec![Store::default(); nodes], vec![History::default(); paths]);
        world.late_sync = true;
        world.checks = false;
        let mut simulator = Self {
            world,
            weather: Weather::new(&mut chance, nodes),
            chance,
            now: 0,
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            scheduled: 0,
            clients: vec![Client::default(); clients],
            requests: vec![0; paths],
            blobs: 0,
            doubts: BTreeMap::new(),
            syncing: BTreeSet::new(),
            talks,
            steps: 0,
        };
        (0..clients).for_each(|client| simulator.at(10, Happening::Client(client)));
        (0..nodes as u8).for_each(|node| simulator.at(CHORES, Happening::Chores(NodeId(node))));
        simulator.at(100, Happening::Fault);
        simulator
    }

    fn at(&mut self, after: Time, happening: Happening) {
        self.scheduled += 1;
        self.queue.push(Reverse((self.now + after, self.scheduled)));
        self.happenings.insert(self.scheduled, happening);
    }

    fn is_calm(&self) -> bool {
        self.now >= TROUBLE
    }

    /// Runs to the end.
    pub(super) fn run(mut self) -> Result<u64, Failure> {
        while let Some(Reverse((time, number))) = self.queue.pop() {
            self.now = time;
            if time > CALM {
                break;
            }
            let Some(happening) = self.happenings.remove(&number) else { continue };
            self.happen(happening);
            self.steps += 1;
            if self.steps.is_multiple_of(32) {
                self.world.check();
            }
            if let Some(broken) = self.world.broken {
                for node in &self.world.nodes {
                    self.say(|| format!("{:?}", **node));
                }
                return Err(Failure::Broken(broken));
            }
        }
        self.judge()
    }

    fn judge(mut self) -> Result<u64, Failure> {
        self.world.check();
        let explained = (0..self.requests.len()).find_map(|path| {
            let last = (0..self.requests[path]).rev().find(|number| {
                !matches!(
                    self.world.histories[path].told(*number),
                    None | Some(Told::Unknown | Told::Nothing)
                )
            });
            last.and_then(|number| check_told(&self.world, path, number))
        });
        for history in &self.world.histories {
            self.say(|| format!("{:?}", **history));
        }
        if let Some(broken) = self.world.broken.or(explained) {
            return Err(Failure::Broken(broken));
        }
        if self.world.runs.iter().any(|run| run.is_running() && run.client.is_some()) {
            return Err(Failure::NoAnswer);
        }
        if self.world.nodes.iter().any(|node| node.context.recovering) {
            return Err(Failure::StillRecovering);
        }
        if self.world.nodes.iter().any(|node| node.prepared().next().is_some()) {
            return Err(Failure::StillInDoubt);
        }
        Ok(self.steps)
    }

    fn say(&self, what: impl FnOnce() -> String) {
        if self.talks {
            println!("{:>7} {}", self.now, what());
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrive(envelope) => self.arrive(&envelope),
            Happening::Gone { run, replica, round } => {
                let node = self.world.runs[run].node;
                if !self.world.runs[run].is_dead
                    && !self.defer(node, || Happening::Gone { run, replica, round })
                {
                    self.tell(run, Event::Reply { from: replica, round, reply: None });
                }
            }
            Happening::Wake(run) => self.wake(run),
            Happening::Sync(node) => self.sync(node),
            Happening::Chores(node) => {
                if self.weather.is_up(node, self.now) {
                    self.chores(node);
                }
                self.at(CHORES, Happening::Chores(node));
            }
            Happening::HandedOver(to, handed) => {
                self.world.take_over(to, &handed);
                self.world.check();
            }
            Happening::Client(client) => self.client(client),
            Happening::Fault => self.fault(),
        }
        self.post();
    }

    /// A node that sleeps goes on later with what it is told now.
    fn defer(&mut self, node: NodeId, happening: impl FnOnce() -> Happening) -> bool {
        let sleeps = self.weather.sleeps_until[node.index()];
        if sleeps > self.now {
            self.at(sleeps - self.now, happening());
        }
        sleeps > self.now
    }

    fn arrive(&mut self, envelope: &Shared<Envelope>) {
        let to = match envelope.body {
            Body::Request(_) => envelope.replica,
            Body::Reply(_) => self.world.runs[envelope.run].node,
        };
        if self.defer(to, || Happening::Arrive(envelope.clone())) || !self.weather.is_up(to, self.now) {
            return;
        }
        self.say(|| format!("{to:?} gets {:?}", **envelope));
        match &envelope.body {
            Body::Request(_) => {
                self.world.deliver(envelope, 0);
                if self.world.nodes[to.index()].synced.is_some() && self.syncing.insert(to) {
                    let time = self.chance.within(0..12);
                    self.at(time, Happening::Sync(to));
                }
            }
            Body::Reply(response) => {
                let reply = Some(response.clone());
                if !self.world.runs[envelope.run].is_dead {
                    self.tell(
                        envelope.run,
                        Event::Reply { from: envelope.replica, round: envelope.round, reply },
                    );
                }
            }
        }
    }

    /// Passes an event on to a machine, and sees to it that it is woken.
    fn tell(&mut self, run: usize, event: Event) {
        let clock = self.weather.clock(self.world.runs[run].node, self.now);
        self.world.event(run, clock, event);
        self.set_alarm(run);
    }

    fn set_alarm(&mut self, run: usize) {
        let it = &self.world.runs[run];
        if let Some(wake) = it.machine.wake().filter(|_| it.is_running()) {
            let clock = self.weather.clock(it.node, self.now);
            self.at(wake.saturating_sub(clock).max(1), Happening::Wake(run));
        }
    }

    fn wake(&mut self, run: usize) {
        let (node, is_running) = (self.world.runs[run].node, self.world.runs[run].is_running());
        if !is_running || self.defer(node, || Happening::Wake(run)) {
            return;
        }
        let clock = self.weather.clock(node, self.now);
        if self.world.runs[run].machine.wake().is_some_and(|wake| wake <= clock) {
            self.tell(run, Event::Time);
        }
    }

    fn sync(&mut self, node: NodeId) {
        if self.defer(node, || Happening::Sync(node)) || !self.syncing.remove(&node) {
            return;
        }
        if !self.is_calm() && self.chance.happens(self.weather.failed_syncs) {
            return self.crash(node);
        }
        self.world.sync(node);
    }

    fn crash(&mut self, node: NodeId) {
        let time = self.chance.within(1..8000);
        self.say(|| format!("{node:?} crashes for {time} ms"));
        self.syncing.remove(&node);
        self.world.crash(node);
        self.weather.down_until[node.index()] = self.now + time;
        // After a restart every try is in doubt at once.
        self.doubts.retain(|(doubting, _), _| *doubting != node);
    }

    /// What is to be sent is given a fate.
    fn post(&mut self) {
        for envelope in std::mem::take(&mut self.world.net) {
            let node = self.world.runs[envelope.run].node;
            if node == envelope.replica {
                let time = self.chance.within(0..3);
                self.at(time, Happening::Arrive(envelope));
                continue;
            }
            let lost = !self.is_calm()
                && (self.chance.happens(self.weather.losses) || self.weather.is_cut(node, envelope.replica));
            if lost {
                if self.chance.happens(500) {
                    let (run, replica, round) = (envelope.run, envelope.replica, envelope.round);
                    let time = self.chance.within(1..300);
                    self.at(time, Happening::Gone { run, replica, round });
                }
                continue;
            }
            if !self.is_calm() && self.chance.happens(self.weather.doubles) {
                let time = self.weather.delay(&mut self.chance);
                self.at(time, Happening::Arrive(envelope.clone()));
            }
            let time = self.weather.delay(&mut self.chance);
            self.at(time, Happening::Arrive(envelope));
        }
    }

    fn fault(&mut self) {
        if self.is_calm() {
            self.weather.clear(self.now);
            for node in 0..self.world.nodes.len() {
                self.world.nodes[node].change(|node| node.is_full = false);
            }
            return;
        }
        let node = NodeId(self.chance.within(0..self.world.nodes.len() as u64) as u8);
        let fault = self.weather.next_fault(&mut self.chance);
        self.say(|| format!("{fault:?} at {node:?}"));
        match fault {
            Fault::Crash => self.crash(node),
            Fault::Sleep => {
                self.weather.sleeps_until[node.index()] = self.now + self.chance.within(100..30_000);
            }
            Fault::Jump => self.weather.jump(node, self.chance.within(10..20_000)),
            Fault::Cut => self.weather.cut(&mut self.chance, node),
            Fault::Heal => self.weather.heal(),
            Fault::Full => self.world.nodes[node.index()].change(|node| node.is_full = !node.is_full),
            Fault::Sweep => {
                let files = self.world.nodes[node.index()].files.clone();
                if self.weather.is_up(node, self.now) {
                    files.into_iter().for_each(|blob| self.world.sweep(node, blob));
                }
            }
            Fault::Wipe => self.wipe(node),
            Fault::None => {}
        }
        let time = self.chance.within(20..4000);
        self.at(time, Happening::Fault);
    }

    /// No more disks are lost at once than may be.
    fn wipe(&mut self, node: NodeId) {
        let wounded =
            self.world.nodes.iter().filter(|node| node.context.recovering || node.lacks_bytes).count();
        if wounded < self.world.nodes.len() - self.world.write_quorum()
            && !self.world.nodes[node.index()].lacks_bytes
        {
            self.syncing.remove(&node);
            self.world.wipe(node);
            self.doubts.retain(|(doubting, _), _| *doubting != node);
        }
    }

    /// Settles old tries, gets the memory of a replaced disk back, fetches bytes.
    fn chores(&mut self, me: NodeId) {
        let node = self.world.nodes[me.index()].clone();
        for attempt in node.prepared() {
            let since = *self.doubts.entry((me, attempt)).or_insert(self.now);
            if self.now >= since + 2 * CHORES {
                self.doubts.insert((me, attempt), self.now + CHORES);
                let clock = self.weather.clock(me, self.now);
                if let Some(run) = self.world.settle(me, attempt, clock) {
                    self.set_alarm(run);
                }
            }
        }
        let reachable: Vec<NodeId> = (0..self.world.nodes.len() as u8)
            .map(NodeId)
            .filter(|other| *other != me && self.weather.is_up(*other, self.now))
            .filter(|other| self.is_calm() || !self.weather.is_cut(me, *other))
            .collect();
        if node.context.recovering {
            for other in reachable.iter().filter(|other| !node.handed.contains(**other)) {
                let handed = self.world.admit(*other, me);
                let time = self.weather.delay(&mut self.chance);
                self.at(time, Happening::HandedOver(me, Box::new(handed)));
            }
            return;
        }
        let has =
            |blob: BlobId| reachable.iter().any(|other| self.world.nodes[other.index()].has_bytes(blob));
        let (found, missing): (Vec<BlobId>, Vec<BlobId>) =
            node.hollow().into_iter().partition(|blob| has(*blob));
        self.world.nodes[me.index()].change(|node| {
            found.iter().for_each(|blob| node.fill(*blob));
            node.lacks_bytes &= !missing.is_empty();
        });
    }

    fn client(&mut self, number: usize) {
        if let Some((path, request, until)) = self.clients[number].waiting {
            if self.world.histories[path].told(request).is_none() && self.now < until {
                return self.at(50, Happening::Client(number));
            }
            self.clients[number].waiting = None;
        }
        if self.is_calm() {
            return;
        }
        let time = self.chance.within(1..1500);
        self.at(time, Happening::Client(number));
        let path = self.chance.within(0..self.requests.len() as u64) as usize;
        let nodes = self.world.nodes.len();
        let up: Vec<NodeId> = (0..nodes as u8)
            .map(NodeId)
            .filter(|node| {
                self.weather.is_up(*node, self.now) && self.weather.sleeps_until[node.index()] <= self.now
            })
            .collect();
        if self.requests[path] >= REQUESTS_MAX || up.is_empty() {
            return;
        }
        let (path, asked) = self.ask(number, path);
        let node = self.chance.one_of(&up);
        let mut with_data: NodeSet = up.iter().copied().filter(|_| !self.chance.happens(60)).collect();
        with_data.insert(node);
        let planned = Planned { node, path, asked, with_data };
        let request = self.requests[path];
        self.requests[path] += 1;
        self.clients[number].waiting = Some((path, request, self.now + self.chance.within(500..30_000)));
        self.clients[number].last = Some((path, asked));
        self.say(|| format!("client {number} at {node:?}: request {request} on path {path}: {asked:?}"));
        let clock = self.weather.clock(node, self.now);
        let run = self.world.begin(request, &planned, clock);
        self.set_alarm(run);
    }

    fn ask(&mut self, client: usize, path: usize) -> (usize, Asked) {
        self.blobs += 1;
        let blob = BlobId::from_u128(self.blobs);
        let content = self.chance.within(1..4) as u8;
        if let Some((path, Asked::Put { version: Some(version), condition, content, .. })) =
            self.clients[client].last
            && self.chance.happens(500)
            && self.requests[path] < REQUESTS_MAX
        {
            // It does not know what became of it, or wants to be sure.
            return (path, Asked::Put { version: Some(version), condition, content, blob });
        }
        let version = self.chance.within(1..6);
        let stored = self.world.histories[path].all().filter_map(|(_, told)| match told {
            Some(Told::Stored { blob, .. }) => Some(blob),
            Some(Told::Read(Some(seen))) => Some(seen.blob),
            _ => None,
        });
        let known = stored.last();
        let condition = match (self.chance.within(0..10), known) {
            (0 | 1, _) => Condition::Absent,
            (2..5, Some(blob)) => Condition::Is(blob),
            _ => Condition::None,
        };
        let asked = match self.chance.within(0..20) {
            0..6 => Asked::Put { version: None, condition, content, blob },
            6..9 => Asked::Put { version: Some(version), condition: Condition::None, content, blob },
            9 => Asked::Put { version: Some(version), condition, content, blob },
            10..13 => Asked::Delete { which: Which::Newest },
            13 => Asked::Delete { which: Which::Version(version) },
            14 => Asked::Get { version: Some(version) },
            _ => Asked::Get { version: None },
        };
        (path, asked)
    }
}
