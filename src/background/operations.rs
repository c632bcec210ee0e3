//! What operators ask a node to do now: `POST /scrub`, `POST /sync`, `POST /archive/{path}`, `POST /restore/{path}`,
//! `POST /archive?check`.
//!
//! The same operation runs once at a time; who asks for one that is running waits for that one. It goes on when those
//! who asked have gone, and ends with the node.

mod sync;

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::watch;

use super::archive::{Asker, Order};
use super::scrub::{self, Ask};
use crate::base::error::{Code, Error, Result};
use crate::base::path::{BlobPath, percent_decode};
use crate::shard::node::Node;
use crate::wire::query::{Key, Query};

/// One that can be asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Operation {
    /// Every chunk is read and compared with its hash.
    Scrub,
    /// All replicas are compared with those of the other nodes, and what is lacking is fetched.
    Sync,
    /// Chunks go to the archive, or come back, or are compared with it.
    Archive(Order),
}

/// What came of one; none yet while it runs.
type Outcome = Option<Result<Value>>;

/// Those that run.
pub(super) struct Operations {
    node: Arc<Node>,
    scrub: Ask,
    archive: Option<Asker>,
    running: RefCell<HashMap<Operation, watch::Receiver<Outcome>>>,
}

impl Operation {
    /// By the path of its page, and its query; none: there is no such page.
    ///
    /// # Errors
    /// `InvalidPath` and `BadRequest` for what names no blob.
    pub(super) fn at(path: &str, query: Option<&str>) -> Result<Option<Self>> {
        let order = match path {
            "/scrub" => return Ok(Some(Self::Scrub)),
            "/sync" => return Ok(Some(Self::Sync)),
            "/archive" if Query::parse(query)?.flag(Key::Check) => Order::Check,
            path => match (path.strip_prefix("/archive/"), path.strip_prefix("/restore/")) {
                (Some(path), _) => to_archive(path, &Query::parse(query)?)?,
                (_, Some(path)) => to_restore(path, &Query::parse(query)?)?,
                (None, None) => return Ok(None),
            },
        };
        Ok(Some(Self::Archive(order)))
    }

    async fn run(self, node: Arc<Node>, scrub: Ask, archive: Option<Asker>) -> Result<Value> {
        match (self, archive) {
            (Self::Scrub, _) => scrub::now(&scrub).await,
            (Self::Sync, _) => sync::run(&node).await,
            (Self::Archive(order), Some(archive)) => archive.order(order).await,
            (Self::Archive(_), None) => Err(no_archive()),
        }
    }
}

/// What a node without an archive says of everything that has to do with one.
pub(super) fn no_archive() -> Error {
    Error::new(Code::NotImplemented, "this node has no [archive] in its config")
}

fn to_archive(path: &str, query: &Query) -> Result<Order> {
    if query.flag(Key::Prefix) {
        return Err(Error::new(
            Code::BadRequest,
            "only /restore/ takes a prefix: name a blob after /archive/",
        ));
    }
    Ok(Order::Archive { path: blob(path)?, version: query.version()? })
}

fn to_restore(path: &str, query: &Query) -> Result<Order> {
    match (query.flag(Key::Prefix), query.version()?) {
        (true, Some(_)) => Err(Error::new(Code::BadRequest, "give either version=N or prefix, not both")),
        (true, None) => {
            let decoded = percent_decode(path).map_err(|why| Error::new(Code::InvalidPath, why))?;
            Ok(Order::RestorePrefix { prefix: decoded })
        }
        (false, version) => Ok(Order::Restore { path: blob(path)?, version }),
    }
}

fn blob(path: &str) -> Result<String> {
    if path.is_empty() {
        return Err(Error::new(Code::InvalidPath, "the path is empty: name a blob"));
    }
    BlobPath::from_encoded(path).map(|path| path.to_string())
}

impl Operations {
    pub(super) fn new(node: Arc<Node>, scrub: Ask, archive: Option<Asker>) -> Self {
        Self { node, scrub, archive, running: RefCell::default() }
    }

    /// Who asks the archive's thread, if there is one.
    pub(super) fn archive(&self) -> Option<&Asker> {
        self.archive.as_ref()
    }

    /// Does it, or waits for one that is being done.
    ///
    /// # Errors
    /// Those of the operation; `Internal` when the node stops first.
    pub(super) async fn run(&self, operation: Operation) -> Result<Value> {
        let mut outcome = self.outcome_of(operation);
        let ended = outcome.wait_for(Option::is_some).await;
        let ended = ended.ok().and_then(|outcome| outcome.clone());
        ended.unwrap_or_else(|| {
            Err(Error::new(Code::Internal, "the operation was cut off by the node's stop: ask again"))
        })
    }

    fn outcome_of(&self, operation: Operation) -> watch::Receiver<Outcome> {
        let mut running = self.running.borrow_mut();
        // Those that have ended are of no use to who asks now.
        running.retain(|_, it| it.borrow().is_none() && it.has_changed().is_ok());
        if let Some(joined) = running.get(&operation) {
            return joined.clone();
        }
        let (tell, outcome) = watch::channel(None);
        let (node, scrub, archive) = (Arc::clone(&self.node), self.scrub.clone(), self.archive.clone());
        running.insert(operation.clone(), outcome.clone());
        tokio_uring::spawn(async move {
            let ended = operation.run(node, scrub, archive).await;
            // Whoever asked may have gone.
            let _ = tell.send(Some(ended));
        });
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &str, query: Option<&str>) -> Option<Operation> {
        Operation::at(path, query).unwrap()
    }

    #[test]
    fn an_operation_is_named_by_its_path() {
        assert_eq!(at("/scrub", None), Some(Operation::Scrub));
        assert_eq!(at("/sync", Some("x")), Some(Operation::Sync));
        assert_eq!(at("/archive", Some("check")), Some(Operation::Archive(Order::Check)));
        for other in ["/", "/archive", "/restore", "/scrub/", "/metrics"] {
            assert_eq!(at(other, None), None, "{other}");
        }
    }

    #[test]
    fn a_blob_is_named_as_clients_name_it() {
        let archive =
            |path: &str, version| Some(Operation::Archive(Order::Archive { path: path.to_owned(), version }));
        assert_eq!(at("/archive/a/b", None), archive("a/b", None));
        assert_eq!(at("/archive/a%2Fb%3F", Some("version=7")), archive("a/b?", Some(7)));
        let restore = Order::Restore { path: "a b".to_owned(), version: Some(1) };
        assert_eq!(at("/restore/a%20b", Some("version=1")), Some(Operation::Archive(restore)));
        for (prefix, path) in [("a/", "/restore/a/"), ("", "/restore/"), ("é", "/restore/%C3%A9")] {
            let order = Order::RestorePrefix { prefix: prefix.to_owned() };
            assert_eq!(at(path, Some("prefix")), Some(Operation::Archive(order)), "{path}");
        }
    }

    #[test]
    fn what_names_no_blob_is_refused() {
        for (path, query, code) in [
            ("/archive/", None, Code::InvalidPath),
            ("/archive/a//b", None, Code::InvalidPath),
            ("/archive/%zz", None, Code::InvalidPath),
            ("/restore/", None, Code::InvalidPath),
            ("/restore/%ff", Some("prefix"), Code::InvalidPath),
            ("/archive/a", Some("version=0"), Code::BadRequest),
            ("/archive/a", Some("prefix"), Code::BadRequest),
            ("/restore/a", Some("prefix&version=1"), Code::BadRequest),
            ("/restore/a", Some("version=1&version=1"), Code::BadRequest),
        ] {
            assert_eq!(Operation::at(path, query).unwrap_err().code, code, "{path} {query:?}");
        }
    }
}
