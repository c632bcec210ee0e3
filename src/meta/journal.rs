//! The journal: what PUTs of many slots made durable with one sync, before the slots' databases have it.
//!
//! Each writer appends frames to a segment of its own, `<disk>/journal/<epoch>.journal`; a frame holds the records of
//! one batch and stands on a multiple of 4 KiB, so that no later write touches it:
//!
//! | bytes | field |
//! |---|---|
//! | 0..4 | `AmJ1` |
//! | 4..12 | epoch of the segment: what an earlier use of the file left does not count |
//! | 12..16 | number of the frame in its segment |
//! | 16..20 | records |
//! | 20..24 | bytes of all records |
//! | 24..28 | CRC32C of the bytes above and of the records |
//! | 32.. | records, one after the other (`record.rs`) |
//!
//! What always holds: a frame is believed only if all before it are, so a torn one ends the segment, and nobody was
//! answered out of it. A segment is used again only after all its records are in their databases *and* the file system
//! that holds these was synced since (`recycle`). A record holds its segment by an [`Arc`]: that is the whole book-keeping.
//!
//! After a write or sync that failed, what the segment holds of this frame is unknown: it is given up, with what it held
//! before, to be read at the next start.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use async_channel::{Receiver, Sender};

use super::record::Record;
use crate::io::steps;
use crate::limits::{DIRECT_ALIGN, JOURNAL_SEGMENT, JOURNAL_SEGMENTS};

const DIR: &str = "journal";
const IN_USE: &str = "journal";
const SPARE: &str = "spare";
const MAGIC: [u8; 4] = *b"AmJ1";
const HEAD: usize = 32;

/// A file of the journal, held by every record in it that is not in its database yet.
#[derive(Debug)]
pub(super) struct Segment {
    path: PathBuf,
    kept: AtomicBool,
}

impl Segment {
    fn new(path: PathBuf) -> Arc<Self> {
        Arc::new(Self { path, kept: AtomicBool::new(false) })
    }

    /// It holds a record that does not get to its database in this run: it stays for the next start to read.
    pub(super) fn keep(&self) {
        self.kept.store(true, Ordering::Release);
    }
}

/// Why a batch is not in the journal.
#[derive(Debug)]
pub(super) enum Failed {
    /// Nothing of it is: it can be committed in another way.
    Unavailable(io::Error),
    /// It may be, or not.
    InDoubt(io::Error),
}

/// What writers and the recycler of one disk share.
#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    /// The disk, opened at the start: its sync reports what could not be written since then.
    root: File,
    epoch: AtomicU64,
    spares: Mutex<Vec<PathBuf>>,
    /// Segments that nobody appends to any more, not yet recycled.
    closed: AtomicUsize,
    closed_max: usize,
    /// A sync of the file system failed: what is in the journal stays, and nothing more comes.
    broken: AtomicBool,
    signals: Sender<Signal>,
}

enum Signal {
    /// A segment was closed.
    Closed(Arc<Segment>),
    /// The last record of a closed segment may be in its database.
    Look,
}

/// The journals of all disks.
pub struct Journals {
    disks: Vec<Arc<Shared>>,
    synced: bool,
}

/// The journals as they are at the start.
pub struct Started {
    /// To be handed to the writers.
    pub journals: Journals,
    /// What the last run left.
    pub recovered: Vec<Recovered>,
    /// The recyclers; each ends with whether nothing is left in its disk's journal.
    pub recyclers: Vec<JoinHandle<bool>>,
}

/// A record found at the start.
pub struct Recovered {
    pub(super) record: Record,
    pub(super) segment: Arc<Segment>,
}

impl Journals {
    /// Reads what the last run left on each disk, and starts the recyclers, for `writers` writers. `synced`: whether
    /// a frame is on disk before it counts.
    ///
    /// # Errors
    /// One line: a journal that cannot be read may hold what was acknowledged.
    pub fn start(roots: &[PathBuf], synced: bool, writers: usize) -> Result<Started, String> {
        let (mut disks, mut recovered, mut threads) = (Vec::new(), Vec::new(), Vec::new());
        for (number, root) in roots.iter().enumerate() {
            let dir = root.join(DIR);
            let describe = |error: io::Error| {
                format!(
                    "{}: the journal cannot be read, and acknowledged writes may be in it: {error}",
                    dir.display()
                )
            };
            let found = Found::look(&dir).map_err(describe)?;
            let mut closed = Vec::new();
            for path in found.in_use {
                let (segment, records) = recover(path, synced).map_err(describe)?;
                recovered.extend(
                    records.into_iter().map(|record| Recovered { record, segment: Arc::clone(&segment) }),
                );
                closed.push(segment);
            }
            let (signals, queue) = async_channel::unbounded();
            let opened = File::open(root).map_err(describe)?;
            let shared = Arc::new(Shared {
                root: opened,
                epoch: AtomicU64::new(found.epoch + 1),
                spares: Mutex::new(found.spares),
                closed: AtomicUsize::new(closed.len()),
                closed_max: JOURNAL_SEGMENTS * writers,
                broken: AtomicBool::new(false),
                signals,
                dir,
            });
            disks.push(Arc::clone(&shared));
            let thread = thread::Builder::new().name(format!("journal-{number}"));
            let started = thread.spawn(move || recycle(&shared, closed, &queue));
            threads.push(started.map_err(|error| format!("cannot start the metadata threads: {error}"))?);
        }
        // A later epoch has the last word on what a number of a slot stands for.
        recovered.sort_by(|a: &Recovered, b| {
            let key = |r: &Recovered| (r.record.slot, r.record.seq);
            key(a).cmp(&key(b)).then_with(|| b.segment.path.cmp(&a.segment.path))
        });
        recovered.dedup_by_key(|r| (r.record.slot, r.record.seq));
        Ok(Started { journals: Self { disks, synced }, recovered, recyclers: threads })
    }

    /// The journal of one writer on a disk.
    pub(super) fn of(&self, disk: usize) -> Journal {
        Journal {
            shared: Arc::clone(&self.disks[disk]),
            synced: self.synced,
            current: None,
            buffer: Vec::new(),
        }
    }

    /// No more is coming: the recyclers finish and end, with whether nothing is left in the journal.
    pub fn close(&self) {
        for disk in &self.disks {
            disk.signals.close();
        }
    }
}

/// Files of the journal.
#[derive(Default)]
struct Found {
    in_use: Vec<PathBuf>,
    spares: Vec<PathBuf>,
    epoch: u64,
}

impl Found {
    fn look(dir: &Path) -> io::Result<Self> {
        let mut found = Self::default();
        let entries = match fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            let epoch = path.file_stem().and_then(|stem| u64::from_str_radix(stem.to_str()?, 16).ok());
            match (epoch, path.extension().and_then(|extension| extension.to_str())) {
                (Some(epoch), Some(IN_USE)) => {
                    found.epoch = found.epoch.max(epoch);
                    found.in_use.push(path);
                }
                (Some(epoch), Some(SPARE)) => {
                    found.epoch = found.epoch.max(epoch);
                    found.spares.push(path);
                }
                // A segment that was never finished.
                _ => fs::remove_file(&path)?,
            }
        }
        Ok(found)
    }
}

/// Reads a segment. What a killed process wrote and did not sync is synced first: whoever is told of it will believe it.
fn recover(path: PathBuf, synced: bool) -> io::Result<(Arc<Segment>, Vec<Record>)> {
    let file = File::open(&path)?;
    if synced {
        file.sync_all()?;
        // After a sync that failed in the last run, memory may say what the disk does not.
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    }
    let epoch = path.file_stem().and_then(|stem| u64::from_str_radix(stem.to_str()?, 16).ok()).unwrap_or(0);
    let mut records = Vec::new();
    let mut at = 0;
    for number in 0.. {
        let Some(frame) = read_frame(&file, at, epoch, number)? else { break };
        at += frame.len;
        records.extend(frame.records);
    }
    Ok((Segment::new(path), records))
}

struct Frame {
    /// Bytes it takes in the file.
    len: u64,
    records: Vec<Record>,
}

/// The frame at `at`; none if there is no whole one of this epoch and number.
fn read_frame(file: &File, at: u64, epoch: u64, number: u32) -> io::Result<Option<Frame>> {
    let mut head = [0; HEAD];
    let field = |head: &[u8; HEAD], at: usize| {
        u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]])
    };
    if !read_whole(file, &mut head, at)?
        || head[..4] != MAGIC
        || head[4..12] != epoch.to_le_bytes()
        || field(&head, 12) != number
    {
        return Ok(None);
    }
    let (count, len) = (field(&head, 16), u64::from(field(&head, 20)));
    if len > JOURNAL_SEGMENT {
        return Ok(None);
    }
    let mut payload = vec![0; len as usize];
    if !read_whole(file, &mut payload, at + HEAD as u64)?
        || checksum(&head[..24], &payload) != field(&head, 24)
    {
        return Ok(None);
    }
    let mut rest = &payload[..];
    let mut records = Vec::new();
    for _ in 0..count {
        let Some(record) = Record::decode(&mut rest) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a record is of another format"));
        };
        records.push(record);
    }
    Ok(Some(Frame { len: (HEAD as u64 + len).next_multiple_of(DIRECT_ALIGN as u64), records }))
}

/// Fills the buffer; false if the file ends before.
fn read_whole(file: &File, buffer: &mut [u8], at: u64) -> io::Result<bool> {
    match file.read_exact_at(buffer, at) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        result => result.map(|()| true),
    }
}

fn checksum(head: &[u8], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(head), payload)
}

/// One writer's journal on one disk.
pub(super) struct Journal {
    shared: Arc<Shared>,
    synced: bool,
    current: Option<Current>,
    buffer: Vec<u8>,
}

struct Current {
    segment: Arc<Segment>,
    file: File,
    epoch: u64,
    at: u64,
    frames: u32,
}

impl Journal {
    /// Whether it takes records at all.
    pub(super) fn is_open(&self) -> bool {
        !self.shared.broken.load(Ordering::Acquire)
            && self.shared.closed.load(Ordering::Acquire) < self.shared.closed_max
    }

    /// The directory, to ask for the space around it.
    pub(super) fn disk(&self) -> &Path {
        self.shared.dir.parent().unwrap_or(&self.shared.dir)
    }

    /// Makes records durable, all or none; they are in the segment that is given back.
    pub(super) fn append<'a>(
        &mut self,
        records: impl Iterator<Item = &'a Record>,
    ) -> Result<Arc<Segment>, Failed> {
        self.buffer.clear();
        self.buffer.resize(HEAD, 0);
        let mut count: u32 = 0;
        for record in records {
            record.encode(&mut self.buffer);
            count += 1;
        }
        let whole = self.buffer.len().next_multiple_of(DIRECT_ALIGN);
        let fits = |current: &Current| current.at + whole as u64 <= JOURNAL_SEGMENT;
        if !self.current.as_ref().is_some_and(fits) {
            self.close_segment();
            self.current = Some(self.begin().map_err(Failed::Unavailable)?);
        }
        let Some(current) = &mut self.current else {
            return Err(Failed::Unavailable(io::ErrorKind::NotFound.into()));
        };
        let (head, payload) = self.buffer.split_at_mut(HEAD);
        head[..4].copy_from_slice(&MAGIC);
        head[4..12].copy_from_slice(&current.epoch.to_le_bytes());
        head[12..16].copy_from_slice(&current.frames.to_le_bytes());
        head[16..20].copy_from_slice(&count.to_le_bytes());
        head[20..24].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        let sum = checksum(&head[..24], payload);
        head[24..28].copy_from_slice(&sum.to_le_bytes());
        self.buffer.resize(whole, 0);
        let written = current
            .file
            .write_all_at(&self.buffer, current.at)
            .and_then(|()| if self.synced { current.file.sync_data() } else { Ok(()) });
        if let Err(error) = written {
            // What is in doubt is for the next start to read.
            current.segment.keep();
            self.close_segment();
            return Err(Failed::InDoubt(error));
        }
        current.at += whole as u64;
        current.frames += 1;
        Ok(Arc::clone(&current.segment))
    }

    /// Where the next frame of the segment begins.
    #[cfg(test)]
    pub(super) fn position(&self) -> u64 {
        self.current.as_ref().map_or(0, |current| current.at)
    }

    /// Begins a segment: its name and its length are on disk when this returns.
    fn begin(&self) -> io::Result<Current> {
        let epoch = self.shared.epoch.fetch_add(1, Ordering::Relaxed);
        let path = self.shared.dir.join(format!("{epoch:016x}.{IN_USE}"));
        let spare = self.shared.spares.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let from = match spare {
            Some(spare) => spare,
            None => self.make(epoch)?,
        };
        fs::rename(from, &path)?;
        steps::sync_dir(&self.shared.dir)?;
        let file = File::options().read(true).write(true).open(&path)?;
        Ok(Current { segment: Segment::new(path), file, epoch, at: 0, frames: 0 })
    }

    fn make(&self, epoch: u64) -> io::Result<PathBuf> {
        steps::create_dir_synced(&self.shared.dir)?;
        let path = self.shared.dir.join(format!("{epoch:016x}.new"));
        let made = make_zeroed(&path, JOURNAL_SEGMENT);
        if made.is_err() {
            // Its blocks are needed by whatever made it fail.
            let _ = fs::remove_file(&path);
        }
        made.map(|()| path)
    }

    fn close_segment(&mut self) {
        if let Some(current) = self.current.take() {
            self.shared.closed.fetch_add(1, Ordering::AcqRel);
            self.send(Signal::Closed(current.segment));
        }
    }

    /// Records are in their databases: their segments may be free now.
    pub(super) fn release(&self, segments: impl Iterator<Item = Arc<Segment>>) {
        let mut was_last = false;
        for segment in segments {
            let left = Arc::downgrade(&segment);
            drop(segment);
            // The recycler's, or that of `current`. Of several writers that let go at once the last one sees it.
            was_last |= left.strong_count() <= 1;
        }
        if was_last {
            self.send(Signal::Look);
        }
    }

    fn send(&self, signal: Signal) {
        // The recycler ends after the writers.
        let _ = self.shared.signals.try_send(signal);
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.close_segment();
    }
}

/// Makes a file whose blocks were all written once: a later write of them changes no metadata, so a sync is one write.
fn make_zeroed(path: &Path, len: u64) -> io::Result<()> {
    let file = steps::create_file(path, len, false)?;
    let zeros = vec![0; 1 << 20];
    let mut at = 0;
    while at < len {
        file.write_all_at(&zeros, at)?;
        at += zeros.len() as u64;
    }
    file.sync_all()
}

/// The recycler's thread: makes segments free again until the writers have ended. True if the journal is empty then.
fn recycle(shared: &Shared, mut closed: Vec<Arc<Segment>>, signals: &Receiver<Signal>) -> bool {
    look(shared, &mut closed);
    while let Ok(signal) = signals.recv_blocking() {
        if let Signal::Closed(segment) = signal {
            closed.push(segment);
        }
        look(shared, &mut closed);
    }
    closed.is_empty() && remove_spares(shared).is_ok()
}

/// Makes those closed segments free whose records are all in their databases, once these are on disk.
fn look(shared: &Shared, closed: &mut Vec<Arc<Segment>>) {
    let mut free = Vec::new();
    for segment in std::mem::take(closed) {
        match Arc::try_unwrap(segment) {
            Ok(segment) if segment.kept.load(Ordering::Acquire) => closed.push(Arc::new(segment)),
            Ok(segment) => free.push(segment),
            Err(held) => closed.push(held),
        }
    }
    if free.is_empty() || shared.broken.load(Ordering::Acquire) {
        return closed.extend(free.into_iter().map(Arc::new));
    }
    if let Err(error) = rustix::fs::syncfs(&shared.root) {
        tracing::error!(journal = %shared.dir.display(), %error,
            "the disk cannot be synced: small writes are committed one by one, and the journal is kept for the next start");
        shared.broken.store(true, Ordering::Release);
        return closed.extend(free.into_iter().map(Arc::new));
    }
    for segment in free {
        let spare = segment.path.with_extension(SPARE);
        let mut spares = shared.spares.lock().unwrap_or_else(PoisonError::into_inner);
        let done = if spares.len() < JOURNAL_SEGMENTS {
            fs::rename(&segment.path, &spare).map(|()| spares.push(spare))
        } else {
            fs::remove_file(&segment.path)
        };
        if let Err(error) = done {
            // It is read again at the next start, and has nothing new to say then.
            tracing::warn!(segment = %segment.path.display(), %error, "a segment of the journal cannot be used again");
        }
        shared.closed.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Removes the spare segments: a journal at rest takes no space.
fn remove_spares(shared: &Shared) -> io::Result<()> {
    for spare in shared.spares.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        fs::remove_file(spare)?;
    }
    Ok(())
}
