//! Bytes and the kernel: aligned buffers, files, sockets, the block cache. It knows no blob.

pub mod arena;
pub mod ballast;
pub mod budget;
pub mod buffer;
pub mod bulk;
pub mod cache;
pub mod file;
pub mod hashing;
pub mod health;
pub mod listen;
pub mod receive;
pub mod send;
pub mod send_mode;
pub mod steps;
pub mod storage;
mod turn;
