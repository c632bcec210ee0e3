//! What the command line asks of a running node: operations of its admin listener, and blobs of its public one
//! (`rfc/0008-client.md`).

mod archive;
mod blob;
pub mod get;
mod http;
pub mod link;
pub mod listing;
pub mod operation;
mod partial;
mod progress;
pub mod put;

use serde_json::Value;

/// What was done.
#[derive(Debug)]
pub struct Done {
    /// For a program.
    pub json: Value,
    /// The same for a person.
    pub line: String,
    /// Whether that is all of it.
    pub good: bool,
}

/// Where requests of this thread run.
fn runtime() -> Result<tokio::runtime::Runtime, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| format!("cannot start: {error}"))
}
