//! One core's thread: its ring, its listener, the state its tasks share.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::io;
use std::os::fd::{AsRawFd as _, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_channel::Receiver;
use monoio::blocking::DefaultThreadPool;
use monoio::net::{TcpListener, TcpStream};
use monoio::time::sleep;
use monoio::{IoUringDriver, RuntimeBuilder};

use super::answers::Answers;
use super::connection;
use super::node::Node;
use crate::base::clock::Timestamp;
use crate::io::budget::Budget;
use crate::io::hashing::Hashing;
use crate::io::listen;
use crate::limits::{
    BLOCKS_HELD, FIRST_BUFFERS, MORE_BUFFERS, PAGES_HELD, RING_ENTRIES, STOP_TIME, STORAGE_THREADS,
};
use crate::metrics::RequestLabels;

/// The state of one core, shared by its tasks.
pub struct Core {
    pub(super) number: usize,
    pub(super) node: Arc<Node>,
    pub(super) answers: Answers,
    /// What uploads may hold in first buffers, so that slow ones leave each other room.
    pub(super) first_buffers: Budget,
    /// What uploads may hold in further and larger ones.
    pub(super) more_buffers: Budget,
    /// What hashes the buffers of uploads.
    pub(super) hashing: Hashing,
    /// What responses may hold in blocks.
    pub(super) blocks: Budget,
    /// What listings may hold.
    pub(super) pages: Budget,
    /// Connections that wait for a request, or for the rest of its head.
    pub(super) waiting: RefCell<HashSet<RawFd>>,
    connections: Cell<usize>,
    requests: Cell<u64>,
    date: RefCell<(i64, Rc<str>)>,
}

impl Core {
    fn new(number: usize, node: Arc<Node>) -> io::Result<Rc<Self>> {
        Ok(Rc::new(Self {
            number,
            node,
            answers: Answers::new(),
            first_buffers: Budget::new(FIRST_BUFFERS),
            more_buffers: Budget::new(MORE_BUFFERS),
            hashing: Hashing::new()?,
            blocks: Budget::new(BLOCKS_HELD),
            pages: Budget::new(PAGES_HELD),
            waiting: RefCell::default(),
            connections: Cell::new(0),
            requests: Cell::new(0),
            date: RefCell::new((0, "".into())),
        }))
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
    pub(super) fn next_request(&self) -> String {
        let number = self.requests.get() + 1;
        self.requests.set(number);
        format!("{}-{}-{number}", self.node.run_id, self.number)
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.node.is_stopping()
    }

    pub(super) fn count(&self, method: &'static str, status: u16) {
        self.node.metrics.requests.get_or_create(&RequestLabels { method, status }).inc();
    }

    /// A connection begins.
    fn connected(&self) {
        self.connections.set(self.connections.get() + 1);
        self.node.connections.fetch_add(1, Ordering::Relaxed);
        self.node.metrics.connections.inc();
    }

    /// A connection has ended.
    fn disconnected(&self) {
        self.connections.set(self.connections.get() - 1);
        self.node.connections.fetch_sub(1, Ordering::Relaxed);
        self.node.metrics.connections.dec();
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
    stop: Receiver<()>,
) -> io::Result<()> {
    let mut runtime = RuntimeBuilder::<IoUringDriver>::new()
        .enable_timer()
        .with_entries(RING_ENTRIES)
        .attach_thread_pool(Box::new(DefaultThreadPool::new(STORAGE_THREADS)))
        .build()?;
    runtime.block_on(async move {
        let core = Core::new(number, node)?;
        let listening = listener.as_raw_fd();
        // Held until the end, so that its descriptor is not another one's when it is shut.
        let listener = Rc::new(TcpListener::from_std(listener)?);
        let accepting = monoio::spawn(accept(Rc::clone(&core), Rc::clone(&listener)));
        // Nothing is sent: the channel closes when the node stops.
        let _ = stop.recv().await;
        listen::shut(listening);
        accepting.await;
        finish(&core).await;
        Ok(())
    })
}

async fn accept(core: Rc<Core>, listener: Rc<TcpListener>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if core.is_stopping()
                    || core.node.connections.load(Ordering::Relaxed) >= core.node.connections_max
                {
                    tracing::debug!(core = core.number, "connection refused: too many, or stopping");
                    continue;
                }
                monoio::spawn(serve(Rc::clone(&core), stream));
            }
            Err(_) if core.is_stopping() => return,
            Err(error) => {
                tracing::warn!(core = core.number, %error, "cannot accept; raise 'ulimit -n' if files ran out");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve(core: Rc<Core>, stream: TcpStream) {
    core.connected();
    connection::serve(Rc::clone(&core), stream).await;
    core.disconnected();
}

/// Ends what idles, and waits for what runs.
async fn finish(core: &Core) {
    let deadline = Instant::now() + STOP_TIME;
    while core.connections.get() > 0 {
        core.waiting.borrow().iter().for_each(|fd| listen::shut(*fd));
        if Instant::now() >= deadline {
            tracing::warn!(
                core = core.number,
                connections = core.connections.get(),
                "requests cut off by the stop"
            );
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
}
