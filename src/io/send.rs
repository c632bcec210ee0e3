//! How a connection sends: small answers at once, large ones through the bulk ring; never holding a buffer for a client
//! that does not read.
//!
//! ```text
//! let mut sender = Sender::new(mode, &socket);                     // with each connection
//! let parts = Rc::new((head, blocks));
//! let moved = sender.send(&bulk, &socket, &parts, sent, patience).await?;
//! if moved.out_of_patience { drop(parts); wait_writable(&socket, SEND_STALL).await?; }
//! ```

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::rc::Rc;
use std::time::Duration;

use monoio::net::TcpStream;
use monoio::time::timeout;
use rustix::net::{getpeername, getsockname};

use super::bulk::memory::Gather;
use super::bulk::socket::Socket;
use super::bulk::{Bulk, Moved, Reports, send_now};
use super::send_mode::{Chooser, Mode, Way, is_local};
use crate::limits::{SEND_NOW_MAX, SEND_STALL};

/// What a connection remembers of its sends.
pub struct Sender {
    reports: Reports,
    /// The socket gives up a peer that acknowledges nothing.
    bounded: bool,
}

impl Sender {
    /// The sender of a connection.
    pub fn new(mode: Mode, stream: &TcpStream) -> Self {
        let ends = ends(stream);
        if ends.is_some_and(is_local) {
            spare_pacing(stream);
        }
        Self { reports: Rc::new(RefCell::new(Chooser::new(mode, ends))), bounded: false }
    }

    /// Sends what `parts` holds from byte `skip` on, within `patience`; a small rest without the ring, as far as the
    /// socket takes it.
    ///
    /// # Errors
    /// Those of sendmsg(2), when nothing was sent.
    pub async fn send<G: Gather>(
        &mut self,
        bulk: &Bulk,
        socket: &Socket,
        parts: &Rc<G>,
        skip: usize,
        patience: Duration,
    ) -> io::Result<Moved> {
        let len = parts.total().saturating_sub(skip);
        let mut at_once = 0;
        if len <= SEND_NOW_MAX {
            match send_now(socket, &**parts, skip) {
                Ok(bytes) if bytes == len => return Ok(Moved { bytes, out_of_patience: false }),
                Ok(bytes) => at_once = bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        let way = self.reports.borrow().next(len - at_once, bulk.held());
        if way == Way::ZeroCopy && !self.bounded {
            self.bounded = true;
            // What a peer never acknowledges would hold memory for a quarter of an hour after the connection's end.
            let stall = SEND_STALL.as_millis() as u32;
            let _ = rustix::net::sockopt::set_tcp_user_timeout(socket, stall);
        }
        let moved = bulk.send(socket, parts, skip + at_once, way, Some(&self.reports), patience).await;
        match moved {
            Ok(moved) => {
                if moved.out_of_patience {
                    self.reports.borrow_mut().stalled();
                }
                Ok(Moved { bytes: at_once + moved.bytes, ..moved })
            }
            // The next send says so.
            Err(_) if at_once > 0 => Ok(Moved { bytes: at_once, out_of_patience: false }),
            Err(error) => Err(error),
        }
    }
}

/// The addresses of both ends; none of a socket that has none of IP, like the one that the relay of TLS hands over.
fn ends(stream: &TcpStream) -> Option<(SocketAddr, SocketAddr)> {
    #[expect(unsafe_code, reason = "monoio's own question asserts that it is a socket of IP")]
    // SAFETY: the stream is open for as long as this borrow lasts.
    let socket = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) };
    let ours = SocketAddr::try_from(getsockname(socket).ok()?).ok()?;
    Some((ours, SocketAddr::try_from(getpeername(socket).ok()??).ok()?))
}

/// Lets a socket to a local peer send without pacing: where BBR is the system's choice, its timers cost a tenth of the
/// throughput, and on the loopback device there is no queue to spare. Nothing depends on it.
fn spare_pacing(stream: &TcpStream) {
    #[expect(unsafe_code, reason = "the stream lends its number only")]
    // SAFETY: the stream is open for as long as this borrow lasts.
    let socket = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) };
    let _ = rustix::net::sockopt::set_tcp_congestion(socket, "cubic");
}

/// Waits until the client reads again, holding no buffer.
///
/// # Errors
/// `TimedOut` after `stall`, or those of poll(2).
pub async fn wait_writable(stream: &TcpStream, stall: Duration) -> io::Result<()> {
    timeout(stall, stream.writable(false)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
