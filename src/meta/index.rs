//! One thread per disk that keeps the disk's listing index and answers listings from it.
//!
//! Changes and listings stand in one queue: a writer sends its change before it answers its client, so a listing
//! shows every write that was acknowledged before it was asked for.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use async_channel::{Receiver, Sender};
use futures_channel::oneshot;
use rusqlite::Connection;

use super::index_db;
use super::types::{Entry, Reply};
use crate::base::error::{Code, Error, Result};
use crate::base::slot::Slot;
use crate::limits::{INDEX_QUEUE, LISTING_STEPS};

pub use super::index_db::{Item, Listing, Page, Seek};

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

enum Task {
    Change(Change),
    List(Box<Listing>, Reply<Page>),
}

struct Index {
    tasks: Sender<Task>,
    /// The last transaction seen of each slot when the index was opened.
    applied: HashMap<u16, u64>,
    failure: Arc<Mutex<Option<String>>>,
}

/// The indexes of all disks.
#[derive(Clone)]
pub struct Indexes {
    disks: Arc<Vec<Index>>,
}

impl Indexes {
    /// Opens the index of each disk and starts its thread.
    ///
    /// # Errors
    /// One line: which index, and why it cannot be opened.
    pub fn start(disks: &[PathBuf]) -> std::result::Result<(Self, Vec<JoinHandle<()>>), String> {
        let start = |root: &PathBuf| {
            let describe = |error: &dyn std::fmt::Display| {
                format!("cannot open the listing index in {}: {error}", root.display())
            };
            let db = index_db::open(root).map_err(|error| describe(&error))?;
            let applied = index_db::applied(&db).map_err(|error| describe(&error))?;
            let (tasks, queue) = async_channel::bounded(INDEX_QUEUE);
            let failure = Arc::<Mutex<Option<String>>>::default();
            let (thread_root, thread_failure) = (root.clone(), Arc::clone(&failure));
            let thread = thread::Builder::new()
                .name("index".to_owned())
                .spawn(move || serve(db, &thread_root, &queue, &thread_failure))
                .map_err(|error| describe(&error))?;
            Ok((Index { tasks, applied, failure }, thread))
        };
        let started: std::result::Result<Vec<_>, String> = disks.iter().map(start).collect();
        let (disks, threads): (Vec<_>, Vec<_>) = started?.into_iter().unzip();
        Ok((Self { disks: Arc::new(disks) }, threads))
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

    /// The last transaction seen of a slot when the indexes were opened.
    pub(super) fn applied(&self, slot: Slot) -> u64 {
        let number = slot.index() as u16;
        self.disks.iter().filter_map(|index| index.applied.get(&number)).copied().max().unwrap_or(0)
    }

    /// Sends a change on its way; waits while the queue is full.
    pub(super) fn apply(&self, disk: usize, change: Change) {
        if self.disks[disk].tasks.send_blocking(Task::Change(change)).is_err() {
            self.fail(disk, "its thread has stopped");
        }
    }

    /// Takes an index out of service.
    pub(super) fn fail(&self, disk: usize, reason: &str) {
        fail(&self.disks[disk].failure, reason);
    }

    /// Why a disk's listing is out of service.
    pub fn failure(&self, disk: usize) -> Option<String> {
        self.disks[disk].failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A stretch of a listing from one disk.
    pub async fn list(&self, disk: usize, listing: Listing) -> Result<Page> {
        let stopped = || Error::new(Code::Internal, "the listing index has stopped; see the server's log");
        let (reply, answer) = oneshot::channel();
        self.disks[disk].tasks.send(Task::List(Box::new(listing), reply)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

fn fail(failure: &Mutex<Option<String>>, reason: &str) {
    tracing::error!(%reason, "listing index out of service");
    failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| reason.to_owned());
}

/// The thread: changes that are waiting go into one transaction.
fn serve(db: Connection, root: &Path, tasks: &Receiver<Task>, failure: &Mutex<Option<String>>) {
    let mut db = Some(db);
    while let Ok(first) = tasks.recv_blocking() {
        let mut changes = Vec::new();
        let mut next = Some(first);
        let mut listing = None;
        while let Some(task) = next {
            match task {
                Task::Change(change) => changes.push(change),
                Task::List(asked, reply) => {
                    listing = Some((asked, reply));
                    break;
                }
            }
            next = if changes.len() < INDEX_QUEUE { tasks.try_recv().ok() } else { None };
        }
        let result = db.as_ref().map(|db| apply(db, &changes));
        if let Some(Err(error)) = result {
            // What it missed it would never learn: the next start makes it again.
            fail(
                failure,
                &format!("the listing index in {}: {error}; restart to make it again", root.display()),
            );
            db = None;
            index_db::discard(root);
        }
        if let Some((asked, reply)) = listing {
            let reason = failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let result = match (&db, reason) {
                (Some(db), None) => {
                    index_db::list(db, &asked, LISTING_STEPS).map_err(|error| error.to_string())
                }
                (_, reason) => Err(reason.unwrap_or_default()),
            };
            let unavailable =
                |why| Error::new(Code::SlotUnavailable, format!("listing is out of service: {why}"));
            // An asker that is gone needs no answer.
            let _ = reply.send(result.map_err(unavailable));
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
