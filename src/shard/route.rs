//! Which handler answers a request.

use std::rc::Rc;

use super::body::Body;
use super::connection::{Connection, Plane};
use super::core::Core;
use super::reply::{Failure, Handled, Reply, refuse};
use super::{delete, forward, get, list, peers, put, versions};
use crate::base::error::{Code, Error};
use crate::base::path::BlobPath;
use crate::wire::head::{Head, Method, Target};
use crate::wire::query::{Key, Query};
use crate::wire::response::ResponseHead;

const OBJECT_METHODS: &str = "GET, HEAD, PUT, DELETE, OPTIONS";
const READ_METHODS: &str = "GET, HEAD, OPTIONS";

/// Answers one request.
pub(super) async fn handle(
    core: &Rc<Core>,
    connection: &mut Connection,
    head: &Head,
    body: &mut Body,
) -> Handled {
    match connection.plane() {
        Plane::Public => handle_public(core, connection, head, body).await,
        Plane::Peer(_) => Box::pin(peers::handle(core, connection, head, body)).await,
    }
}

/// Answers a client's request, which another node may have forwarded.
pub(super) async fn handle_public(
    core: &Rc<Core>,
    connection: &mut Connection,
    head: &Head,
    body: &mut Body,
) -> Handled {
    match resource(core, connection, head, body).await {
        Err(Failure::Elsewhere(to, scope)) => {
            Box::pin(forward::elsewhere(core, connection, head, body, &to, scope)).await
        }
        handled => handled,
    }
}

async fn resource(core: &Rc<Core>, connection: &mut Connection, head: &Head, body: &mut Body) -> Handled {
    let (path, query) = match &head.target {
        Target::Asterisk => return Ok(allowed(OBJECT_METHODS)),
        Target::Origin { path, query } => (path.as_str(), query.as_deref()),
    };
    if let Some(encoded) = path.strip_prefix("/objects/") {
        if let Some(listed) = directory(core, head, encoded, query).await? {
            return Ok(listed);
        }
        return object(core, connection, head, body, encoded, query).await;
    }
    match path {
        "/objects" | "/health" => match head.method {
            Method::Options => Ok(allowed(READ_METHODS)),
            Method::Get | Method::Head if path == "/health" => health(core),
            Method::Get | Method::Head => {
                let parsed = Query::parse(query)?;
                check_reserved(&parsed)?;
                if wants_page(head) {
                    // Links of the page begin there.
                    return Ok(moved(query));
                }
                Box::pin(list::list(core, &parsed)).await
            }
            _ => not_allowed(READ_METHODS),
        },
        _ => refuse(Code::BlobNotFound, "nothing is here: blobs are under /objects/, their list is /objects"),
    }
}

/// Whether a client would rather have a page for people than JSON.
fn wants_page(head: &Head) -> bool {
    let accept = head.headers.get_str("accept").unwrap_or_default();
    accept.split(',').any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let is_html = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("text/html"));
        is_html && !parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
    })
}

/// To `/objects/`, with the same query.
fn moved(query: Option<&str>) -> Reply {
    let query = query.map_or_else(String::new, |query| format!("?{query}"));
    let head = ResponseHead::new(308).header("Location", format_args!("objects/{query}"));
    Reply::empty(308, head.header("Vary", "Accept").header("Content-Length", 0))
}

/// A page of what is below a path that ends with a slash, for whom wants one; at `/objects/` itself also JSON, if a prefix is named.
/// None: it is the path of a blob.
async fn directory(
    core: &Rc<Core>,
    head: &Head,
    encoded: &str,
    query: Option<&str>,
) -> Result<Option<Reply>, Failure> {
    let is_read = matches!(head.method, Method::Get | Method::Head);
    if !is_read || !(encoded.is_empty() || encoded.ends_with('/')) {
        return Ok(None);
    }
    let (query, is_page) = (Query::parse(query)?, wants_page(head));
    if !is_page {
        if !encoded.is_empty() || query.text(Key::Prefix).is_none() {
            return Ok(None);
        }
        check_reserved(&query)?;
        return Box::pin(list::list(core, &query)).await.map(Some);
    }
    check_reserved(&query)?;
    let directory = match encoded.strip_suffix('/') {
        Some(path) => format!("{}/", BlobPath::from_encoded(path)?),
        None => String::new(),
    };
    Box::pin(list::index(core, &query, &directory)).await.map(Some)
}

async fn object(
    core: &Rc<Core>,
    connection: &mut Connection,
    head: &Head,
    body: &mut Body,
    encoded: &str,
    query: Option<&str>,
) -> Handled {
    let path = BlobPath::from_encoded(encoded)?;
    let query = Query::parse(query)?;
    check_reserved(&query)?;
    match head.method {
        Method::Put => Box::pin(put::put(core, connection, head, body, path, &query)).await,
        Method::Get | Method::Head => match (query.flag(Key::Versions), query.flag(Key::Chunks)) {
            (true, true) => refuse(Code::BadRequest, "give either versions or chunks, not both"),
            (true, false) => Box::pin(versions::versions(core, &path, &query)).await,
            (false, true) => Box::pin(versions::chunks(core, &path, &query)).await,
            (false, false) => Box::pin(get::get(core, head, &path, &query)).await,
        },
        Method::Delete => Box::pin(delete::delete(core, head, &path, &query)).await,
        Method::Options => Ok(allowed(OBJECT_METHODS)),
        Method::Post | Method::Patch | Method::Trace | Method::Connect => not_allowed(OBJECT_METHODS),
    }
}

fn check_reserved(query: &Query) -> Result<(), Failure> {
    if query.flag(Key::Upload) || query.flag(Key::Uploads) {
        return refuse(Code::NotImplemented, "resumable uploads are not there yet: send the blob in one PUT");
    }
    match query.text(Key::Consistency) {
        None | Some("local") => Ok(()),
        Some(_) => refuse(Code::BadRequest, "consistency can be 'local' or left out"),
    }
}

fn allowed(methods: &str) -> Reply {
    Reply::empty(204, ResponseHead::new(204).header("Allow", methods))
}

fn not_allowed(methods: &str) -> Handled {
    let error = Error::new(Code::MethodNotAllowed, format!("this resource has {methods}"));
    Err(Failure::Refused(error, vec![("Allow", methods.to_owned())]))
}

fn health(core: &Core) -> Handled {
    if core.node.can_serve() {
        return Ok(Reply::json(200, &serde_json::json!({ "status": "ok" })));
    }
    refuse(Code::SlotUnavailable, core.node.troubles().join("; "))
}
