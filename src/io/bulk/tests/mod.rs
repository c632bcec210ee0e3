//! The bulk ring against the real kernel: sockets on the loopback device, files in temporary directories.

mod files;
mod hazards;
mod late;
mod randomised;
mod registered;
mod sockets;
mod support;
mod veth;
