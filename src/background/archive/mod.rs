//! The archive's thread: it alone talks to the store. It fetches what reads want, moves chunks out and back for operators, picks
//! by itself what moves out, has replicas told where chunks are, and deletes what no row names any more.
//!
//! A runtime of its own, so that neither TLS nor hashing holds up the admin pages; where it shares a processor with a core that
//! serves, that core comes first. Reads are served until nobody is there any more who could ask; orders end as soon as the node
//! begins to stop, between any two of their steps, and are asked for again after that.

mod budget;
mod everywhere;
mod fetching;
mod inventory;
mod keys;
mod leftovers;
mod moving;
mod picking;
mod report;
mod restoring;
mod source;
mod spreading;
mod store;

use std::io;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use async_channel::{Receiver, Sender};
use rustix::process::setpriority_process;
use serde_json::{Value, json};
use tokio::runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::sleep;

use self::budget::Budget;
use self::keys::Keys;
use self::leftovers::Looked;
use self::report::{Board, Running};
use self::store::Store;
use crate::archive::settings::{Credentials, Settings};
use crate::base::error::{Code, Error, Result};
use crate::limits::{ARCHIVE_FETCHES, ARCHIVE_OPERATIONS, ARCHIVE_PAUSE_MIN, ARCHIVE_RETRY_PAUSE};
use crate::shard::archive::desk::{Desk, Ordering};
use crate::shard::node::Node;

/// How much the thread gives way: less than the scrub, since clients wait for it.
const NICE: i32 = 5;

/// What an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Order {
    /// The chunks of a version go to the store, and their files go.
    Archive {
        /// Its path.
        path: String,
        /// Which; none: the newest.
        version: Option<u64>,
    },
    /// The chunks of a version come back.
    Restore {
        /// Its path.
        path: String,
        /// Which; none: the newest.
        version: Option<u64>,
    },
    /// The chunks of the newest versions of all paths that begin so come back.
    RestorePrefix {
        /// What they begin with.
        prefix: String,
    },
    /// Rows are compared with what is in the store.
    Check,
}

impl Order {
    fn describe(&self) -> Value {
        match self {
            Self::Archive { path, version } => {
                json!({ "operation": "archive", "path": path, "version": version })
            }
            Self::Restore { path, version } => {
                json!({ "operation": "restore", "path": path, "version": version })
            }
            Self::RestorePrefix { prefix } => json!({ "operation": "restore", "prefix": prefix }),
            Self::Check => json!({ "operation": "check" }),
        }
    }
}

/// An order of an operator on its way to the thread.
struct Asked {
    order: Order,
    place: OwnedSemaphorePermit,
    reply: oneshot::Sender<Result<Value>>,
}

/// Who asks the thread.
#[derive(Clone)]
pub(super) struct Asker {
    orders: Sender<Asked>,
    places: Arc<Semaphore>,
    board: Arc<Board>,
    node: Arc<Node>,
    bucket: String,
    prefix: String,
    endpoint: Option<String>,
}

impl Asker {
    /// Has an order carried out, and waits for its report.
    ///
    /// # Errors
    /// `SlotUnavailable` when there are too many, `BlobNotFound`, `Internal` when the node stops.
    pub(super) async fn order(&self, order: Order) -> Result<Value> {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return Err(Error::new(
                Code::SlotUnavailable,
                format!("too many: {ARCHIVE_OPERATIONS} archive operations are under way: ask again later"),
            ));
        };
        let (reply, report) = oneshot::channel();
        self.orders.send(Asked { order, place, reply }).await.map_err(|_| stopping())?;
        report.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// What there is to say of the archive now.
    pub(super) fn status(&self) -> Value {
        let failing = self.node.archive.as_ref().and_then(|desk| desk.health.failing());
        let metrics = &self.node.metrics.archive;
        json!({
            "good": failing.is_none(),
            "bucket": self.bucket,
            "prefix": self.prefix,
            "endpoint": self.endpoint,
            "failing": failing,
            "orders": self.board.status(),
            "counts": {
                "uploaded_bytes": metrics.uploaded_bytes.get(),
                "fetched_bytes": metrics.fetched_bytes.get(),
                "chunks_archived": metrics.chunks_archived.get(),
                "chunks_dropped": metrics.chunks_dropped.get(),
                "chunks_restored": metrics.chunks_restored.get(),
                "reads": metrics.reads.get(),
                "read_failures": metrics.read_failures.get(),
                "leftovers_deleted": metrics.leftovers_deleted.get(),
            },
        })
    }
}

fn stopping() -> Error {
    Error::new(Code::Internal, "the operation was cut off by the node's stop: ask again")
}

/// Starts the thread. It ends when nobody can ask it any more.
///
/// # Errors
/// When there are no credentials that the store could be asked with, or the thread cannot be started.
pub(super) fn start(node: Arc<Node>, settings: Settings) -> io::Result<(Asker, JoinHandle<()>)> {
    let desk =
        node.archive.clone().ok_or_else(|| io::Error::other("the node has no desk for its archive"))?;
    let credentials =
        settings.credentials.load().map_err(|why| io::Error::other(format!("[archive]: {why}")))?;
    let (orders, waiting) = async_channel::bounded(ARCHIVE_OPERATIONS);
    let board = Arc::<Board>::default();
    let asker = Asker {
        orders,
        places: Arc::new(Semaphore::new(ARCHIVE_OPERATIONS)),
        board: Arc::clone(&board),
        node: Arc::clone(&node),
        bucket: settings.bucket.clone(),
        prefix: settings.prefix.clone(),
        endpoint: settings.endpoint.clone(),
    };
    // One reads the file of each upload, one removes a file; a few more look for credentials and names.
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(settings.uploads.max(1) * 2 + 4)
        .build()?;
    let (tell, opened) = mpsc::channel();
    let run = move || {
        // Of this thread alone, and those that it starts.
        if let Err(error) = setpriority_process(None, NICE) {
            tracing::warn!(%error, "the archive takes as much of a processor as those that serve");
        }
        let local = LocalSet::new();
        local.block_on(&runtime, async move {
            match Archiver::open(node, desk, settings, credentials, board) {
                Ok(archiver) => {
                    // Who started this waits for it.
                    let _ = tell.send(Ok(()));
                    archiver.run(waiting).await;
                }
                Err(why) => {
                    let _ = tell.send(Err(why));
                }
            }
        });
        // What is under way is given up; a disk or a name server that does not answer holds up nothing.
        drop(local);
        runtime.shutdown_background();
    };
    let thread = thread::Builder::new().name("archive".to_owned()).spawn(run)?;
    match opened.recv() {
        Ok(Ok(())) => Ok((asker, thread)),
        Ok(Err(why)) => Err(io::Error::other(format!("[archive]: {why}"))),
        Err(_) => Err(io::Error::other("the archive's thread has ended")),
    }
}

/// What the thread has.
struct Archiver {
    node: Arc<Node>,
    desk: Arc<Desk>,
    settings: Settings,
    store: Store,
    budget: Budget,
    keys: Rc<Keys>,
    looked: Looked,
    board: Arc<Board>,
}

impl Archiver {
    /// To be made inside of the runtime.
    fn open(
        node: Arc<Node>,
        desk: Arc<Desk>,
        settings: Settings,
        credentials: Credentials,
        board: Arc<Board>,
    ) -> std::result::Result<Rc<Self>, String> {
        let store = Store::open(Arc::clone(&node), Arc::clone(&desk), settings.clone(), credentials)?;
        let budget = Budget::new(settings.rate, settings.uploads);
        let looked = Looked::new();
        Ok(Rc::new(Self { node, desk, settings, store, budget, keys: Rc::default(), looked, board }))
    }

    /// Works until nobody can ask any more.
    async fn run(self: Rc<Self>, asked: Receiver<Asked>) {
        for _ in 0..ARCHIVE_FETCHES {
            spawn_local(fetching::serve(Rc::clone(&self)));
        }
        spawn_local(Rc::clone(&self).probe());
        spawn_local(leftovers::run(Rc::clone(&self)));
        spawn_local(spreading::run(Rc::clone(&self)));
        picking::start(&self);
        for _ in 0..ARCHIVE_OPERATIONS {
            spawn_local(Rc::clone(&self).obey_others());
        }
        while let Ok(asked) = asked.recv().await {
            spawn_local(Rc::clone(&self).obey(asked));
        }
    }

    /// Asks the store how it is at the start, and as long as it fails, so that it is known when it is good again.
    async fn probe(self: Rc<Self>) {
        let mut begun = false;
        loop {
            let failing = self.desk.health.failing().is_some();
            if !begun || failing && self.desk.health.pause(Instant::now()).is_none() {
                begun = true;
                let bucket = &self.settings.bucket;
                let probed = self.store.ask("probe", bucket, 1, async |target| target.probe().await).await;
                if let Err(failure) = probed {
                    tracing::warn!(%failure, "the archive cannot be used");
                }
            }
            sleep(ARCHIVE_PAUSE_MIN).await;
        }
    }

    /// Carries out an order, in a cluster everywhere, unless the node stops first.
    async fn obey(self: Rc<Self>, asked: Asked) {
        let Asked { order, place, reply } = asked;
        let shown = self.board.show(order.clone());
        let carry_out = async {
            match &self.node.cluster {
                Some(cluster) if order != Order::Check => {
                    self.order_all(cluster, order, &shown.running).await
                }
                _ => {
                    self.carry_out(order, &shown.running).await?;
                    Ok(shown.running.describe())
                }
            }
        };
        let report = tokio::select! {
            report = carry_out => report,
            () = self.until_stopping() => Err(stopping()),
        };
        drop((shown, place));
        // Whoever asked may have gone.
        let _ = reply.send(report);
    }

    /// Carries out, here alone, orders that come through other nodes; they take no places of those that are given here, or two
    /// nodes could wait for each other.
    async fn obey_others(self: Rc<Self>) {
        let orders = self.desk.orders();
        while let Ok(Ordering { order, reply }) = orders.recv().await {
            let order = Order::from(order);
            let shown = self.board.show(order.clone());
            let done = tokio::select! {
                done = self.carry_out(order, &shown.running) => done,
                () = self.until_stopping() => Err(stopping()),
            };
            // Whoever asked may have gone.
            let _ = reply.send(done.map(|()| shown.running.describe()));
        }
    }

    async fn carry_out(self: &Rc<Self>, order: Order, running: &Running) -> Result<()> {
        match order {
            Order::Archive { path, version } => self.archive(&path, version, running).await,
            Order::Restore { path, version } => self.restore(&path, version, running).await,
            Order::RestorePrefix { prefix } => {
                self.restore_prefix(&prefix, running).await;
                Ok(())
            }
            Order::Check => {
                let inventory = self.take_inventory().await?;
                running.note(|report| report.inventory(&inventory));
                Ok(())
            }
        }
    }

    /// Ends when the node begins to stop.
    async fn until_stopping(&self) {
        while !self.node.is_stopping() {
            sleep(ARCHIVE_RETRY_PAUSE).await;
        }
    }
}
