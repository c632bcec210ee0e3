//! Clients of nodes whose power will have been cut, each with a journal whose moments are those of the disks' log.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::device::Rig;
use super::ledger::{Ask, Blob, Entry, Told, Which};
use super::load::{Hint, understand};
use super::support::{CHUNK, Connection, Random, Request, SMALL_CHUNK, object};

/// What the clients do.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub clients: u64,
    /// All of them together.
    pub requests: u64,
    /// Each of a slot of its own, mostly.
    pub paths: usize,
    /// Of a hundred PUTs those whose body is a file of its own.
    pub files: u64,
    /// Whether the others are large as well, and one is of two chunks.
    pub heavy: bool,
    /// Whether files of deleted versions go, and all of it is done once more then.
    pub sweeps: bool,
    /// Whether a 503 may come: it leaves the outcome open.
    pub may_refuse: bool,
}

pub fn path_of(index: usize) -> String {
    format!("power/{}/p{index}", index % 3)
}

struct Shared<'a> {
    rig: &'a Rig,
    publics: &'a [SocketAddr],
    load: Load,
    left: AtomicU64,
    seeds: AtomicU64,
    hints: Vec<Hint>,
    failures: Mutex<Vec<String>>,
}

/// Does all of it; the journals of all clients in one.
pub fn run(rig: &Rig, publics: &[SocketAddr], load: Load, seed: u64) -> Vec<Entry> {
    let shared = Shared {
        rig,
        publics,
        load,
        left: AtomicU64::new(load.requests),
        seeds: AtomicU64::new(seed << 20),
        hints: (0..load.paths).map(|_| Mutex::default()).collect(),
        failures: Mutex::default(),
    };
    let mut random = Random::new(seed);
    let entries = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..load.clients)
            .map(|number| {
                let public = publics[number as usize % publics.len()];
                let client = Client {
                    shared: &shared,
                    public,
                    random: Random::new(random.next_u64()),
                    link: None,
                    journal: Vec::new(),
                    large: load.heavy && number == 0,
                };
                scope.spawn(move || client.run())
            })
            .collect();
        clients.into_iter().flat_map(|client| client.join().expect("a client")).collect()
    });
    let failures = shared.failures.into_inner().expect("the failures");
    assert!(failures.is_empty(), "under load: {}", failures.join("\n"));
    entries
}

struct Client<'a> {
    shared: &'a Shared<'a>,
    public: SocketAddr,
    random: Random,
    link: Option<Connection>,
    journal: Vec<Entry>,
    /// Whether the next blob is of two chunks.
    large: bool,
}

impl Client<'_> {
    fn run(mut self) -> Vec<Entry> {
        let left = &self.shared.left;
        while left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            let index = self.random.below(self.shared.load.paths as u64) as usize;
            let (path, ask) = (path_of(index), self.choose(index));
            let asked = self.shared.rig.moment();
            let told = self.perform(&path, &ask);
            let told = told.unwrap_or_else(|error| {
                self.shared.failures.lock().unwrap().push(format!("{ask:?} of {path}: {error}"));
                Told::Nothing
            });
            let answered = if told == Told::Nothing { u64::MAX } else { self.shared.rig.moment() };
            if let Told::Stored { version, blob_id, .. } = &told {
                let mut hint = self.shared.hints[index].lock().unwrap();
                if *version >= hint.0 {
                    *hint = (*version, Some(blob_id.clone()));
                }
            }
            self.journal.push(Entry { path, ask, asked, told, answered });
        }
        self.journal
    }

    fn choose(&mut self, index: usize) -> Ask {
        let (highest, newest) = self.shared.hints[index].lock().unwrap().clone();
        let blob = self.blob();
        let put = |version, tag, if_absent| Ask::Put { version, tag, if_absent, blob };
        match self.random.below(100) {
            0..62 => put(None, None, false),
            62..67 => put(Some(highest + 1 + self.random.below(3)), None, false),
            67..73 => put(None, newest, false),
            73..76 => put(None, None, true),
            76..84 => Ask::Delete(Which::Newest),
            84..89 => Ask::Delete(Which::Version(1 + self.random.below(highest + 1))),
            89..90 => Ask::Delete(Which::All),
            90..96 => Ask::Get(None),
            _ => Ask::Get(Some(1 + self.random.below(highest + 1))),
        }
    }

    fn blob(&mut self) -> Blob {
        let (heavy, random) = (self.shared.load.heavy, &mut self.random);
        let (from, to) = if std::mem::take(&mut self.large) {
            (CHUNK + 1, CHUNK + (1 << 20))
        } else if random.below(100) < self.shared.load.files {
            match random.below(20) {
                0 => (1 << 20, 3 << 20),
                _ => (SMALL_CHUNK + 1, 200_000),
            }
        } else {
            match random.below(4) {
                _ if heavy => (30_000, SMALL_CHUNK),
                0 => (2000, SMALL_CHUNK),
                _ => (Blob::SHORTEST, 2000),
            }
        };
        let len = from + random.below((to - from) as u64) as usize;
        Blob { seed: self.shared.seeds.fetch_add(1, Ordering::SeqCst), len }
    }

    fn perform(&mut self, path: &str, ask: &Ask) -> Result<Told, String> {
        let mut link = match self.link.take() {
            Some(link) => link,
            None => Connection::try_open(self.public).map_err(|error| error.to_string())?,
        };
        let answer = link.exchange(&request(path, ask)).map_err(|error| error.to_string())?;
        if !answer.says_close() {
            self.link = Some(link);
        }
        if answer.status == 503 && self.shared.load.may_refuse {
            return Ok(Told::Nothing);
        }
        understand(ask, &answer).map_err(|wrong| format!("{wrong}: {}", answer.text()))
    }
}

pub fn request(path: &str, ask: &Ask) -> Request {
    let target = match ask {
        Ask::Put { version: Some(version), .. }
        | Ask::Delete(Which::Version(version))
        | Ask::Get(Some(version)) => format!("{}?version={version}", object(path)),
        Ask::Delete(Which::All) => format!("{}?versions", object(path)),
        _ => object(path),
    };
    match ask {
        Ask::Put { tag, if_absent, blob, .. } => {
            let mut request = Request::new("PUT", &target).body(blob.content());
            if let Some(tag) = tag {
                request = request.header("If-Match", format!("\"{tag}\""));
            }
            if *if_absent {
                request = request.header("If-None-Match", "*");
            }
            request
        }
        Ask::Delete(_) => Request::new("DELETE", &target),
        Ask::Get(_) => Request::new("GET", &target),
    }
}

/// The journals as they would be if nothing had happened from a moment on.
pub fn until(entries: &[Entry], at: u64) -> Vec<Entry> {
    let asked = entries.iter().filter(|entry| entry.asked < at);
    asked
        .map(|entry| match entry.answered < at {
            true => entry.clone(),
            false => Entry { told: Told::Nothing, answered: u64::MAX, ..entry.clone() },
        })
        .collect()
}
