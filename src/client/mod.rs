//! What the command line asks of a running node.

mod archive;
mod http;
pub mod operation;
