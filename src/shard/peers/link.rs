//! A connection to another node, kept for the next request when its answer was taken whole.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use monoio::net::TcpStream;
use monoio::time::timeout;

use crate::base::topology::NodeId;
use crate::limits::{LINK_IDLE_TIME, LINKS_BUSY, LINKS_IDLE, PEER_CONNECT, PROTOCOL};
use crate::shard::connection::{Connection, Plane};
use crate::shard::core::Core;
use crate::wire::answer::{self, AnswerHead};
use crate::wire::request::RequestHead;

/// What a node says in every request, beside the cluster's name and its own.
pub(in crate::shard) const PROTOCOL_FIELD: &str = "x-amber-protocol";
/// The cluster's name.
pub(in crate::shard) const CLUSTER_FIELD: &str = "x-amber-cluster";
/// Who speaks.
pub(in crate::shard) const NODE_FIELD: &str = "x-amber-node";
/// Who is meant.
pub(in crate::shard) const TO_FIELD: &str = "x-amber-to";
/// How often a request was forwarded.
pub(in crate::shard) const HOPS_FIELD: &str = "x-amber-hops";

/// The connections of one core to other nodes, by node: idle ones, and how many are in use.
pub(in crate::shard) struct Idle {
    links: RefCell<Vec<Vec<(Connection, Instant)>>>,
    busy: Vec<Rc<Cell<usize>>>,
}

/// A connection in use.
pub(in crate::shard) struct Link {
    pub(in crate::shard) connection: Connection,
    to: NodeId,
    /// Whether it has carried a request before: its other end may be gone.
    pub(in crate::shard) used: bool,
    _place: Place,
}

impl Idle {
    pub(in crate::shard) fn new(nodes: usize) -> Self {
        Self {
            links: RefCell::new((0..nodes).map(|_| Vec::new()).collect()),
            busy: (0..nodes).map(|_| Rc::default()).collect(),
        }
    }

    /// Closes what nobody has used for a while.
    pub(in crate::shard) fn close_old(&self) {
        for links in self.links.borrow_mut().iter_mut() {
            links.retain(|(_, since)| since.elapsed() < LINK_IDLE_TIME);
        }
    }

    fn take(&self, to: NodeId) -> Option<Connection> {
        let mut links = self.links.borrow_mut();
        let links = links.get_mut(to.index())?;
        while let Some((connection, since)) = links.pop() {
            if since.elapsed() < LINK_IDLE_TIME {
                return Some(connection);
            }
        }
        None
    }

    fn give_back(&self, to: NodeId, connection: Connection) {
        if let Some(links) = self.links.borrow_mut().get_mut(to.index())
            && links.len() < LINKS_IDLE
        {
            links.push((connection, Instant::now()));
        }
    }
}

impl Link {
    /// A connection to a node: an idle one, unless `fresh` is wanted, or a new one.
    ///
    /// # Errors
    /// Those of connect(2); `NotFound` where the address is not known; `WouldBlock` where too many are in use.
    pub(in crate::shard) async fn open(core: &Rc<Core>, to: NodeId, fresh: bool) -> io::Result<Self> {
        let no_cluster = || io::Error::from(io::ErrorKind::NotFound);
        let cluster = core.node.cluster.as_ref().ok_or_else(no_cluster)?;
        let busy = core.idle.busy.get(to.index()).ok_or_else(no_cluster)?;
        let place = Place::take(busy).ok_or(io::ErrorKind::WouldBlock)?;
        if !fresh && let Some(connection) = core.idle.take(to) {
            return Ok(Self { connection, to, used: true, _place: place });
        }
        let address = cluster.directory.peer(to).ok_or_else(no_cluster)?;
        let connecting = async {
            match &cluster.tls {
                None => TcpStream::connect(address).await,
                Some(tls) => {
                    let socket = tls.connect(address, cluster.topology().name(to)).await?;
                    TcpStream::from_std(std::net::TcpStream::from(socket))
                }
            }
        };
        let connecting = timeout(PEER_CONNECT, connecting).await;
        let stream = connecting.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        let _ = stream.set_nodelay(true);
        let connection = Connection::new(core, stream, Plane::Peer(Some(to)));
        Ok(Self { connection, to, used: false, _place: place })
    }

    /// The beginning of a request's head.
    pub(in crate::shard) fn head(core: &Core, to: NodeId, method: &str, target: &str) -> RequestHead {
        let (cluster, me, to) = core.node.cluster.as_ref().map_or(("", "", ""), |cluster| {
            (cluster.topology().cluster(), cluster.name(), cluster.topology().name(to))
        });
        RequestHead::new(method, target, to)
            .header(PROTOCOL_FIELD, PROTOCOL)
            .header(CLUSTER_FIELD, cluster)
            .header(NODE_FIELD, me)
            .header(TO_FIELD, to)
    }

    /// Receives the head of an answer; an interim one too.
    ///
    /// # Errors
    /// When the peer is gone or speaks rubbish.
    pub(in crate::shard) async fn answer(&mut self) -> io::Result<AnswerHead> {
        loop {
            let rubbish = |error: crate::base::error::Error| {
                io::Error::new(io::ErrorKind::InvalidData, error.message.into_owned())
            };
            if let Some((head, len)) = answer::parse(self.connection.inbox()).map_err(rubbish)? {
                self.connection.consume(len);
                return Ok(head);
            }
            if self.connection.fill().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Receives `len` bytes of a body.
    ///
    /// # Errors
    /// When the peer is gone.
    pub(in crate::shard) async fn receive(&mut self, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(len);
        self.receive_into(&mut bytes, len).await?;
        Ok(bytes)
    }

    /// Receives bytes of a body until `bytes` has `len` of them, or as many as come.
    ///
    /// # Errors
    /// When the peer is gone.
    pub(in crate::shard) async fn receive_into(&mut self, bytes: &mut Vec<u8>, len: usize) -> io::Result<()> {
        while bytes.len() < len {
            if self.connection.inbox().is_empty() && self.connection.fill().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let taken = self.connection.inbox().len().min(len - bytes.len());
            bytes.extend_from_slice(&self.connection.inbox()[..taken]);
            self.connection.consume(taken);
        }
        Ok(())
    }

    /// Keeps the connection for the next request: all of the last answer was taken.
    pub(in crate::shard) fn keep(self, core: &Core) {
        if self.connection.inbox().is_empty() {
            core.idle.give_back(self.to, self.connection);
        }
    }
}

/// A place among the connections in use.
struct Place(Rc<Cell<usize>>);

impl Place {
    fn take(busy: &Rc<Cell<usize>>) -> Option<Self> {
        if busy.get() >= LINKS_BUSY {
            return None;
        }
        busy.set(busy.get() + 1);
        Some(Self(Rc::clone(busy)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Time until a deadline.
pub(in crate::shard) fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}
