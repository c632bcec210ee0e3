//! One non-blocking connection and the request it carries.
//!
//! A connection is driven by readiness and never blocks. What it does in one turn is bounded, so that one fast connection cannot starve
//! the others of its thread. Bodies of which not even a copy is asked for are thrown away inside the kernel: on a TCP socket `MSG_TRUNC`
//! consumes bytes without copying them, so the target buffer is address space only and its pages are never touched.

use crate::exchange::{Exchange, Progress};
use crate::failure::Failure;
use crate::low_water::LowWater;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, SocketFlags, SocketType};
use std::io::IoSlice;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// The first bytes of a response are copied out to find the head in them; the rest need not be.
const HEAD_READ: usize = 2048;
/// A body up to this size is taken together with its head: copying it costs less than another system call.
const SMALL_BODY: u64 = 8192;
/// Bytes copied out at once where they must be looked at; fits the second-level cache beside the expected bytes.
const CHECKED_READ: usize = 256 * 1024;
/// Bytes of a body made at once, and kept until the socket has taken them all.
const SEND_PIECE: usize = 128 * 1024;
/// What the pieces of all connections together may hold, so that thousands of uploads have smaller pieces and not more memory.
const ALL_PIECES: usize = 64 << 20;
/// Below this a piece is not worth a system call.
const LEAST_PIECE: usize = 4096;
/// Bytes thrown away at once.
const DISCARD: usize = 64 << 20;
/// Socket calls in one turn.
const CALLS_PER_TURN: u32 = 16;

/// Memory a thread lends to whichever of its connections is being driven.
pub(crate) struct Scratch {
    buffer: Vec<u8>,
    /// Zero pages that the kernel is told to write to and never does.
    void: Vec<u8>,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Self { buffer: vec![0; CHECKED_READ], void: vec![0; DISCARD] }
    }
}

/// How a turn ended.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "moved once; a box would be an allocation for each request")]
pub(crate) enum Turn {
    /// The socket has no more to give, or the turn was long enough.
    Waiting,
    /// The request was answered as asked.
    Done { exchange: Exchange, keep_alive: bool },
    /// The request, if there was one, failed; the connection is of no more use.
    Failed { failure: Failure, operation: Option<usize> },
    /// The server closed a kept-alive connection before it began to answer: the request, if there was one, may be sent again on a new
    /// one.
    Lost(Option<Box<Exchange>>),
}

/// How many body bytes arrived in a turn, for which operation, and whether any byte moved at all.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moved {
    pub(crate) body: u64,
    pub(crate) operation: usize,
    pub(crate) any: bool,
}

/// What all connections of a run have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tuning {
    /// How many there are.
    pub(crate) connections: usize,
    /// Bytes of a body that must have arrived before one is woken.
    pub(crate) low_water: u64,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
    token: u64,
    connected: bool,
    low_water: LowWater,
    watches_writable: bool,
    answered: u64,
    request: Option<Request>,
    /// The head of the last request, kept for its memory.
    spare_head: Vec<u8>,
    outgoing: Outgoing,
    last_moved: Instant,
}

/// A request that is being sent or has been.
#[derive(Debug)]
struct Request {
    exchange: Exchange,
    head: Vec<u8>,
    head_sent: usize,
    body_sent: u64,
}

/// A piece of a body on its way out.
#[derive(Debug)]
struct Outgoing {
    piece: Vec<u8>,
    sent: usize,
    /// The size of a full piece.
    largest: usize,
}

impl Outgoing {
    /// For one of `connections` connections; nothing is allocated until there is a body to send.
    fn new(connections: usize) -> Self {
        let largest = (ALL_PIECES / connections.max(1)).clamp(LEAST_PIECE, SEND_PIECE);
        Self { piece: Vec::new(), sent: 0, largest }
    }

    /// What the socket takes next of the body of which `sent` bytes are out.
    fn rest(&mut self, exchange: &Exchange, sent: u64) -> &[u8] {
        if self.sent == self.piece.len() {
            let left = exchange.body_len() - sent;
            self.piece.resize(usize::try_from(left).map_or(self.largest, |left| left.min(self.largest)), 0);
            exchange.fill_body(sent, &mut self.piece);
            self.sent = 0;
        }
        &self.piece[self.sent..]
    }

    /// Forgets what a new request has no use for.
    fn clear(&mut self) {
        self.piece.clear();
        self.sent = 0;
    }
}

impl Request {
    fn is_sent(&self) -> bool {
        self.head_sent == self.head.len() && self.body_sent == self.exchange.body_len()
    }
}

impl Connection {
    /// Begins to connect to `address` and watches the socket in `poll` under `token`.
    pub(crate) fn open(
        poll: &OwnedFd,
        address: SocketAddr,
        token: u64,
        tuning: Tuning,
        now: Instant,
    ) -> Result<Self, Failure> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket =
            net::socket_with(family, SocketType::STREAM, flags, None).map_err(|_| Failure::Connect)?;
        net::sockopt::set_tcp_nodelay(&socket, true).map_err(|_| Failure::Connect)?;
        match net::connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(_) => return Err(Failure::Connect),
        }
        epoll::add(poll, &socket, EventData::new_u64(token), EventFlags::IN | EventFlags::OUT)
            .map_err(|_| Failure::Connect)?;
        Ok(Self {
            socket,
            token,
            connected: false,
            low_water: LowWater::new(tuning.low_water),
            watches_writable: true,
            answered: 0,
            request: None,
            spare_head: Vec::new(),
            outgoing: Outgoing::new(tuning.connections),
            last_moved: now,
        })
    }

    /// Whether the handshake is over.
    pub(crate) fn is_connected(&self) -> bool {
        self.connected
    }

    /// The request under way.
    pub(crate) fn exchange(&self) -> Option<&Exchange> {
        self.request.as_ref().map(|request| &request.exchange)
    }

    /// Whether the connection waits for something to do.
    pub(crate) fn is_idle(&self) -> bool {
        self.connected && self.request.is_none()
    }

    /// Takes a request on; the next turn sends it.
    pub(crate) fn begin(&mut self, exchange: Exchange, authority: &str, path: &[u8], now: Instant) {
        debug_assert!(self.is_idle(), "one request at a time");
        self.outgoing.clear();
        let mut head = std::mem::take(&mut self.spare_head);
        head.clear();
        exchange.write_request(authority, path, &mut head);
        self.request = Some(Request { exchange, head, head_sent: 0, body_sent: 0 });
        self.last_moved = now;
    }

    /// The failure of a connection on which nothing has moved for too long.
    pub(crate) fn overdue(&self, now: Instant, connect: Duration, response: Duration) -> Option<Failure> {
        let waited = now.saturating_duration_since(self.last_moved);
        match (self.connected, &self.request) {
            (false, _) => (waited > connect).then_some(Failure::ConnectTimeout),
            (true, Some(_)) => (waited > response).then_some(Failure::Timeout),
            (true, None) => None,
        }
    }

    /// Does what can be done without waiting.
    pub(crate) fn turn(
        &mut self,
        poll: &OwnedFd,
        scratch: &mut Scratch,
        now: Instant,
        moved: &mut Moved,
    ) -> Turn {
        *moved = Moved::default();
        moved.operation = self.request.as_ref().map_or(0, |request| request.exchange.job.operation);
        let turn = self.advance(scratch, moved).and_then(|turn| {
            let writable = self.request.as_ref().is_some_and(|request| !request.is_sent()) || !self.connected;
            self.watch_writable(poll, writable)?;
            Ok(turn)
        });
        if moved.any {
            self.last_moved = now;
        }
        turn.unwrap_or_else(|failure| self.fail(failure))
    }

    fn advance(&mut self, scratch: &mut Scratch, moved: &mut Moved) -> Result<Turn, Failure> {
        if !self.connected {
            if !self.finish_connect()? {
                return Ok(Turn::Waiting);
            }
            moved.any = true;
        }
        let Some(request) = &mut self.request else {
            return self.watch_idle(scratch);
        };
        send(&self.socket, request, &mut self.outgoing, scratch, moved)?;
        if moved.any && request.is_sent() && request.exchange.body_len() == 0 {
            return Ok(Turn::Waiting);
        }
        match receive(&self.socket, &mut request.exchange, scratch, moved)? {
            Progress::More => {
                let left = request.exchange.left();
                self.low_water.adjust(&self.socket, left).map_err(|_| Failure::Receive)?;
                Ok(Turn::Waiting)
            }
            Progress::Done { keep_alive } => {
                self.low_water.adjust(&self.socket, 0).map_err(|_| Failure::Receive)?;
                let keep_alive = keep_alive && request.is_sent();
                self.answered += 1;
                let Some(request) = self.request.take() else { return Ok(Turn::Waiting) };
                self.spare_head = request.head;
                Ok(Turn::Done { exchange: request.exchange, keep_alive })
            }
        }
    }

    /// Whether the handshake is over.
    fn finish_connect(&mut self) -> Result<bool, Failure> {
        match net::sockopt::socket_error(&self.socket) {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return Err(Failure::Connect),
        }
        self.connected = match net::getpeername(&self.socket) {
            Ok(peer) => peer.is_some(),
            Err(Errno::NOTCONN) => false,
            Err(_) => return Err(Failure::Connect),
        };
        Ok(self.connected)
    }

    /// Readable without a request: the server has closed, or talks out of turn.
    fn watch_idle(&self, scratch: &mut Scratch) -> Result<Turn, Failure> {
        match net::recv(&self.socket, &mut scratch.buffer[..1], RecvFlags::PEEK) {
            Err(Errno::AGAIN | Errno::INTR) => Ok(Turn::Waiting),
            Ok((_, 1..)) => Err(Failure::BadBody),
            Err(Errno::CONNRESET) => Err(Failure::Reset),
            Ok((_, 0)) | Err(_) => Err(Failure::Closed),
        }
    }

    /// A connection that had been used before, and on which no answer had begun, is lost: nothing is wrong with the request.
    fn fail(&mut self, failure: Failure) -> Turn {
        let lost = matches!(failure, Failure::Closed | Failure::Reset | Failure::Receive | Failure::Send);
        let request = self.request.take();
        if lost
            && self.connected
            && self.answered > 0
            && request.as_ref().is_none_or(|r| !r.exchange.has_begun())
        {
            return Turn::Lost(request.map(|request| Box::new(request.exchange)));
        }
        Turn::Failed { failure, operation: request.map(|request| request.exchange.job.operation) }
    }

    fn watch_writable(&mut self, poll: &OwnedFd, writable: bool) -> Result<(), Failure> {
        if writable != self.watches_writable {
            let flags = if writable { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
            epoll::modify(poll, &self.socket, EventData::new_u64(self.token), flags)
                .map_err(|_| Failure::Connect)?;
            self.watches_writable = writable;
        }
        Ok(())
    }
}

/// Sends until the request is out, the socket is full or the turn is over.
fn send(
    socket: &OwnedFd,
    request: &mut Request,
    outgoing: &mut Outgoing,
    scratch: &mut Scratch,
    moved: &mut Moved,
) -> Result<(), Failure> {
    for _ in 0..CALLS_PER_TURN {
        if request.is_sent() {
            break;
        }
        let head = &request.head[request.head_sent..];
        let body = outgoing.rest(&request.exchange, request.body_sent);
        let pieces = [IoSlice::new(head), IoSlice::new(body)];
        let first = usize::from(head.is_empty());
        match net::sendmsg(socket, &pieces[first..], &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)
        {
            Ok(sent) => {
                let of_head = sent.min(head.len());
                request.head_sent += of_head;
                request.body_sent += (sent - of_head) as u64;
                outgoing.sent += sent - of_head;
                moved.any |= sent > 0;
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => break,
            // The server may have refused early and closed: its answer, if any, says more than the broken pipe.
            Err(errno @ (Errno::PIPE | Errno::CONNRESET)) => {
                let failure = if errno == Errno::CONNRESET { Failure::Reset } else { Failure::Send };
                return refused(socket, request, scratch, failure);
            }
            Err(_) => return Err(Failure::Send),
        }
    }
    Ok(())
}

/// Looks for an answer on a connection that can no longer be written to.
fn refused(
    socket: &OwnedFd,
    request: &mut Request,
    scratch: &mut Scratch,
    otherwise: Failure,
) -> Result<(), Failure> {
    match receive(socket, &mut request.exchange, scratch, &mut Moved::default()) {
        Ok(_) | Err(Failure::Closed | Failure::Receive) => Err(otherwise),
        Err(failure) => Err(failure),
    }
}

/// Receives until the response is complete, the socket is empty or the turn is over.
fn receive(
    socket: &OwnedFd,
    exchange: &mut Exchange,
    scratch: &mut Scratch,
    moved: &mut Moved,
) -> Result<Progress, Failure> {
    for _ in 0..CALLS_PER_TURN {
        let unseen = exchange.unseen();
        let asked;
        let got = if unseen > 0 {
            asked = usize::try_from(unseen).unwrap_or(usize::MAX).min(scratch.void.len());
            net::recv(socket, &mut scratch.void[..asked], RecvFlags::TRUNC)
        } else {
            asked = if exchange.is_good() {
                CHECKED_READ
            } else if exchange.wanted().is_some_and(|wanted| wanted <= SMALL_BODY) {
                HEAD_READ + SMALL_BODY as usize
            } else {
                HEAD_READ
            };
            net::recv(socket, &mut scratch.buffer[..asked], RecvFlags::empty())
        };
        let got = match got {
            Ok((_, got)) => got,
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => return Ok(Progress::More),
            Err(Errno::CONNRESET) => return Err(Failure::Reset),
            Err(_) => return Err(Failure::Receive),
        };
        if got == 0 {
            return exchange.close();
        }
        moved.any = true;
        if exchange.first_byte.is_none() {
            exchange.first_byte = Some(Instant::now());
        }
        let progress = if unseen > 0 {
            let useful = exchange.is_read() && exchange.is_good();
            moved.body += if useful { got as u64 } else { 0 };
            exchange.skip(got as u64)?
        } else {
            let (progress, body) = exchange.feed(&scratch.buffer[..got])?;
            let useful = exchange.is_read() && exchange.is_good();
            moved.body += if useful { body } else { 0 };
            progress
        };
        if progress != Progress::More || got < asked {
            return Ok(progress);
        }
    }
    Ok(Progress::More)
}
