//! A TCP proxy on every directed link between two nodes, and what can be done to each.
//!
//! The link `i -> j` carries the connections that `i` opens to `j`, both ways. All links share one thread ([`super::relay`]);
//! what a connection holds is bounded.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use super::ports;
use super::relay::{Command, Relay};

/// What a link does with its connections.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mode {
    Pass,
    /// New connections are refused, those that are open are reset.
    Cut,
    /// Connections are accepted, nothing is forwarded; afterwards everything arrives late.
    BlackHole,
    /// Everything arrives so much later.
    Delay(Duration),
    /// Every connection is reset after so many bytes, both ways together.
    CutAfter(u64),
    /// Bytes per second, of all connections together.
    Throttle(u64),
}

/// The links of a cluster, by the indexes of the nodes.
pub struct Links {
    addrs: BTreeMap<(usize, usize), SocketAddr>,
    commands: Mutex<(mpsc::Sender<Command>, UnixStream)>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Links {
    /// Links between all pairs of nodes with these peer addresses.
    pub fn between(peers: &[SocketAddr]) -> Self {
        let pairs = (0..peers.len()).flat_map(|from| (0..peers.len()).map(move |to| (from, to)));
        let lanes: Vec<_> = pairs
            .filter(|(from, to)| from != to)
            .map(|(from, to)| ((from, to), ports::free(), peers[to]))
            .collect();
        Self::of(&lanes)
    }

    /// Links from each first address to its second.
    pub fn of(lanes: &[((usize, usize), SocketAddr, SocketAddr)]) -> Self {
        let (commands, queue) = mpsc::channel();
        let (wake, woken) = UnixStream::pair().expect("a pair of sockets");
        let relay = Relay::new(lanes, queue, woken);
        let thread = std::thread::Builder::new().name("links".to_owned()).spawn(move || relay.run());
        Self {
            addrs: lanes.iter().map(|(pair, addr, _)| (*pair, *addr)).collect(),
            commands: Mutex::new((commands, wake)),
            thread: Some(thread.expect("a thread for the links")),
        }
    }

    /// Where `from` finds `to`.
    pub fn addr(&self, from: usize, to: usize) -> SocketAddr {
        self.addrs[&(from, to)]
    }

    /// All directed links.
    pub fn pairs(&self) -> impl Iterator<Item = (usize, usize)> {
        self.addrs.keys().copied()
    }

    /// Changes one link; it is so when this returns.
    pub fn set(&self, from: usize, to: usize, mode: Mode) {
        let (done, wait) = mpsc::channel();
        self.command(Command::Set((from, to), mode, done));
        wait.recv().expect("the links answer");
    }

    /// Both directions between two nodes.
    pub fn set_both(&self, one: usize, other: usize, mode: Mode) {
        self.set(one, other, mode);
        self.set(other, one, mode);
    }

    /// All links between nodes of `side` and others.
    pub fn split(&self, side: &[usize], mode: Mode) {
        for (from, to) in self.pairs().collect::<Vec<_>>() {
            if side.contains(&from) != side.contains(&to) {
                self.set(from, to, mode);
            }
        }
    }

    /// All links pass again.
    pub fn heal(&self) {
        for (from, to) in self.pairs().collect::<Vec<_>>() {
            self.set(from, to, Mode::Pass);
        }
    }

    /// Bytes forwarded so far, both ways.
    pub fn passed(&self, from: usize, to: usize) -> u64 {
        let (told, wait) = mpsc::channel();
        self.command(Command::Passed((from, to), told));
        wait.recv().expect("the links answer")
    }

    fn command(&self, command: Command) {
        let mut commands = self.commands.lock().expect("the links");
        commands.0.send(command).expect("the links live");
        commands.1.write_all(&[0]).expect("wake the links");
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.command(Command::End);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the thread of the links panicked");
        }
    }
}
