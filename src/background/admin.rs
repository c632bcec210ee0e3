//! The admin listener: metrics, health and slots, for operators, and what they ask a node to do.
//!
//! Small and rare requests: one at a time on a connection that closes after each. An operation takes as long as it
//! takes; a client that goes meanwhile gives its place back, and the operation goes on.

use std::net::{Shutdown, TcpListener};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_uring::net::TcpStream;

use super::archive::Asker;
use super::operations::{Operation, Operations, no_archive};
use super::overview::Overview;
use super::scrub::Ask;
use crate::base::clock::Timestamp;
use crate::base::error::{Code, Error};
use crate::base::slot::Slot;
use crate::limits::{ADMIN_CONNECTIONS, HEAD_TIME, HEADERS_MAX, INBOX_MIN, OPERATION_TIME, REQUEST_LINE_MAX};
use crate::metrics::CoreLabels;
use crate::shard::node::Node;
use crate::wire::head::{self, Head, Method, Parsed, Target};
use crate::wire::response::{ResponseHead, error_body};

struct Admin {
    node: Arc<Node>,
    overview: Overview,
    operations: Operations,
    metrics: Registry,
}

/// What can be asked of a page.
const READ: &str = "GET, HEAD";
const ASK: &str = "POST";

/// What a request gets: status, content type, body, the methods there are where it had another.
struct Page {
    status: u16,
    content_type: &'static str,
    body: String,
    allow: Option<&'static str>,
}

/// Serves for as long as the node runs.
pub(super) async fn serve(
    node: Arc<Node>,
    listener: TcpListener,
    overview: Overview,
    scrub: Ask,
    archive: Option<Asker>,
) {
    let metrics = node.metrics.registry();
    let operations = Operations::new(Arc::clone(&node), scrub, archive);
    let admin = Rc::new(Admin { node, overview, operations, metrics });
    let listener = tokio_uring::net::TcpListener::from_std(listener);
    let places = Arc::new(Semaphore::new(ADMIN_CONNECTIONS));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let admin = Rc::clone(&admin);
                tokio_uring::spawn(async move {
                    admin.answer(stream).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the admin listener");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}

impl Admin {
    async fn answer(&self, stream: TcpStream) {
        let head = match timeout(HEAD_TIME, receive(&stream)).await {
            Ok(Some(Ok(head))) => head,
            Ok(Some(Err(error))) => return finish(&stream, error_page(&error)).await,
            // Shut, so that a read that is still under way lets go of the descriptor.
            Ok(None) | Err(_) => return drop(stream.shutdown(Shutdown::Both)),
        };
        match self.operation(&head) {
            Ok(Some(operation)) => self.operate(&stream, operation).await,
            Ok(None) => finish(&stream, self.page(&head)).await,
            Err(error) => finish(&stream, error_page(&error)).await,
        }
    }

    /// Answers when the operation has ended, if the client is still there then.
    async fn operate(&self, stream: &TcpStream, operation: Operation) {
        let mut gone = pin!(until_gone(stream));
        tokio::select! {
            ended = timeout(OPERATION_TIME, self.operations.run(operation)) => {
                let late = || Err(Error::new(Code::Internal, "it goes on, and takes too long to be waited for"));
                let page = ended.unwrap_or_else(|_| late())
                    .map_or_else(|error| error_page(&error), |report| json_page(status_of(&report), &report));
                finish(stream, page).await;
                // A client that has the answer goes; one that does not is left.
                let _ = timeout(HEAD_TIME, gone).await;
            }
            () = &mut gone => {}
        }
        let _ = stream.shutdown(Shutdown::Both);
    }

    fn page(&self, head: &Head) -> Page {
        let Target::Origin { path, .. } = &head.target else {
            return error_page(&Error::new(Code::BadRequest, "name a page"));
        };
        if is_operation(path) {
            return not_allowed(ASK);
        }
        if !matches!(head.method, Method::Get | Method::Head) {
            return not_allowed(READ);
        }
        let mut page = match path.as_str() {
            "/metrics" => self.metrics(),
            "/healthz" => json_page(200, &json!({ "status": "ok" })),
            "/readyz" => self.ready(),
            "/nodes" => json_page(200, &self.overview.nodes()),
            "/slots" => json_page(200, &self.overview.slots()),
            "/archive" => self.archive(),
            other => match other.strip_prefix("/slots/").and_then(|id| id.parse().ok()).and_then(Slot::new) {
                Some(slot) => json_page(200, &self.overview.slot(slot)),
                None => error_page(&Error::new(
                    Code::BlobNotFound,
                    "there are /metrics, /healthz, /readyz, /nodes, /slots, /slots/{0..2047}, /archive, POST /scrub, \
                     POST /sync, POST /archive/{path}, POST /archive?check and POST /restore/{path}",
                )),
            },
        };
        if head.method == Method::Head {
            page.body.clear();
        }
        page
    }

    /// The operation that a request asks for.
    ///
    /// # Errors
    /// Why it cannot be asked for.
    fn operation(&self, head: &Head) -> Result<Option<Operation>, Error> {
        let Target::Origin { path, query } = &head.target else { return Ok(None) };
        if is_of_archive(path) && self.operations.archive().is_none() {
            return Err(no_archive());
        }
        if head.method == Method::Post { Operation::at(path, query.as_deref()) } else { Ok(None) }
    }

    fn archive(&self) -> Page {
        let status = self.operations.archive().map(Asker::status);
        status.map_or_else(|| error_page(&no_archive()), |status| json_page(200, &status))
    }

    fn metrics(&self) -> Page {
        let (node, mut body) = (&self.node, String::new());
        for core in 0..node.placement.cores() {
            let label = CoreLabels { core };
            node.metrics
                .connections
                .get_or_create(&label)
                .set(node.placement.connections(core).cast_signed() as i64);
            node.metrics.busy.get_or_create(&label).set(node.placement.busy(core).cast_signed() as i64);
        }
        self.overview.count(&node.metrics);
        node.metrics.damaged.set(node.damages.count().cast_signed() as i64);
        let failing = node.archive.as_ref().is_some_and(|desk| desk.health.failing().is_some());
        node.metrics.archive.failing.set(i64::from(failing));
        super::disks::count(node);
        node.metrics.cache_bytes.set(node.cache.weight().cast_signed());
        node.metrics.cache_read.inner().store(node.cache.loaded(), Ordering::Relaxed);
        match encode(&mut body, &self.metrics) {
            Ok(()) => {
                let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                Page { status: 200, content_type, body, allow: None }
            }
            Err(error) => error_page(&Error::new(Code::Internal, error.to_string())),
        }
    }

    fn ready(&self) -> Page {
        let mut troubles = self.node.troubles();
        troubles.extend(self.overview.troubles());
        let (status, mut page) = if troubles.is_empty() {
            (200, json!({ "ready": true }))
        } else {
            (503, json!({ "ready": false, "reasons": troubles }))
        };
        // What follows is no reason to send nobody here.
        let notices = self.node.notices();
        if status == 200 && !notices.is_empty() {
            page["notices"] = json!(notices);
        }
        let damaged = self.node.damages.count();
        if damaged > 0 {
            page["damaged_chunks"] = json!(damaged);
            page["damaged"] = json!(self.node.damages.lines());
        }
        json_page(status, &page)
    }
}

/// A report says when it is no success because somebody did not answer.
fn status_of(report: &serde_json::Value) -> u16 {
    let silent = report.get("silent").and_then(serde_json::Value::as_array);
    if silent.is_some_and(|silent| !silent.is_empty()) { Code::QuorumUnavailable.status() } else { 200 }
}

fn json_page(status: u16, value: &serde_json::Value) -> Page {
    Page { status, content_type: "application/json", body: value.to_string(), allow: None }
}

fn error_page(error: &Error) -> Page {
    Page {
        status: error.code.status(),
        content_type: "application/json",
        body: error_body(error, "admin"),
        allow: None,
    }
}

fn not_allowed(allow: &'static str) -> Page {
    let error = Error::new(Code::MethodNotAllowed, format!("this page has {allow}"));
    Page { allow: Some(allow), ..error_page(&error) }
}

/// Whether a page has to do with the archive.
fn is_of_archive(path: &str) -> bool {
    path == "/archive" || path.starts_with("/archive/") || path.starts_with("/restore/")
}

/// Whether a page is an operation, which is asked for and not read.
fn is_operation(path: &str) -> bool {
    matches!(path, "/scrub" | "/sync") || path != "/archive" && is_of_archive(path)
}

/// Sends the answer, and that nothing follows.
async fn finish(stream: &TcpStream, page: Page) {
    let mut response = ResponseHead::new(page.status)
        .header("Content-Type", page.content_type)
        .header("Content-Length", page.body.len());
    if let Some(allow) = page.allow {
        response = response.header("Allow", allow);
    }
    let mut bytes = response.write(&Timestamp::now().http_date(), Some("close"));
    bytes.extend_from_slice(page.body.as_bytes());
    // A client that is gone needs no answer.
    let how = match timeout(HEAD_TIME, stream.write_all(bytes)).await {
        Ok(_) => Shutdown::Write,
        Err(_) => Shutdown::Both,
    };
    let _ = stream.shutdown(how);
}

/// Ends when the client has gone; what it still sends is dropped.
async fn until_gone(stream: &TcpStream) {
    let mut buffer = vec![0; INBOX_MIN];
    loop {
        let (result, read) = stream.read(buffer).await;
        if !matches!(result, Ok(1..)) {
            return;
        }
        buffer = read;
    }
}

/// Reads one head; none when the client has gone.
async fn receive(stream: &TcpStream) -> Option<Result<Head, Error>> {
    let mut inbox = Vec::new();
    loop {
        let (result, buffer) = stream.read(vec![0; INBOX_MIN]).await;
        let received = result.ok().filter(|received| *received > 0)?;
        inbox.extend_from_slice(&buffer[..received]);
        match head::parse(&inbox) {
            Ok(Parsed::Complete { head, .. }) => return Some(Ok(head)),
            Ok(Parsed::Partial) if inbox.len() < REQUEST_LINE_MAX + HEADERS_MAX => {}
            Ok(Parsed::Partial) => {
                return Some(Err(Error::new(Code::HeadersTooLarge, "the head is too large")));
            }
            Err(error) => return Some(Err(error)),
        }
    }
}
