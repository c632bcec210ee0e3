//! One question to another node, one answer: bytes there and bytes back.

use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use monoio::time::timeout;

use super::link::{Link, left};
use crate::base::topology::NodeId;
use crate::limits::{ARCHIVE_ORDER_TIME, PEER_MESSAGE_MAX, SLOW_ANSWER, SYNC_TIME};
use crate::shard::core::Core;
use crate::wire::head::Framing;
use crate::wire::peer::archive::{Order, Ordered};
use crate::wire::peer::cluster::{Answer, Question};
use crate::wire::peer::list::{Ask, Listed};
use crate::wire::peer::sync;
use crate::wire::peer::{Reply, Request, Response, decode, encode};

/// Where requests of coordinators go.
pub(super) const REQUEST: &str = "/peer/request";
/// Where questions about the cluster go.
pub(super) const CLUSTER: &str = "/peer/cluster";

/// Where questions about what differs go.
pub(super) const SYNC: &str = "/peer/sync";
/// Where listings go.
pub(super) const LIST: &str = "/peer/list";
/// Where orders of operators go that concern the archive.
pub(super) const ARCHIVE: &str = "/peer/archive";

/// Asks a replica; none: it is not known whether the request arrived.
pub(super) async fn ask(core: &Rc<Core>, to: NodeId, request: &Request, time: Duration) -> Option<Response> {
    let reply = exchange(core, to, REQUEST, encode(request).ok()?, time).await.ok()?;
    match decode::<Response>(&reply) {
        Ok(Response { reply: Reply::Unavailable(why), .. }) => {
            tracing::debug!(node = to.0, %why, "a replica cannot answer");
            None
        }
        Ok(response) => Some(response),
        Err(error) => {
            tracing::warn!(node = to.0, %error, "a replica answered rubbish");
            None
        }
    }
}

/// Asks a node about the cluster.
///
/// # Errors
/// Why there is no answer; whether the question arrived is not known.
pub(super) async fn ask_cluster(
    core: &Rc<Core>,
    to: NodeId,
    question: &Question,
    time: Duration,
) -> io::Result<Answer> {
    let question = encode(question).map_err(|error| io::Error::other(error.message))?;
    let answer = exchange(core, to, CLUSTER, question, time).await?;
    decode(&answer).map_err(|error| io::Error::other(error.message))
}

/// Asks a node for a stretch of a listing.
///
/// # Errors
/// Why there is no answer.
pub(in crate::shard) async fn ask_list(
    core: &Rc<Core>,
    to: NodeId,
    ask: &Ask,
    time: Duration,
) -> io::Result<Listed> {
    let ask = encode(ask).map_err(|error| io::Error::other(error.message))?;
    let answer = exchange(core, to, LIST, ask, time).await?;
    decode(&answer).map_err(|error| io::Error::other(error.message))
}

/// Asks a node about what differs. It may take its time: that says nothing about whether it answers others.
///
/// # Errors
/// Why there is no answer.
pub(super) async fn ask_sync(
    core: &Rc<Core>,
    to: NodeId,
    question: &sync::Question,
) -> io::Result<sync::Answer> {
    let question = encode(question).map_err(|error| io::Error::other(error.message))?;
    let exchanged = &core.node.metrics.sync_exchanged;
    exchanged.inc_by(question.len() as u64);
    let answer = attempt(Rc::clone(core), to, SYNC, question, Instant::now() + SYNC_TIME).await?;
    exchanged.inc_by(answer.len() as u64);
    match decode(&answer).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.message))? {
        sync::Answer::No(why) => Err(io::Error::other(why)),
        answer => Ok(answer),
    }
}

/// Has a node do its part of an order. It takes its time: that says nothing about whether it answers others.
///
/// # Errors
/// Why there is no answer; whether the order arrived is not known.
pub(in crate::shard) async fn ask_order(core: &Rc<Core>, to: NodeId, order: &Order) -> io::Result<Ordered> {
    let order = encode(order).map_err(|error| io::Error::other(error.message))?;
    let answer = attempt(Rc::clone(core), to, ARCHIVE, order, Instant::now() + ARCHIVE_ORDER_TIME).await?;
    decode(&answer).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.message))
}

/// Sends `body` and receives what is answered; a node that is slow to answer is noted as one that does not.
async fn exchange(
    core: &Rc<Core>,
    to: NodeId,
    target: &'static str,
    body: Vec<u8>,
    time: Duration,
) -> io::Result<Vec<u8>> {
    let cluster = core.node.cluster.as_ref().map(std::sync::Arc::clone);
    let cluster = cluster.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    let deadline = Instant::now() + time;
    let asking = monoio::spawn(attempt(Rc::clone(core), to, target, body, deadline));
    let mut asking = std::pin::pin!(asking);
    let answered = if let Ok(answered) = timeout(SLOW_ANSWER.min(time), asking.as_mut()).await {
        answered
    } else {
        cluster.set_reachable(to, false);
        timeout(left(deadline), asking).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    };
    answered.inspect_err(|error| {
        tracing::debug!(node = cluster.topology().name(to), target, %error, "no answer from a node");
        if is_lost(error.kind()) {
            cluster.set_reachable(to, false);
        }
    })
}

/// Whether an error says that the other node, or the way to it, is gone; not that it refused, or that this node is busy.
pub(super) fn is_lost(kind: io::ErrorKind) -> bool {
    !matches!(
        kind,
        io::ErrorKind::WouldBlock
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::Other
            | io::ErrorKind::InvalidData
    )
}

/// Once more on a new connection, if an old one turned out to be dead: every question may be asked twice.
async fn attempt(
    core: Rc<Core>,
    to: NodeId,
    target: &'static str,
    body: Vec<u8>,
    deadline: Instant,
) -> io::Result<Vec<u8>> {
    let first = Link::open(&core, to, false).await?;
    let used = first.used;
    match once(&core, first, to, target, &body, deadline).await {
        Err(error) if used && error.kind() != io::ErrorKind::TimedOut => {
            let link = Link::open(&core, to, true).await?;
            once(&core, link, to, target, &body, deadline).await
        }
        result => result,
    }
}

async fn once(
    core: &Rc<Core>,
    mut link: Link,
    to: NodeId,
    target: &'static str,
    body: &[u8],
    deadline: Instant,
) -> io::Result<Vec<u8>> {
    let head = Link::head(core, to, "POST", target).header("Content-Length", body.len());
    let mut bytes = head.write();
    bytes.extend_from_slice(body);
    let talk = async {
        link.connection.send(bytes).await?;
        let head = link.answer().await?;
        let Framing::Length(len) = head.framing else {
            return Err(io::Error::other("an answer without a length"));
        };
        let len = usize::try_from(len).ok().filter(|len| *len <= PEER_MESSAGE_MAX);
        let answer = link.receive(len.ok_or_else(|| io::Error::other("an answer that is too long"))?).await?;
        if head.status == 200 {
            Ok((answer, head.keep_alive))
        } else {
            Err(io::Error::new(io::ErrorKind::PermissionDenied, refusal(&answer)))
        }
    };
    let talked = timeout(left(deadline), talk).await;
    let (answer, keep_alive) = talked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    if keep_alive {
        link.keep(core);
    }
    Ok(answer)
}

/// What a node says against a request, in one line.
fn refusal(answer: &[u8]) -> String {
    let error: Option<serde_json::Value> = serde_json::from_slice(answer).ok();
    let message = error.as_ref().and_then(|error| error.pointer("/error/message")?.as_str());
    message.unwrap_or("it refuses to answer").to_owned()
}
