//! Ports that stay ours while their node is down: below those that the kernel gives to outgoing connections, so that none of
//! them takes the port of a node that is to come back.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

const FIRST: u32 = 10_000;
/// The kernel's own begin at 32768.
const COUNT: u32 = 22_000;

/// An address of 127.0.0.1 on which nobody listens. None is given twice by one process.
pub fn free() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..COUNT {
        // Test processes that run at once begin at different places.
        let at = std::process::id().wrapping_mul(131).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let addr = SocketAddr::from(([127, 0, 0, 1], (FIRST + at % COUNT) as u16));
        if TcpListener::bind(addr).is_ok() {
            return addr;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}
