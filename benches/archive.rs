//! What the archive costs: a sequential read of an archived 1 GiB beside a client that reads the same objects from the store in
//! parallel; and how much slower hot reads are while chunks go up at full speed, and while a client stores as much in the same store.
//!
//! `cargo bench --bench archive [-- MiB [RATE]]` starts a store (s3s-fs) and a node, each a process of its own, and prints medians of
//! interleaved rounds with their spread. All of it shares the machine's processors: on two of them hot reads get slower by
//! what the store takes, whoever uploads; what the node adds to that is the last ratio.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::pedantic, reason = "a bench")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use amberblob::archive::location::Location;
use amberblob::archive::settings::{Credentials, CredentialsFrom, Rules, Settings};
use amberblob::archive::target::Target;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use sha2::{Digest as _, Sha256};

const MIB: u64 = 1 << 20;
const ROUNDS: usize = 5;
/// Ranges that the client of the store has under way, and their bytes.
const PARALLEL: usize = 8;
const RANGE: u64 = 8 * MIB;
const BUCKET: &str = "bench";
const KEY: &str = "an-access-key";
const SECRET: &str = "a-secret-key";

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if args.first().is_some_and(|arg| arg == "--store") {
        return store(Path::new(&args[1]));
    }
    let size = args.first().map_or(1024, |arg| arg.parse().expect("MiB")) * MIB;
    let home = tempfile::tempdir().unwrap();
    let objects = home.path().join("objects");
    fs::create_dir_all(objects.join(BUCKET)).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg("--store").arg(&objects).stdout(Stdio::piped());
    let (_store, line) = started(command);
    let endpoint = format!("http://{line}");
    let rate = args.get(1).map_or("0", String::as_str);
    let node = Node::start(home.path(), &endpoint, rate);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();

    node.put("cold", size);
    node.archive("cold");
    let chunks = objects_of(&objects);
    let target = Arc::new(Target::open(&settings(&endpoint), credentials()).unwrap());
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        theirs.push(runtime.block_on(tokio::task::LocalSet::new().run_until(parallel(&target, &chunks))));
        let begun = Instant::now();
        assert_eq!(node.get("cold", None), size);
        ours.push(size as f64 / begun.elapsed().as_secs_f64());
    }
    let ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect();
    println!("sequential read of archived {} MiB: {} GB/s", size / MIB, spread(&ours, 1e9));
    println!("parallel client of the store:       {} GB/s", spread(&theirs, 1e9));
    println!("ratio:                              {}", spread(&ratios, 1.0));

    node.put("hot", 32 * MIB);
    let (mut alone, mut outside, mut beside) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let path = format!("moving/{round}");
        node.put(&path, size);
        alone.push(node.hot());
        let endpoint = endpoint.clone();
        let uploading = std::thread::spawn(move || uploaded(&endpoint, size));
        outside.push(node.hot());
        let took = uploading.join().unwrap();
        println!(
            "  a client stored {} MiB at {:.2} GB/s",
            size / MIB,
            size as f64 / took.as_secs_f64() / 1e9
        );
        let admin = node.admin;
        let archiving = std::thread::spawn(move || {
            let begun = Instant::now();
            ask(admin, "POST", &format!("/archive/{path}"));
            begun.elapsed()
        });
        beside.push(node.hot());
        let took = archiving.join().unwrap();
        println!("  archived {} MiB at {:.2} GB/s", size / MIB, size as f64 / took.as_secs_f64() / 1e9);
    }
    let ratios = |of: &[f64], to: &[f64]| of.iter().zip(to).map(|(of, to)| of / to).collect::<Vec<_>>();
    println!("hot reads of 1 MiB alone:           {} GB/s", spread(&alone, 1e9));
    println!("while a client stores as much:      {} GB/s", spread(&outside, 1e9));
    println!("while chunks go up:                 {} GB/s", spread(&beside, 1e9));
    println!("ratio to alone:                     {}", spread(&ratios(&beside, &alone), 1.0));
    println!("ratio to beside that client:        {}", spread(&ratios(&beside, &outside), 1.0));
}

/// Stores objects as the node does, four at a time; how long it takes.
fn uploaded(endpoint: &str, size: u64) -> Duration {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let target = Arc::new(Target::open(&settings(endpoint), credentials()).unwrap());
    let piece = bytes::Bytes::from(vec![7; MIB as usize]);
    let chunk = size.min(64 * MIB);
    let mut hash = Sha256::new();
    (0..chunk / MIB).for_each(|_| hash.update(&piece));
    let sha256 = hash.finalize().into();
    let begun = Instant::now();
    runtime.block_on(tokio::task::LocalSet::new().run_until(async {
        let mut uploading = tokio::task::JoinSet::new();
        for number in 0..size / chunk {
            if uploading.len() >= 4 {
                uploading.join_next().await.unwrap().unwrap();
            }
            let (sender, body) = tokio::sync::mpsc::channel(4);
            let (piece, target) = (piece.clone(), Arc::clone(&target));
            tokio::task::spawn_local(async move {
                for _ in 0..chunk / MIB {
                    sender.send(Ok(piece.clone())).await.unwrap();
                }
            });
            let at = Location { bucket: BUCKET.to_owned(), key: format!("outside/{number}") };
            uploading.spawn_local(async move { target.put(&at, chunk, sha256, body).await.unwrap() });
        }
        while let Some(done) = uploading.join_next().await {
            done.unwrap();
        }
    }));
    begun.elapsed()
}

/// Median, least and greatest.
fn spread(values: &[f64], unit: f64) -> String {
    let mut values: Vec<f64> = values.iter().map(|value| value / unit).collect();
    values.sort_by(f64::total_cmp);
    format!("{:.3} ({:.3} to {:.3})", values[values.len() / 2], values[0], values[values.len() - 1])
}

/// A process that goes with this.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process, and its first line.
fn started(mut command: Command) -> (Process, String) {
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (Process(child), line.trim().to_owned())
}

/// Serves a directory, and says where.
fn store(root: &Path) {
    let mut builder = S3ServiceBuilder::new(FileSystem::new(root).unwrap());
    builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
    let service = builder.build();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(tokio::task::LocalSet::new().run_until(async move {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("{}", listener.local_addr().unwrap());
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), service.clone());
            tokio::task::spawn_local(async move { drop(serving.await) });
        }
    }));
}

fn credentials() -> Credentials {
    Credentials { access_key: KEY.to_owned(), secret_key: SECRET.to_owned(), session_token: None }
}

fn settings(endpoint: &str) -> Settings {
    Settings {
        bucket: BUCKET.to_owned(),
        region: "us-east-1".to_owned(),
        endpoint: Some(endpoint.to_owned()),
        prefix: String::new(),
        path_style: true,
        credentials: CredentialsFrom::Environment(credentials()),
        rate: 0,
        requests: 0,
        uploads: 4,
        pack_below: 0,
        rules: Rules::default(),
    }
}

/// Places and lengths of all objects in the bucket.
fn objects_of(root: &Path) -> Vec<(Location, u64)> {
    let bucket = root.join(BUCKET);
    let mut found = Vec::new();
    for slot in fs::read_dir(&bucket).unwrap().map(|slot| slot.unwrap().path()).filter(|path| path.is_dir()) {
        for object in fs::read_dir(&slot).unwrap().map(|object| object.unwrap()) {
            let slot = slot.file_name().unwrap().to_string_lossy().into_owned();
            let key = format!("{slot}/{}", object.file_name().to_string_lossy());
            found.push((Location { bucket: BUCKET.to_owned(), key }, object.metadata().unwrap().len()));
        }
    }
    found
}

/// Reads all objects, several ranges at a time; bytes a second.
async fn parallel(target: &Arc<Target>, objects: &[(Location, u64)]) -> f64 {
    let begun = Instant::now();
    let mut reading = tokio::task::JoinSet::new();
    let mut bytes = 0;
    for (at, size) in objects {
        let mut from = 0;
        while from < *size {
            if reading.len() >= PARALLEL {
                bytes += reading.join_next().await.unwrap().unwrap();
            }
            let (target, at, range) = (Arc::clone(target), at.clone(), from..(from + RANGE).min(*size));
            from = range.end;
            reading.spawn_local(async move { target.get(&at, range).await.unwrap().len() as u64 });
        }
    }
    while let Some(read) = reading.join_next().await {
        bytes += read.unwrap();
    }
    bytes as f64 / begun.elapsed().as_secs_f64()
}

struct Node {
    public: SocketAddr,
    admin: SocketAddr,
    _process: Process,
}

impl Node {
    fn start(home: &Path, endpoint: &str, rate: &str) -> Self {
        let [public, admin] = [(); 2].map(|()| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        });
        // Nothing comes back by itself: the low mark is below what is used.
        let config = format!(
            "[listen]\npublic = \"{public}\"\nadmin = \"{admin}\"\n[storage]\ndisks = [\"{}\"]\ncache = \"128MiB\"\n\
             [archive]\nbucket = \"{BUCKET}\"\nendpoint = \"{endpoint}\"\nrate = \"{rate}\"\n\
             high_watermark = \"99%\"\nlow_watermark = \"1%\"\n",
            home.join("data").display()
        );
        fs::write(home.join("node.toml"), config).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_amberblob"));
        command.args(["serve", "--cores", "1", "--config"]).arg(home.join("node.toml"));
        command.env("AWS_ACCESS_KEY_ID", KEY).env("AWS_SECRET_ACCESS_KEY", SECRET);
        command.stdout(Stdio::piped());
        let (process, _) = started(command);
        Self { public, admin, _process: process }
    }

    fn put(&self, path: &str, size: u64) {
        let mut stream = TcpStream::connect(self.public).unwrap();
        write!(stream, "PUT /objects/{path} HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n").unwrap();
        let mut piece = vec![0; MIB as usize];
        for number in 0..size / MIB {
            // No two chunks are equal.
            piece[..8].copy_from_slice(&(number ^ size.rotate_left(7)).to_le_bytes());
            piece[8..8 + path.len()].copy_from_slice(path.as_bytes());
            stream.write_all(&piece).unwrap();
        }
        let (status, _) = answer(&mut BufReader::new(stream));
        assert_eq!(status, 201, "PUT {path}");
    }

    /// Reads a blob, or a range of it; its bytes.
    fn get(&self, path: &str, range: Option<(u64, u64)>) -> u64 {
        let mut stream = BufReader::with_capacity(MIB as usize, TcpStream::connect(self.public).unwrap());
        get(&mut stream, path, range)
    }

    fn archive(&self, path: &str) {
        ask(self.admin, "POST", &format!("/archive/{path}"));
    }

    /// Reads what is in the cache for a while; bytes a second.
    fn hot(&self) -> f64 {
        let mut stream = BufReader::with_capacity(MIB as usize, TcpStream::connect(self.public).unwrap());
        let begun = Instant::now();
        let (mut bytes, mut at) = (0, 0);
        while begun.elapsed() < Duration::from_secs(3) {
            at = (at * 5 + 7) % 32;
            bytes += get(&mut stream, "hot", Some((at * MIB, (at + 1) * MIB)));
        }
        bytes as f64 / begun.elapsed().as_secs_f64()
    }
}

fn get(stream: &mut BufReader<TcpStream>, path: &str, range: Option<(u64, u64)>) -> u64 {
    let range = range.map_or_else(String::new, |(from, to)| format!("Range: bytes={from}-{}\r\n", to - 1));
    let request = format!("GET /objects/{path} HTTP/1.1\r\nHost: a\r\n{range}\r\n");
    stream.get_mut().write_all(request.as_bytes()).unwrap();
    let (status, length) = answer(stream);
    assert!(status == 200 || status == 206, "GET {path}: {status}");
    std::io::copy(&mut stream.take(length), &mut std::io::sink()).unwrap()
}

/// Status and length of an answer.
fn answer(stream: &mut BufReader<TcpStream>) -> (u16, u64) {
    let (mut status, mut length) = (0, 0);
    for number in 0.. {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        let line = line.trim();
        if number == 0 {
            status = line.split(' ').nth(1).unwrap().parse().unwrap();
        } else if line.is_empty() {
            break;
        } else if let Some((_, value)) =
            line.split_once(": ").filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        {
            length = value.parse().unwrap();
        }
    }
    (status, length)
}

fn ask(admin: SocketAddr, method: &str, target: &str) {
    let mut stream = TcpStream::connect(admin).unwrap();
    write!(stream, "{method} {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("\"good\":true"), "{target}: {text}");
}
