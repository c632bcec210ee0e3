//! Uploads: what is read is hashed, and its digest goes behind it; nothing is stored that differs (`rfc/0008-client.md`).

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use hyper::body::Frame;
use hyper::header::HeaderValue;
use hyper::{HeaderMap, Method};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc::{self as channel, WeakSender};
use tokio::time::sleep;

use super::link::{Failure, Link, Piece, Server, Upload, target};
use super::progress::{Progress, moved};
use super::{Done, runtime};
use crate::limits::{CLIENT_FAILURES, CLIENT_FILES, CLIENT_IDLE, CLIENT_PIECE, CLIENT_PIECES, CLIENT_TICK};

/// How blobs are stored.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// As which version; none: the next one.
    pub version: Option<u64>,
    /// Only if there is none of that path.
    pub if_absent: bool,
    /// What they are said to be.
    pub content_type: Option<String>,
    /// Draw no bar.
    pub quiet: bool,
}

/// Where the bytes come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// What comes in.
    Stdin,
}

impl Source {
    fn open(&self) -> Result<(Box<dyn Read + Send>, Option<u64>), String> {
        let Self::File(path) = self else { return Ok((Box::new(io::stdin()), None)) };
        let cannot = |error: io::Error| format!("cannot read {}: {error}", path.display());
        let file = File::open(path).map_err(cannot)?;
        let stat = file.metadata().map_err(cannot)?;
        if stat.is_dir() {
            return Err(format!("{} is a directory: store what is in it with -r", path.display()));
        }
        Ok((Box::new(file), stat.is_file().then_some(stat.len())))
    }
}

/// Stores a blob.
///
/// # Errors
/// One line: the thing, the cause, the way out.
pub fn put(servers: &[Server], source: &Source, path: &str, options: &Options) -> Result<Done, String> {
    let named = |why: String| format!("put: {path}: {why}");
    let (reader, size) = source.open().map_err(named)?;
    let progress = Arc::new(Progress::new(size, options.quiet));
    let stored = runtime().and_then(|runtime| {
        let mut link = Link::new(servers, 0);
        let stored = runtime.block_on(store(&mut link, reader, path, options, &progress));
        // Stdin may stand still for ever.
        runtime.shutdown_background();
        stored
    });
    let seconds = progress.end();
    let json = stored.map_err(named)?;
    let number = |name: &str| json.get(name).and_then(Value::as_u64).unwrap_or(0);
    let line = format!("put: {path} version {}: {}", number("version"), moved(number("size"), seconds));
    Ok(Done { json, line, good: true })
}

/// What is shared with the thread that reads.
#[derive(Default)]
struct Reading {
    bytes: AtomicU64,
    /// Why it cannot go on.
    broken: OnceLock<String>,
}

/// Sends what a reader has; what the server answers.
async fn store(
    link: &mut Link<'_>,
    reader: Box<dyn Read + Send>,
    path: &str,
    options: &Options,
    progress: &Arc<Progress>,
) -> Result<Value, String> {
    let (sender, frames) = channel::channel(CLIENT_PIECES);
    let (reading, weak) = (Arc::new(Reading::default()), sender.downgrade());
    let (noted, bar) = (Arc::clone(&reading), Arc::clone(progress));
    tokio::task::spawn_blocking(move || feed(reader, &sender, &noted, &bar));
    let query = options.version.map_or_else(String::new, |version| format!("version={version}"));
    let mut fields = vec![("trailer", "repr-digest".to_owned())];
    if options.if_absent {
        fields.push(("if-none-match", "*".to_owned()));
    }
    if let Some(content_type) = &options.content_type {
        fields.push(("content-type", content_type.clone()));
    }
    let target = target(path, &query);
    let asked = tokio::select! {
        asked = link.send(&Method::PUT, &target, &fields, Upload::of(frames)) => asked,
        why = stands_still(&reading, &weak) => Err(Failure::broken(why)),
    };
    if let Some(why) = reading.broken.get() {
        return Err(why.clone());
    }
    let unknown = |why: String| {
        let sent = reading.bytes.load(Ordering::Relaxed) > 0;
        let look = format!("{why}: it may have been stored all the same: see 'amberblob versions {path}'");
        if sent { look } else { why }
    };
    let answer = asked.map_err(|failure| unknown(failure.message))?;
    if !answer.status().is_success() {
        return Err(link.refused(answer).await.message);
    }
    link.json_of(answer).await.map_err(|failure| unknown(failure.message))
}

/// Ends when the server has taken nothing for too long, or does not answer after it has all.
async fn stands_still(reading: &Reading, sender: &WeakSender<Piece>) -> String {
    let (mut before, mut since) = (0, Instant::now());
    loop {
        sleep(CLIENT_TICK).await;
        let bytes = reading.bytes.load(Ordering::Relaxed);
        // Who reads may wait for more to come in: that is no fault of the server.
        let waits = sender.upgrade().is_none_or(|sender| sender.capacity() == 0);
        if bytes != before || !waits {
            (before, since) = (bytes, Instant::now());
        } else if since.elapsed() >= CLIENT_IDLE {
            return format!("the server takes nothing for {CLIENT_IDLE:?}");
        }
    }
}

/// Reads all there is, and has its digest follow.
fn feed(mut reader: Box<dyn Read + Send>, to: &channel::Sender<Piece>, noted: &Reading, bar: &Progress) {
    let mut hash = Sha256::new();
    loop {
        let mut piece = Vec::with_capacity(CLIENT_PIECE);
        if let Err(error) = reader.by_ref().take(CLIENT_PIECE as u64).read_to_end(&mut piece) {
            let _ = noted.broken.set(format!("cannot read what is to be stored: {error}"));
            let _ = to.blocking_send(Err(error));
            return;
        }
        if piece.is_empty() {
            break;
        }
        hash.update(&piece);
        let bytes = piece.len() as u64;
        if to.blocking_send(Ok(Frame::data(Bytes::from(piece)))).is_err() {
            return;
        }
        noted.bytes.fetch_add(bytes, Ordering::Relaxed);
        bar.add(bytes);
    }
    let digest = format!("sha-256=:{}:", BASE64.encode(hash.finalize()));
    let mut trailers = HeaderMap::new();
    if let Ok(digest) = HeaderValue::from_str(&digest) {
        trailers.insert("repr-digest", digest);
    }
    let _ = to.blocking_send(Ok(Frame::trailers(trailers)));
}

/// What came of a tree.
#[derive(Default)]
struct Tally {
    files: AtomicU64,
    bytes: AtomicU64,
    failures: AtomicU64,
    skipped: AtomicU64,
    failed: Mutex<Vec<Value>>,
}

impl Tally {
    fn fail(&self, progress: &Progress, file: &Path, why: &str) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        progress.say(&format!("amberblob: put: {}: {why}", file.display()));
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.len() < CLIENT_FAILURES {
            failed.push(json!({ "file": file.display().to_string(), "why": why }));
        }
    }
}

/// Stores the regular files below a directory under `prefix`.
///
/// # Errors
/// One line: why it could not begin. What failed later is in the report.
pub fn put_tree(
    servers: &[Server],
    dir: &Path,
    prefix: &str,
    connections: usize,
    options: &Options,
) -> Result<Done, String> {
    let named = |why: String| format!("put: {}: {why}", dir.display());
    fs::read_dir(dir).map_err(|error| named(format!("cannot read the directory: {error}")))?;
    let (progress, tally) = (Arc::new(Progress::new(None, options.quiet)), Tally::default());
    let (give, files) = mpsc::sync_channel::<(PathBuf, String)>(CLIENT_FILES);
    let files = Mutex::new(files);
    let work = |at: usize| {
        let runtime = runtime();
        let mut link = Link::new(servers, at);
        loop {
            let next = files.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok((file, path)) = next else { return };
            let stored = Source::File(file.clone()).open().and_then(|(reader, _)| {
                let runtime = runtime.as_ref().map_err(String::clone)?;
                runtime.block_on(store(&mut link, reader, &path, options, &progress))
            });
            match stored {
                Ok(answer) => {
                    tally.files.fetch_add(1, Ordering::Relaxed);
                    let bytes = answer.get("size").and_then(Value::as_u64).unwrap_or(0);
                    tally.bytes.fetch_add(bytes, Ordering::Relaxed);
                }
                Err(why) => {
                    // What is on the connection is not an answer to the next one.
                    link.turn();
                    tally.fail(&progress, &file, &why);
                }
            }
        }
    };
    thread::scope(|scope| {
        (0..connections).for_each(|at| drop(scope.spawn(move || work(at))));
        walk(dir, prefix, &give, &progress, &tally);
        drop(give);
    });
    let seconds = progress.end();
    let number = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let (failures, skipped) = (number(&tally.failures), number(&tally.skipped));
    let mut line = format!("put: {} files, {}", number(&tally.files), moved(number(&tally.bytes), seconds));
    if skipped > 0 {
        line = format!("{line}; {skipped} are no regular files and were left out");
    }
    if failures > 0 {
        line = format!("{line}; {failures} failed");
    }
    let json = json!({
        "files": number(&tally.files),
        "bytes": number(&tally.bytes),
        "skipped": skipped,
        "failures": failures,
        "failed": tally.failed.into_inner().unwrap_or_else(PoisonError::into_inner),
        "seconds": seconds,
    });
    Ok(Done { json, line, good: failures == 0 })
}

/// Hands out the files below a directory, in the order of their names, and the paths that they get.
fn walk(
    dir: &Path,
    prefix: &str,
    give: &mpsc::SyncSender<(PathBuf, String)>,
    progress: &Progress,
    tally: &Tally,
) {
    let mut waiting = vec![(dir.to_owned(), prefix.trim_end_matches('/').to_owned())];
    while let Some((dir, prefix)) = waiting.pop() {
        let listed = fs::read_dir(&dir).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut entries = match listed {
            Ok(entries) => entries,
            Err(error) => {
                tally.fail(progress, &dir, &format!("cannot read the directory: {error}"));
                continue;
            }
        };
        entries.sort_by_key(fs::DirEntry::file_name);
        let mut below = Vec::new();
        for entry in entries {
            let file = entry.path();
            let kind = entry.file_type();
            let Ok(name) = entry.file_name().into_string() else {
                tally.fail(progress, &file, "its name is not UTF-8, and no path");
                continue;
            };
            let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
            match kind {
                Ok(kind) if kind.is_dir() => below.push((file, path)),
                // They end early only when all of them have failed.
                Ok(kind) if kind.is_file() => {
                    if give.send((file, path)).is_err() {
                        return;
                    }
                }
                Ok(_) => {
                    tally.skipped.fetch_add(1, Ordering::Relaxed);
                    progress.say(&format!("put: {}: is no regular file, and is left out", file.display()));
                }
                Err(error) => tally.fail(progress, &file, &error.to_string()),
            }
        }
        waiting.extend(below.into_iter().rev());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_walked_in_order_and_links_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("b/c")).unwrap();
        for name in ["z", "a", "b/1", "b/c/2"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        std::os::unix::fs::symlink("a", dir.path().join("link")).unwrap();
        let (give, files) = mpsc::sync_channel(10);
        let (progress, tally) = (Progress::new(None, true), Tally::default());
        walk(dir.path(), "p/", &give, &progress, &tally);
        drop(give);
        let paths: Vec<String> = files.iter().map(|(_, path)| path).collect();
        assert_eq!(paths, ["p/a", "p/z", "p/b/1", "p/b/c/2"]);
        assert_eq!((tally.skipped.into_inner(), tally.failures.into_inner()), (1, 0));
    }
}
