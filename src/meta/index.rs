//! One thread per disk that keeps the disk's listing index and answers listings from it.
//!
//! Changes and listings stand in one queue: a writer sends its change before it answers its client, so a listing
//! shows every write that was acknowledged before it was asked for.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use async_channel::{Receiver, Sender};
use futures_channel::oneshot;
use rusqlite::Connection;

use super::queue::recv_within;
use super::schema::is_damaged;
use super::slots::{Slots, State};
use super::types::{Entry, Reply};
use super::writer::refusal;
use super::{index_db, query, schema};
use crate::base::error::{Code, Error, Result};
use crate::base::slot::Slot;
use crate::io::ballast::Ballast;
use crate::limits::{INDEX_GATHER, INDEX_QUEUE, INDEX_RETRY, LISTING_STEPS, QUIET};

pub use super::index_db::Listing;
pub use super::page::{Listed, Page, Seek};

/// What one transaction of a slot changed.
#[derive(Debug)]
pub(super) struct Change {
    pub slot: Slot,
    /// Number of the transaction.
    pub seq: u64,
    /// Forget what was known of the slot first.
    pub reset: bool,
    /// The newest versions of the changed paths.
    pub entries: Vec<Entry>,
}

impl Change {
    /// All that a slot changed after transaction `applied`.
    pub(super) fn since(db: &Connection, slot: Slot, applied: u64) -> rusqlite::Result<Option<Self>> {
        let seq = query::last_seq(db)?;
        // An index that is ahead of its slot has seen what the slot lost: it starts again.
        let reset = applied > seq;
        if applied == seq {
            return Ok(None);
        }
        let entries = query::entries_since(db, if reset { 0 } else { applied })?;
        Ok(Some(Self { slot, seq, reset, entries }))
    }
}

enum Task {
    Changes(Vec<Change>),
    /// A change was lost: catch up.
    Missed(String),
    /// Time for another attempt to catch up.
    Retry,
    List(Box<Listing>, Reply<Page>),
}

struct Index {
    tasks: Sender<Task>,
    /// The last transaction seen of each slot when the index was opened.
    applied: HashMap<u16, u64>,
    trouble: Arc<Mutex<Option<String>>>,
}

/// The indexes of all disks.
#[derive(Clone)]
pub struct Indexes {
    disks: Arc<Vec<Index>>,
}

impl Indexes {
    /// Opens the index of each disk and starts its thread. One that cannot be opened now is tried again later.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(
        roots: &[PathBuf],
        slots: &Arc<Slots>,
        ballast: &Arc<Vec<Ballast>>,
    ) -> std::io::Result<(Self, Vec<JoinHandle<()>>)> {
        let start = |(disk, root): (usize, &PathBuf)| {
            let trouble = Arc::<Mutex<Option<String>>>::default();
            let mut keeper = Keeper {
                disk,
                root: root.clone(),
                slots: Arc::clone(slots),
                ballast: ballast[disk].clone(),
                db: None,
                tried_at: Instant::now(),
                trouble: Arc::clone(&trouble),
            };
            let applied = keeper.open().unwrap_or_default();
            let (tasks, queue) = async_channel::bounded(INDEX_QUEUE);
            let thread = thread::Builder::new().name(format!("index-{disk}"));
            Ok((Index { tasks, applied, trouble }, thread.spawn(move || keeper.run(&queue))?))
        };
        let started: std::io::Result<Vec<_>> = roots.iter().enumerate().map(start).collect();
        let (disks, threads): (Vec<_>, Vec<_>) = started?.into_iter().unzip();
        Ok((Self { disks: Arc::new(disks) }, threads))
    }

    /// Removes the indexes of disks; the next start makes them again.
    pub fn discard(roots: &[PathBuf]) {
        for root in roots {
            index_db::discard(root);
        }
    }

    /// Takes nothing more; the threads finish what waits and end.
    pub fn close(&self) {
        for index in self.disks.iter() {
            index.tasks.close();
        }
    }

    /// Number of disks.
    pub fn disks(&self) -> usize {
        self.disks.len()
    }

    /// Forgets what is known of a slot: its database begins anew.
    pub(super) fn forget(&self, disk: usize, slot: Slot) {
        self.apply(disk, vec![Change { slot, seq: 0, reset: true, entries: Vec::new() }]);
    }

    /// The last transaction seen of a slot when the indexes were opened.
    pub(super) fn applied(&self, slot: Slot) -> u64 {
        let number = slot.index() as u16;
        self.disks.iter().filter_map(|index| index.applied.get(&number)).copied().max().unwrap_or(0)
    }

    /// Sends changes on their way; waits while the queue is full.
    pub(super) fn apply(&self, disk: usize, changes: Vec<Change>) {
        self.send(disk, Task::Changes(changes));
    }

    /// Whether a disk's index lacks changes and will look for them in the slots' databases.
    pub(super) fn is_behind(&self, disk: usize) -> bool {
        self.trouble(disk).is_some()
    }

    /// A change cannot be told: the index has to find it out.
    pub(super) fn miss(&self, disk: usize, error: &rusqlite::Error) {
        self.send(disk, Task::Missed(error.to_string()));
    }

    fn send(&self, disk: usize, task: Task) {
        if self.disks[disk].tasks.send_blocking(task).is_err() {
            tracing::error!(disk, "the listing index has stopped");
        }
    }

    /// Why a disk's listing is out of service.
    pub fn trouble(&self, disk: usize) -> Option<String> {
        self.disks[disk].trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has the indexes that are behind try again; every slot must have been checked.
    pub fn retry(&self) {
        for (disk, index) in self.disks.iter().enumerate() {
            if self.trouble(disk).is_some() {
                // One that is busy is asked again soon.
                let _ = index.tasks.try_send(Task::Retry);
            }
        }
    }

    /// A stretch of a listing from one disk.
    pub async fn list(&self, disk: usize, listing: Listing) -> Result<Page> {
        let stopped = || Error::new(Code::Internal, "the listing index has stopped; see the server's log");
        let (reply, answer) = oneshot::channel();
        self.disks[disk].tasks.send(Task::List(Box::new(listing), reply)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

/// A listing asked for by a test.
#[cfg(test)]
pub(super) fn list_now(indexes: &Indexes, disk: usize, listing: Listing) -> Page {
    let (reply, answer) = oneshot::channel();
    indexes.send(disk, Task::List(Box::new(listing), reply));
    let mut answer = std::pin::pin!(answer);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        if let std::task::Poll::Ready(page) = answer.as_mut().poll(&mut context) {
            return page.unwrap().unwrap();
        }
        thread::yield_now();
    }
}

/// The thread's state. Without a database the index is behind: changes pass it by, and it catches up from the slots.
struct Keeper {
    disk: usize,
    root: PathBuf,
    slots: Arc<Slots>,
    ballast: Ballast,
    db: Option<Connection>,
    tried_at: Instant,
    trouble: Arc<Mutex<Option<String>>>,
}

impl Keeper {
    /// The thread: changes are gathered and go into one transaction, when there are enough, when somebody asks for a
    /// listing, or when no more come.
    fn run(mut self, tasks: &Receiver<Task>) {
        let mut changes = Vec::new();
        loop {
            let next =
                if changes.is_empty() { tasks.recv_blocking().map(Some) } else { recv_within(tasks, QUIET) };
            let listing = match next {
                Ok(Some(Task::Changes(more))) => {
                    changes.extend(more);
                    if changes.len() < INDEX_GATHER {
                        continue;
                    }
                    None
                }
                Ok(Some(Task::Missed(error))) => {
                    self.fall_behind(&error);
                    continue;
                }
                Ok(Some(Task::Retry)) => {
                    self.retry();
                    continue;
                }
                Ok(Some(Task::List(asked, reply))) => Some((asked, reply)),
                Ok(None) => None,
                Err(_) => return self.apply(&changes),
            };
            self.apply(&changes);
            changes.clear();
            if let Some((asked, reply)) = listing {
                // An asker that is gone needs no answer.
                let _ = reply.send(self.list(&asked));
            }
        }
    }

    fn apply(&mut self, changes: &[Change]) {
        let Some(db) = &self.db else { return };
        if let Err(error) = self.ballast.lend(|| apply(db, changes)) {
            self.give_up(&error);
        }
    }

    fn list(&mut self, asked: &Listing) -> Result<Page> {
        self.retry();
        let unavailable =
            |why: &str| Error::new(Code::SlotUnavailable, format!("listing is out of service: {why}"));
        let Some(db) = &self.db else {
            let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
            return Err(unavailable(trouble.as_deref().unwrap_or("try again")));
        };
        index_db::list(db, asked, LISTING_STEPS).map_err(|error| {
            self.give_up(&error);
            unavailable(&error.to_string())
        })
    }

    fn retry(&mut self) {
        if self.db.is_none() && self.tried_at.elapsed() >= INDEX_RETRY {
            self.catch_up();
        }
    }

    /// After a failure of the index itself: a damaged one is thrown away.
    fn give_up(&mut self, error: &rusqlite::Error) {
        self.fall_behind(&error.to_string());
        if is_damaged(error) {
            index_db::discard(&self.root);
        }
    }

    fn fall_behind(&mut self, error: &str) {
        tracing::error!(disk = %self.root.display(), %error, "the listing index is behind");
        self.db = None;
        self.tried_at = Instant::now();
        let trouble = format!("the listing index in {} is behind: {error}", self.root.display());
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(trouble);
    }

    /// Opens the index; answers with what it has seen.
    fn open(&mut self) -> Option<HashMap<u16, u64>> {
        let root = &self.root;
        let open =
            || self.ballast.lend(|| index_db::open(root).and_then(|db| Ok((index_db::applied(&db)?, db))));
        let opened = match open() {
            Err(error) if is_damaged(&error) => {
                index_db::discard(root);
                open()
            }
            opened => opened,
        };
        match opened {
            Ok((applied, db)) => {
                self.db = Some(db);
                Some(applied)
            }
            Err(error) => {
                self.fall_behind(&error.to_string());
                None
            }
        }
    }

    /// Opens the index again and takes over what it missed. A slot that is not in service is passed over.
    fn catch_up(&mut self) {
        let Some(applied) = self.open() else { return };
        let caught_up = Slot::all()
            .filter(|slot| self.slots.disk(*slot) == self.disk && self.slots.state(*slot) == State::Ready)
            .try_for_each(|slot| {
                if self.slots.is_pending(slot) {
                    return Err(query::busy());
                }
                let seen = applied.get(&(slot.index() as u16)).copied().unwrap_or(0);
                let since =
                    schema::open_reader(self.slots.dir(slot)).and_then(|db| Change::since(&db, slot, seen));
                let changes: Vec<Change> = match since {
                    // A damaged slot is out of service by itself; it does not take the listing of the others with it.
                    Err(error) if is_damaged(&error) => {
                        refusal(&self.slots, slot, &error);
                        return Ok(());
                    }
                    since => since?.into_iter().collect(),
                };
                self.db.as_ref().map_or(Ok(()), |db| self.ballast.lend(|| apply(db, &changes)))
            });
        match caught_up {
            Ok(()) => {
                tracing::warn!(disk = %self.root.display(), "the listing index has caught up");
                *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = None;
            }
            Err(error) => self.give_up(&error),
        }
    }
}

fn apply(db: &Connection, changes: &[Change]) -> rusqlite::Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    let transaction = db.unchecked_transaction()?;
    for change in changes {
        if change.reset {
            index_db::reset(&transaction, change.slot)?;
        }
        index_db::apply(&transaction, change.slot, change.seq, &change.entries)?;
    }
    transaction.commit()
}
