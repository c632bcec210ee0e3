//! The bulk ring beside its alternatives: one thread serves, others are its peers, each on a core of its own.
//!
//! `cargo bench --bench ring -- [send|small|recv|read|register]...` prints, for each way, the median of interleaved
//! runs: GB/s, and milliseconds of CPU time of the serving thread per GB (or microseconds per request). Between shared
//! machines only the CPU time means something.
#![expect(unsafe_code, reason = "registered memory")]
#![expect(clippy::unwrap_used, reason = "a bench")]

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt as _;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use amberblob::io::buffer::Buffer;
use amberblob::io::bulk::memory::{Gather, Region, Scatter};
use amberblob::io::bulk::registry::Registry;
use amberblob::io::bulk::socket::{Descriptor, Socket};
use amberblob::io::bulk::{Bulk, Counts, send_now};
use amberblob::io::send;
use amberblob::io::send_mode::Way;
use monoio::buf::IoBuf;
use monoio::io::{AsyncReadRent as _, AsyncWriteRent as _};
use monoio::{IoUringDriver, RuntimeBuilder};
use rustix::thread::{CpuSet, sched_setaffinity};

const MIB: usize = 1 << 20;
const BLOCK: usize = 2 * MIB;
const LONG: Duration = Duration::from_mins(1);
const ROUNDS: usize = 5;

/// A block of memory, perhaps registered.
#[derive(Clone)]
struct Block(Arc<Memory>, usize);

struct Memory {
    start: *mut u8,
    len: usize,
    index: Option<u16>,
}

// SAFETY: plain memory that is never unmapped.
unsafe impl Send for Memory {}
// SAFETY: as above; a bench does not look at what it reads.
unsafe impl Sync for Memory {}

/// `len` bytes, on huge pages or not, registered or not; never unmapped.
fn memory(len: usize, huge: bool, registry: Option<&Registry>) -> Arc<Memory> {
    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};
    let null = std::ptr::null_mut();
    // SAFETY: a fresh mapping of our own, used within its bounds.
    unsafe {
        let flags = ProtFlags::READ | ProtFlags::WRITE;
        let whole = mmap_anonymous(null, len + BLOCK, flags, MapFlags::PRIVATE).unwrap().cast::<u8>();
        let start = whole.add(whole.align_offset(BLOCK));
        let advice = if huge { Advice::LinuxHugepage } else { Advice::LinuxNoHugepage };
        madvise(start.cast(), len, advice).unwrap();
        std::ptr::write_bytes(start, 7, len);
        let index = registry.map(|registry| registry.add(start, len).unwrap());
        Arc::new(Memory { start, len, index })
    }
}

impl Block {
    fn all(memory: &Arc<Memory>) -> Vec<Self> {
        (0..memory.len / BLOCK).map(|i| Self(Arc::clone(memory), i * BLOCK)).collect()
    }
    fn start(&self) -> *mut u8 {
        self.0.start.wrapping_add(self.1)
    }
    fn region(&self) -> Region {
        // SAFETY: inside the mapping.
        Region::of(unsafe { std::slice::from_raw_parts(self.start(), BLOCK) }).registered(self.0.index)
    }
}

// SAFETY: the mapping is never unmapped.
unsafe impl Gather for Block {
    fn regions(&self, name: &mut dyn FnMut(Region)) {
        name(self.region());
    }
}
// SAFETY: as above; a bench does not look at what it reads.
unsafe impl Scatter for Block {
    fn regions(&mut self, name: &mut dyn FnMut(Region)) {
        name(self.region());
    }
}
// SAFETY: as above.
unsafe impl IoBuf for Block {
    fn read_ptr(&self) -> *const u8 {
        self.start()
    }
    fn bytes_init(&self) -> usize {
        BLOCK
    }
}
// SAFETY: as above.
unsafe impl monoio::buf::IoBufMut for Block {
    fn write_ptr(&mut self) -> *mut u8 {
        self.start()
    }
    fn bytes_total(&mut self) -> usize {
        BLOCK
    }
    unsafe fn set_init(&mut self, _pos: usize) {}
}

/// User and system time of this thread.
fn cpu_time() -> Duration {
    // SAFETY: the struct is plain data that the call fills.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage);
        usage
    };
    let time = |t: libc::timeval| {
        Duration::from_micros(t.tv_sec.unsigned_abs() * 1_000_000 + t.tv_usec.unsigned_abs())
    };
    time(usage.ru_utime) + time(usage.ru_stime)
}

fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).unwrap();
}

/// What one run took.
struct Run {
    amount: f64,
    wall: Duration,
    cpu: Duration,
}

/// Runs one way once.
type Runner = Box<dyn FnMut() -> Run>;

fn measured(test: impl AsyncFnOnce() -> f64) -> Run {
    let mut runtime =
        RuntimeBuilder::<IoUringDriver>::new().enable_timer().with_entries(4096).build().unwrap();
    runtime.block_on(async {
        let (begun, cpu) = (Instant::now(), cpu_time());
        let amount = test().await;
        let run = Run { amount, wall: begun.elapsed(), cpu: cpu_time().saturating_sub(cpu) };
        // Closing a socket takes a turn of the runtime.
        monoio::time::sleep(Duration::from_millis(2)).await;
        run
    })
}

fn median(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2], values[0], values[values.len() - 1])
}

/// Runs all ways in turn, several times, and prints a line for each.
fn compare(title: &str, unit: &str, ways: &mut [(&str, Runner)]) {
    println!("{title}");
    let mut runs: Vec<Vec<Run>> = ways.iter().map(|_| Vec::new()).collect();
    for _ in 0..ROUNDS {
        for (i, (_, way)) in ways.iter_mut().enumerate() {
            runs[i].push(way());
        }
    }
    for ((name, _), runs) in ways.iter().zip(runs) {
        let (rate, low, high) = median(runs.iter().map(|r| r.amount / r.wall.as_secs_f64()).collect());
        let (cpu, least, most) = median(runs.iter().map(|r| r.cpu.as_secs_f64() * 1e3 / r.amount).collect());
        println!(
            "  {name:<44} {rate:7.2} {unit}/s ({low:.2}-{high:.2})   {cpu:7.1} ms CPU/{unit} ({least:.1}-{most:.1})"
        );
    }
}

/// Connections to peers that run `peer` on the other core.
fn peers(count: usize, peer: fn(TcpStream)) -> (Vec<TcpStream>, Vec<thread::JoinHandle<()>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let run = move || {
        pin(1);
        peer(TcpStream::connect(address).unwrap());
    };
    let threads: Vec<_> = (0..count).map(|_| thread::spawn(run)).collect();
    let ours = (0..count).map(|_| listener.accept().unwrap().0).collect();
    (ours, threads)
}

fn discard(mut peer: TcpStream) {
    let mut buffer = vec![0; MIB];
    while peer.read(&mut buffer).is_ok_and(|n| n > 0) {}
}

#[derive(Clone, Copy)]
enum SendBy {
    Monoio,
    Ring(Way, usize),
    Now(usize),
}

/// Sends one gather list, all of it.
async fn send_gather(by: SendBy, bulk: &Bulk, socket: &mut Socket, blocks: &[Block], first: usize) -> usize {
    let gather = |count: usize| -> Rc<Vec<Block>> {
        Rc::new((0..count).map(|i| blocks[(first + i) % blocks.len()].clone()).collect())
    };
    match by {
        SendBy::Monoio => {
            let mut rest = blocks[first].clone().slice(..);
            while rest.bytes_init() > 0 {
                let (n, back) = socket.write(rest).await;
                let (begin, end) = (back.begin() + n.unwrap(), back.end());
                rest = back.into_inner().slice(begin..end);
            }
            BLOCK
        }
        SendBy::Ring(way, count) => {
            let parts = gather(count);
            let mut at = 0;
            while at < count * BLOCK {
                at += bulk.send(socket, &parts, at, way, None, LONG).await.unwrap().bytes;
            }
            at
        }
        SendBy::Now(count) => {
            let parts = gather(count);
            let mut at = 0;
            while at < count * BLOCK {
                match send_now(socket, &*parts, at) {
                    Ok(n) => at += n,
                    Err(_) => send::wait_writable(socket, LONG).await.unwrap(),
                }
            }
            at
        }
    }
}

fn send_run(
    by: SendBy,
    sndbuf: Option<usize>,
    lowat: Option<u32>,
    registry: &Arc<Registry>,
    blocks: &[Block],
) -> Run {
    const CONNECTIONS: usize = 4;
    const EACH: usize = 128 * MIB;
    let (ours, threads) = peers(CONNECTIONS, discard);
    let run = measured(async || {
        let bulk = Bulk::start(registry, Counts::default()).unwrap();
        let mut tasks = Vec::new();
        for (c, stream) in ours.into_iter().enumerate() {
            if let Some(size) = sndbuf {
                rustix::net::sockopt::set_socket_send_buffer_size(&stream, size / 2).unwrap();
            }
            if let Some(low) = lowat {
                let (level, name) = (libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT);
                let fd = std::os::fd::AsRawFd::as_raw_fd(&stream);
                // SAFETY: a number by its address and size.
                let set = unsafe { libc::setsockopt(fd, level, name, (&raw const low).cast(), 4) };
                assert_eq!(set, 0);
            }
            let mut socket = Socket::new(monoio::net::TcpStream::from_std(stream).unwrap());
            let (bulk, blocks) = (bulk.clone(), blocks.to_vec());
            tasks.push(monoio::spawn(async move {
                let mut sent = 0;
                while sent < EACH {
                    let first = (sent / BLOCK + c * 7) % blocks.len();
                    sent += send_gather(by, &bulk, &mut socket, &blocks, first).await;
                }
            }));
        }
        for task in tasks {
            task.await;
        }
        (CONNECTIONS * EACH) as f64 / 1e9
    });
    for thread in threads {
        thread.join().unwrap();
    }
    run
}

fn sends() {
    let registry = Arc::new(Registry::new(64 << 20).unwrap());
    let blocks = Block::all(&memory(64 * MIB, true, Some(&registry)));
    let way = |by: SendBy, sndbuf: Option<usize>, lowat: Option<u32>| -> Runner {
        let (registry, blocks) = (Arc::clone(&registry), blocks.clone());
        Box::new(move || send_run(by, sndbuf, lowat, &registry, &blocks))
    };
    let ring = |count| SendBy::Ring(Way::Copy, count);
    compare(
        "large sends, 4 connections, loopback",
        "GB",
        &mut [
            ("monoio write, 2 MiB", way(SendBy::Monoio, None, None)),
            ("ring SENDMSG, 2 MiB", way(ring(1), None, None)),
            ("ring SENDMSG, 4 MiB", way(ring(2), None, None)),
            ("ring SENDMSG, 8 MiB", way(ring(4), None, None)),
            ("sendmsg(2) and poll, 2 MiB", way(SendBy::Now(1), None, None)),
            ("sendmsg(2) and poll, 4 MiB", way(SendBy::Now(2), None, None)),
            ("sendmsg(2) and poll, 8 MiB", way(SendBy::Now(4), None, None)),
            ("ring SEND_ZC, 2 MiB", way(SendBy::Ring(Way::ZeroCopy, 1), None, None)),
            ("ring SEND_ZC, 8 MiB", way(SendBy::Ring(Way::ZeroCopy, 4), None, None)),
            ("monoio write, 2 MiB, SO_SNDBUF 512 KiB", way(SendBy::Monoio, Some(512 << 10), None)),
            ("monoio write, 2 MiB, SO_SNDBUF 1 MiB", way(SendBy::Monoio, Some(MIB), None)),
            ("ring SENDMSG, 4 MiB, SO_SNDBUF 512 KiB", way(ring(2), Some(512 << 10), None)),
            ("ring SENDMSG, 4 MiB, SO_SNDBUF 1 MiB", way(ring(2), Some(MIB), None)),
            ("ring SENDMSG, 4 MiB, NOTSENT_LOWAT 128 KiB", way(ring(2), None, Some(128 << 10))),
        ],
    );
}

/// A peer that asks with a byte and reads the answer.
fn ask<const LEN: usize>(mut peer: TcpStream) {
    let mut buffer = vec![0; LEN];
    for _ in 0..ASKS {
        peer.write_all(&[1]).unwrap();
        peer.read_exact(&mut buffer).unwrap();
    }
}

const ASKS: usize = 8000;
const HEAD: usize = 400;

#[derive(Clone, Copy)]
enum AnswerBy {
    MonoioCopied,
    Ring,
    Now,
}

fn answer_run(by: AnswerBy, len: usize, peer: fn(TcpStream)) -> Run {
    const CONNECTIONS: usize = 4;
    let (ours, threads) = peers(CONNECTIONS, peer);
    let run = measured(async || {
        let bulk = Bulk::start(&Arc::new(Registry::none()), Counts::default()).unwrap();
        let mut tasks = Vec::new();
        for stream in ours {
            stream.set_nodelay(true).unwrap();
            let mut socket = Socket::new(monoio::net::TcpStream::from_std(stream).unwrap());
            let bulk = bulk.clone();
            tasks.push(monoio::spawn(async move {
                let mut buffer = Buffer::new(len);
                buffer.set_len(len);
                let body: Rc<[u8]> = Rc::from(&buffer[..]);
                let mut question = vec![0; 1];
                loop {
                    let (read, back) = socket.read(question).await;
                    question = back;
                    if !read.is_ok_and(|n| n == 1) {
                        return;
                    }
                    let mut head = vec![b'h'; HEAD];
                    match by {
                        AnswerBy::MonoioCopied => {
                            head.extend_from_slice(&body);
                            let mut rest = head.slice(..);
                            while rest.bytes_init() > 0 {
                                let (n, back) = socket.write(rest).await;
                                let (begin, end) = (back.begin() + n.unwrap(), back.end());
                                rest = back.into_inner().slice(begin..end);
                            }
                        }
                        AnswerBy::Ring | AnswerBy::Now => {
                            let parts = Rc::new((head, Rc::clone(&body)));
                            let mut at = 0;
                            if matches!(by, AnswerBy::Now) {
                                at = send_now(&socket, &*parts, 0).unwrap_or(0);
                            }
                            while at < HEAD + len {
                                at += bulk
                                    .send(&socket, &parts, at, Way::Copy, None, LONG)
                                    .await
                                    .unwrap()
                                    .bytes;
                            }
                        }
                    }
                }
            }));
        }
        for task in tasks {
            task.await;
        }
        (CONNECTIONS * ASKS) as f64 / 1e3
    });
    for thread in threads {
        thread.join().unwrap();
    }
    run
}

fn small() {
    let ways = [
        ("copied behind the head, monoio write", AnswerBy::MonoioCopied),
        ("ring SENDMSG", AnswerBy::Ring),
        ("sendmsg(2), the ring for the rest", AnswerBy::Now),
    ];
    let sizes: [(usize, fn(TcpStream)); 3] = [
        (4 << 10, ask::<{ (4 << 10) + HEAD }>),
        (64 << 10, ask::<{ (64 << 10) + HEAD }>),
        (256 << 10, ask::<{ (256 << 10) + HEAD }>),
    ];
    for (len, peer) in sizes {
        let mut ways: Vec<(&str, Runner)> = Vec::from(ways.map(|(name, by)| {
            let run: Runner = Box::new(move || answer_run(by, len, peer));
            (name, run)
        }));
        compare(&format!("answers of {} KiB, 4 connections", len >> 10), "k", &mut ways);
    }
}

fn pump(mut peer: TcpStream) {
    let buffer = vec![1; MIB];
    for _ in 0..512 {
        peer.write_all(&buffer).unwrap();
    }
}

fn receive_run(ring: bool, blocks: &[Block]) -> Run {
    const CONNECTIONS: usize = 4;
    let (ours, threads) = peers(CONNECTIONS, pump);
    let run = measured(async || {
        let bulk = Bulk::start(&Arc::new(Registry::none()), Counts::default()).unwrap();
        let mut tasks = Vec::new();
        for (c, stream) in ours.into_iter().enumerate() {
            let mut socket = Socket::new(monoio::net::TcpStream::from_std(stream).unwrap());
            let (bulk, mut block) = (bulk.clone(), blocks[c].clone());
            tasks.push(monoio::spawn(async move {
                loop {
                    let mut at = 0;
                    while at < BLOCK {
                        let n = if ring {
                            let (moved, back) = bulk.recv(&socket, block, at..BLOCK, LONG).await;
                            block = back;
                            moved.unwrap().bytes
                        } else {
                            use monoio::buf::IoBufMut as _;
                            let (n, back) = socket.read(block.slice_mut(at..BLOCK)).await;
                            block = back.into_inner();
                            n.unwrap()
                        };
                        if n == 0 {
                            return;
                        }
                        at += n;
                    }
                }
            }));
        }
        for task in tasks {
            task.await;
        }
        (CONNECTIONS * 512 * MIB) as f64 / 1e9
    });
    for thread in threads {
        thread.join().unwrap();
    }
    run
}

fn receives() {
    let blocks = Block::all(&memory(64 * MIB, true, None));
    let way = |ring: bool| -> Runner {
        let blocks = blocks.clone();
        Box::new(move || receive_run(ring, &blocks))
    };
    compare(
        "receives into 2 MiB, 4 connections",
        "GB",
        &mut [("monoio read", way(false)), ("ring RECV, MSG_WAITALL", way(true))],
    );
}

#[derive(Clone, Copy)]
enum ReadBy {
    Monoio,
    Ring,
}

fn read_run(
    by: ReadBy,
    blocks: &[Block],
    registry: &Arc<Registry>,
    file: &std::path::Path,
    size: usize,
) -> Run {
    const DEPTH: usize = 4;
    measured(async || {
        let bulk = Bulk::start(registry, Counts::default()).unwrap();
        let open = || OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(file).unwrap();
        let len = std::fs::metadata(file).unwrap().len() as usize;
        let mut tasks = Vec::new();
        for (d, block) in blocks.iter().enumerate().take(DEPTH) {
            let bulk = bulk.clone();
            let ours = Rc::new(open());
            let theirs = monoio::fs::File::from_std(open()).unwrap();
            let mut block = block.clone();
            tasks.push(monoio::spawn(async move {
                let descriptor = Descriptor::of(&ours);
                let mut at = d * size;
                while at < len {
                    let n = match by {
                        ReadBy::Monoio => {
                            use monoio::buf::IoBufMut as _;
                            let (n, back) = theirs.read_at(block.slice_mut(0..size), at as u64).await;
                            block = back.into_inner();
                            n
                        }
                        ReadBy::Ring => {
                            let (n, back) = bulk.read(&descriptor, block, 0..size, at as u64).await;
                            block = back;
                            n
                        }
                    };
                    assert_eq!(n.unwrap(), size);
                    at += DEPTH * size;
                }
            }));
        }
        for task in tasks {
            task.await;
        }
        len as f64 / 1e9
    })
}

fn reads() {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let path = dir.path().join("file");
    let mut file = File::create(&path).unwrap();
    for _ in 0..512 {
        file.write_all(&vec![3; MIB]).unwrap();
    }
    file.sync_all().unwrap();
    let registry = Arc::new(Registry::new(32 << 20).unwrap());
    let plain = Block::all(&memory(16 * MIB, false, None));
    let huge = Block::all(&memory(16 * MIB, true, None));
    let fixed = Block::all(&memory(16 * MIB, true, Some(&registry)));
    let fixed_plain = Block::all(&memory(16 * MIB, false, Some(&registry)));
    for size in [BLOCK, 64 << 10, 16 << 10] {
        let way = |by: ReadBy, blocks: &[Block]| -> Runner {
            let (registry, blocks, path) = (Arc::clone(&registry), blocks.to_vec(), path.clone());
            Box::new(move || read_run(by, &blocks, &registry, &path, size))
        };
        compare(
            &format!("direct reads of {} KiB, 4 at a time", size >> 10),
            "GB",
            &mut [
                ("monoio read_at, ordinary pages", way(ReadBy::Monoio, &plain)),
                ("monoio read_at, huge pages", way(ReadBy::Monoio, &huge)),
                ("ring READ, ordinary pages", way(ReadBy::Ring, &plain)),
                ("ring READ, huge pages", way(ReadBy::Ring, &huge)),
                ("ring READ_FIXED, ordinary pages", way(ReadBy::Ring, &fixed_plain)),
                ("ring READ_FIXED, huge pages", way(ReadBy::Ring, &fixed)),
            ],
        );
    }
}

/// What registering an extent of 64 MiB takes.
fn registering() {
    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};
    println!("registering 64 MiB");
    for (name, huge, touched) in [
        ("ordinary pages, untouched", false, false),
        ("ordinary pages, touched", false, true),
        ("huge pages, untouched", true, false),
        ("huge pages, touched", true, true),
    ] {
        let registry = Registry::new(u64::MAX >> 1).unwrap_or_else(|_| Registry::new(640 << 20).unwrap());
        let times = (0..ROUNDS).map(|_| {
            let len = 64 * MIB;
            // SAFETY: as in `memory`.
            unsafe {
                let flags = ProtFlags::READ | ProtFlags::WRITE;
                let whole = mmap_anonymous(std::ptr::null_mut(), len + BLOCK, flags, MapFlags::PRIVATE)
                    .unwrap()
                    .cast::<u8>();
                let start = whole.add(whole.align_offset(BLOCK));
                let advice = if huge { Advice::LinuxHugepage } else { Advice::LinuxNoHugepage };
                madvise(start.cast(), len, advice).unwrap();
                if touched {
                    std::ptr::write_bytes(start, 7, len);
                }
                let begun = Instant::now();
                registry.add(start, len).unwrap();
                begun.elapsed().as_secs_f64() * 1e3
            }
        });
        let (middle, low, high) = median(times.collect());
        println!("  {name:<44} {middle:7.2} ms ({low:.2}-{high:.2})");
    }
}

fn main() {
    pin(0);
    let asked: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let benches: [(&str, fn()); 5] =
        [("send", sends), ("small", small), ("recv", receives), ("read", reads), ("register", registering)];
    for (name, bench) in benches {
        if asked.is_empty() || asked.iter().any(|arg| arg == name) {
            bench();
        }
    }
}
