//! A connection: heads in, responses out, one request after the other, until either side ends it.

use std::io;
use std::os::fd::AsRawFd as _;
use std::rc::Rc;
use std::time::{Duration, Instant};

use monoio::buf::IoBufMut as _;
use monoio::io::{AsyncReadRent as _, AsyncWriteRent as _};
use monoio::net::TcpStream;
use monoio::time::timeout;

use super::body::Body;
use super::core::{Core, RequestId};
use super::placement::Placed;
use super::read_ahead::{ReadAhead, Sequence};
use super::reply::{Failure, Handled, Reply, ReplyBody};
use super::{route, stream};
use crate::base::error::{Code, Error};
use crate::base::path::BlobPath;
use crate::base::slot::Slot;
use crate::base::topology::NodeId;
use crate::io::bulk::Moved;
use crate::io::bulk::memory::Gather;
use crate::io::bulk::socket::Socket;
use crate::io::send::{self, Sender};
use crate::limits::{
    BUFFER_MIN, DRAIN_MAX, DRAIN_TIME, HEAD_TIME, HEADERS_MAX, IDLE_TIME, INBOX_MIN, PEER_HEADERS_ADDS,
    PEER_LINE_ADDS, REQUEST_LINE_MAX, SEND_STALL, SEND_TIME, SKIP_BODY_MAX,
};
use crate::wire::head::{self, Head, Method, Parsed, Target};
use crate::wire::response::{ResponseHead, error_body};

const INBOX_MAX: usize = REQUEST_LINE_MAX + HEADERS_MAX + INBOX_MIN + PEER_LINE_ADDS + PEER_HEADERS_ADDS;

/// Who a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plane {
    /// Clients.
    Public,
    /// Other nodes; which one, where that was verified.
    Peer(Option<NodeId>),
}

/// A client's connection, or one to or from another node.
pub(super) struct Connection {
    core: Rc<Core>,
    stream: Socket,
    sender: Sender,
    /// Received and not yet used: `inbox[used..]`.
    inbox: Vec<u8>,
    used: usize,
    sequence: Sequence,
    plane: Plane,
}

/// What stands at the beginning of a request.
enum Begun {
    Head(Box<Head>),
    /// It cannot be read: the error is sent and the connection ends.
    Malformed(Error),
    /// The client is gone, or has been idle for too long.
    Ended,
}

impl Connection {
    pub(super) fn new(core: &Rc<Core>, stream: TcpStream, plane: Plane) -> Self {
        let sender = Sender::new(core.node.send, &stream);
        Self {
            core: Rc::clone(core),
            stream: Socket::new(stream),
            sender,
            inbox: Vec::new(),
            used: 0,
            sequence: Sequence::default(),
            plane,
        }
    }

    pub(super) fn plane(&self) -> Plane {
        self.plane
    }

    pub(super) fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// What was received and not yet used.
    pub(super) fn inbox(&self) -> &[u8] {
        &self.inbox[self.used..]
    }

    /// Marks bytes of the inbox as used.
    pub(super) fn consume(&mut self, n: usize) {
        self.used += n;
        if self.used == self.inbox.len() {
            self.used = 0;
            self.inbox.clear();
        }
    }

    /// Receives some more into the inbox; 0: the client has ended.
    pub(super) async fn fill(&mut self) -> io::Result<usize> {
        self.inbox.drain(..self.used);
        self.used = 0;
        let mut inbox = std::mem::take(&mut self.inbox);
        if inbox.capacity() - inbox.len() < INBOX_MIN / 2 {
            inbox.reserve_exact(inbox.capacity().clamp(INBOX_MIN, INBOX_MAX));
        }
        let start = inbox.len();
        let end = inbox.capacity();
        let (result, slice) = self.stream.read(inbox.slice_mut(start..end)).await;
        self.inbox = slice.into_inner();
        result
    }

    /// Sends all of a buffer.
    pub(super) async fn send(&mut self, buffer: Vec<u8>) -> io::Result<()> {
        let deadline = Instant::now() + SEND_TIME;
        let (len, buffer) = (buffer.len(), Rc::new(buffer));
        let mut sent = 0;
        while sent < len {
            let left = deadline.saturating_duration_since(Instant::now());
            let moved = self.send_parts(&buffer, sent, left).await?;
            sent += moved.bytes;
            if moved.out_of_patience {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }

    /// Sends what `parts` holds from byte `skip` on, as far as the client takes it within `patience`.
    pub(super) async fn send_parts<G: Gather>(
        &mut self,
        parts: &Rc<G>,
        skip: usize,
        patience: Duration,
    ) -> io::Result<Moved> {
        self.sender.send(&self.core.bulk, &self.stream, parts, skip, patience).await
    }

    /// Waits until the client reads again.
    pub(super) async fn wait_writable(&self) -> io::Result<()> {
        send::wait_writable(&self.stream, SEND_STALL).await
    }

    /// Reads the next head; meanwhile a stop may shut the connection.
    async fn read_head(&mut self, core: &Core) -> Begun {
        let fd = self.stream.as_raw_fd();
        core.waiting.borrow_mut().insert(fd);
        let begun = if core.is_stopping() { Begun::Ended } else { self.receive_head().await };
        core.waiting.borrow_mut().remove(&fd);
        begun
    }

    async fn receive_head(&mut self) -> Begun {
        if self.inbox().is_empty() {
            if self.inbox.capacity() > INBOX_MIN {
                self.inbox = Vec::new();
            }
            if !matches!(timeout(IDLE_TIME, self.fill()).await, Ok(Ok(1..))) {
                return Begun::Ended;
            }
        }
        let deadline = Instant::now() + HEAD_TIME;
        loop {
            let parsed = match self.plane {
                Plane::Public => head::parse(self.inbox()),
                Plane::Peer(_) => head::parse_of_peer(self.inbox()),
            };
            match parsed {
                Ok(Parsed::Complete { head, len }) => {
                    self.consume(len);
                    return Begun::Head(Box::new(head));
                }
                Ok(Parsed::Partial) => {}
                Err(error) => return Begun::Malformed(error),
            }
            match timeout(deadline.saturating_duration_since(Instant::now()), self.fill()).await {
                Ok(Ok(1..)) => {}
                Ok(_) => return Begun::Ended,
                Err(_) => {
                    let message = "the request head was not complete within 10 seconds";
                    return Begun::Malformed(Error::new(Code::RequestTimeout, message));
                }
            }
        }
    }

    /// Half-closes and reads a bounded amount on, so that what was sent reaches a client that is still sending.
    async fn drain(&mut self) {
        if self.stream.shutdown().await.is_err() {
            return;
        }
        let deadline = Instant::now() + DRAIN_TIME;
        let mut drained = 0;
        let mut rubbish = vec![0; BUFFER_MIN];
        while drained < DRAIN_MAX {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok((Ok(n @ 1..), back)) = timeout(left, self.stream.read(rubbish)).await else { return };
            drained += n as u64;
            rubbish = back;
        }
    }
}

/// Serves a connection to its end.
pub(super) async fn serve(core: Rc<Core>, stream: TcpStream, plane: Plane, placed: Placed) {
    let _ = stream.set_nodelay(true);
    let mut connection = Connection::new(&core, stream, plane);
    loop {
        match connection.read_head(&core).await {
            Begun::Head(head) => {
                let busy = placed.request();
                match Box::pin(exchange(&core, &mut connection, &head)).await {
                    After::KeepAlive => drop(busy),
                    After::Close => return,
                    After::Drain => return Box::pin(connection.drain()).await,
                }
            }
            Begun::Malformed(error) => {
                let request = core.next_request();
                tracing::debug!(%request, core = core.number, %error, "malformed request");
                core.count("-", error.code.status());
                let (head, body) = refusal(&error, &[], request);
                let head = head.write(&core.date(), Some("close"));
                if connection.send([head, body].concat()).await.is_ok() {
                    Box::pin(connection.drain()).await;
                }
                return;
            }
            Begun::Ended => return,
        }
    }
}

enum After {
    KeepAlive,
    Close,
    Drain,
}

/// One request and its response.
async fn exchange(core: &Rc<Core>, connection: &mut Connection, head: &Head) -> After {
    let begun = Instant::now();
    let request = core.next_request();
    let mut body = Body::new(head, connection.plane());
    let handled = route::handle(core, connection, head, &mut body).await;
    let refused = !matches!(&handled, Ok(reply) if reply.status < 400);
    let Some(reply) = to_reply(handled, request, head.method) else {
        tracing::debug!(%request, core = core.number, "the client went away");
        return After::Close;
    };
    // What is left of a body is read on only if it is small and the request went well.
    let skips = !body.is_done()
        && !refused
        && !body.is_awaited()
        && body.remaining().is_some_and(|rest| rest <= SKIP_BODY_MAX);
    let keep_alive = head.keep_alive && (body.is_done() || skips) && !core.is_stopping();
    let status = reply.status;
    let sent = respond(core, connection, head, reply, keep_alive).await;
    log(core, request, head, status, begun.elapsed());
    match sent {
        Err(_) => After::Close,
        Ok(()) if keep_alive && skips => skip(connection, &mut body).await,
        Ok(()) if keep_alive => After::KeepAlive,
        Ok(()) if body.is_done() && connection.inbox().is_empty() => After::Close,
        Ok(()) => After::Drain,
    }
}

/// Reads the rest of a body that nobody wants.
async fn skip(connection: &mut Connection, body: &mut Body) -> After {
    let mut buffer = crate::io::buffer::Buffer::new(BUFFER_MIN);
    while !body.is_done() {
        buffer.set_len(0);
        match body.read(connection, &mut buffer, BUFFER_MIN, None).await {
            // Seals may be left.
            Ok(None | Some(0)) | Err(_) => return After::Close,
            Ok(Some(_)) => {}
        }
    }
    After::KeepAlive
}

/// The reply to send; none when the client is gone.
fn to_reply(handled: Handled, request: RequestId<'_>, method: Method) -> Option<Reply> {
    match handled {
        Ok(mut reply) => {
            if method == Method::Head {
                reply.body = ReplyBody::Empty;
            }
            Some(reply)
        }
        Err(Failure::Gone | Failure::Elsewhere(..)) => None,
        Err(Failure::Refused(error, fields)) => {
            let (head, body) = refusal(&error, &fields, request);
            let body = if method == Method::Head { ReplyBody::Empty } else { ReplyBody::Bytes(body) };
            Some(Reply { status: error.code.status(), head, body })
        }
    }
}

/// The head and body of an error.
fn refusal(
    error: &Error,
    fields: &[(&'static str, String)],
    request: RequestId<'_>,
) -> (ResponseHead, Vec<u8>) {
    let body = error_body(error, &request.to_string()).into_bytes();
    let head = fields
        .iter()
        .fold(ResponseHead::new(error.code.status()), |head, (name, value)| head.header(name, value));
    (head.header("Content-Type", "application/json").header("Content-Length", body.len()), body)
}

async fn respond(
    core: &Core,
    connection: &mut Connection,
    head: &Head,
    reply: Reply,
    keep_alive: bool,
) -> Result<(), Failure> {
    let option = match (keep_alive, head.http11) {
        (false, _) => Some("close"),
        (true, false) => Some("keep-alive"),
        (true, true) => None,
    };
    let mut bytes = reply.head.write(&core.date(), option);
    match reply.body {
        ReplyBody::Empty => connection.send(bytes).await?,
        ReplyBody::Bytes(body) => {
            bytes.extend_from_slice(&body);
            connection.send(bytes).await?;
        }
        ReplyBody::Page(body, _share) => {
            bytes.extend_from_slice(&body);
            drop(body);
            connection.send(bytes).await?;
        }
        ReplyBody::Blob(reading) => {
            connection.sequence.follow(reading.blob(), &reading.left());
            stream::send(core, connection, bytes, reading).await?;
        }
        ReplyBody::Relay(relay) => Box::pin(relay.send(core, connection, bytes)).await?,
        ReplyBody::Multipart { first, ranges, multipart } => {
            let blob = Rc::clone(first.blob());
            let mut first = Some(first);
            for (i, range) in ranges.iter().enumerate() {
                let reading = if let Some(first) = first.take() {
                    first
                } else {
                    let reading = ReadAhead::begin(&blob, range.start..range.end);
                    reading.await.map_err(|_| Failure::Gone)?
                };
                bytes.extend_from_slice(&multipart.part_head(i));
                stream::send(core, connection, std::mem::take(&mut bytes), reading).await?;
            }
            connection.send(multipart.trailer()).await?;
        }
    }
    Ok(())
}

fn log(core: &Core, request: RequestId<'_>, head: &Head, status: u16, took: Duration) {
    let method = method_name(head.method);
    core.count(method, status);
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    let path = match &head.target {
        Target::Origin { path, .. } => path.as_str(),
        Target::Asterisk => "*",
    };
    let blob = path.strip_prefix("/objects/").and_then(|encoded| BlobPath::from_encoded(encoded).ok());
    let slot = blob.map(|path| Slot::of(&path).index());
    tracing::debug!(%request, core = core.number, method, path, slot, status, ?took, "request");
}

pub(super) fn method_name(method: Method) -> &'static str {
    match method {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Put => "PUT",
        Method::Delete => "DELETE",
        Method::Options => "OPTIONS",
        Method::Post => "POST",
        Method::Patch => "PATCH",
        Method::Trace => "TRACE",
        Method::Connect => "CONNECT",
    }
}
