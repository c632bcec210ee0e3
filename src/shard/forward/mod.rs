//! Any node answers: what this one cannot, it passes on to one that can, and the answer back, or it sends the client there.
//!
//! Nothing is stored on the way: a few buffers hold what moves, and who does not take it holds up who sends it. Until a byte of
//! the request's body was passed on, and for reads until the answer's head is here, another node is asked where one fails. After
//! that a write whose outcome is not known is answered so, and an answer that breaks off cuts the client's connection off.

mod relay;
mod space;
mod upload;

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use monoio::time::timeout;

pub(super) use self::relay::Relay;
use self::space::Space;
use self::upload::Sent;
use super::body::Body;
use super::connection::{Connection, Plane};
use super::core::Core;
use super::peers::cluster::Cluster;
use super::peers::link::{CLUSTER_FIELD, HOPS_FIELD, Link, NODE_FIELD, PROTOCOL_FIELD, TO_FIELD};
use super::reply::{Failure, Handled, Reply, ReplyBody, refuse};
use crate::base::error::{Code, Error};
use crate::base::path::BlobPath;
use crate::base::slot::Slot;
use crate::base::topology::NodeId;
use crate::limits::{FORWARD_READ_TIME, FORWARD_SMALL, FORWARD_TIME, HOPS_MAX};
use crate::wire::answer::AnswerHead;
use crate::wire::forward::{Scope, end_to_end, prefers, target};
use crate::wire::head::{Framing, Head, Method, Target};
use crate::wire::response::ResponseHead;

/// Fields between nodes, which no client can set.
const BETWEEN_NODES: [&str; 5] = [PROTOCOL_FIELD, CLUSTER_FIELD, NODE_FIELD, TO_FIELD, HOPS_FIELD];
/// The preference of a client that would rather go there itself.
const REDIRECT: &str = "redirect";

/// Has one of the nodes `to` answer a request, the first ones first; `scope` says what it rests on.
pub(super) async fn elsewhere(
    core: &Rc<Core>,
    connection: &mut Connection,
    head: &Head,
    body: &mut Body,
    to: &[NodeId],
    scope: Scope,
) -> Handled {
    let Some(cluster) = core.node.cluster.as_ref().map(Arc::clone) else {
        return refuse(Code::Internal, "this node runs alone: nobody else can be asked");
    };
    let sender = (connection.plane() != Plane::Public).then(|| head.headers.get_str(NODE_FIELD)).flatten();
    let (good, bad): (Vec<NodeId>, Vec<NodeId>) = to
        .iter()
        .copied()
        .filter(|node| sender != Some(cluster.topology().name(*node)))
        .partition(|node| cluster.is_reachable(*node));
    if connection.plane() == Plane::Public
        && wants_redirect(&cluster, head)
        && let Some(reply) = redirect(&cluster, head, &good)
    {
        return Ok(reply);
    }
    let nodes = [good, bad].concat();
    forward(core, &cluster, connection, head, body, &nodes, scope).await
}

/// Whether a read is to be sent elsewhere rather than forwarded.
fn wants_redirect(cluster: &Cluster, head: &Head) -> bool {
    matches!(head.method, Method::Get | Method::Head)
        && (cluster.redirect || prefers(&head.headers, REDIRECT))
}

/// Sends the client to a replica. One that is a replica itself does not, since two of them could send it to and fro.
fn redirect(cluster: &Cluster, head: &Head, to: &[NodeId]) -> Option<Reply> {
    let Target::Origin { path, query } = &head.target else { return None };
    let blob = BlobPath::from_encoded(path.strip_prefix("/objects/")?).ok()?;
    if cluster.topology().is_mine(Slot::of(&blob)) {
        return None;
    }
    let public =
        |node: &NodeId| cluster.directory.public(*node).filter(|address| !address.ip().is_unspecified());
    let address = to.iter().find_map(public)?;
    let mut reply = ResponseHead::new(307)
        .header("Location", format_args!("http://{address}{}", target(path, query.as_deref(), Scope::Asked)))
        .header("Vary", "Prefer")
        .header("Content-Length", 0);
    if prefers(&head.headers, REDIRECT) {
        reply = reply.header("Preference-Applied", REDIRECT);
    }
    Some(Reply::empty(307, reply))
}

async fn forward(
    core: &Rc<Core>,
    cluster: &Arc<Cluster>,
    connection: &mut Connection,
    head: &Head,
    body: &mut Body,
    nodes: &[NodeId],
    scope: Scope,
) -> Handled {
    let hops = match connection.plane() {
        Plane::Public => 0,
        Plane::Peer(_) => head.headers.get_str(HOPS_FIELD).and_then(|hops| hops.parse().ok()).unwrap_or(0),
    };
    if hops >= HOPS_MAX {
        return refuse(
            Code::SlotUnavailable,
            "no node that was asked on the way can answer now: try again in a second",
        );
    }
    let kind = Kind::of(head);
    if kind == Kind::Upload && !body.is_untouched() {
        return refuse(Code::SlotUnavailable, "this node cannot store the blob after all: try again");
    }
    let passage = Passage { core, cluster, head, kind, hops, scope };
    let mut refused = None;
    for (at, node) in nodes.iter().enumerate() {
        let is_last = at + 1 == nodes.len();
        match passage.ask(*node, connection, body, is_last).await? {
            Outcome::Answered(reply) => return Ok(reply),
            Outcome::Unavailable(reply) => refused = Some(reply),
            Outcome::Unused => {}
        }
    }
    refused.map_or_else(
        || {
            refuse(
                Code::SlotUnavailable,
                "none of the nodes that could answer can be reached: try again in a second",
            )
        },
        Ok,
    )
}

/// What a request may do more than once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// It changes nothing.
    Read,
    /// It changes nothing until its body comes.
    Upload,
    /// It may have changed something as soon as it was sent.
    Change,
}

impl Kind {
    fn of(head: &Head) -> Self {
        match (head.method, head.framing) {
            (Method::Put, Framing::Length(1..) | Framing::Chunked) => Self::Upload,
            (Method::Put | Method::Delete, _) => Self::Change,
            _ => Self::Read,
        }
    }
}

/// A request that is passed on.
struct Passage<'a> {
    core: &'a Rc<Core>,
    cluster: &'a Arc<Cluster>,
    head: &'a Head,
    kind: Kind,
    hops: u32,
    scope: Scope,
}

/// What came of asking one node.
enum Outcome {
    Answered(Reply),
    /// It cannot answer now, and has done nothing: another may.
    Unavailable(Reply),
    /// It was not reached, or has done nothing.
    Unused,
}

/// Why there is no answer.
enum Trouble {
    /// Nothing was done there.
    Unused(io::Error),
    /// That is not known.
    Unknown(io::Error),
    /// The request itself has failed, here.
    Failed(Failure),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Passage<'_> {
    async fn ask(
        &self,
        node: NodeId,
        connection: &mut Connection,
        body: &mut Body,
        is_last: bool,
    ) -> Result<Outcome, Failure> {
        // An idle connection may turn out to be dead when it is too late to ask again.
        let mut fresh = self.kind == Kind::Change;
        loop {
            let link = match Link::open(self.core, node, fresh).await {
                Ok(link) => link,
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        self.lost(node, &error);
                    }
                    return Ok(Outcome::Unused);
                }
            };
            let used = link.used;
            match self.talk(link, node, connection, body, is_last).await {
                Ok(outcome) => return Ok(outcome),
                Err(Trouble::Unused(error)) if used && error.kind() != io::ErrorKind::TimedOut => {
                    fresh = true;
                }
                Err(Trouble::Unused(error)) => {
                    self.lost(node, &error);
                    return Ok(Outcome::Unused);
                }
                Err(Trouble::Unknown(error)) => {
                    self.lost(node, &error);
                    let message = format!(
                        "node '{}' was asked and did not answer: the write may or may not take place: ask again, \
                         or repeat it with a version",
                        self.cluster.topology().name(node)
                    );
                    return Err(Error::new(Code::OutcomeUnknown, message).into());
                }
                Err(Trouble::Failed(failure)) => return Err(failure),
            }
        }
    }

    fn lost(&self, node: NodeId, error: &io::Error) {
        tracing::debug!(node = self.cluster.topology().name(node), %error, "a request could not be passed on");
        self.cluster.set_reachable(node, false);
    }

    /// One request and its answer.
    async fn talk(
        &self,
        mut link: Link,
        node: NodeId,
        connection: &mut Connection,
        body: &mut Body,
        is_last: bool,
    ) -> Result<Outcome, Trouble> {
        let unused = if self.kind == Kind::Change { Trouble::Unknown } else { Trouble::Unused };
        link.connection.send(self.request(node)).await.map_err(unused)?;
        let may_ask_another = self.kind != Kind::Change && !is_last;
        let patience = if may_ask_another { FORWARD_READ_TIME } else { FORWARD_TIME };
        let answered = async {
            loop {
                let answer = link.answer().await?;
                if answer.status >= 200 || (answer.status == 100 && self.kind == Kind::Upload) {
                    return Ok(answer);
                }
            }
        };
        let answered = timeout(patience, answered).await;
        let mut answer = answered.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(unused)?;
        let mut whole = true;
        let mut was_asked = false;
        if answer.status == 100 {
            was_asked = true;
            let space = Space::take(self.core).await?;
            let sent = upload::send(self.core, space, connection, body, &mut link).await?;
            whole = matches!(sent, Sent::Whole);
            answer = Self::outcome(&mut link, sent).await?;
        }
        // A quorum has that version: this node is behind, or knows of a delete that no quorum knows yet.
        let is_behind = answer.status == 404 && matches!(self.scope, Scope::OwnVersion(_));
        if is_behind {
            return Ok(Outcome::Unused);
        }
        let unavailable = answer.status == 503 && may_ask_another && !was_asked;
        match self.reply(link, node, answer, whole).await? {
            Ok(reply) if unavailable => Ok(Outcome::Unavailable(reply)),
            Ok(reply) => Ok(Outcome::Answered(reply)),
            Err(error) if was_asked => Err(Trouble::Unknown(error)),
            Err(error) => Err(unused(error)),
        }
    }

    /// What the other node makes of a body.
    async fn outcome(link: &mut Link, sent: Sent) -> Result<AnswerHead, Trouble> {
        let answered = async {
            loop {
                let answer = link.answer().await?;
                if answer.status >= 200 {
                    return Ok(answer);
                }
            }
        };
        let answered = timeout(FORWARD_TIME, answered).await;
        let answered = answered.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        match (answered, sent) {
            (Ok(answer), _) => Ok(answer),
            (Err(error), Sent::Whole | Sent::Perhaps) => Err(Trouble::Unknown(error)),
            // A node that lacks the end of a body stores nothing of it.
            (Err(error), Sent::Part) => {
                let message = format!(
                    "the node that was to store the blob broke off: {error}; nothing was stored, try again"
                );
                Err(Trouble::Failed(Error::new(Code::SlotUnavailable, message).into()))
            }
        }
    }

    /// The head of the request as it is passed on.
    fn request(&self, node: NodeId) -> Vec<u8> {
        let Target::Origin { path, query } = &self.head.target else { return Vec::new() };
        let target = target(path, query.as_deref(), self.scope);
        let mut head = Link::head(self.core, node, super::connection::method_name(self.head.method), &target)
            .header(HOPS_FIELD, self.hops + 1);
        for (name, value) in end_to_end(&self.head.headers) {
            if !BETWEEN_NODES.contains(&name) {
                head = head.header_bytes(name, value);
            }
        }
        head = match (self.kind, self.head.framing) {
            (Kind::Read, _) => head,
            (_, Framing::Length(length)) => head.header("Content-Length", length),
            (_, Framing::Chunked) => head.header("Transfer-Encoding", "chunked"),
            (_, Framing::None) => head.header("Content-Length", 0),
        };
        if self.kind == Kind::Upload {
            head = head.header("Expect", "100-continue");
        }
        head.write()
    }

    /// The answer as it goes to the client; the connection is kept once all of it was taken.
    async fn reply(
        &self,
        mut link: Link,
        node: NodeId,
        answer: AnswerHead,
        whole: bool,
    ) -> Result<io::Result<Reply>, Failure> {
        let status = answer.status;
        let mut head = ResponseHead::new(status);
        for (name, value) in end_to_end(&answer.headers) {
            head = head.header_bytes(name, value);
        }
        if let Some(length) = answer.headers.get("content-length").filter(|_| status != 204) {
            head = head.header_bytes("Content-Length", length);
        }
        let keep = whole && answer.keep_alive;
        let bodiless = self.head.method == Method::Head || status == 204 || status == 304;
        let len = match answer.framing {
            _ if bodiless => 0,
            Framing::Length(len) => len,
            Framing::None | Framing::Chunked => {
                return Ok(Err(io::Error::other("an answer without a length")));
            }
        };
        if len > FORWARD_SMALL {
            let space = Space::take(self.core).await?;
            let relay = Relay::new(Arc::clone(self.cluster), (node, link), (len, keep), space);
            return Ok(Ok(Reply { status, head, body: ReplyBody::Relay(Box::new(relay)) }));
        }
        let body = match timeout(FORWARD_TIME, link.receive(len as usize)).await {
            Ok(Ok(body)) => body,
            Ok(Err(error)) => return Ok(Err(error)),
            Err(_) => return Ok(Err(io::ErrorKind::TimedOut.into())),
        };
        if keep {
            link.keep(self.core);
        }
        if body.is_empty() {
            return Ok(Ok(Reply::empty(status, head)));
        }
        Ok(Ok(Reply { status, head, body: ReplyBody::Bytes(body) }))
    }
}
