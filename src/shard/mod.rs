//! One core: it accepts connections and answers every request on them, from the first byte to the last.
//!
//! A connection stays on its core once it has a place. Tasks of a core share its state without locks; what cores share stands in
//! [`node::Node`]. Metadata questions and writes go to the metadata threads, file steps to storage threads.

mod answers;
pub mod archive;
mod blob;
mod body;
mod connection;
pub mod core;
mod delete;
mod describe;
mod fields;
mod forward;
mod get;
mod list;
pub mod node;
mod pace;
pub mod peers;
pub mod placement;
mod put;
mod read_ahead;
pub mod repair;
mod replicated;
mod reply;
mod route;
mod stream;
mod upload;
mod versions;
