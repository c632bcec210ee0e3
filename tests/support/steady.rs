//! A load that goes on whatever happens to the nodes, and knows what was acknowledged of it: each path is written once, and some
//! are deleted again.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure in it is a failed test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::support::{Connection, Request, Response, bytes, object, poll};

/// An answer that has not come after this never does.
const PATIENCE: Duration = Duration::from_secs(20);
/// Every acknowledged blob is there within this.
const DEADLINE: Duration = Duration::from_secs(30);
const CLIENTS: usize = 4;

/// What is known of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Stored,
    Deleted,
    /// It was not told.
    Open,
}

type Fates = Arc<Mutex<BTreeMap<String, (u64, Fate)>>>;

pub struct Steady {
    fates: Fates,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<()>>,
}

pub struct Seen(BTreeMap<String, (u64, Fate)>);

fn body(seed: u64) -> Vec<u8> {
    bytes(seed, if seed.is_multiple_of(4) { 120_000 } else { 700 + seed as usize % 1000 })
}

fn exchange(node: SocketAddr, request: &Request) -> Option<Response> {
    let mut link = Connection::try_open(node).ok()?;
    link.set_read_timeout(PATIENCE);
    link.exchange(request).ok()
}

impl Steady {
    /// Writes through all of `nodes`, until it is stopped.
    pub fn start(nodes: Vec<SocketAddr>, prefix: &str, seed: u64) -> Self {
        let (fates, stop) = (Fates::default(), Arc::new(AtomicBool::new(false)));
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let clients = (0..CLIENTS)
            .map(|client| {
                let (fates, stop, acknowledged) =
                    (Arc::clone(&fates), Arc::clone(&stop), Arc::clone(&acknowledged));
                let (nodes, prefix) = (nodes.clone(), prefix.to_owned());
                std::thread::spawn(move || {
                    for number in 0_u64.. {
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        let id = seed * 1_000_000 + client as u64 * 100_000 + number;
                        let node = nodes[(number as usize + client) % nodes.len()];
                        write(node, &format!("{prefix}/{client}/{number}"), id, &fates, &acknowledged);
                        std::thread::sleep(Duration::from_millis(5));
                    }
                })
            })
            .collect();
        Self { fates, stop, acknowledged, clients }
    }

    /// Writes and deletes that were acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Paths that are there.
    pub fn stored(&self) -> BTreeSet<String> {
        let fates = self.fates.lock().unwrap();
        fates.iter().filter(|(_, (_, fate))| *fate == Fate::Stored).map(|(path, _)| path.clone()).collect()
    }

    pub fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().expect("a client of the load");
        }
        Seen(self.fates.lock().unwrap().clone())
    }
}

fn write(node: SocketAddr, path: &str, id: u64, fates: &Fates, acknowledged: &AtomicUsize) {
    let tell = |fate| {
        fates.lock().unwrap().insert(path.to_owned(), (id, fate));
    };
    tell(Fate::Open);
    let told = exchange(node, &Request::new("PUT", &object(path)).body(body(id)));
    if told.is_none_or(|answer| answer.status != 201) {
        return;
    }
    acknowledged.fetch_add(1, Ordering::Relaxed);
    if !id.is_multiple_of(5) {
        return tell(Fate::Stored);
    }
    let told = exchange(node, &Request::new("DELETE", &object(path)));
    if told.is_some_and(|answer| answer.status == 200) {
        acknowledged.fetch_add(1, Ordering::Relaxed);
        tell(Fate::Deleted);
    }
}

impl Seen {
    pub fn deleted(&self) -> usize {
        self.0.values().filter(|(_, fate)| *fate == Fate::Deleted).count()
    }

    /// Panics unless what was stored is there, with its bytes, through each of these nodes, and what was deleted is not.
    #[track_caller]
    pub fn assert_kept(&self, nodes: &[SocketAddr]) {
        for (path, (id, fate)) in &self.0 {
            for node in nodes {
                let mut last = None;
                // What is in doubt, or on its way, is 503 for a moment; a wrong answer is never right later.
                let told = poll(DEADLINE, || {
                    let answer = exchange(*node, &Request::new("GET", &object(path)))?;
                    last = Some(answer.status);
                    (answer.status != 503).then_some(answer)
                });
                let Some(answer) = told else { panic!("{path} through {node}: {last:?} after {DEADLINE:?}") };
                let good = match (fate, answer.status) {
                    (Fate::Stored | Fate::Open, 200) => answer.body == body(*id),
                    (Fate::Deleted | Fate::Open, 404) => true,
                    _ => false,
                };
                assert!(good, "{path} through {node}: {fate:?}, but {}", answer.status);
            }
        }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |wanted| self.0.values().filter(|(_, fate)| *fate == wanted).count();
        let [stored, deleted, open] = [Fate::Stored, Fate::Deleted, Fate::Open].map(count);
        write!(f, "{stored} stored, {deleted} deleted, {open} not known")
    }
}
