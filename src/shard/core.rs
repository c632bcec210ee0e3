//! One core's thread: its ring, its listener, the state its tasks share.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, IntoRawFd as _, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_channel::Receiver;
use monoio::net::{TcpListener, TcpStream};
use monoio::time::sleep;
use monoio::{IoUringDriver, RuntimeBuilder};

use super::answers::Answers;
use super::archive;
use super::connection::{self, Plane};
use super::node::Node;
use super::peers::{self, Idle};
use super::repair;
use crate::base::clock::Timestamp;
use crate::base::slot::Slot;
use crate::chunk::files::OpenFiles;
use crate::io::budget::Budget;
use crate::io::bulk::Bulk;
use crate::io::hashing::Hashing;
use crate::io::listen;
use crate::io::storage::StorageThreads;
use crate::limits::{
    ARCHIVE_BLOCKS_HELD, ARCHIVE_READS_HELD, BLOCKS_HELD, BULK_LAST_WAIT, FIRST_BUFFERS, MORE_BUFFERS,
    OPEN_CHUNK_IDLE, OPEN_CHUNKS, PAGES_HELD, RESCUES_HELD, RING_ENTRIES, STOP_TIME,
};
use crate::metrics::RequestLabels;

/// The state of one core, shared by its tasks.
pub struct Core {
    pub(super) number: usize,
    pub(super) node: Arc<Node>,
    pub(super) answers: Answers,
    /// Sends large responses.
    pub(super) bulk: Bulk,
    /// What uploads may hold in first buffers, so that slow ones leave each other room.
    pub(super) first_buffers: Budget,
    /// What uploads may hold in further and larger ones.
    pub(super) more_buffers: Budget,
    /// What hashes the buffers of uploads.
    pub(super) hashing: Hashing,
    /// What responses may hold in blocks.
    pub(super) blocks: Budget,
    /// Chunk files that are open for reading.
    pub(super) files: OpenFiles,
    /// What reads may hold of bytes that other replicas send for damaged ones.
    pub(super) rescues: Budget,
    /// What responses may hold in blocks of blobs whose chunks are archived: those that wait for the store leave room to others.
    pub(super) archived_blocks: Budget,
    /// What reads may hold of bytes from the archive on their way to their blocks.
    pub(super) archived_reads: Budget,
    /// When versions were read; none: nobody wants to know.
    pub(super) reads: Option<archive::reads::Reads>,
    /// Blobs whose archived chunks no other replica has as files.
    pub(super) nowhere: archive::Nowhere,
    /// Reads that wait for the archive.
    pub(super) reads_away: Cell<usize>,
    /// What listings may hold.
    pub(super) pages: Budget,
    /// What may be held of those that other nodes ask for. Apart, since whoever lists waits for other nodes' pages.
    pub(super) peer_pages: Budget,
    /// Connections that wait for a request, or for the rest of its head.
    pub(super) waiting: RefCell<HashSet<RawFd>>,
    /// Connections to other nodes.
    pub(super) idle: Idle,
    requests: Cell<u64>,
    date: RefCell<(i64, Rc<str>)>,
}

/// Names a request: this run, the core, a number.
#[derive(Clone, Copy)]
pub(super) struct RequestId<'a> {
    run: &'a str,
    core: usize,
    number: u64,
}

impl fmt::Display for RequestId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.run, self.core, self.number)
    }
}

impl Core {
    /// To be made inside of the core's runtime.
    fn new(number: usize, node: Arc<Node>) -> io::Result<Rc<Self>> {
        Ok(Rc::new(Self {
            number,
            bulk: Bulk::start(&node.registry, node.bulk_counts())?,
            answers: Answers::new(),
            first_buffers: Budget::new(FIRST_BUFFERS),
            more_buffers: Budget::new(MORE_BUFFERS),
            hashing: Hashing::new()?,
            blocks: Budget::new(BLOCKS_HELD),
            files: OpenFiles::new(OPEN_CHUNKS.min(node.open_chunks), node.damages.replaced()),
            rescues: Budget::new(RESCUES_HELD),
            archived_blocks: Budget::new(ARCHIVE_BLOCKS_HELD),
            archived_reads: Budget::new(ARCHIVE_READS_HELD),
            reads: node.archive.as_ref().map(|desk| archive::reads::Reads::new(desk.rules.step())),
            nowhere: archive::Nowhere::new(),
            reads_away: Cell::new(0),
            pages: Budget::new(PAGES_HELD),
            peer_pages: Budget::new(PAGES_HELD),
            waiting: RefCell::default(),
            idle: Idle::new(node.cluster.as_ref().map_or(0, |cluster| cluster.topology().nodes().count())),
            requests: Cell::new(0),
            date: RefCell::new((0, "".into())),
            node,
        }))
    }

    /// Whether a slot's writer is beside this core.
    pub(super) fn owns(&self, slot: Slot) -> bool {
        slot.core(self.node.placement.cores()) == self.number
    }

    /// The value of `Date`, made once a second.
    pub(super) fn date(&self) -> Rc<str> {
        let now = Timestamp::now();
        let mut date = self.date.borrow_mut();
        if date.0 != now.seconds() {
            *date = (now.seconds(), now.http_date().into());
        }
        Rc::clone(&date.1)
    }

    /// The identity of the next request, for its error and its log lines.
    pub(super) fn next_request(&self) -> RequestId<'_> {
        let number = self.requests.get() + 1;
        self.requests.set(number);
        RequestId { run: &self.node.run_id, core: self.number, number }
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.node.is_stopping()
    }

    pub(super) fn count(&self, method: &'static str, status: u16) {
        self.node.metrics.requests.get_or_create(&RequestLabels { method, status }).inc();
    }
}

/// Checks that this machine lets a process make rings.
///
/// # Errors
/// One line: what is refused, and how to allow it.
pub fn check_ring() -> Result<(), String> {
    RuntimeBuilder::<IoUringDriver>::new().build().map(drop).map_err(|error| match error.raw_os_error() {
        Some(libc::EPERM) => "io_uring is refused here: set kernel.io_uring_disabled=0 with sysctl, or allow \
                              io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile"
            .to_owned(),
        Some(libc::ENOSYS) => "this kernel has no io_uring: run Linux 5.15 or later".to_owned(),
        Some(libc::ENOMEM) => "no memory may be locked for io_uring: raise 'ulimit -l'".to_owned(),
        _ => format!("io_uring cannot be set up: {error}"),
    })
}

/// Runs a core until `stop` closes and its requests have finished.
///
/// # Errors
/// When the ring or the listener cannot be set up.
pub fn run(
    number: usize,
    node: Arc<Node>,
    listener: std::net::TcpListener,
    peer_listener: Option<std::net::TcpListener>,
    stop: Receiver<()>,
) -> io::Result<()> {
    let storage = StorageThreads::start(number)?;
    let mut runtime = RuntimeBuilder::<IoUringDriver>::new()
        .enable_timer()
        .with_entries(RING_ENTRIES)
        .attach_thread_pool(Box::new(storage.pool()))
        .build()?;
    runtime.block_on(async move {
        let core = Core::new(number, node)?;
        // Held until the end, so that their descriptors are not others' when they are shut.
        let mut listeners = vec![(Rc::new(TcpListener::from_std(listener)?), Plane::Public)];
        if let Some(listener) = peer_listener {
            listeners.push((Rc::new(TcpListener::from_std(listener)?), Plane::Peer(None)));
        }
        monoio::spawn(look_after_files(Rc::clone(&core), Arc::clone(&storage)));
        monoio::spawn(adopt(Rc::clone(&core)));
        if let Some(cluster) = &core.node.cluster {
            monoio::spawn(peers::run(Rc::clone(&core), Arc::clone(cluster)));
        }
        if core.node.cluster.is_some() || core.node.archive.is_some() {
            monoio::spawn(repair::run(Rc::clone(&core), core.node.cluster.clone()));
        }
        if let Some(desk) = &core.node.archive {
            monoio::spawn(archive::bring_back(Rc::clone(&core), Arc::clone(desk)));
            monoio::spawn(archive::reads::run(Rc::clone(&core), desk.rules.step()));
            if let Some(cluster) = &core.node.cluster {
                let errands = archive::run_errands(Rc::clone(&core), Arc::clone(cluster), Arc::clone(desk));
                monoio::spawn(errands);
            }
        }
        let accept = |(listener, plane): &(Rc<TcpListener>, Plane)| {
            monoio::spawn(accept(Rc::clone(&core), Rc::clone(listener), *plane))
        };
        let accepting: Vec<_> = listeners.iter().map(accept).collect();
        // Nothing is sent: the channel closes when the node stops.
        let _ = stop.recv().await;
        for ((listener, _), accepting) in listeners.iter().zip(accepting) {
            listen::shut(listener.as_raw_fd());
            accepting.await;
        }
        finish(&core).await;
        archive::reads::write_down(&core).await;
        if let Some(desk) = &core.node.archive {
            desk.close(core.number);
        }
        core.bulk.close(BULK_LAST_WAIT).await;
        storage.close();
        Ok(())
    })
}

/// Accepts connections and gives each one a place.
async fn accept(core: Rc<Core>, listener: Rc<TcpListener>, plane: Plane) {
    loop {
        match listener.accept().await {
            Ok(_) if core.is_stopping() => {}
            Ok((stream, _)) => {
                let Some(placed) = core.node.placement.place(core.number) else {
                    tracing::debug!(core = core.number, "connection refused: too many");
                    continue;
                };
                if placed.core() == core.number {
                    monoio::spawn(connection::serve(Rc::clone(&core), stream, plane, placed));
                } else {
                    #[expect(unsafe_code, reason = "the way out of the runtime")]
                    // SAFETY: the descriptor was just given up by its only owner.
                    let stream = unsafe { std::net::TcpStream::from_raw_fd(stream.into_raw_fd()) };
                    core.node.placement.hand_over(stream, plane, placed);
                }
            }
            Err(_) if core.is_stopping() => return,
            Err(error) => {
                tracing::warn!(core = core.number, %error, "cannot accept; raise 'ulimit -n' if files ran out");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Until the core's runtime ends.
async fn look_after_files(core: Rc<Core>, storage: Arc<StorageThreads>) {
    loop {
        sleep(OPEN_CHUNK_IDLE / 5).await;
        core.files.close_idle();
        storage.relieve();
    }
}

/// Serves the connections that other cores accepted.
async fn adopt(core: Rc<Core>) {
    while let Some((stream, plane, placed)) = core.node.placement.next(core.number).await {
        match TcpStream::from_std(stream) {
            Ok(stream) => drop(monoio::spawn(connection::serve(Rc::clone(&core), stream, plane, placed))),
            Err(error) => tracing::warn!(core = core.number, %error, "cannot take a connection over"),
        }
    }
}

/// Ends what idles, and waits for what runs.
async fn finish(core: &Core) {
    let deadline = Instant::now() + STOP_TIME;
    while core.node.placement.connections(core.number) > 0 {
        core.waiting.borrow().iter().for_each(|fd| listen::shut(*fd));
        if Instant::now() >= deadline {
            tracing::warn!(
                core = core.number,
                connections = core.node.placement.connections(core.number),
                "requests cut off by the stop"
            );
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
}
