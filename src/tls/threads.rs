//! The relay's threads: who accepts, who connects, and who carries which connection.
//!
//! A connection goes to the thread that has the fewest. Each thread is a tokio runtime of its own; the cores only send it
//! jobs and wait for answers, by channels that belong to no runtime.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use async_channel::{Receiver, Sender};
use futures_channel::oneshot;
use rustix::net::sockopt;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{sleep, timeout};

use super::buffers::Buffers;
use super::identity::Files;
use super::pump::{Link, Stop};
use super::reload::Identities;
use super::session::Session;
use crate::limits::{SEND_STALL, TLS_CONNECTIONS, TLS_HANDSHAKE_TIME, TLS_HANDSHAKES, TLS_LINGER, TLS_QUEUE};

/// A connection that a verified node has opened.
pub struct Peer {
    /// The stream of its bytes: one end of a pair of Unix sockets, in blocking mode.
    pub socket: OwnedFd,
    /// The node's name.
    pub name: String,
}

/// Who is given the connections that come in. Runs on a thread of the relay, so it must not wait.
type Take = Arc<dyn Fn(Peer) + Send + Sync>;

/// The running threads.
pub struct Relay {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// Opens connections to other nodes.
#[derive(Clone)]
pub struct Connector(Arc<Shared>);

struct Shared {
    identities: Identities,
    workers: Vec<Worker>,
    handshakes: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

/// One thread, as the others see it.
struct Worker {
    jobs: Sender<Job>,
    carries: Arc<AtomicUsize>,
}

struct Job {
    task: Task,
    carried: Carried,
}

enum Task {
    /// Accept on this socket until the end.
    Listen(TcpListener, Take),
    /// A connection was accepted.
    Serve { tcp: std::net::TcpStream, from: SocketAddr, take: Take, place: OwnedSemaphorePermit },
    /// A node is to be connected to.
    Connect { address: SocketAddr, node: String, answer: oneshot::Sender<io::Result<OwnedFd>> },
}

/// Counts a task of a thread for as long as it exists.
struct Carried(Arc<AtomicUsize>);

impl Carried {
    fn new(carries: &Arc<AtomicUsize>) -> Self {
        carries.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(carries))
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Relay {
    /// Reads the files and starts the threads. `names` are those of all nodes, `me` is this one.
    ///
    /// # Errors
    /// One line: a file that cannot be used, what is wrong with it, the way out.
    pub fn start(files: Files, names: &[String], me: &str, threads: usize) -> Result<Self, String> {
        let identities = Identities::new(files, names, me)?;
        let (workers, queues): (Vec<_>, Vec<_>) = (0..threads.max(1))
            .map(|_| async_channel::bounded(TLS_QUEUE))
            .map(|(jobs, queue)| (Worker { jobs, carries: Arc::default() }, queue))
            .unzip();
        let shared = Arc::new(Shared {
            identities,
            workers,
            handshakes: Arc::new(Semaphore::new(TLS_HANDSHAKES)),
            connections: Arc::new(Semaphore::new(TLS_CONNECTIONS)),
        });
        let mut relay = Self { shared, threads: Vec::new() };
        for (number, queue) in queues.into_iter().enumerate() {
            let started = relay.start_thread(number, queue);
            relay.threads.push(started.map_err(|error| format!("cannot start a thread for TLS: {error}"))?);
        }
        Ok(relay)
    }

    fn start_thread(&self, number: usize, queue: Receiver<Job>) -> io::Result<JoinHandle<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let shared = Arc::clone(&self.shared);
        let run = move || LocalSet::new().block_on(&runtime, work(shared, number, queue));
        thread::Builder::new().name(format!("tls-{number}")).spawn(run)
    }

    /// Accepts connections and gives those of verified nodes to `take`, which runs on a thread of the relay and must not
    /// wait.
    ///
    /// # Errors
    /// When the listener cannot be used, or the relay has stopped.
    pub fn listen(
        &self,
        listener: TcpListener,
        take: impl Fn(Peer) + Send + Sync + 'static,
    ) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let (jobs, job) = self.shared.assign(Task::Listen(listener, Arc::new(take)));
        jobs.try_send(job).map_err(|_| io::Error::other("TLS has stopped or is busy"))
    }

    /// Opens connections, from any thread and runtime.
    pub fn connector(&self) -> Connector {
        Connector(Arc::clone(&self.shared))
    }

    /// Ends, after the cores have: what they have sent is still delivered.
    pub fn stop(self) {
        for worker in &self.shared.workers {
            worker.jobs.close();
        }
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a thread of TLS ended in a panic");
            }
        }
    }
}

impl Connector {
    /// Connects to a node and verifies that it is that one.
    ///
    /// # Errors
    /// One line: the node, what failed, the way out. `TimedOut` after [`TLS_HANDSHAKE_TIME`].
    pub async fn connect(&self, address: SocketAddr, node: &str) -> io::Result<OwnedFd> {
        let stopped = |_| io::Error::new(io::ErrorKind::NotConnected, "TLS has stopped");
        let (answer, answered) = oneshot::channel();
        let (jobs, job) = self.0.assign(Task::Connect { address, node: node.to_owned(), answer });
        jobs.send(job).await.map_err(|_| stopped(oneshot::Canceled))?;
        let outcome = answered.await.map_err(stopped)?;
        outcome.map_err(|error| io::Error::new(error.kind(), format!("{node} at {address}: {error}")))
    }
}

impl Shared {
    /// Makes a task a job of the thread that has the fewest.
    fn assign(&self, task: Task) -> (&Sender<Job>, Job) {
        let least = self.workers.iter().min_by_key(|worker| worker.carries.load(Ordering::Relaxed));
        let worker = least.unwrap_or(&self.workers[0]);
        (&worker.jobs, Job { task, carried: Carried::new(&worker.carries) })
    }
}

/// One thread: jobs, until the queue closes.
async fn work(shared: Arc<Shared>, number: usize, queue: Receiver<Job>) {
    let carries = Arc::clone(&shared.workers[number].carries);
    let buffers = Buffers::default();
    let (stop, stopping) = watch::channel(false);
    let mut listeners = Vec::new();
    while let Ok(Job { task, carried }) = queue.recv().await {
        let (shared, buffers, stop) = (Arc::clone(&shared), buffers.clone(), stopping.clone());
        let is_listener = matches!(task, Task::Listen(..));
        let running = spawn_local(async move {
            match task {
                Task::Listen(listener, take) => accept(shared, listener, take).await,
                Task::Serve { tcp, from, take, place } => {
                    serve(&shared, &buffers, (tcp, from), take, place, stop).await;
                }
                Task::Connect { address, node, answer } => {
                    connect(&shared, &buffers, address, node, answer, stop).await;
                }
            }
            drop(carried);
        });
        if is_listener {
            listeners.push(running);
        }
    }
    listeners.iter().for_each(tokio::task::JoinHandle::abort);
    let _ = stop.send(true);
    let last = async {
        while carries.load(Ordering::Relaxed) > 0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let _ = timeout(TLS_LINGER, last).await;
}

/// Accepts until the thread ends. Who waits for a place waits in the backlog.
async fn accept(shared: Arc<Shared>, listener: TcpListener, take: Take) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "cannot accept connections of other nodes"),
    };
    while let Ok(place) = Arc::clone(&shared.handshakes).acquire_owned().await {
        let accepted = listener.accept().await;
        match accepted.and_then(|(tcp, from)| Ok((tcp.into_std()?, from))) {
            Ok((tcp, from)) => {
                let task = Task::Serve { tcp, from, take: Arc::clone(&take), place };
                let (jobs, job) = shared.assign(task);
                if jobs.send(job).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a node's connection; raise 'ulimit -n' if files ran out");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// A connection that was accepted, from its handshake to its end.
async fn serve(
    shared: &Shared,
    buffers: &Buffers,
    (tcp, from): (std::net::TcpStream, SocketAddr),
    take: Take,
    handshake: OwnedSemaphorePermit,
    stop: Stop,
) {
    let established = async {
        let identity = shared.identities.current();
        let session = Session::accept(Arc::clone(&identity.server), buffers)?;
        let link = Link::establish(prepare(TcpStream::from_std(tcp)?)?, session, buffers).await?;
        let name = link.session(|session| {
            let certificate = session.peer_certificate().ok_or(rustls::Error::NoCertificatesPresented)?;
            shared.identities.names.named_by(certificate).map(str::to_owned)
        });
        Ok((link, name.map_err(io::Error::other)?))
    };
    let (link, name) = match in_time(established).await {
        Ok(established) => established,
        // A probe of the port, say: a node that refuses us says so.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return tracing::debug!(%from, %error, "no handshake");
        }
        Err(error) => return tracing::warn!(%from, %error, "a connection of no node was refused"),
    };
    drop(handshake);
    let Ok(_place) = Arc::clone(&shared.connections).try_acquire_owned() else {
        return tracing::warn!(%from, %name, "a node's connection was refused: there are {TLS_CONNECTIONS}");
    };
    match pair() {
        Ok((socket, core)) => {
            take(Peer { socket, name: name.clone() });
            carry(link, core, &name, stop).await;
        }
        Err(error) => tracing::warn!(%error, "no socket for a node's connection; raise 'ulimit -n'"),
    }
}

/// A connection that was asked for, from its handshake to its end.
async fn connect(
    shared: &Shared,
    buffers: &Buffers,
    address: SocketAddr,
    node: String,
    answer: oneshot::Sender<io::Result<OwnedFd>>,
    stop: Stop,
) {
    let established = async {
        let place = Arc::clone(&shared.connections).try_acquire_owned();
        let place = place.map_err(|_| io::Error::other("there are too many connections between nodes"))?;
        let name = shared.identities.names.find(&node).cloned();
        let name = name.ok_or_else(|| io::Error::other("it is no node of this cluster"))?;
        let identity = shared.identities.current();
        let session = Session::connect(Arc::clone(&identity.client), name, buffers)?;
        let tcp = prepare(TcpStream::connect(address).await?)?;
        let link = Link::establish(tcp, session, buffers).await?;
        Ok((link, pair()?, place))
    };
    let (link, (socket, core), _place) = match in_time(established).await {
        Ok(established) => established,
        // Who asked may have given up.
        Err(error) => return drop(answer.send(Err(error))),
    };
    if answer.send(Ok(socket)).is_ok() {
        carry(link, core, &node, stop).await;
    }
}

async fn in_time<T>(established: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(TLS_HANDSHAKE_TIME, established).await.unwrap_or_else(|_| {
        let message = format!("no connection with TLS within {} seconds", TLS_HANDSHAKE_TIME.as_secs());
        Err(io::Error::new(io::ErrorKind::TimedOut, message))
    })
}

async fn carry(link: Link, core: UnixStream, name: &str, stop: Stop) {
    if let Err(error) = link.relay(core, stop).await {
        tracing::debug!(%name, %error, "a node's connection broke");
    }
}

/// What every connection to a node is: without delay, and given up when the node acknowledges nothing.
fn prepare(tcp: TcpStream) -> io::Result<TcpStream> {
    tcp.set_nodelay(true)?;
    sockopt::set_tcp_user_timeout(&tcp, SEND_STALL.as_millis() as u32)?;
    Ok(tcp)
}

/// The core's end and ours.
fn pair() -> io::Result<(OwnedFd, UnixStream)> {
    let (theirs, ours) = std::os::unix::net::UnixStream::pair()?;
    // Theirs stays blocking: on a ring, that is what lets an operation wait.
    ours.set_nonblocking(true)?;
    Ok((theirs.into(), UnixStream::from_std(ours)?))
}
