//! Reads beside writes: whoever has seen a version never sees an older one as the newest.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use support::{Connection, Request, Server, bytes, object};

/// How long the path is overwritten while others read it.
const LOAD: Duration = Duration::from_secs(3);
/// Small enough to live in the database, so that a commit is all there is to a PUT.
const LEN: usize = 60_000;
const PATH: &str = "order/overwritten";

/// The ways to ask for the newest version; each answers with its number.
#[derive(Debug, Clone, Copy)]
enum Ask {
    Versions,
    Head,
    Get,
}

impl Ask {
    fn newest(self, link: &mut Connection) -> u64 {
        let request = match self {
            Self::Versions => Request::new("GET", &format!("{}?versions&limit=1", object(PATH))),
            Self::Head => Request::new("HEAD", &object(PATH)),
            Self::Get => Request::new("GET", &object(PATH)),
        };
        let answer = link.exchange(&request).expect("an answer while the path is overwritten");
        let answer = answer.expect_status(200);
        if matches!(self, Self::Versions) {
            return answer.json()["versions"][0]["version"].as_u64().expect("the newest version");
        }
        let version = answer.header("x-amber-version").and_then(|text| text.parse().ok()).expect("a version");
        if matches!(self, Self::Get) {
            assert!(answer.body == bytes(version, LEN), "version {version} has the bytes of another");
        }
        version
    }
}

#[test]
fn the_newest_version_never_goes_back_while_the_path_is_overwritten() {
    overwrite_and_read(0);
}

/// With them the path's versions go through the journal, and reach its database later.
#[test]
fn the_newest_version_never_goes_back_while_other_slots_are_written_too() {
    overwrite_and_read(16);
}

/// Overwrites a path while it is read, and while so many others write to slots of their own.
fn overwrite_and_read(others: usize) {
    let server = Server::start();
    server.put(PATH, &bytes(1, LEN)).expect_status(201);
    // The highest version that anybody was told of: what is asked after that must not be lower.
    let (seen, over) = (AtomicU64::new(1), AtomicBool::new(false));
    let until = Instant::now() + LOAD;
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut link = server.connect();
                    let mut reads = 0_u64;
                    for ask in [Ask::Versions, Ask::Head, Ask::Versions, Ask::Get].into_iter().cycle() {
                        let floor = seen.load(Ordering::SeqCst);
                        let version = ask.newest(&mut link);
                        assert!(version >= floor, "{ask:?} says {version} after {floor} was seen");
                        seen.fetch_max(version, Ordering::SeqCst);
                        reads += 1;
                        if over.load(Ordering::SeqCst) {
                            break;
                        }
                    }
                    reads
                })
            })
            .collect();
        for other in 0..others {
            let (server, over) = (&server, &over);
            scope.spawn(move || {
                let mut link = server.connect();
                while !over.load(Ordering::SeqCst) {
                    let put = Request::new("PUT", &object(&format!("other/{other}"))).body(bytes(1, 100));
                    link.exchange(&put).expect("an answer to a PUT").expect_status(201);
                }
            });
        }
        let mut link = server.connect();
        let mut version = 1;
        while Instant::now() < until && !readers.iter().any(std::thread::ScopedJoinHandle::is_finished) {
            version += 1;
            let put = Request::new("PUT", &object(PATH)).body(bytes(version, LEN));
            let put = link.exchange(&put).expect("an answer to a PUT").expect_status(201);
            assert_eq!(put.json_u64("version"), version);
            seen.fetch_max(version, Ordering::SeqCst);
        }
        over.store(true, Ordering::SeqCst);
        let reads: u64 = readers.into_iter().map(|reader| reader.join().expect("a reader")).sum();
        println!("{version} versions, {reads} reads");
        assert!(version > 20 && reads > 20, "{version} versions and {reads} reads show nothing");
    });
}
