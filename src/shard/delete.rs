//! DELETE: tombstones one version, the newest, or all of them.

use std::rc::Rc;

use serde::Serialize;

use super::core::Core;
use super::replicated;
use super::reply::{Handled, Reply, refuse};
use crate::base::clock::Timestamp;
use crate::base::error::Code;
use crate::base::path::BlobPath;
use crate::base::slot::Slot;
use crate::meta::slots::State;
use crate::meta::types::Which;
use crate::wire::condition::Conditions;
use crate::wire::head::Head;
use crate::wire::query::{Key, Query};

#[derive(Serialize)]
struct DeleteAnswer<'a> {
    deleted: bool,
    path: &'a str,
    version: u64,
    tombstoned: bool,
}

pub(super) async fn delete(core: &Rc<Core>, head: &Head, path: &BlobPath, query: &Query) -> Handled {
    let which = match (query.version()?, query.flag(Key::Versions)) {
        (Some(_), true) => return refuse(Code::BadRequest, "give either version=N or versions, not both"),
        (Some(version), false) => Which::Version(version),
        (None, true) => Which::All,
        (None, false) => Which::Newest,
    };
    let conditions = Conditions::from_headers(&head.headers)?;
    let slot = Slot::of(path);
    let version = match replicated::replica(core, slot)? {
        Some(replica) => replica.delete(path, which, conditions, Timestamp::now()).await?,
        None if core.node.slots.state(slot) == State::Unborn => {
            return refuse(Code::BlobNotFound, format!("there is no blob '{path}'"));
        }
        None => core.node.writers.delete(slot, path, which, conditions).await?.version,
    };
    Ok(Reply::json(200, &DeleteAnswer { deleted: true, path, version, tombstoned: true }))
}
