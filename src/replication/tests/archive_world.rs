//! Three replicas of one version of one chunk, and an archive: what they store, what is under way between them, and what must
//! always hold. The machines and the answers are those of the server; what the archive's thread does stands here, a step at a time.

use std::collections::{BTreeMap, BTreeSet};

use super::shared::Shared;
use super::store::{Store, Transaction};
use crate::base::clock::Timestamp;
use crate::base::ids::{BlobId, ChunkId};
use crate::base::topology::NodeId;
use crate::replication::condemn::Condemn;
use crate::replication::machine::{Event, Group, Machine, Send, Step, Time};
use crate::replication::mistake::{Mistake, is_planted};
use crate::replication::participant::{self, Context, Surroundings};
use crate::replication::spread::{Spread, Told};
use crate::wire::peer::archive::ArchiveRow;
use crate::wire::peer::{Attempt, Held, Member, Members, Request, Response, Row};

const PATH: &str = "p";
const NODES: u8 = 3;
const QUORUM: usize = 2;
/// When every machine gives up.
const LATE: Time = 1 << 40;

pub(super) fn blob() -> BlobId {
    BlobId::from_u128(1)
}

pub(super) fn chunk() -> ChunkId {
    ChunkId([1; 32])
}

pub(super) fn row(target: &str, generation: u64) -> ArchiveRow {
    let (target, blob, chunk) = (target.to_owned(), blob(), chunk());
    ArchiveRow { version: 1, blob, chunk, length: 1, target, start: 0, end: 1, generation }
}

/// A replica: what is on its disk, and what its archive's thread is at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Node {
    pub(super) store: Shared<Store>,
    members: Members,
    recovering: bool,
    has_file: bool,
    dropped: bool,
    archiver: Archiver,
    cleaner: Option<Cleaner>,
    /// How often its thread began anew: answers to what was asked before go nowhere.
    life: u8,
}

/// From file to object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Archiver {
    Idle,
    /// The key is noted.
    Begun(String),
    /// The object is stored.
    Stored(String),
    /// A row names it.
    Named,
    Spreading(Spread, ArchiveRow),
    /// So many hold the row.
    Told(ArchiveRow, Told),
    /// Enough do, and the object was asked for once more.
    Looked(ArchiveRow),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Cleaner {
    Condemning(Box<Condemn>, String),
    Condemned(String),
}

/// Who asks: the archiver or the cleaner of a node, in one of its lives.
type Asker = (u8, bool, u8);

/// A request that did not arrive yet. Its answer is heard at once, or not at all: when it is heard makes a difference only to
/// what else has happened by then, and that may as well happen before it arrives.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Message {
    asker: Asker,
    to: u8,
    round: u32,
    request: Request,
}

/// How often what may happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Budget {
    pub(super) objects: u8,
    /// Objects whose bytes come from the one before, as those of a pack do.
    pub(super) rewrites: u8,
    /// Rounds in which all replicas are asked.
    pub(super) rounds: u8,
    pub(super) crashes: u8,
    pub(super) losses: u8,
    pub(super) doubles: u8,
    pub(super) deletes: u8,
    pub(super) wipes: u8,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) nodes: Vec<Node>,
    pub(super) objects: BTreeSet<String>,
    deleted: BTreeSet<String>,
    pub(super) net: Vec<Message>,
    pub(super) left: Budget,
    is_deleting: bool,
    /// Which of the others have handed their rows to the other disk of the last node.
    handed: [bool; 2],
}

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Action {
    /// The archiver of a node goes on.
    Archive(u8),
    /// The cleaner of a node goes on.
    Clean(u8),
    /// A message arrives.
    Deliver(usize),
    /// It arrives, and will arrive once more.
    Double(usize),
    /// It is lost.
    Lose(usize),
    /// Its answer is.
    Unheard(usize),
    /// The machine of a node gives up waiting: of the archiver, or else of the cleaner.
    GiveUp(u8, bool),
    /// A node's thread begins anew.
    Crash(u8),
    /// The version is deleted at a node.
    Delete(u8),
    /// The chunks of the deleted version go.
    DropDeleted(u8),
    /// The last node has another disk.
    Wipe,
    /// A node records it.
    Admit(u8),
    /// A node hands it its rows; when both have, it has its memory back.
    Recover(u8),
    /// It gets its file back.
    Fill,
}

fn version() -> Row {
    Row {
        path: PATH.to_owned(),
        version: 1,
        attempt: Attempt { blob_id: blob(), ballot: 0 },
        size: 1,
        content: [0; 32],
        created_at: Timestamp(0),
        headers: String::new(),
    }
}

impl World {
    pub(super) fn new(left: Budget) -> Self {
        let member = |node: u8| Member { node: NodeId(node), generation: 0, identity: node.into() };
        let members: Members = (0..NODES).map(member).collect();
        let held = Held { row: version(), tombstoned_at: None, hollow: false };
        let store = Store { held: BTreeMap::from([(blob(), held)]), ..Store::default() };
        let node = |_| Node {
            store: Shared::new(store.clone()),
            members: members.clone(),
            recovering: false,
            has_file: true,
            dropped: false,
            archiver: Archiver::Idle,
            cleaner: None,
            life: 0,
        };
        Self {
            nodes: (0..NODES).map(node).collect(),
            objects: BTreeSet::new(),
            deleted: BTreeSet::new(),
            net: Vec::new(),
            left,
            is_deleting: false,
            handed: [false; 2],
        }
    }

    /// A node holds a row of an object that exists.
    pub(super) fn hold(&mut self, node: u8, row: &ArchiveRow) {
        self.objects.insert(row.target.clone());
        self.nodes[usize::from(node)].store.change(|store| {
            if let Some(before) = store.archived.insert((row.blob, row.chunk), row.clone()) {
                store.leftovers.insert(before.target);
            }
        });
    }

    /// Its file is gone.
    pub(super) fn drop_file(&mut self, node: u8) {
        let node = &mut self.nodes[usize::from(node)];
        (node.dropped, node.has_file) = (true, false);
    }

    pub(super) fn actions(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        for (number, node) in (0..NODES).zip(&self.nodes) {
            if self.may_archive(node) {
                actions.push(Action::Archive(number));
            }
            if self.may_clean(node) {
                actions.push(Action::Clean(number));
            }
            if matches!(node.archiver, Archiver::Spreading(..)) {
                actions.push(Action::GiveUp(number, true));
            }
            if matches!(node.cleaner, Some(Cleaner::Condemning(..))) {
                actions.push(Action::GiveUp(number, false));
            }
            let is_busy = node.archiver != Archiver::Idle || node.cleaner.is_some();
            if self.left.crashes > 0 && is_busy {
                actions.push(Action::Crash(number));
            }
            if node.is_live() && (self.is_deleting || self.left.deletes > 0) && !node.recovering {
                actions.push(Action::Delete(number));
            }
            let buried = self.nodes.iter().filter(|node| node.is_tombstoned()).count();
            if node.is_tombstoned() && buried >= QUORUM && (node.has_file || node.row().is_some()) {
                actions.push(Action::DropDeleted(number));
            }
            if node.members[2].generation < self.nodes[2].members[2].generation {
                actions.push(Action::Admit(number));
            }
        }
        for number in 0..self.net.len() {
            actions.push(Action::Deliver(number));
            if self.left.losses > 0 {
                actions.push(Action::Lose(number));
                actions.push(Action::Unheard(number));
            }
            if self.left.doubles > 0 {
                actions.push(Action::Double(number));
            }
        }
        if self.left.wipes > 0 {
            actions.push(Action::Wipe);
        }
        let last = &self.nodes[2];
        let is_known = self.nodes.iter().all(|node| node.members[2] == last.members[2]);
        if last.recovering && is_known {
            let missing = (0..).zip(self.handed).filter(|(_, handed)| !handed);
            actions.extend(missing.map(|(from, _)| Action::Recover(from)));
        }
        let has_source = self.nodes.iter().any(|node| node.has_file)
            || last.row().is_some_and(|row| self.objects.contains(&row.target));
        if !last.recovering && last.is_live() && !last.has_file && !last.dropped && has_source {
            actions.push(Action::Fill);
        }
        actions
    }

    fn may_archive(&self, node: &Node) -> bool {
        match &node.archiver {
            Archiver::Idle => {
                let may = node.is_live() && !node.recovering && self.left.rounds > 0;
                let row = node.row();
                if node.dropped {
                    let is_there = row.is_some_and(|row| self.objects.contains(&row.target));
                    return may && is_there && self.left.rewrites > 0 && self.left.objects > 0;
                }
                may && node.has_file && (row.is_some() || self.left.objects > 0)
            }
            Archiver::Spreading(..) => false,
            Archiver::Named => self.left.rounds > 0,
            _ => true,
        }
    }

    fn may_clean(&self, node: &Node) -> bool {
        match &node.cleaner {
            None => self.left.rounds > 0 && node.leftover().is_some(),
            Some(Cleaner::Condemning(..)) => false,
            Some(Cleaner::Condemned(_)) => true,
        }
    }

    pub(super) fn step(&mut self, action: Action) {
        match action {
            Action::Archive(node) => self.archive(node),
            Action::Clean(node) => self.clean(node),
            Action::Deliver(number) => {
                let message = self.net.remove(number);
                self.deliver(message, true);
            }
            Action::Double(number) => {
                self.left.doubles -= 1;
                self.deliver(self.net[number].clone(), true);
            }
            Action::Unheard(number) => {
                self.left.losses -= 1;
                let message = self.net.remove(number);
                self.deliver(message, false);
            }
            Action::Lose(number) => {
                self.left.losses -= 1;
                let Message { asker, to, round, .. } = self.net.remove(number);
                self.tell(asker, 0, Event::Reply { from: NodeId(to), round, reply: None });
            }
            Action::GiveUp(node, is_archiver) => {
                let life = self.nodes[usize::from(node)].life;
                self.tell((node, is_archiver, life), LATE, Event::Time);
            }
            Action::Crash(node) => {
                self.left.crashes -= 1;
                self.nodes[usize::from(node)].restart();
            }
            Action::Delete(node) => {
                if !std::mem::replace(&mut self.is_deleting, true) {
                    self.left.deletes -= 1;
                }
                self.nodes[usize::from(node)].store.change(|store| {
                    if let Some(held) = store.held.get_mut(&blob()) {
                        held.tombstoned_at = Some(Timestamp(1));
                    }
                });
            }
            Action::DropDeleted(node) => {
                let node = &mut self.nodes[usize::from(node)];
                node.has_file = false;
                node.store.change(|store| {
                    let rows = std::mem::take(&mut store.archived);
                    store.leftovers.extend(rows.into_values().map(|row| row.target));
                });
            }
            Action::Wipe => {
                self.left.wipes -= 1;
                self.handed = [false; 2];
                let last = &mut self.nodes[2];
                last.restart();
                last.store = Shared::new(Store::default());
                (last.recovering, last.has_file, last.dropped) = (true, false, false);
                last.members[2].generation += 1;
                last.members[2].identity += 100;
            }
            Action::Admit(node) => {
                let member = self.nodes[2].members[2];
                self.nodes[usize::from(node)].members[2] = member;
            }
            Action::Recover(from) => self.recover(usize::from(from)),
            Action::Fill => self.nodes[2].has_file = true,
        }
        self.net.sort();
    }

    fn recover(&mut self, from: usize) {
        let Store { held, archived, .. } = (*self.nodes[from].store).clone();
        let last = &mut self.nodes[2];
        last.store.change(|store| held.values().for_each(|held| store.take(held)));
        if !is_planted(Mistake::HandOverWithoutArchive) {
            for row in archived.into_values() {
                let request =
                    crate::wire::peer::archive::Request::Rows { path: PATH.to_owned(), rows: vec![row] };
                last.answer(2, &Request::Archive(request));
            }
        }
        self.handed[from] = true;
        last.recovering = self.handed != [true; 2];
    }

    fn archive(&mut self, number: u8) {
        let node = &mut self.nodes[usize::from(number)];
        let next = match std::mem::replace(&mut node.archiver, Archiver::Idle) {
            Archiver::Idle if node.dropped => {
                self.left.rewrites -= 1;
                Archiver::Begun(node.begin(number, &mut self.left))
            }
            Archiver::Idle if node.row().is_some() => Archiver::Named,
            Archiver::Idle => Archiver::Begun(node.begin(number, &mut self.left)),
            Archiver::Begun(key) => {
                self.objects.insert(key.clone());
                Archiver::Stored(key)
            }
            Archiver::Stored(key) => {
                node.name(&key);
                Archiver::Named
            }
            Archiver::Named => match node.row().filter(|row| self.objects.contains(&row.target)) {
                Some(row) if node.is_live() => {
                    let spread = Spread::new(node.group(number), PATH, vec![row.clone()]);
                    Archiver::Spreading(spread, row)
                }
                _ => Archiver::Idle,
            },
            Archiver::Told(row, told) => {
                let is_known = told.holders >= QUORUM || is_planted(Mistake::DroppedOnOwnRow);
                if let Some(successor) = told.successor {
                    let rows = vec![successor];
                    let request = crate::wire::peer::archive::Request::Rows { path: PATH.to_owned(), rows };
                    node.answer(number, &Request::Archive(request));
                    Archiver::Named
                } else if told.condemned && self.left.objects > 0 && node.is_live() {
                    Archiver::Begun(node.begin(number, &mut self.left))
                } else {
                    let is_there = self.objects.contains(&row.target);
                    let may_go = is_known && is_there && !told.condemned && !told.gone;
                    if may_go { Archiver::Looked(row) } else { Archiver::Idle }
                }
            }
            // Another row may have taken its place since.
            Archiver::Looked(row) => {
                if node.is_live() && node.row().as_ref() == Some(&row) {
                    (node.dropped, node.has_file) = (true, false);
                }
                Archiver::Idle
            }
            spreading @ Archiver::Spreading(..) => spreading,
        };
        node.archiver = next;
        if let Archiver::Spreading(..) = node.archiver {
            self.left.rounds -= 1;
            let asker = (number, true, node.life);
            self.tell(asker, 0, Event::Time);
        }
    }

    fn clean(&mut self, number: u8) {
        let node = &mut self.nodes[usize::from(number)];
        match node.cleaner.take() {
            None => {
                let Some(key) = node.leftover() else { return };
                self.left.rounds -= 1;
                let condemn = Condemn::new(node.group(number), PATH, vec![key.clone()]);
                node.cleaner = Some(Cleaner::Condemning(Box::new(condemn), key));
                let asker = (number, false, node.life);
                self.tell(asker, 0, Event::Time);
            }
            Some(Cleaner::Condemned(key)) => {
                self.objects.remove(&key);
                node.store.change(|store| store.leftovers.remove(&key));
                self.deleted.insert(key);
            }
            condemning => node.cleaner = condemning,
        }
    }

    /// Tells a machine something, if it is still there.
    fn tell(&mut self, (number, is_archiver, life): Asker, now: Time, event: Event) {
        let node = &mut self.nodes[usize::from(number)];
        if node.life != life {
            return;
        }
        let sends = if is_archiver {
            let Archiver::Spreading(spread, row) = &mut node.archiver else { return };
            let Step { sends, outcome } = spread.step(now, event);
            if let Some(mut told) = outcome {
                node.archiver = Archiver::Told(row.clone(), told.pop().unwrap_or_default());
            }
            sends
        } else {
            let Some(Cleaner::Condemning(condemn, key)) = &mut node.cleaner else { return };
            let Step { sends, outcome } = condemn.step(now, event);
            match outcome.as_deref() {
                Some([true]) => node.cleaner = Some(Cleaner::Condemned(key.clone())),
                Some(_) => node.cleaner = None,
                None => {}
            }
            sends
        };
        let asker = (number, is_archiver, life);
        for Send { to, round, request } in sends {
            let message = Message { asker, to: to.0, round, request };
            // A node asks itself without the network.
            if to.0 == number { self.deliver(message, true) } else { self.net.push(message) }
        }
    }

    fn deliver(&mut self, message: Message, is_heard: bool) {
        let Message { asker, to, round, request } = message;
        let response = self.nodes[usize::from(to)].answer(to, &request);
        let reply = is_heard.then_some(response);
        self.tell(asker, 0, Event::Reply { from: NodeId(to), round, reply });
    }

    /// What does not hold.
    pub(super) fn broken(&self) -> Option<&'static str> {
        for node in self.nodes.iter().filter(|node| node.is_live() && !node.recovering) {
            let row = node.row();
            if row.as_ref().is_some_and(|row| self.deleted.contains(&row.target)) {
                return Some("a row of a live version names an object that was deleted");
            }
            if !node.dropped {
                continue;
            }
            let Some(row) = row else { return Some("no row says where a chunk is whose file is gone") };
            if !self.objects.contains(&row.target) && !self.nodes.iter().any(|node| node.has_file) {
                return Some("a chunk has no copy any more");
            }
            let knows = |other: &&Node| {
                let holds = other.row().is_some_and(|row| self.objects.contains(&row.target));
                other.recovering || other.is_tombstoned() || holds
            };
            if self.nodes.iter().filter(knows).count() < QUORUM {
                return Some("fewer than a quorum know where a chunk is whose file is gone");
            }
        }
        None
    }

    /// Whether somebody has dropped the chunk.
    pub(super) fn has_dropped(&self) -> bool {
        self.nodes.iter().any(|node| node.dropped)
    }

    /// Whether an object was deleted.
    pub(super) fn has_deleted(&self) -> bool {
        !self.deleted.is_empty()
    }
}

impl Node {
    fn held(&self) -> Option<&Held> {
        self.store.held.get(&blob())
    }

    fn is_live(&self) -> bool {
        self.held().is_some_and(|held| held.tombstoned_at.is_none())
    }

    fn is_tombstoned(&self) -> bool {
        self.held().is_some_and(|held| held.tombstoned_at.is_some())
    }

    fn row(&self) -> Option<ArchiveRow> {
        self.store.archived.get(&(blob(), chunk())).cloned()
    }

    /// An object to be deleted, that no row names and no upload holds.
    fn leftover(&self) -> Option<String> {
        let named = self.row().map(|row| row.target);
        let held = match &self.archiver {
            Archiver::Begun(key) | Archiver::Stored(key) => Some(key),
            _ => None,
        };
        let mut left = self.store.leftovers.iter();
        left.find(|key| Some(*key) != named.as_ref() && Some(*key) != held).cloned()
    }

    fn group(&self, number: u8) -> Group {
        Group { me: NodeId(number), members: self.members.clone(), write_quorum: QUORUM }
    }

    /// Notes a key that was never used.
    fn begin(&mut self, number: u8, left: &mut Budget) -> String {
        left.objects -= 1;
        let key = format!("s3://b/{number}{}", left.objects);
        self.store.change(|store| store.leftovers.insert(key.clone()));
        key
    }

    /// A row names an object, one generation above the one before.
    fn name(&mut self, key: &str) {
        if !self.is_live() || self.store.condemned.contains(key) {
            return;
        }
        let generation = self.row().map_or(1, |row| row.generation + 1);
        self.store.change(|store| {
            store.leftovers.remove(key);
            if let Some(before) = store.archived.insert((blob(), chunk()), row(key, generation)) {
                store.leftovers.insert(before.target);
            }
        });
    }

    fn restart(&mut self) {
        (self.archiver, self.cleaner) = (Archiver::Idle, None);
        self.life += 1;
    }

    fn answer(&mut self, number: u8, request: &Request) -> Response {
        let context = Context {
            me: NodeId(number),
            members: self.members.clone(),
            write_quorum: QUORUM,
            recovering: self.recovering,
        };
        let around = Surroundings { has_data: false, has_room: false, is_live: false };
        let mut rows = Transaction::new(&mut self.store);
        let Ok(response) = participant::answer(&mut rows, &context, around, request);
        response
    }
}
