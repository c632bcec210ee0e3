//! What the command line asks of a running node.

mod http;
pub mod operation;
