//! The thread of the links: one poll(2) over all listeners and connections of all links.
//!
//! What was read and not yet written is at most [`HELD`] bytes a direction; beyond that the sender is not read from, so a slow
//! or stopped receiver is felt by the sender. An error on one side resets the other.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::links::Mode;

/// Bytes held in one direction of a connection; more while they are delayed, or a delay would be a throttle.
const HELD: usize = 256 << 10;
const HELD_DELAYED: usize = 4 << 20;
/// Bytes read at once.
const PIECE: usize = 64 << 10;
/// Connections of one link; further ones wait to be accepted.
const TUNNELS: usize = 512;
/// How often a throttled link gives out what it saved up.
const TICK: Duration = Duration::from_millis(5);

pub enum Command {
    Set((usize, usize), Mode, mpsc::Sender<()>),
    Passed((usize, usize), mpsc::Sender<u64>),
    End,
}

pub struct Relay {
    lanes: Vec<Lane>,
    commands: mpsc::Receiver<Command>,
    woken: UnixStream,
}

struct Lane {
    pair: (usize, usize),
    addr: SocketAddr,
    target: SocketAddr,
    listener: Option<TcpListener>,
    mode: Mode,
    tunnels: Vec<Tunnel>,
    passed: u64,
    /// Bytes that a throttle lets through now.
    saved: u64,
    saved_at: Instant,
}

/// One connection: `ways[k]` leads from `ends[k]` to the other end.
struct Tunnel {
    ends: [TcpStream; 2],
    ways: [Way; 2],
    /// Bytes until it is reset.
    left: u64,
}

#[derive(Default)]
struct Way {
    /// What was read, and when it may be written.
    held: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    /// The sender has finished.
    ended: bool,
    /// And the receiver was told.
    closed: bool,
}

/// What a descriptor in the poll stands for.
#[derive(Clone, Copy)]
enum Source {
    Wake,
    Listener(usize),
    End(usize, usize, usize),
}

impl Relay {
    pub fn new(
        lanes: &[((usize, usize), SocketAddr, SocketAddr)],
        commands: mpsc::Receiver<Command>,
        woken: UnixStream,
    ) -> Self {
        woken.set_nonblocking(true).expect("a socket that does not block");
        let lanes = lanes.iter().map(|(pair, addr, target)| Lane::new(*pair, *addr, *target)).collect();
        Self { lanes, commands, woken }
    }

    pub fn run(mut self) {
        loop {
            let now = Instant::now();
            self.lanes.iter_mut().for_each(|lane| lane.save_up(now));
            for (source, ready) in self.wait(now) {
                match source {
                    Source::Wake => {
                        let _ = self.woken.read(&mut [0; 64]);
                    }
                    Source::Listener(lane) => self.lanes[lane].accept(),
                    Source::End(lane, tunnel, end) => {
                        if ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                            self.lanes[lane].read(tunnel, end);
                        }
                    }
                }
            }
            let now = Instant::now();
            self.lanes.iter_mut().for_each(|lane| lane.forward(now));
            while let Ok(command) = self.commands.try_recv() {
                match command {
                    Command::Set(pair, mode, done) => {
                        self.lane(pair).set(mode);
                        let _ = done.send(());
                    }
                    Command::Passed(pair, told) => {
                        let _ = told.send(self.lane(pair).passed);
                    }
                    Command::End => return,
                }
            }
        }
    }

    fn lane(&mut self, pair: (usize, usize)) -> &mut Lane {
        let found = self.lanes.iter_mut().find(|lane| lane.pair == pair);
        found.unwrap_or_else(|| panic!("no link {pair:?}"))
    }

    /// Waits until something can be done, and says what.
    fn wait(&self, now: Instant) -> Vec<(Source, PollFlags)> {
        let mut sources = vec![Source::Wake];
        let mut fds = vec![PollFd::new(&self.woken, PollFlags::IN)];
        let mut due: Option<Instant> = None;
        for (at, lane) in self.lanes.iter().enumerate() {
            if let Some(listener) = lane.listener.as_ref().filter(|_| lane.tunnels.len() < TUNNELS) {
                sources.push(Source::Listener(at));
                fds.push(PollFd::new(listener, PollFlags::IN));
            }
            if lane.mode == Mode::BlackHole {
                continue;
            }
            for (number, tunnel) in lane.tunnels.iter().enumerate() {
                for (end, stream) in tunnel.ends.iter().enumerate() {
                    let mut events = PollFlags::empty();
                    let (from, to) = (&tunnel.ways[end], &tunnel.ways[1 - end]);
                    if !from.ended && from.bytes < lane.most_held() {
                        events |= PollFlags::IN;
                    }
                    match to.held.front() {
                        Some((time, _)) if *time > now => due = Some(due.map_or(*time, |due| due.min(*time))),
                        Some(_) if lane.saved == 0 => {
                            due = Some(due.map_or(now + TICK, |due| due.min(now + TICK)));
                        }
                        Some(_) => events |= PollFlags::OUT,
                        None => {}
                    }
                    if !events.is_empty() {
                        sources.push(Source::End(at, number, end));
                        fds.push(PollFd::new(stream, events));
                    }
                }
            }
        }
        let timeout = due.map(|due| {
            let left = due.saturating_duration_since(now) + Duration::from_micros(100);
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) }
        });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
        let ready = sources.into_iter().zip(&fds).map(|(source, fd)| (source, fd.revents()));
        ready.filter(|(_, ready)| !ready.is_empty()).collect()
    }
}

impl Lane {
    fn new(pair: (usize, usize), addr: SocketAddr, target: SocketAddr) -> Self {
        let mut lane = Self {
            pair,
            addr,
            target,
            listener: None,
            mode: Mode::Pass,
            tunnels: Vec::new(),
            passed: 0,
            saved: u64::MAX,
            saved_at: Instant::now(),
        };
        lane.listen();
        lane
    }

    fn listen(&mut self) {
        if self.listener.is_none() {
            let listener = TcpListener::bind(self.addr)
                .unwrap_or_else(|error| panic!("listen on {}: {error}", self.addr));
            listener.set_nonblocking(true).expect("a listener that does not block");
            self.listener = Some(listener);
        }
    }

    fn set(&mut self, mode: Mode) {
        self.mode = mode;
        (self.saved, self.saved_at) = (self.throttle().map_or(u64::MAX, |_| 0), Instant::now());
        let left = self.budget();
        self.tunnels.iter_mut().for_each(|tunnel| tunnel.left = left);
        if mode == Mode::Cut {
            self.listener = None;
            self.tunnels.drain(..).for_each(Tunnel::reset);
        } else {
            self.listen();
        }
    }

    fn budget(&self) -> u64 {
        if let Mode::CutAfter(bytes) = self.mode { bytes } else { u64::MAX }
    }

    fn throttle(&self) -> Option<u64> {
        if let Mode::Throttle(rate) = self.mode { Some(rate) } else { None }
    }

    fn most_held(&self) -> usize {
        if matches!(self.mode, Mode::Delay(_)) { HELD_DELAYED } else { HELD }
    }

    /// What a throttle lets through grows with time, up to a tenth of a second's worth.
    fn save_up(&mut self, now: Instant) {
        let Some(rate) = self.throttle() else { return };
        let more = now.saturating_duration_since(self.saved_at).as_micros() as u64 * rate / 1_000_000;
        if more > 0 {
            self.saved = (self.saved + more).min((rate / 10).max(1));
            self.saved_at = now;
        }
    }

    fn accept(&mut self) {
        while let Some(listener) = self.listener.as_ref().filter(|_| self.tunnels.len() < TUNNELS) {
            let client = match listener.accept() {
                Ok((client, _)) => client,
                Err(_) => return,
            };
            let tunnel = connect(self.target).and_then(|server| Tunnel::new(client, server, self.budget()));
            // If the node is down, the one who dialled sees a connection that ends at once.
            self.tunnels.extend(tunnel);
        }
    }

    fn read(&mut self, tunnel: usize, end: usize) {
        let due = match self.mode {
            Mode::Delay(time) => Instant::now() + time,
            _ => Instant::now(),
        };
        let Some(tunnel) = self.tunnels.get_mut(tunnel) else { return };
        let way = &mut tunnel.ways[end];
        let mut piece = vec![0; PIECE];
        match tunnel.ends[end].read(&mut piece) {
            Ok(0) => way.ended = true,
            Ok(got) => {
                piece.truncate(got);
                way.bytes += got;
                way.held.push_back((due, piece));
            }
            Err(error) if blocks(&error) => {}
            Err(_) => tunnel.left = 0,
        }
    }

    /// Writes what is due, and ends what has ended.
    fn forward(&mut self, now: Instant) {
        if self.mode == Mode::BlackHole {
            return;
        }
        let (mut at, throttled) = (0, self.throttle().is_some());
        while at < self.tunnels.len() {
            let tunnel = &mut self.tunnels[at];
            for end in 0..2 {
                let most = tunnel.left.min(self.saved);
                let wrote = tunnel.forward(end, now, most);
                self.passed += wrote;
                self.saved -= if throttled { wrote } else { 0 };
            }
            if tunnel.left == 0 {
                self.tunnels.swap_remove(at).reset();
            } else if tunnel.ways.iter().all(|way| way.closed) {
                self.tunnels.swap_remove(at);
            } else {
                at += 1;
            }
        }
    }
}

impl Tunnel {
    fn new(client: TcpStream, server: TcpStream, left: u64) -> io::Result<Self> {
        for end in [&client, &server] {
            end.set_nonblocking(true)?;
            end.set_nodelay(true)?;
        }
        Ok(Self { ends: [client, server], ways: Default::default(), left })
    }

    /// Writes at most `most` bytes of what is due from `end` to the other; how many it were. An error leaves nothing of
    /// [`Self::left`].
    fn forward(&mut self, end: usize, now: Instant, most: u64) -> u64 {
        let (way, to) = (&mut self.ways[end], &mut self.ends[1 - end]);
        let mut wrote = 0;
        while wrote < most {
            let Some((due, piece)) = way.held.front_mut().filter(|(due, _)| *due <= now) else { break };
            let take = usize::try_from(most - wrote).unwrap_or(usize::MAX).min(piece.len());
            match to.write(&piece[..take]) {
                Ok(got) => {
                    wrote += got as u64;
                    way.bytes -= got;
                    if got == piece.len() {
                        way.held.pop_front();
                    } else {
                        let rest = (*due, piece.split_off(got));
                        way.held[0] = rest;
                    }
                }
                Err(error) if blocks(&error) => break,
                Err(_) => {
                    self.left = 0;
                    return wrote;
                }
            }
        }
        self.left = if self.left == u64::MAX { u64::MAX } else { self.left - wrote };
        if way.ended && way.held.is_empty() && !way.closed {
            way.closed = true;
            let _ = to.shutdown(Shutdown::Write);
        }
        wrote
    }

    /// Both ends read a reset, not an end.
    fn reset(self) {
        for end in &self.ends {
            let _ = sockopt::set_socket_linger(end.as_fd(), Some(Duration::ZERO));
        }
    }
}

fn blocks(error: &io::Error) -> bool {
    [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted, io::ErrorKind::NotConnected]
        .contains(&error.kind())
}

/// Begins to connect; a peer that is stopped must not hold the thread up.
fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &target) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(TcpStream::from(socket)),
        Err(error) => Err(error.into()),
    }
}
