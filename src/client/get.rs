//! Downloads: chunks over several connections at once, each compared with its SHA-256 (`rfc/0008-client.md`).

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;

use http_body_util::BodyExt as _;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::blob::{self, Blob};
use super::link::{Failure, Link, Server, Tries, target};
use super::partial::Partial;
use super::progress::{Progress, moved};
use super::{Done, runtime};
use crate::limits::{CHUNK_SIZE, CLIENT_HASH_TRIES, CLIENT_IDLE, CLIENT_TICK};

/// What is to be fetched.
#[derive(Clone, Debug)]
pub struct Get {
    /// The path.
    pub path: String,
    /// Which version; none: the newest.
    pub version: Option<u64>,
    /// Where to; none: stdout.
    pub to: Option<PathBuf>,
    /// Connections at once.
    pub connections: usize,
    /// Draw no bar.
    pub quiet: bool,
}

/// What all connections of a download share.
struct Download<'a> {
    servers: &'a [Server],
    blob: &'a Blob,
    progress: Progress,
    /// Bytes that came from servers.
    fetched: AtomicU64,
    /// One of them has failed.
    failed: AtomicBool,
}

/// Fetches a blob.
///
/// # Errors
/// One line: the thing, the cause, the way out.
pub fn get(servers: &[Server], what: &Get) -> Result<Done, String> {
    let named = |why: String| format!("get: {}: {why}", what.path);
    let find = async {
        let found = blob::find(&mut Link::new(servers, 0), &what.path, what.version).await;
        found.map_err(|failure| failure.message)
    };
    let blob = runtime().and_then(|runtime| runtime.block_on(find)).map_err(named)?;
    let download = Download {
        servers,
        blob: &blob,
        progress: Progress::new(Some(blob.size), what.quiet),
        fetched: AtomicU64::new(0),
        failed: AtomicBool::new(false),
    };
    let to = what.to.as_deref().map(|to| file_name(to, &what.path));
    let done = match &to {
        Some(to) => download.to_file(to, what.connections),
        None => download.to_stdout(what.connections),
    };
    let seconds = download.progress.end();
    done.map_err(named)?;
    let fetched = download.fetched.load(Ordering::Relaxed);
    let json: Value = json!({
        "path": blob.path,
        "version": blob.version,
        "blob_id": blob.id,
        "size": blob.size,
        "fetched": fetched,
        "seconds": seconds,
        "file": to.as_ref().map(|to| to.display().to_string()),
    });
    let line = format!("get: {} version {}: {}", blob.path, blob.version, moved(fetched, seconds));
    Ok(Done { json, line, good: true })
}

/// The file that a blob goes to: in a directory it has the last name of its path.
fn file_name(to: &Path, path: &str) -> PathBuf {
    if to.is_dir() { to.join(path.rsplit('/').next().unwrap_or(path)) } else { to.to_owned() }
}

impl Download<'_> {
    fn count(&self) -> u64 {
        self.blob.chunks.len() as u64
    }

    fn to_file(&self, to: &Path, connections: usize) -> Result<(), String> {
        let cannot = |error: io::Error| format!("cannot write {}: {error}", to.display());
        let partial = Partial::open(to, self.blob).map_err(cannot)?;
        let next = AtomicU64::new(0);
        self.work(connections, |link, runtime| {
            let number = next.fetch_add(1, Ordering::Relaxed);
            (number < self.count()).then(|| {
                let mut place = Place::File { partial: &partial, to, number };
                runtime.block_on(self.fetch(link, number, &mut place))
            })
        })?;
        partial.finish().map_err(cannot)
    }

    /// Chunks are handed out so that no more of them are in memory than there are connections.
    fn to_stdout(&self, connections: usize) -> Result<(), String> {
        let (give, numbers) = mpsc::channel();
        let (done, chunks) = mpsc::channel();
        let numbers = Mutex::new(numbers);
        for number in 0..self.count().min(connections as u64) {
            let _ = give.send(number);
        }
        thread::scope(|scope| {
            // Ends when all are written, or one has failed: the others then get no more numbers.
            let writing =
                scope.spawn(move || write_in_order(self.count(), connections as u64, &give, &chunks));
            let worked = self.work(connections, |link, runtime| {
                let number = self.take(&numbers)?;
                let mut place = Place::Memory(Vec::new());
                let fetched = runtime.block_on(self.fetch(link, number, &mut place));
                Some(fetched.and_then(|()| {
                    let Place::Memory(bytes) = place else { return Ok(()) };
                    done.send((number, bytes)).map_err(|_| "stdout is closed".to_owned())
                }))
            });
            drop(done);
            let written =
                writing.join().unwrap_or_else(|_| Err("the thread that writes has ended".to_owned()));
            written.and(worked)
        })
    }

    /// The next number that is handed out; none: there are no more, or a connection has failed.
    fn take(&self, numbers: &Mutex<mpsc::Receiver<u64>>) -> Option<u64> {
        while !self.failed.load(Ordering::Relaxed) {
            let numbers = numbers.lock().unwrap_or_else(PoisonError::into_inner);
            match numbers.recv_timeout(CLIENT_TICK) {
                Ok(number) => return Some(number),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return None,
            }
        }
        None
    }

    /// Has each connection do one thing after the other until there is nothing more, or one fails.
    fn work(
        &self,
        connections: usize,
        next: impl Fn(&mut Link<'_>, &Runtime) -> Option<Result<(), String>> + Sync,
    ) -> Result<(), String> {
        let why = Mutex::new(None);
        let run = |at: usize| {
            let ran = runtime().and_then(|runtime| {
                let mut link = Link::new(self.servers, at);
                while !self.failed.load(Ordering::Relaxed)
                    && let Some(done) = next(&mut link, &runtime)
                {
                    done?;
                }
                Ok(())
            });
            if let Err(error) = ran {
                why.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                self.failed.store(true, Ordering::Relaxed);
            }
        };
        thread::scope(|scope| {
            for at in 0..connections.min(self.blob.chunks.len()) {
                let run = &run;
                scope.spawn(move || run(at));
            }
        });
        why.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// Fetches what is lacking of a chunk, and compares it with its hash.
    async fn fetch(&self, link: &mut Link<'_>, number: u64, place: &mut Place<'_>) -> Result<(), String> {
        let len = self.blob.len_of(number);
        for _ in 0..CLIENT_HASH_TRIES {
            let mut hash = Sha256::new();
            let mut have = place.have(len, &mut hash)?;
            self.progress.had(have);
            let mut tries = Tries::default();
            while have < len {
                let before = have;
                let streamed = self.stream(link, number, &mut have, &mut hash, place).await;
                if self.failed.load(Ordering::Relaxed) {
                    return Err("another connection has failed".to_owned());
                }
                if have > before {
                    tries.progress();
                }
                if let Err(failure) = streamed? {
                    tries.after(failure, link).await.map_err(|failure| failure.message)?;
                }
            }
            if hash.finalize()[..] == self.blob.chunks[number as usize] {
                return Ok(());
            }
            self.progress.back(len);
            place.restart()?;
            self.progress
                .say(&format!("chunk {number} came with other bytes than its SHA-256: it is read again"));
        }
        Err(format!(
            "chunk {number} has other bytes than its SHA-256, {CLIENT_HASH_TRIES} times: something on the way from {} \
             changes them, or the disk here does",
            link.server()
        ))
    }

    /// Takes what a server sends of a chunk after its first `have` bytes. The outer error is one of this machine.
    async fn stream(
        &self,
        link: &mut Link<'_>,
        number: u64,
        have: &mut u64,
        hash: &mut Sha256,
        place: &mut Place<'_>,
    ) -> Result<Result<(), Failure>, String> {
        let start = number * CHUNK_SIZE;
        let wanted: Range<u64> = start + *have..start + self.blob.len_of(number);
        let fields =
            [("range", format!("bytes={}-{}", wanted.start, wanted.end - 1)), ("if-match", self.blob.etag())];
        let asked = link.read(&Method::GET, &target(&self.blob.path, &self.blob.query()), &fields).await;
        let answer = match asked {
            Ok(answer) => answer,
            Err(failure) => return Ok(Err(failure)),
        };
        let told = answer.headers().get("content-range").and_then(|range| range.to_str().ok());
        let range = format!("bytes {}-{}/{}", wanted.start, wanted.end - 1, self.blob.size);
        if answer.status() != StatusCode::PARTIAL_CONTENT || told != Some(&range) {
            link.close();
            return Ok(Err(Failure {
                status: Some(answer.status()),
                message: format!("{} sends something else than {range}", link.server()),
            }));
        }
        let mut body = answer.into_body();
        let mut left = wanted.end - wanted.start;
        while left > 0 {
            let why = match timeout(CLIENT_IDLE, body.frame()).await {
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(bytes) if bytes.len() as u64 <= left => {
                        hash.update(&bytes);
                        place.write(*have, &bytes)?;
                        *have += bytes.len() as u64;
                        left -= bytes.len() as u64;
                        self.fetched.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                        self.progress.add(bytes.len() as u64);
                        continue;
                    }
                    Ok(_) => "more bytes than asked for".to_owned(),
                    Err(_) => continue,
                },
                Ok(Some(Err(error))) => error.to_string(),
                Ok(None) => "the answer ends early".to_owned(),
                Err(_) => format!("nothing came for {CLIENT_IDLE:?}"),
            };
            link.close();
            return Ok(Err(Failure::broken(format!("{}: {why}", link.server()))));
        }
        Ok(Ok(()))
    }
}

/// Where a chunk goes.
enum Place<'a> {
    File { partial: &'a Partial, to: &'a Path, number: u64 },
    Memory(Vec<u8>),
}

impl Place<'_> {
    fn on_file<T>(&self, done: io::Result<T>) -> Result<T, String> {
        let Self::File { to, .. } = self else { return done.map_err(|error| error.to_string()) };
        done.map_err(|error| format!("cannot write {}: {error}", to.display()))
    }

    /// How much is there before, hashed.
    fn have(&self, len: u64, hash: &mut Sha256) -> Result<u64, String> {
        let Self::File { partial, number, .. } = self else { return Ok(0) };
        let have = self.on_file(partial.have(*number, len))?;
        self.on_file(partial.hash(*number, have, hash))?;
        Ok(have)
    }

    fn write(&mut self, have: u64, bytes: &[u8]) -> Result<(), String> {
        match self {
            Self::File { partial, number, .. } => {
                let written = partial.write(*number, have, bytes);
                self.on_file(written)
            }
            Self::Memory(memory) => {
                memory.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    fn restart(&mut self) -> Result<(), String> {
        match self {
            Self::File { partial, number, .. } => {
                let restarted = partial.restart(*number);
                self.on_file(restarted)
            }
            Self::Memory(memory) => {
                memory.clear();
                Ok(())
            }
        }
    }
}

/// Writes chunks to stdout in their order, and gives out another number for each.
fn write_in_order(
    count: u64,
    ahead: u64,
    give: &mpsc::Sender<u64>,
    chunks: &mpsc::Receiver<(u64, Vec<u8>)>,
) -> Result<(), String> {
    let mut out = io::stdout().lock();
    let mut early = BTreeMap::new();
    for number in 0..count {
        while !early.contains_key(&number) {
            // Whoever fetches has failed, and says why.
            let Ok((number, bytes)) = chunks.recv() else { return Ok(()) };
            early.insert(number, bytes);
        }
        let bytes: Vec<u8> = early.remove(&number).unwrap_or_default();
        out.write_all(&bytes).map_err(|error| format!("cannot write to stdout: {error}"))?;
        if number + ahead < count {
            let _ = give.send(number + ahead);
        }
    }
    out.flush().map_err(|error| format!("cannot write to stdout: {error}"))
}
