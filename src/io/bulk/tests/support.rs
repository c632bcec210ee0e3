//! A runtime with a ring, connected sockets, and memory that tells when it goes back.
#![expect(unsafe_code, reason = "memory shared with the kernel")]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use monoio::{IoUringDriver, RuntimeBuilder};

use crate::io::buffer::Buffer;
use crate::io::bulk::memory::{Gather, Region, Scatter};
use crate::io::bulk::registry::Registry;
use crate::io::bulk::socket::Socket;
use crate::io::bulk::{Bulk, Counts};

/// Longer than any test takes.
pub(super) const LONG: Duration = Duration::from_mins(1);
/// So short that it ends while a peer does not read.
pub(super) const SHORT: Duration = Duration::from_millis(30);
/// What memory holds after it has gone back.
pub(super) const POISON: u8 = 0xdb;

pub(super) fn runtime<T>(test: impl AsyncFnOnce() -> T) -> T {
    let mut runtime = RuntimeBuilder::<IoUringDriver>::new().enable_timer().build().unwrap();
    runtime.block_on(async {
        let result = test().await;
        // Sockets that were dropped are closed in the runtime's next turn.
        monoio::time::sleep(Duration::from_millis(1)).await;
        result
    })
}

/// Runs a test with a ring in which nothing is registered.
pub(super) fn with_ring<T>(test: impl AsyncFnOnce(Bulk) -> T) -> T {
    with_registry(Registry::none(), test)
}

pub(super) fn with_registry<T>(registry: Registry, test: impl AsyncFnOnce(Bulk) -> T) -> T {
    runtime(async || {
        let bulk = Bulk::start(&Arc::new(registry), Counts::default()).unwrap();
        test(bulk).await
    })
}

/// A connection: our end, and the peer's, which blocks.
pub(super) fn connected() -> (Socket, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    (Socket::new(monoio::net::TcpStream::from_std(ours).unwrap()), peer)
}

/// Bytes in which a stretch that is lost, doubled or moved shows.
pub(super) fn pattern(len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8).collect()
}

/// Reads to the end in a thread of its own.
pub(super) fn read_all(mut peer: TcpStream) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        peer.read_to_end(&mut all).map(|_| all).unwrap()
    })
}

/// Waits until `condition` holds.
pub(super) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} never came true");
        monoio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Memory that is filled with [`POISON`] when it goes back, and says so.
pub(super) struct Tracked {
    buffer: Buffer,
    index: Option<u16>,
    back: Arc<AtomicBool>,
}

impl Tracked {
    pub(super) fn new(bytes: &[u8], index: Option<u16>) -> (Self, Arc<AtomicBool>) {
        let mut buffer = Buffer::new(bytes.len());
        buffer.extend(bytes);
        Self::over(buffer, index)
    }

    pub(super) fn over(buffer: Buffer, index: Option<u16>) -> (Self, Arc<AtomicBool>) {
        let back = Arc::new(AtomicBool::new(false));
        (Self { buffer, index, back: Arc::clone(&back) }, back)
    }
}

impl Tracked {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.buffer.fill(POISON);
        self.back.store(true, Ordering::SeqCst);
    }
}

// SAFETY: the mapping of the buffer stays while it is owned.
unsafe impl Gather for Tracked {
    fn regions(&self, name: &mut dyn FnMut(Region)) {
        name(Region::of(&self.buffer).registered(self.index));
    }
}

// SAFETY: as above.
unsafe impl Scatter for Tracked {
    fn regions(&mut self, name: &mut dyn FnMut(Region)) {
        name(Region::of_mut(&mut self.buffer).registered(self.index));
    }
}

pub(super) fn is_back(back: &AtomicBool) -> bool {
    back.load(Ordering::SeqCst)
}

/// Says that something was not tested here, and why. Past the test runner, which hides what a passing test prints.
pub(super) fn skipped(why: &str) {
    let mut stderr = std::io::stderr();
    writeln!(stderr, "\nSKIPPED: {why}").unwrap();
}
