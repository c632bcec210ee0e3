//! The roof: opens the disks, starts the threads in order, and stops them in order.

mod births;
mod cluster;

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing_subscriber::EnvFilter;
use ulid::Ulid;

use self::cluster::Membership;
use crate::background::{self, Settings};
use crate::base::slot::Slot;
use crate::chunk::charter;
use crate::chunk::disk::{self, Disk, Usage};
use crate::chunk::sweep::LiveUploads;
use crate::config::{self, Config, Io};
use crate::io::bulk::registry::Registry;
use crate::io::cache::BlockCache;
use crate::io::listen;
use crate::limits::{
    ARCHIVE_BLOCKS_HELD, BLOCKS_HELD, CONNECTIONS_PER_CORE, PROBE_TICK, READER_DATABASES, RING_MEMORY,
    STOP_LAST, WRITER_DATABASES,
};
use crate::meta::births::Births;
use crate::meta::index::Indexes;
use crate::meta::journal::{Journals, Started};
use crate::meta::reader::Readers;
use crate::meta::schema::Durability;
use crate::meta::slots::State;
use crate::meta::writer::{Rules, Writers};
use crate::metrics::Metrics;
use crate::shard::archive::desk::Desk;
use crate::shard::core;
use crate::shard::node::Node;
use crate::shard::peers::cluster::Cluster;
use crate::shard::placement::Placement;
use crate::shard::repair::damage::Damages;

/// What ends a node.
enum End {
    Signal,
    Failed(String),
}

/// Runs a node until SIGTERM or SIGINT.
///
/// # Errors
/// One line: what cannot be started, why, and what to do.
pub fn serve(config: &Config, cores: Option<usize>) -> Result<(), String> {
    init_log();
    raise_file_limit();
    core::check_ring()?;
    let cpus = allowed_cpus();
    let cores = cores.unwrap_or(cpus.len());
    let (end, ended) = mpsc::channel();
    catch_signals(end.clone())?;

    let disks = disk::open_all(
        &config.storage.disks,
        Usage {
            direct: config.storage.io == Io::Direct,
            clustered: config.cluster.is_some(),
            relaxed: config.storage.durability == Durability::Relaxed,
        },
    )?;
    let listeners = listen::listen_all(config.listen.public, cores)
        .map_err(|error| format!("cannot listen on {}: {error}", config.listen.public))?;
    let public = listeners[0].local_addr().map_err(|error| error.to_string())?;
    let admin_listener = listen::listen_all(config.listen.admin, 1)
        .map_err(|error| format!("cannot listen on {}: {error}", config.listen.admin))?
        .remove(0);
    let admin = admin_listener.local_addr().map_err(|error| error.to_string())?;

    let run_id = Ulid::generate().to_string()[16..].to_lowercase();
    let membership = Membership::open(config, (public, admin), &disks, &run_id, cores)?;
    let (peers, member) = membership.map(|it| ((it.peer, it.listeners), it.member)).unzip();
    let (peer, peer_listeners) = peers.unzip();
    let relay = cluster::start_tls(config, cores)?;
    let found = births::look(&disks)?;
    let replicated = config.cluster.as_ref().is_some_and(|cluster| cluster.topology.replica_count() > 1);
    let born = births::open(&disks, &found, replicated)?;
    let cluster = if let Some(member) = &member {
        Some(cluster::compose(config, &disks, member, relay.as_ref())?)
    } else {
        let roots: Vec<PathBuf> = disks.iter().map(|disk| disk.root().to_path_buf()).collect();
        charter::check_alone(&roots)?;
        None
    };
    let (node, metadata) = compose(config, disks, (found, born), cores, run_id, cluster)?;
    let config::Scrub { interval, rate, quarantine } = config.scrub;
    let background = background::start(
        Arc::clone(&node),
        admin_listener,
        config.current_node.clone(),
        public,
        member,
        Settings { interval, rate, quarantine },
        config.archive.clone(),
    )
    .map_err(|error| format!("cannot start the background thread: {error}"))?;
    let (stop, stopping) = async_channel::bounded(1);
    let mut threads = Vec::new();
    let peer_listeners: Vec<TcpListener> = peer_listeners.unwrap_or_default();
    let mut peer_listeners = cluster::listen_for_peers(&node, peer_listeners, relay.as_ref())?.into_iter();
    for (number, listener) in listeners.into_iter().enumerate() {
        let peer_listener = peer_listeners.next();
        let (node, stopping, end) = (Arc::clone(&node), stopping.clone(), end.clone());
        let cpu = cpus[number % cpus.len()];
        let run = move || {
            pin(cpu);
            if let Err(error) = core::run(number, node, listener, peer_listener, stopping) {
                // Nobody listens once the node is stopping anyway.
                let _ = end.send(End::Failed(format!("core {number} cannot run: {error}")));
            }
        };
        let started = thread::Builder::new().name(format!("core-{number}")).spawn(run);
        threads.push(started.map_err(|error| format!("cannot start core {number}: {error}"))?);
    }
    announce(config, public, admin, peer, cores);
    tell_manager(&[NotifyState::Ready]);

    let outcome = match ended.recv() {
        Ok(End::Failed(error)) => Err(error),
        Ok(End::Signal) | Err(_) => Ok(()),
    };
    tell_manager(&[NotifyState::Stopping]);
    node.stopping.store(true, Ordering::Release);
    end_by_force(&node);
    drop(stop);
    join(threads);
    if let Some(relay) = relay {
        relay.stop();
    }
    background.stop();
    // The metadata threads finish what waits for them; the indexes last, since the writers send them changes.
    node.writers.close();
    node.readers.close();
    join(metadata.databases);
    node.indexes.close();
    join(metadata.indexes);
    metadata.journals.close();
    // What is left in a journal is for the next start to read.
    let settled = metadata.recyclers.into_iter().all(|recycler| recycler.join().is_ok_and(|empty| empty));
    // A commit that failed, or a check that never came to pass, may have left a log that is not on disk.
    let in_doubt = Slot::all().any(|slot| matches!(node.slots.state(slot), State::Failed | State::Unchecked));
    let syncs = config.storage.durability == Durability::Full || node.cluster.is_some();
    if syncs && settled && !in_doubt {
        node.disks.iter().for_each(|disk| disk.rest());
    }
    outcome
}

/// A disk that does not answer holds its threads for ever: the process ends without them, also where that is found out only now.
fn end_by_force(node: &Node) {
    let disks = node.disks.clone();
    let end = move || {
        while !disks.iter().any(|disk| disk.health().has_failed()) {
            thread::sleep(PROBE_TICK);
        }
        thread::sleep(STOP_LAST);
        tracing::error!("a disk that has failed does not answer: the process ends without it");
        std::process::exit(1);
    };
    if let Err(error) = thread::Builder::new().name("end".to_owned()).spawn(end) {
        tracing::warn!(%error, "the process may wait for a disk that does not answer");
    }
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        if thread.join().is_err() {
            tracing::error!("a thread ended in a panic");
        }
    }
}

/// The metadata threads.
struct Metadata {
    databases: Vec<JoinHandle<()>>,
    indexes: Vec<JoinHandle<()>>,
    journals: Journals,
    recyclers: Vec<JoinHandle<bool>>,
}

/// Everything that the cores share, and the metadata threads behind it.
fn compose(
    config: &Config,
    disks: Vec<Disk>,
    (found, born): (Vec<births::SlotFound>, births::Born),
    cores: usize,
    run_id: String,
    cluster: Option<Arc<Cluster>>,
) -> Result<(Arc<Node>, Metadata), String> {
    let roots: Vec<PathBuf> = disks.iter().map(|disk| disk.root().to_path_buf()).collect();
    let slots = Arc::new(births::table(found, &born));
    if let Some(cluster) = &cluster {
        cluster.mark(&slots);
    }
    let cache_bytes = config.storage.cache.bytes(memory());
    let send = config.network.send;
    let local = config.listen.public.ip().is_loopback();
    let away = if config.archive.is_some() { ARCHIVE_BLOCKS_HELD } else { 0 };
    let held = cores as u64 * ((BLOCKS_HELD + away) as u64 + RING_MEMORY);
    let registry = Arc::new(Registry::for_sending(send, local, cache_bytes + held)?);
    let durability = config.storage.durability;
    let shares = FileShares::of(cores);
    let roster = cluster.as_ref().map(|cluster| Arc::clone(&cluster.roster));
    let ballast = Arc::new(disks.iter().map(Disk::ballast).collect::<Vec<_>>());
    let rules = Rules {
        durability,
        sync_logs: durability == Durability::Full && !disks.iter().all(Disk::was_clean),
        keep_versions: config.storage.keep_versions,
        ballast: Arc::clone(&ballast),
        open_databases: shares.writers,
        births: Arc::new(Births::new(roots.iter().cloned().zip(born))),
        roster: roster.clone(),
    };
    if durability == Durability::Relaxed || disks.iter().any(Disk::was_relaxed) {
        // The slots may have lost what an index has seen.
        Indexes::discard(&roots);
    }
    disks.iter().try_for_each(|disk| {
        disk.take_mark_off().map_err(|error| format!("{}: {error}", disk.root().display()))
    })?;
    let describe = |error: io::Error| format!("cannot start the metadata threads: {error}");
    let (indexes, indexing) = Indexes::start(&roots, &slots, &ballast).map_err(describe)?;
    let Started { journals, recovered, recyclers } =
        Journals::start(&roots, durability == Durability::Full, cores)?;
    let (writers, writing) =
        Writers::start(&slots, &indexes, &rules, &journals, recovered, cores).map_err(describe)?;
    let (readers, reading) =
        Readers::start(&slots, &writers, &ballast, shares.readers, roster.as_ref(), cores)
            .map_err(describe)?;
    let databases = reading.into_iter().chain(writing).collect();
    let archive = config.archive.as_ref().map(|settings| Arc::new(Desk::new(cores, settings.rules)));
    let has_replicas = cluster.as_ref().is_some_and(|it| it.topology().replica_count() > 1);
    let node = Node {
        run_id,
        slots,
        readers,
        writers,
        indexes,
        cache: BlockCache::new(cache_bytes, &registry).map_err(describe)?,
        registry,
        send,
        live: LiveUploads::default(),
        damages: Damages::new(cores, !has_replicas && archive.is_none()),
        metrics: Metrics::default(),
        synced: durability == Durability::Full,
        tombstone_grace: config.storage.tombstone_grace,
        placement: Placement::new(cores, shares.connections),
        open_chunks: shares.chunks,
        cluster,
        archive,
        keep_versions: config.storage.keep_versions,
        stopping: AtomicBool::new(false),
        disks: disks.into_iter().map(Arc::new).collect(),
    };
    Ok((Arc::new(node), Metadata { databases, indexes: indexing, journals, recyclers }))
}

/// How the files that a process may open are shared out: three eighths for databases, with three files each, most of
/// them to writers, which want all slots open; nine sixteenths for connections; half of the rest for chunks kept open, and
/// half for those being written.
struct FileShares {
    writers: usize,
    readers: usize,
    connections: usize,
    chunks: usize,
}

impl FileShares {
    fn of(cores: usize) -> Self {
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX) as usize;
        let databases = files / 8;
        let writers = (databases / 10 * 9).min(WRITER_DATABASES);
        Self {
            writers: writers.div_ceil(cores).max(8),
            readers: ((databases - writers).min(READER_DATABASES) / cores).max(8),
            chunks: (files / 32 / cores).max(8),
            connections: (files / 16 * 9).clamp(8, CONNECTIONS_PER_CORE * cores),
        }
    }
}

fn announce(config: &Config, public: SocketAddr, admin: SocketAddr, peer: Option<SocketAddr>, cores: usize) {
    if config.storage.durability == Durability::Relaxed {
        // Like the line below: who closed the stream does not want to know.
        let _ = writeln!(
            io::stderr(),
            "amberblob: durability = \"relaxed\": a power cut or a crash of the system can lose the writes of the last \
             seconds, acknowledged ones too"
        );
    }
    let member = peer.map_or_else(String::new, |peer| format!("node={} peer={peer} ", config.current_node));
    let disks: Vec<String> = config.storage.disks.iter().map(|disk| display(disk)).collect();
    let _ = writeln!(
        io::stdout(),
        "amberblob: serving public=http://{public} admin=http://{admin} {member}cores={cores} disks={} data={}",
        disks.len(),
        disks.join(",")
    );
}

/// Tells the service manager that has started this, if one wants to know (sd_notify(3)).
fn tell_manager(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be told how the node is");
    }
}

fn display(path: &Path) -> String {
    path.display().to_string()
}

fn init_log() {
    let filter = EnvFilter::try_from_env("AMBERBLOB_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    // A second start in one process keeps the first log.
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // A log that cannot be written must not end the server.
    let _ = log.log_internal_errors(false).try_init();
}

/// Sends the first signal on; a second one ends the process at once.
fn catch_signals(end: mpsc::Sender<End>) -> Result<(), String> {
    let describe = |error: io::Error| format!("cannot handle signals: {error}");
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(describe)?;
    let wait = move || {
        for (count, _) in signals.forever().enumerate() {
            if count > 0 {
                std::process::exit(1);
            }
            let _ = end.send(End::Signal);
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(wait).map(drop).map_err(describe)
}

/// As many open files as the system allows: a connection is one, a database three.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

fn allowed_cpus() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(None) else { return vec![0] };
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect();
    if cpus.is_empty() { vec![0] } else { cpus }
}

fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    if let Err(error) = sched_setaffinity(None, &set) {
        tracing::warn!(cpu, %error, "cannot pin a thread to its core");
    }
}

/// Bytes of memory that this process may use.
fn memory() -> u64 {
    let info = rustix::system::sysinfo();
    let total = info.totalram.saturating_mul(u64::from(info.mem_unit));
    let limit =
        std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    limit.map_or(total, |limit: u64| limit.min(total))
}
