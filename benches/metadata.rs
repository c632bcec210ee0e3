//! Metadata by itself: commits through the journal, look-ups in the list of a large blob, pages of a listing.

#![allow(clippy::expect_used, reason = "what fails here is the machine")]

use std::future::Future;
use std::hint::black_box;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use amberblob::base::ids::{BlobId, ChunkId};
use amberblob::base::parts::{Part, Parts};
use amberblob::base::slot::Slot;
use amberblob::base::slot_set::SlotSet;
use amberblob::io::ballast::Ballast;
use amberblob::limits::{CHUNK_SIZE, PARTS_PER_CHUNK};
use amberblob::meta::births::Births;
use amberblob::meta::index::{Indexes, Listing, Seek};
use amberblob::meta::journal::{Journals, Started};
use amberblob::meta::reader::Readers;
use amberblob::meta::schema::Durability;
use amberblob::meta::slots::{Slots, State};
use amberblob::meta::types::NewBlob;
use amberblob::meta::writer::{Rules, Writers};
use amberblob::wire::condition::Conditions;
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for all of them at once.
fn wait<T>(futures: impl IntoIterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut waiting: Vec<Pin<Box<_>>> = futures.into_iter().map(Box::pin).collect();
    let mut done = Vec::new();
    while !waiting.is_empty() {
        waiting.retain_mut(|future| match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => {
                done.push(output);
                false
            }
            Poll::Pending => true,
        });
        if !waiting.is_empty() {
            std::thread::park();
        }
    }
    done
}

/// A node's metadata on one disk with one core.
struct Metadata {
    writers: Writers,
    readers: Readers,
    indexes: Indexes,
    _dir: tempfile::TempDir,
}

impl Metadata {
    /// In the build directory, which is on a real disk.
    fn start() -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let roots: [PathBuf; 1] = [dir.path().to_owned()];
        let slot_dir = |slot: Slot| dir.path().join("slots").join(slot.to_string());
        let slots = Arc::new(Slots::new(Slot::all().map(|slot| (0, slot_dir(slot), State::Unborn))));
        let ballast = Arc::new(vec![Ballast::new(dir.path(), 0)]);
        let rules = Rules {
            durability: Durability::Full,
            sync_logs: false,
            keep_versions: 0,
            ballast: Arc::clone(&ballast),
            open_databases: 2048,
            births: Arc::new(Births::new([(dir.path().to_owned(), SlotSet::default())])),
            roster: None,
        };
        let (indexes, _) = Indexes::start(&roots, &slots, &ballast).expect("an index");
        let Started { journals, recovered, .. } = Journals::start(&roots, true, 1).expect("a journal");
        let (writers, _) =
            Writers::start(&slots, &indexes, &rules, &journals, recovered, 1).expect("a writer");
        let (readers, _) = Readers::start(&slots, &writers, &ballast, 512, None, 1).expect("a reader");
        Self { writers, readers, indexes, _dir: dir }
    }
}

fn blob(path: &str, chunks: u64, inline: Option<&Bytes>) -> NewBlob {
    let ids: Vec<ChunkId> = (0..chunks).map(|number| ChunkId([number as u8; 32])).collect();
    let sums = vec![7; if inline.is_some() { 1 } else { 128 }];
    let parts = |chunk: &ChunkId| Part { chunk: *chunk, sums: sums.clone() };
    let per_chunk = if inline.is_some() { 1 } else { PARTS_PER_CHUNK as usize };
    NewBlob {
        path: path.to_owned(),
        version: None,
        blob_id: BlobId::generate(),
        size: inline.map_or(chunks * CHUNK_SIZE, |bytes| bytes.len() as u64),
        parts: Parts {
            parts: ids.iter().flat_map(|id| std::iter::repeat_n(parts(id), per_chunk)).collect(),
            inline: inline.map(|bytes| (0, bytes.clone())).into_iter().collect(),
            ..Parts::default()
        },
        chunks: ids,
        staged: None,
        headers: "[]".to_owned(),
        conditions: Conditions::default(),
    }
}

fn metadata(c: &mut Criterion) {
    let metadata = Metadata::start();
    let bytes = Bytes::from(vec![9; 4096]);
    let mut number = 0;
    let mut put_64 = || {
        let puts = (0..64).map(|_| {
            number += 1;
            let path = format!("small/{number}");
            metadata.writers.put(Slot::of(&path), blob(&path, 1, Some(&bytes)))
        });
        for put in wait(puts) {
            put.expect("a commit");
        }
    };
    // Until what is pending is at its bound, as it is under a load that lasts.
    (0..400).for_each(|_| put_64());
    let mut group = c.benchmark_group("64 PUTs of 4 KiB to random slots");
    group.throughput(Throughput::Elements(64));
    group.sample_size(20).bench_function("commit, synced", |b| b.iter(&mut put_64));
    group.finish();

    let large = Slot::of("large");
    let [stored] = &wait([metadata.writers.put(large, blob("large", 1024, None))])[..] else {
        unreachable!()
    };
    let row = stored.as_ref().expect("a commit").record.row;
    let mut group = c.benchmark_group("blob of 64 GiB");
    group.bench_function("parts of a range of 16 MiB", |b| {
        b.iter(|| wait([metadata.readers.parts(large, row, black_box(16_000), 8)]));
    });
    group.bench_function("8 of its 1024 chunks", |b| {
        b.iter(|| wait([metadata.readers.chunk_ids(large, row, black_box(500), 8)]));
    });
    group.finish();

    let listing = |prefix: &str, delimiter: Option<&str>| Listing {
        prefix: prefix.to_owned(),
        delimiter: delimiter.map(str::to_owned),
        from: Seek::after_path("small/15"),
        limit: 1000,
        include_tombstoned: false,
        merged: false,
        bytes: usize::MAX,
    };
    let mut group = c.benchmark_group("1000 lines of a listing");
    group.throughput(Throughput::Elements(1000));
    for (name, asked) in [("paths", listing("", None)), ("common prefixes", listing("small/", Some("0")))] {
        group.bench_function(name, |b| b.iter(|| wait([metadata.indexes.list(0, asked.clone())])));
    }
    group.finish();
    metadata.writers.close();
    metadata.readers.close();
}

criterion_group!(benches, metadata);
criterion_main!(benches);
