//! The admin listener: metrics, health and slots, for operators.
//!
//! Small and rare requests: one at a time on a connection that closes after each.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_uring::net::TcpStream;

use super::overview::Overview;
use crate::base::clock::Timestamp;
use crate::base::error::{Code, Error};
use crate::base::slot::Slot;
use crate::limits::{ADMIN_CONNECTIONS, HEAD_TIME, HEADERS_MAX, INBOX_MIN, REQUEST_LINE_MAX};
use crate::metrics::CoreLabels;
use crate::shard::node::Node;
use crate::wire::head::{self, Head, Method, Parsed, Target};
use crate::wire::response::{ResponseHead, error_body};

struct Admin {
    node: Arc<Node>,
    overview: Overview,
    metrics: Registry,
}

/// What a request gets: status, content type, body, further fields.
struct Page {
    status: u16,
    content_type: &'static str,
    body: String,
    allow: bool,
}

/// Serves for as long as the node runs.
pub(super) async fn serve(node: Arc<Node>, listener: TcpListener, overview: Overview) {
    let metrics = node.metrics.registry();
    let admin = Arc::new(Admin { node, overview, metrics });
    let listener = tokio_uring::net::TcpListener::from_std(listener);
    let places = Arc::new(Semaphore::new(ADMIN_CONNECTIONS));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let admin = Arc::clone(&admin);
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
        let page = match timeout(HEAD_TIME, receive(&stream)).await {
            Ok(Some(Ok(head))) => self.page(&head),
            Ok(Some(Err(error))) => error_page(&error),
            // Shut, so that a read that is still under way lets go of the descriptor.
            Ok(None) | Err(_) => return drop(stream.shutdown(std::net::Shutdown::Both)),
        };
        let mut response = ResponseHead::new(page.status)
            .header("Content-Type", page.content_type)
            .header("Content-Length", page.body.len());
        if page.allow {
            response = response.header("Allow", "GET, HEAD");
        }
        let mut bytes = response.write(&Timestamp::now().http_date(), Some("close"));
        bytes.extend_from_slice(page.body.as_bytes());
        // A client that is gone needs no answer.
        let how = match timeout(HEAD_TIME, stream.write_all(bytes)).await {
            Ok(_) => std::net::Shutdown::Write,
            Err(_) => std::net::Shutdown::Both,
        };
        let _ = stream.shutdown(how);
    }

    fn page(&self, head: &Head) -> Page {
        let Target::Origin { path, .. } = &head.target else {
            return error_page(&Error::new(Code::BadRequest, "name a page"));
        };
        if matches!(path.as_str(), "/scrub" | "/sync")
            || path.starts_with("/archive/")
            || path.starts_with("/restore/")
        {
            return error_page(&Error::new(
                Code::NotImplemented,
                "this release runs a single node without an archive",
            ));
        }
        if !matches!(head.method, Method::Get | Method::Head) {
            let mut page = error_page(&Error::new(Code::MethodNotAllowed, "this page has GET, HEAD"));
            page.allow = true;
            return page;
        }
        let mut page = match path.as_str() {
            "/metrics" => self.metrics(),
            "/healthz" => json_page(200, &json!({ "status": "ok" })),
            "/readyz" => self.ready(),
            "/nodes" => json_page(200, &self.overview.nodes()),
            "/slots" => json_page(200, &self.overview.slots()),
            other => match other.strip_prefix("/slots/").and_then(|id| id.parse().ok()).and_then(Slot::new) {
                Some(slot) => json_page(200, &self.overview.slot(slot)),
                None => error_page(&Error::new(
                    Code::BlobNotFound,
                    "there are /metrics, /healthz, /readyz, /nodes, /slots and /slots/{0..2047}",
                )),
            },
        };
        if head.method == Method::Head {
            page.body.clear();
        }
        page
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
        super::disks::count(node);
        node.metrics.cache_bytes.set(node.cache.weight().cast_signed());
        node.metrics.cache_read.inner().store(node.cache.loaded(), Ordering::Relaxed);
        match encode(&mut body, &self.metrics) {
            Ok(()) => {
                let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                Page { status: 200, content_type, body, allow: false }
            }
            Err(error) => error_page(&Error::new(Code::Internal, error.to_string())),
        }
    }

    fn ready(&self) -> Page {
        let mut troubles = self.node.troubles();
        troubles.extend(self.overview.troubles());
        if troubles.is_empty() {
            match self.node.notices() {
                notices if notices.is_empty() => json_page(200, &json!({ "ready": true })),
                notices => json_page(200, &json!({ "ready": true, "notices": notices })),
            }
        } else {
            json_page(503, &json!({ "ready": false, "reasons": troubles }))
        }
    }
}

fn json_page(status: u16, value: &serde_json::Value) -> Page {
    Page { status, content_type: "application/json", body: value.to_string(), allow: false }
}

fn error_page(error: &Error) -> Page {
    Page {
        status: error.code.status(),
        content_type: "application/json",
        body: error_body(error, "admin"),
        allow: false,
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
