//! Clients that keep a server busy until it is killed, each with a journal.
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

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use super::ledger::{Ask, Blob, Entry, Told, Which};
use super::support::{
    CHUNK, Connection, Random, Request, Response, SMALL_CHUNK, Server, object, poll, process,
};

/// How many paths the clients share in all rounds.
pub const PATHS: usize = 50;
/// And how many more in one round alone, so that slots are born in each.
pub const FRESH_PATHS: usize = 6;
const CLIENTS: u64 = 6;
/// One in so many kills comes in the middle of a stop in good order.
const STOPS: u64 = 6;

/// The highest version and the newest blob_id that anybody was told of for a path.
pub type Hint = Mutex<(u64, Option<String>)>;

pub fn path_of(round: u64, index: usize) -> String {
    if index < PATHS {
        format!("kill/{:02}/p{index}", index % 7)
    } else {
        format!("kill/new/{round}/{index}")
    }
}

/// What all clients of a round share.
struct Round<'a> {
    public: SocketAddr,
    /// The order of what is asked and answered.
    clock: AtomicU64,
    /// Set before the server is killed: from then on it may go away.
    killing: AtomicBool,
    number: u64,
    hints: &'a [Hint],
    /// Gives every blob of the whole run a seed of its own.
    seeds: &'a AtomicU64,
    failures: mpsc::Sender<String>,
}

struct Client<'a> {
    round: &'a Round<'a>,
    random: Random,
    link: Option<Connection>,
    journal: Vec<Entry>,
    /// The last PUT under a number of its own, to be tried again.
    explicit: Option<(usize, u64, Blob)>,
    /// Whether this client writes a blob of two chunks in this round.
    large: bool,
}

impl Client<'_> {
    fn run(mut self) -> Vec<Entry> {
        while !self.round.killing.load(Ordering::SeqCst) {
            let index = self.random.below((PATHS + FRESH_PATHS) as u64) as usize;
            let ask = self.choose(index);
            let asked = self.tick();
            let path = path_of(self.round.number, index);
            let told = match self.perform(&path, &ask) {
                Ok(told) => told,
                Err(error) => {
                    if !self.round.killing.load(Ordering::SeqCst) {
                        let _ = self
                            .round
                            .failures
                            .send(format!("{ask:?} of {path} while the server ran: {error}"));
                    }
                    Told::Nothing
                }
            };
            let answered = if told == Told::Nothing { u64::MAX } else { self.tick() };
            self.remember(index, &ask, &told);
            self.journal.push(Entry { path, ask, asked, told, answered });
        }
        self.journal
    }

    fn tick(&self) -> u64 {
        self.round.clock.fetch_add(1, Ordering::SeqCst)
    }

    fn choose(&mut self, index: usize) -> Ask {
        let (highest, newest) = self.round.hints[index].lock().unwrap().clone();
        let put = |blob| Ask::Put { version: None, tag: None, if_absent: false, blob };
        match self.random.below(100) {
            0..45 => put(self.blob()),
            45..54 => {
                let version = match self.random.below(2) {
                    0 => highest + 1 + self.random.below(3),
                    _ => 1 + self.random.below(highest + 1),
                };
                Ask::Put { version: Some(version), tag: None, if_absent: false, blob: self.blob() }
            }
            54..62 => Ask::Put { version: None, tag: newest, if_absent: false, blob: self.blob() },
            62..66 => Ask::Put { version: None, tag: None, if_absent: true, blob: self.blob() },
            66..78 => Ask::Delete(Which::Newest),
            78..84 => Ask::Delete(Which::Version(1 + self.random.below(highest + 1))),
            84..86 => Ask::Delete(Which::All),
            86..93 => Ask::Get(None),
            _ => Ask::Get(Some(1 + self.random.below(highest + 1))),
        }
    }

    fn blob(&mut self) -> Blob {
        let len = if std::mem::take(&mut self.large) {
            CHUNK + (2 << 20)
        } else {
            let random = &mut self.random;
            let sizes =
                [(4, 0, 0), (40, 16, 2000), (16, 2000, SMALL_CHUNK), (4, SMALL_CHUNK, SMALL_CHUNK + 1)];
            let larger = [(34, SMALL_CHUNK + 1, 300_000), (2, 300_000, 3 << 20)];
            let mut pick = random.below(100);
            let mut of = sizes.into_iter().chain(larger);
            loop {
                let (share, from, to) = of.next().expect("the shares make up 100");
                if pick < share {
                    break from + random.below((to - from + 1) as u64) as usize;
                }
                pick -= share;
            }
        };
        Blob { seed: self.round.seeds.fetch_add(1, Ordering::SeqCst), len }
    }

    fn perform(&mut self, path: &str, ask: &Ask) -> std::io::Result<Told> {
        let target = match ask {
            Ask::Put { version: Some(version), .. }
            | Ask::Delete(Which::Version(version))
            | Ask::Get(Some(version)) => format!("{}?version={version}", object(path)),
            Ask::Delete(Which::All) => format!("{}?versions", object(path)),
            _ => object(path),
        };
        let (method, body) = match ask {
            Ask::Put { blob, .. } => ("PUT", Some(blob.content())),
            Ask::Delete(_) => ("DELETE", None),
            Ask::Get(_) => ("GET", None),
        };
        let mut request = Request::new(method, &target);
        if let Ask::Put { tag, if_absent, .. } = ask {
            if let Some(tag) = tag {
                request = request.header("If-Match", format!("\"{tag}\""));
            }
            if *if_absent {
                request = request.header("If-None-Match", "*");
            }
        }
        let answer = self.exchange(method, request, body.as_deref())?;
        if answer.status == 503 && self.round.killing.load(Ordering::SeqCst) {
            // A server that stops need not say more; it may have done it all the same.
            return Ok(Told::Nothing);
        }
        Ok(understand(ask, &answer).unwrap_or_else(|wrong| {
            let shown = answer.text().chars().take(300).collect::<String>();
            let shown = format!("{ask:?} of {path}: {wrong}: {:?} {shown:?}", answer.headers);
            let _ = self.round.failures.send(shown);
            Told::Refused(answer.status)
        }))
    }

    fn exchange(&mut self, method: &str, request: Request, body: Option<&[u8]>) -> std::io::Result<Response> {
        let mut link = match self.link.take() {
            Some(link) => link,
            None => Connection::try_open(self.round.public)?,
        };
        let head = match body {
            Some(body) => request.header("Content-Length", body.len().to_string()).encode_head(),
            None => request.encode_head(),
        };
        // An early refusal is read although sending failed.
        let sent = link.send_raw(&head).and_then(|()| link.send_raw(body.unwrap_or_default()));
        let answer = link.read_response(method)?;
        if sent.is_ok() && !answer.says_close() {
            self.link = Some(link);
        }
        Ok(answer)
    }

    /// Keeps what later requests refer to, and now and then asks the same again.
    fn remember(&mut self, index: usize, ask: &Ask, told: &Told) {
        if let (Told::Stored { version, blob_id, .. }, Ask::Put { version: asked, blob, .. }) = (told, ask) {
            let mut hint = self.round.hints[index].lock().unwrap();
            if *version >= hint.0 {
                *hint = (*version, Some(blob_id.clone()));
            }
            drop(hint);
            if asked.is_some() {
                self.explicit = Some((index, *version, *blob));
            }
        }
        if self.random.below(8) != 0 || self.round.killing.load(Ordering::SeqCst) {
            return;
        }
        let Some((index, version, blob)) = self.explicit.take() else { return };
        let (path, asked) = (path_of(self.round.number, index), self.tick());
        let ask = Ask::Put { version: Some(version), tag: None, if_absent: false, blob };
        let told = self.perform(&path, &ask).unwrap_or(Told::Nothing);
        let answered = if told == Told::Nothing { u64::MAX } else { self.tick() };
        self.journal.push(Entry { path, ask, asked, told, answered });
    }
}

/// What an answer says; or what is wrong with it by itself.
pub fn understand(ask: &Ask, answer: &Response) -> Result<Told, String> {
    let told = match (ask, answer.status) {
        (Ask::Put { .. }, 200 | 201) => Told::Stored {
            version: answer.json_u64("version"),
            blob_id: answer.json_str("blob_id"),
            created: answer.status == 201,
        },
        (Ask::Delete(_), 200) => Told::Deleted { version: answer.json_u64("version") },
        (Ask::Get(_), 200) => Told::Read {
            version: answer
                .header("x-amber-version")
                .and_then(|version| version.parse().ok())
                .ok_or("no version")?,
            blob_id: answer.header("etag").ok_or("no ETag")?.trim_matches('"').to_owned(),
            blob: Blob::of(&answer.body)?,
        },
        (Ask::Put { .. }, 409 | 412) | (Ask::Delete(_) | Ask::Get(_), 404) => Told::Refused(answer.status),
        (_, status) => return Err(format!("status {status}")),
    };
    Ok(told)
}

/// One round of load that ends with a kill; all journals in one.
pub fn load(
    server: &mut Server,
    random: &mut Random,
    number: u64,
    seeds: &AtomicU64,
    hints: &mut [Hint],
) -> Vec<Entry> {
    hints[PATHS..].fill_with(Hint::default);
    let (failures, failed) = mpsc::channel();
    let round = Round {
        public: server.public(),
        clock: AtomicU64::new(1),
        killing: AtomicBool::new(false),
        number,
        hints,
        seeds,
        failures,
    };
    let time = Duration::from_millis(20 + random.below(281));
    let large = random.below(2 * CLIENTS);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let random = Random::new(random.next_u64());
                let client = Client {
                    round: &round,
                    random,
                    link: None,
                    journal: Vec::new(),
                    explicit: None,
                    large: client == large,
                };
                scope.spawn(move || client.run())
            })
            .collect();
        // The random moment; a failure ends the round at once.
        let failure = failed.recv_timeout(time).ok();
        round.killing.store(true, Ordering::SeqCst);
        if random.below(STOPS) == 0 {
            process::signal(server.pid(), libc::SIGTERM);
            poll(Duration::from_millis(random.below(30)), || server.has_ended().then_some(()));
        }
        server.kill9();
        let journals =
            clients.into_iter().flat_map(|client| client.join().expect("a client")).collect::<Vec<_>>();
        if let Some(failure) = failure.or_else(|| failed.try_recv().ok()) {
            panic!("{failure}");
        }
        journals
    })
}
