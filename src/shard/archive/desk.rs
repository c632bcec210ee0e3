//! Where the cores and the archive's thread meet: bytes that reads want and orders of other nodes go one way, chunks to bring back
//! and what other nodes are asked the other. Also which blobs are worked on, and which slots have objects to delete or rows to
//! spread.
//!
//! All queues are bounded, and whoever waits gives up in time. Nothing here is kept over a restart, and nothing needs to be: rows
//! say what is archived, and leftovers of all slots are looked at after the start.

use std::collections::{BTreeSet, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_channel::{Receiver, Sender};
use futures_channel::oneshot;
use monoio::time::timeout;
use serde_json::Value;

use super::errands::Errand;
use super::heat::Heat;
use super::pressure::Pressure;
use crate::archive::health::Health;
use crate::archive::settings::Rules;
use crate::base::error::{Code, Error, Result};
use crate::base::ids::BlobId;
use crate::base::slot::Slot;
use crate::base::topology::NodeId;
use crate::limits::{
    ARCHIVE_ERRANDS, ARCHIVE_LOST_MAX, ARCHIVE_OPERATIONS, ARCHIVE_QUEUE, ARCHIVE_READ_TIME, ARCHIVE_RESTORES,
};
use crate::replication::spread::Told;
use crate::shard::repair::damage::Place;
use crate::wire::peer::archive::{ArchiveRow, Order};

/// Bytes of an object that somebody waits for.
#[derive(Debug)]
pub struct Fetch {
    /// Whose rows name it.
    pub slot: Slot,
    /// The object.
    pub target: String,
    /// Which of its bytes.
    pub range: Range<u64>,
    /// Where they go, or what the store said; who is gone by then is not missed.
    pub reply: oneshot::Sender<std::result::Result<Vec<u8>, String>>,
}

/// What became of a chunk that was to be brought back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Brought {
    /// Its file is here now; its bytes.
    Back(u64),
    /// It was here, or its version is gone.
    Needless,
}

/// An order of an operator that came through another node.
#[derive(Debug)]
pub struct Ordering {
    /// What is to be done here.
    pub order: Order,
    /// Where the report goes; who is gone by then is not missed.
    pub reply: oneshot::Sender<Result<Value>>,
}

/// A chunk that a core is to bring back.
#[derive(Debug)]
pub(super) struct Bring {
    pub(super) place: Place,
    pub(super) reply: oneshot::Sender<Result<Brought>>,
}

type Queue<T> = (Sender<T>, Receiver<T>);

/// What the cores and the archive's thread share.
pub struct Desk {
    /// What goes by itself.
    pub rules: Rules,
    fetches: Queue<Fetch>,
    /// By core.
    bringing: Vec<Queue<Bring>>,
    /// By core.
    errands: Vec<Queue<Errand>>,
    orders: Queue<Ordering>,
    working: Arc<Mutex<HashSet<BlobId>>>,
    leftovers: Noted,
    unspread: Noted,
    /// How full disks are, for uploads that may have to wait.
    pub pressure: Pressure,
    /// How the store is.
    pub health: Health,
    /// What it has lost.
    pub lost: Lost,
    heat: Mutex<Heat>,
}

/// Slots to be looked at.
#[derive(Default)]
struct Noted(Mutex<BTreeSet<Slot>>);

impl Noted {
    fn note(&self, slot: Slot) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(slot);
    }

    fn take(&self) -> Vec<Slot> {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *slots).into_iter().collect()
    }
}

/// Objects that the store does not have any more, as far as they were met by a read.
#[derive(Default)]
pub struct Lost(Mutex<BTreeSet<String>>);

impl Lost {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes one that is missing; true: that is news.
    pub fn miss(&self, target: &str) -> bool {
        let mut lost = self.lock();
        lost.len() < ARCHIVE_LOST_MAX && lost.insert(target.to_owned())
    }

    /// Notes one that is there, or that nobody needs any more.
    pub fn found(&self, target: &str) {
        self.lock().remove(target);
    }

    /// What there is to say of them.
    fn notice(&self) -> Option<String> {
        let lost = self.lock();
        let first = lost.first()?;
        Some(format!(
            "the archive has lost {} objects that hold the only copy of a chunk, such as {first}: put them back, or delete \
             their versions",
            lost.len()
        ))
    }
}

/// A blob that is worked on until this is dropped.
#[derive(Debug)]
pub struct Working {
    blob: BlobId,
    working: Arc<Mutex<HashSet<BlobId>>>,
}

impl Drop for Working {
    fn drop(&mut self) {
        self.working.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.blob);
    }
}

fn stopped() -> Error {
    Error::new(Code::SlotUnavailable, "the node stops: ask again when it is back")
}

impl Desk {
    /// That of a node with so many cores.
    pub fn new(cores: usize, rules: Rules) -> Self {
        Self {
            rules,
            fetches: async_channel::bounded(ARCHIVE_QUEUE),
            bringing: (0..cores).map(|_| async_channel::bounded(ARCHIVE_RESTORES)).collect(),
            errands: (0..cores).map(|_| async_channel::bounded(ARCHIVE_ERRANDS)).collect(),
            orders: async_channel::bounded(ARCHIVE_OPERATIONS),
            working: Arc::default(),
            leftovers: Noted::default(),
            unspread: Noted::default(),
            pressure: Pressure::default(),
            health: Health::new(),
            lost: Lost::default(),
            heat: Mutex::new(Heat::new()),
        }
    }

    /// What is wanted of the store, for the archive's thread.
    pub fn fetches(&self) -> Receiver<Fetch> {
        self.fetches.1.clone()
    }

    /// Bytes of an object that a row of a slot names. To be asked by a core.
    ///
    /// # Errors
    /// What the store said, or that it said nothing in time.
    pub async fn fetch(
        &self,
        slot: Slot,
        target: &str,
        range: Range<u64>,
    ) -> std::result::Result<Vec<u8>, String> {
        let (reply, answer) = oneshot::channel();
        let fetch = Fetch { slot, target: target.to_owned(), range, reply };
        let asking = async {
            let unanswered = || "the archive's thread has stopped".to_owned();
            self.fetches.0.send(fetch).await.map_err(|_| unanswered())?;
            answer.await.map_err(|_| unanswered())?
        };
        timeout(ARCHIVE_READ_TIME, asking).await.unwrap_or_else(|_| Err(self.silence(target)))
    }

    /// Why an object was not had in time.
    pub(super) fn silence(&self, target: &str) -> String {
        let seconds = ARCHIVE_READ_TIME.as_secs();
        let trouble = self.trouble().map_or_else(String::new, |trouble| format!(": {trouble}"));
        format!("{target} was not had within {seconds} seconds{trouble}")
    }

    /// What fails of the store, for who looks after the node.
    pub fn trouble(&self) -> Option<String> {
        self.health.failing().map(|failing| format!("the archive fails {failing}"))
    }

    /// What an operator may want to know of the archive.
    pub fn notices(&self) -> impl Iterator<Item = String> {
        self.trouble().into_iter().chain(self.lost.notice())
    }

    /// Has the core of a slot bring a chunk back, and waits for that. Whoever asks has the blob as one that [is worked
    /// on](Self::work_on).
    ///
    /// # Errors
    /// `SlotUnavailable` when the store does not give it, or the node stops; `DiskFull`; those of the metadata.
    pub async fn bring_back(&self, place: Place) -> Result<Brought> {
        let (reply, brought) = oneshot::channel();
        self.queue(place.slot).0.send(Bring { place, reply }).await.map_err(|_| stopped())?;
        brought.await.map_err(|_| stopped())?
    }

    /// The same, unless others wait for that already, all that may; then none.
    ///
    /// # Errors
    /// As [`Self::bring_back`].
    pub(super) async fn bring_back_if_quiet(&self, place: Place) -> Option<Result<Brought>> {
        let (reply, brought) = oneshot::channel();
        self.queue(place.slot).0.try_send(Bring { place, reply }).ok()?;
        Some(brought.await.unwrap_or_else(|_| Err(stopped())))
    }

    /// Which chunks are read again and again.
    pub(super) fn heat(&self) -> MutexGuard<'_, Heat> {
        self.heat.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the replicas of a slot told of archive rows of versions of a path, at most [`SPREAD_ROWS`](crate::limits::SPREAD_ROWS) of
    /// them; what is known of each then. In a cluster only.
    ///
    /// # Errors
    /// `SlotUnavailable` when the node stops, `QuorumUnavailable` while the cluster is not formed.
    pub async fn spread(&self, slot: Slot, path: &str, rows: Vec<ArchiveRow>) -> Result<Vec<Told>> {
        let (reply, told) = oneshot::channel();
        let spread = Errand::Spread { slot, path: path.to_owned(), rows, reply };
        self.errands_of(slot).0.send(spread).await.map_err(|_| stopped())?;
        told.await.map_err(|_| stopped())?
    }

    /// Has the replicas of a slot condemn objects; whether each was by all of them. In a cluster only.
    ///
    /// # Errors
    /// As [`Self::spread`].
    pub async fn condemn(&self, slot: Slot, path: &str, targets: Vec<String>) -> Result<Vec<bool>> {
        let (reply, condemned) = oneshot::channel();
        let condemn = Errand::Condemn { slot, path: path.to_owned(), targets, reply };
        self.errands_of(slot).0.send(condemn).await.map_err(|_| stopped())?;
        condemned.await.map_err(|_| stopped())?
    }

    /// Has another node do its part of an order, which may take [long](crate::limits::ARCHIVE_ORDER_TIME); its report.
    ///
    /// # Errors
    /// `BlobNotFound` when it has no such version, `SlotUnavailable` with the reason when there is no report.
    pub async fn order_at(&self, to: NodeId, order: Order) -> Result<Value> {
        let (reply, report) = oneshot::channel();
        let core = to.index() % self.errands.len().max(1);
        let Some((errands, _)) = self.errands.get(core) else { return Err(stopped()) };
        errands.send(Errand::Order { to, order, reply }).await.map_err(|_| stopped())?;
        report.await.map_err(|_| stopped())?
    }

    /// Orders that came through other nodes, for the archive's thread.
    pub fn orders(&self) -> Receiver<Ordering> {
        self.orders.1.clone()
    }

    /// Has an order that came through another node carried out here; its report.
    ///
    /// # Errors
    /// `SlotUnavailable` when there are too many, or the node stops; those of the order.
    pub(super) async fn obey(&self, order: Order) -> Result<Value> {
        let (reply, report) = oneshot::channel();
        if self.orders.0.try_send(Ordering { order, reply }).is_err() {
            let message =
                format!("too many: {ARCHIVE_OPERATIONS} orders of other nodes wait here: ask again later");
            return Err(Error::new(Code::SlotUnavailable, message));
        }
        report.await.map_err(|_| stopped())?
    }

    fn errands_of(&self, slot: Slot) -> &Queue<Errand> {
        &self.errands[slot.core(self.errands.len())]
    }

    /// What a core is to ask other nodes next; none: it stops.
    pub(super) async fn next_errand(&self, core: usize) -> Option<Errand> {
        self.errands.get(core)?.1.recv().await.ok()
    }

    fn queue(&self, slot: Slot) -> &Queue<Bring> {
        &self.bringing[slot.core(self.bringing.len())]
    }

    /// The next chunk that a core is to bring back; none: it stops.
    pub(super) async fn next(&self, core: usize) -> Option<Bring> {
        self.bringing.get(core)?.1.recv().await.ok()
    }

    /// A core brings nothing back and asks nobody any more; who waits for it hears so.
    pub(in crate::shard) fn close(&self, core: usize) {
        fn close<T>(queue: Option<&Queue<T>>) {
            let Some((_, asked)) = queue else { return };
            asked.close();
            while asked.try_recv().is_ok() {}
        }
        close(self.bringing.get(core));
        close(self.errands.get(core));
    }

    /// Enters a blob as one that is worked on; none: it is by somebody else.
    pub fn work_on(&self, blob: BlobId) -> Option<Working> {
        let entered = self.working.lock().unwrap_or_else(PoisonError::into_inner).insert(blob);
        entered.then(|| Working { blob, working: Arc::clone(&self.working) })
    }

    /// Whether a blob is worked on, so that its files are not strays.
    pub fn is_worked_on(&self, blob: BlobId) -> bool {
        self.working.lock().unwrap_or_else(PoisonError::into_inner).contains(&blob)
    }

    /// Notes that a slot may have objects that nothing names any more.
    pub fn note_leftovers(&self, slot: Slot) {
        self.leftovers.note(slot);
    }

    /// Takes the slots that were noted.
    pub fn take_slots_with_leftovers(&self) -> Vec<Slot> {
        self.leftovers.take()
    }

    /// Notes that a slot may have rows that not all replicas hold.
    pub fn note_unspread(&self, slot: Slot) {
        self.unspread.note(slot);
    }

    /// Takes the slots that were noted.
    pub fn take_slots_with_unspread(&self) -> Vec<Slot> {
        self.unspread.take()
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::meta::types::Row;

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    fn place(number: u64) -> Place {
        Place { slot: Slot::new(3).unwrap(), row: Row(1), number }
    }

    #[test]
    fn a_blob_is_worked_on_by_one_until_that_one_lets_go() {
        let desk = Desk::new(2, Rules::default());
        let (blob, other) = (BlobId::from_u128(1), BlobId::from_u128(2));
        let working = desk.work_on(blob).unwrap();
        assert!(desk.work_on(blob).is_none());
        assert!(desk.is_worked_on(blob), "who was refused took nothing away");
        assert!(!desk.is_worked_on(other));
        let another = desk.work_on(other);
        drop(working);
        assert!(!desk.is_worked_on(blob) && desk.is_worked_on(other));
        assert!(desk.work_on(blob).is_some() && another.is_some());
    }

    #[test]
    fn slots_with_leftovers_are_taken_once_and_in_order() {
        let desk = Desk::new(1, Rules::default());
        let slots = [7, 3, 7].map(|number| Slot::new(number).unwrap());
        for slot in slots {
            desk.note_leftovers(slot);
        }
        assert_eq!(desk.take_slots_with_leftovers(), [slots[1], slots[0]]);
        assert_eq!(desk.take_slots_with_leftovers(), []);
        desk.note_leftovers(slots[0]);
        assert_eq!(desk.take_slots_with_leftovers(), [slots[0]]);
    }

    #[test]
    fn lost_objects_are_told_until_they_are_found() {
        let desk = Desk::new(1, Rules::default());
        assert_eq!(desk.notices().count(), 0);
        assert!(desk.lost.miss("s3://b/k") && !desk.lost.miss("s3://b/k"), "it is news once");
        let notices: Vec<String> = desk.notices().collect();
        assert!(
            notices.len() == 1 && notices[0].contains("lost 1 objects") && notices[0].contains("s3://b/k")
        );
        desk.lost.found("s3://b/k");
        assert_eq!(desk.notices().count(), 0);
    }

    #[test]
    fn who_waits_for_a_core_that_stops_hears_of_it() {
        let desk = Desk::new(2, Rules::default());
        let mut waiting = pin!(desk.bring_back(place(0)));
        assert!(poll(waiting.as_mut()).is_pending());
        desk.close(Slot::new(3).unwrap().core(2));
        assert!(
            matches!(poll(waiting.as_mut()), Poll::Ready(Err(error)) if error.code == Code::SlotUnavailable)
        );
        assert!(
            matches!(poll(pin!(desk.bring_back(place(1)))), Poll::Ready(Err(_))),
            "nor does it take more"
        );
    }

    #[test]
    fn what_is_read_often_does_not_queue_up_behind_a_restore() {
        let desk = Desk::new(1, Rules::default());
        let mut waiting: Vec<_> =
            (0..ARCHIVE_RESTORES as u64).map(|number| Box::pin(desk.bring_back(place(number)))).collect();
        for waiting in &mut waiting {
            assert!(poll(waiting.as_mut()).is_pending());
        }
        assert!(matches!(poll(pin!(desk.bring_back_if_quiet(place(9)))), Poll::Ready(None)));
        let Poll::Ready(Some(next)) = poll(pin!(desk.next(0))) else { panic!("they wait") };
        assert_eq!(next.place, place(0));
        let mut quiet = pin!(desk.bring_back_if_quiet(place(9)));
        assert!(poll(quiet.as_mut()).is_pending(), "there is room again");
        next.reply.send(Ok(Brought::Back(5))).unwrap();
        assert!(matches!(poll(waiting[0].as_mut()), Poll::Ready(Ok(Brought::Back(5)))));
    }
}
