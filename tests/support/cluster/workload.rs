//! Clients that write, read and delete on few paths through all nodes, so that they get in each other's way.
//!
//! Every blob of a path has a length of its own: so a HEAD or a listing shows which PUT a version is from.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::client::Client;
use super::history::{Ask, Condition, Op, Told, Which};
use super::ledger::Blob;
use super::support::{Random, poll};

/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(4);
/// A client that got no answer waits so long: what it would ask meanwhile would only be more of unknown outcome.
const REST: Duration = Duration::from_millis(25);
/// Blobs of one run.
const MOST_BLOBS: u64 = 60_000;

/// What a load is to be.
#[derive(Debug, Clone)]
pub struct Load {
    pub clients: usize,
    /// Paths begin with this; the last of `paths` is the one where all versions are deleted at once.
    pub prefix: String,
    pub paths: usize,
    /// Requests of one path after which its clients turn to others: a history is searched as a whole.
    pub most: u64,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    pub history: Vec<Op>,
    pub findings: Vec<String>,
}

/// What all clients share.
struct Shared<'a> {
    load: &'a Load,
    nodes: Vec<SocketAddr>,
    stop: AtomicBool,
    began: Instant,
    blobs: AtomicU64,
    /// The highest version and the newest tag that anybody was told of, and how often a path was asked for.
    hints: Vec<Mutex<(u64, Option<String>, u64)>>,
}

impl Load {
    pub fn path(&self, index: usize) -> String {
        format!("{}{index}", self.prefix)
    }

    /// Keeps the nodes busy while `meanwhile` runs. Moments count from `began`.
    pub fn run(
        &self,
        nodes: &[SocketAddr],
        random: &mut Random,
        began: Instant,
        meanwhile: impl FnOnce(),
    ) -> Outcome {
        let shared = Shared {
            load: self,
            nodes: nodes.to_vec(),
            stop: AtomicBool::new(false),
            began,
            blobs: AtomicU64::new(0),
            hints: (0..self.paths).map(|_| Mutex::default()).collect(),
        };
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..self.clients)
                .map(|number| {
                    let (shared, random) = (&shared, Random::new(random.next_u64()));
                    scope.spawn(move || run(shared, number, random))
                })
                .collect();
            // The clients end even if this panics.
            let stop = Stop(&shared.stop);
            meanwhile();
            drop(stop);
            let mut outcome = Outcome::default();
            for client in clients {
                let client = client.join().expect("a client");
                outcome.history.extend(client.journal);
                outcome.findings.extend(client.findings);
            }
            outcome.history.sort_by_key(|op| op.asked);
            outcome
        })
    }
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn run(shared: &Shared<'_>, number: usize, mut random: Random) -> Client {
    let mut client = Client::new(number, &shared.nodes, shared.began, PATIENCE);
    let mut again: Option<(usize, Ask)> = None;
    let stopped = || shared.stop.load(Ordering::SeqCst).then_some(());
    while stopped().is_none() {
        let node = random.below(shared.nodes.len() as u64) as usize;
        // A PUT under a number of its own is now and then asked again, as a client would whose connection broke.
        let (index, ask) = match again.take().filter(|_| random.below(2) == 0) {
            Some(same) => same,
            None => {
                let index = random.below(shared.load.paths as u64) as usize;
                (index, choose(shared, index, &mut random))
            }
        };
        let mut hint = shared.hints[index].lock().unwrap();
        hint.2 += 1;
        let worn = hint.2 > shared.load.most;
        drop(hint);
        if worn {
            poll(REST, stopped);
            continue;
        }
        let told = client.perform(node, &shared.load.path(index), ask.clone());
        if matches!(ask, Ask::Put { version: Some(_), .. }) {
            again = Some((index, ask));
        }
        match told {
            Some(Told::Stored { version, blob_id, .. } | Told::Read { version, blob_id, .. }) => {
                let mut hint = shared.hints[index].lock().unwrap();
                if version >= hint.0 {
                    (hint.0, hint.1) = (version, Some(blob_id));
                }
            }
            Some(_) => {}
            None => {
                poll(REST, stopped);
            }
        }
    }
    client
}

fn choose(shared: &Shared<'_>, index: usize, random: &mut Random) -> Ask {
    let (highest, tag, _) = shared.hints[index].lock().unwrap().clone();
    let any = |random: &mut Random| 1 + random.below(highest + 1);
    let tagged = tag.map_or(Condition::Absent, Condition::Match);
    let pick = random.below(100);
    let put = |version, condition, random: &mut Random| {
        let number = shared.blobs.fetch_add(1, Ordering::SeqCst);
        Ask::Put { version, condition, blob: blob(number, random.below(100)) }
    };
    let last = index + 1 == shared.load.paths;
    match pick {
        0..22 => put(None, Condition::Always, random),
        22..30 => put(None, tagged, random),
        30..35 => put(None, Condition::Absent, random),
        35..41 => {
            let version = if random.below(3) == 0 { any(random) } else { highest + 1 + random.below(3) };
            put(Some(version), Condition::Always, random)
        }
        41..49 => Ask::Delete { which: Which::Newest, condition: Condition::Always },
        49..51 => Ask::Delete { which: Which::Newest, condition: tagged },
        51..55 if last => Ask::Delete { which: Which::All, condition: Condition::Always },
        51..55 => Ask::Delete { which: Which::Version(any(random)), condition: Condition::Always },
        55..83 => Ask::Get { version: None, head: random.below(3) == 0 },
        _ => Ask::Get { version: Some(any(random)), head: random.below(3) == 0 },
    }
}

/// The blob of this number: most live in a database, some in a file, a few are larger than one piece of anything.
fn blob(number: u64, pick: u64) -> Blob {
    assert!(number < MOST_BLOBS, "more blobs than lengths");
    let len = match pick {
        0..80 => 1000 + number,
        80..97 => 70_000 + 8 * number,
        _ => (1 << 20) + 32 * number,
    };
    Blob { seed: 0xb10b_0000_0000 + number, len: len as usize }
}

/// A history by path.
pub fn by_path(history: &[Op]) -> BTreeMap<String, Vec<Op>> {
    let mut paths: BTreeMap<String, Vec<Op>> = BTreeMap::new();
    for op in history {
        paths.entry(op.path.clone()).or_default().push(op.clone());
    }
    paths
}
