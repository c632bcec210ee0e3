//! What is ours in user space: head parsing, range planning, hashing and checksums, slots, cache hits.

#![allow(clippy::expect_used, reason = "what fails here is the machine")]

use std::future::Future as _;
use std::hint::black_box;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use amberblob::base::checksum::{GranuleSums, first_mismatch};
use amberblob::base::path::BlobPath;
use amberblob::base::sha256::{LANES, Sha256, update_all};
use amberblob::base::slot::Slot;
use amberblob::io::arena::Size;
use amberblob::io::bulk::registry::Registry;
use amberblob::io::cache::{BlockCache, Key, Loading};
use amberblob::wire::head;
use amberblob::wire::range;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const HEAD: &[u8] =
    b"GET /objects/some/path/to/a%20blob?version=3 HTTP/1.1\r\nHost: storage-1.example:8080\r\n\
User-Agent: bench/1.0\r\nAccept: */*\r\nRange: bytes=33554432-67108863\r\n\r\n";

fn wire(c: &mut Criterion) {
    c.bench_function("parse a request head", |b| b.iter(|| head::parse(black_box(HEAD))));
    c.bench_function("select one range", |b| {
        b.iter(|| range::select(black_box("bytes=33554432-67108863"), 1 << 40));
    });
    c.bench_function("path to slot", |b| {
        b.iter(|| BlobPath::from_encoded(black_box("some/path/to/a%20blob")).map(|path| Slot::of(&path)));
    });
}

fn bytes(c: &mut Criterion) {
    let data = vec![7u8; 1 << 20];
    let mut sums = GranuleSums::default();
    sums.update(&data);
    let sums = sums.take();
    let mut group = c.benchmark_group("1 MiB");
    group.throughput(Throughput::Bytes(data.len() as u64));
    group.bench_function("CRC32C of every granule", |b| b.iter(|| first_mismatch(black_box(&data), &sums)));
    group.finish();
}

/// Fills what is missing with whatever is there.
async fn load(loading: Loading) -> Result<(), ()> {
    loading.commit();
    Ok(())
}

fn cache(c: &mut Criterion) {
    let cache = BlockCache::new(64 << 20, &Arc::new(Registry::none())).expect("a cache");
    let key = Key { owner: 1, start: 0 };
    let mut get = pin!(cache.get(Size::Part, key, 0..2 << 20, load));
    let filled = get.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(filled, Poll::Ready(Ok(_))), "nothing to wait for");
    c.bench_function("block cache hit of 2 MiB", |b| {
        b.iter(|| cache.peek(Size::Part, black_box(&key), &(0..2 << 20)).is_some());
    });
    c.bench_function("block cache miss", |b| {
        let other = Key { owner: 2, start: 0 };
        b.iter(|| cache.peek(Size::Part, black_box(&other), &(0..64 << 10)).is_some());
    });
}

/// One stream is hashed by `sha2`, several by our own lanes.
fn hashes(c: &mut Criterion) {
    let data = vec![7u8; 256 << 10];
    for streams in 1..=LANES {
        let mut group = c.benchmark_group("SHA-256");
        group.throughput(Throughput::Bytes((streams * data.len()) as u64));
        group.bench_function(format!("of {streams} streams"), |b| {
            let mut hashes = vec![Sha256::default(); streams];
            b.iter(|| {
                let blocks = black_box(&data).as_chunks().0;
                let mut next: Vec<_> = hashes.iter_mut().map(|hash| (hash, blocks)).collect();
                update_all(&mut next);
            });
        });
        group.finish();
    }
}

criterion_group!(benches, wire, bytes, hashes, cache);
criterion_main!(benches);
