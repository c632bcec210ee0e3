//! One connection: bytes from the core's socket to the network and back, until both sides have ended.
//!
//! | what happens | what the other side sees |
//! |---|---|
//! | the core ends its sending | close_notify, then the end of the TCP stream; the other direction goes on |
//! | the core closes its socket | the same, and what still comes is thrown away for a bounded time |
//! | the relay stops, which it does after the cores | the same, once what the core has sent is delivered |
//! | the peer sends close_notify | an end of file; the other direction goes on |
//! | the network breaks, or ends without close_notify, or carries what the peer did not seal | an end in both directions |
//!
//! Backpressure is that of the sockets: nothing is read that has no buffer, and each direction has one at a time. Liveness is the
//! core's: it closes a socket that is silent for too long, as it would close one of TCP.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::pin::pin;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::time::timeout;

use super::buffers::{Buffer, Buffers};
use super::session::Session;
use crate::limits::{DRAIN_MAX, TLS_HALF_OPEN, TLS_LINGER, TLS_SEAL_MAX, TLS_SLICE};

/// A connection whose peer was verified.
pub(super) struct Link {
    tcp: TcpStream,
    session: RefCell<Session>,
    /// What came with the handshake and is not yet handed on.
    early: Cell<Option<Buffer>>,
    buffers: Buffers,
    /// Bytes moved in either direction, wrapping.
    moved: Cell<u64>,
}

/// Becomes true when the relay stops.
pub(super) type Stop = watch::Receiver<bool>;

/// How one direction ended.
enum Ended {
    /// It carries nothing more; the other one may.
    Finished,
    /// The core has closed its socket.
    CoreGone,
}

impl Link {
    /// Does the handshake. To be bounded in time by the caller.
    ///
    /// # Errors
    /// One line: what the peer did or was, and the way out.
    pub(super) async fn establish(tcp: TcpStream, session: Session, buffers: &Buffers) -> io::Result<Self> {
        let session = RefCell::new(session);
        let mut plain = buffers.take();
        let mut received = 0;
        loop {
            let opened = session.borrow_mut().open(received, &mut plain);
            // Why we refuse the peer says more than that it did not wait to hear it.
            let flushed = flush(&tcp, &session).await;
            opened.and(flushed)?;
            if session.borrow().is_established() {
                break;
            }
            received = receive(&tcp, &session).await?;
            if received == 0 {
                let message = "it ended the connection during the handshake: see its log";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
            }
        }
        let early = Cell::new((!plain.is_empty()).then_some(plain));
        Ok(Self { tcp, session, early, buffers: buffers.clone(), moved: Cell::new(0) })
    }

    /// Looks at the session.
    pub(super) fn session<R>(&self, look: impl FnOnce(&Session) -> R) -> R {
        look(&self.session.borrow())
    }

    /// Relays until both directions have ended, or the connection breaks.
    ///
    /// # Errors
    /// What broke it. Both directions of the core's socket have ended then.
    pub(super) async fn relay(self, core: UnixStream, stop: Stop) -> io::Result<()> {
        let relayed = self.both(&core, stop).await;
        if relayed.is_err() {
            // An alert, perhaps. Nobody waits for the peer to take it.
            let _ = self.tcp.try_write(self.session.borrow().sealed());
            let _ = rustix::net::shutdown(&core, rustix::net::Shutdown::Both);
        }
        relayed
    }

    async fn both(&self, core: &UnixStream, stop: Stop) -> io::Result<()> {
        let mut outward = pin!(self.outward(core, stop));
        let mut inward = pin!(self.inward(core));
        let core_gone = tokio::select! {
            ended = &mut outward => match ended? {
                Ended::Finished => matches!(self.unless_still(inward).await?, Ended::CoreGone),
                Ended::CoreGone => true,
            },
            ended = &mut inward => {
                let core_gone = matches!(ended?, Ended::CoreGone);
                // What the core sent before it closed is still to go.
                matches!(self.unless_still(outward).await?, Ended::CoreGone) || core_gone
            }
        };
        if core_gone && !self.session.borrow().peer_finished {
            // Closing with bytes unread would reset the connection, and the peer could lose the last it was sent.
            let _ = timeout(TLS_LINGER, self.discard()).await;
        }
        Ok(())
    }

    /// Waits for the direction that is left, while it moves.
    async fn unless_still(
        &self,
        mut direction: std::pin::Pin<&mut impl Future<Output = io::Result<Ended>>>,
    ) -> io::Result<Ended> {
        loop {
            let before = self.moved.get();
            match timeout(TLS_HALF_OPEN, &mut direction).await {
                Ok(ended) => return ended,
                Err(_) if self.moved.get() == before => return Err(io::ErrorKind::TimedOut.into()),
                Err(_) => {}
            }
        }
    }

    /// From the core to the network.
    async fn outward(&self, core: &UnixStream, mut stop: Stop) -> io::Result<Ended> {
        let mut slice = 0;
        let mut stopping = false;
        loop {
            if !stopping {
                tokio::select! {
                    biased;
                    readable = core.readable() => readable?,
                    // Also when nobody is left who could say it.
                    _ = stop.wait_for(|stop| *stop) => stopping = true,
                }
            }
            let mut plain = self.buffers.take();
            let received = match core.try_read(&mut plain.room()[..TLS_SEAL_MAX]) {
                // The cores have ended before us: what is not there now does not come.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && stopping => 0,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                // It closed its socket without reading all that came.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
                received => received?,
            };
            plain.fill(received);
            self.session.borrow_mut().seal(&plain)?;
            drop(plain);
            flush(&self.tcp, &self.session).await?;
            if received == 0 {
                break;
            }
            self.pass(received, &mut slice).await;
        }
        rustix::net::shutdown(&self.tcp, rustix::net::Shutdown::Write)?;
        Ok(if stopping || is_gone(core) { Ended::CoreGone } else { Ended::Finished })
    }

    /// From the network to the core.
    async fn inward(&self, core: &UnixStream) -> io::Result<Ended> {
        let mut slice = 0;
        let mut plain = self.early.take();
        loop {
            if let Some(mut plain) = plain.take() {
                let bytes = plain.len();
                while !plain.is_empty() {
                    core.writable().await?;
                    match core.try_write(&plain) {
                        Ok(sent) => plain.consume(sent),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                            return Ok(Ended::CoreGone);
                        }
                        Err(error) => return Err(error),
                    }
                }
                self.pass(bytes, &mut slice).await;
            }
            if self.session.borrow().peer_finished {
                rustix::net::shutdown(core, rustix::net::Shutdown::Write)?;
                return Ok(Ended::Finished);
            }
            let received = receive(&self.tcp, &self.session).await?;
            if received == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the connection was cut off: it ended without a word of the peer",
                ));
            }
            self.session.borrow_mut().open(received, plain.insert(self.buffers.take()))?;
        }
    }

    /// Counts what was moved, and lets others go first when it is their turn.
    async fn pass(&self, bytes: usize, slice: &mut usize) {
        self.moved.set(self.moved.get().wrapping_add(bytes as u64));
        *slice += bytes;
        if *slice >= TLS_SLICE {
            *slice = 0;
            tokio::task::yield_now().await;
        }
    }

    /// Reads on until the peer ends.
    async fn discard(&self) {
        let mut rubbish = self.buffers.take();
        let mut left = DRAIN_MAX;
        loop {
            if self.tcp.readable().await.is_err() {
                return;
            }
            match self.tcp.try_read(rubbish.room()) {
                Ok(received @ 1..) if received as u64 <= left => left -= received as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => return,
            }
            tokio::task::yield_now().await;
        }
    }
}

/// Sends all that is sealed.
async fn flush(tcp: &TcpStream, session: &RefCell<Session>) -> io::Result<()> {
    while !session.borrow().sealed().is_empty() {
        tcp.writable().await?;
        let mut session = session.borrow_mut();
        match tcp.try_write(session.sealed()) {
            Ok(sent) => session.sent(sent),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Receives into a session's room; 0: the network has ended.
async fn receive(tcp: &TcpStream, session: &RefCell<Session>) -> io::Result<usize> {
    loop {
        tcp.readable().await?;
        let mut session = session.borrow_mut();
        let room = session.room();
        if room.is_empty() {
            let message = "the peer's message is larger than any may be";
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        match tcp.try_read(room) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => session.sent(0),
            received => return received,
        }
    }
}

/// Whether the core has closed its socket, rather than ended its sending.
fn is_gone(core: &UnixStream) -> bool {
    let mut socket = [PollFd::new(core, PollFlags::empty())];
    let polled = poll(&mut socket, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    polled.is_err() || socket[0].revents().contains(PollFlags::HUP)
}
