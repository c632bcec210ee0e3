//! Receiving: the ring says when bytes are there, a call that never waits takes them.
//!
//! So no buffer is with the kernel while a client is silent, and whoever waits can give up at any time. A bulk receive is not
//! woken for every segment but for a good deal of bytes ([`LowWater`]).
#![expect(unsafe_code, reason = "monoio's streams only show their number, and rustix has no SO_RCVLOWAT")]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use monoio::net::TcpStream;
use rustix::net::{RecvFlags, recv};

use super::buffer::Buffer;
use crate::limits::{LOW_WATER, RECEIVE_MAX};

/// How many bytes must be there for a socket to be readable, as it was told last.
#[derive(Debug)]
pub struct LowWater(usize);

impl Default for LowWater {
    /// Of a socket that was told nothing: any byte counts.
    fn default() -> Self {
        Self(1)
    }
}

impl LowWater {
    /// Tells the socket to wait for [`LOW_WATER`] bytes or at least `room`, if so many are sure to come: of the `rest` that the
    /// client has announced, the last are never waited for. It may be silent before, so the wait for them needs a bound.
    pub fn raise(&mut self, stream: &TcpStream, room: usize, rest: u64) {
        self.set(stream, if rest >= LOW_WATER as u64 { LOW_WATER.min(room) } else { 1 });
    }

    /// Lets any byte count again.
    pub fn lower(&mut self, stream: &TcpStream) {
        self.set(stream, 1);
    }

    fn set(&mut self, stream: &TcpStream, bytes: usize) {
        if bytes == self.0 {
            return;
        }
        self.0 = bytes;
        let mark = libc::c_int::try_from(bytes).unwrap_or(1);
        // SAFETY: an option of one int, which the kernel copies. It cannot fail on an open socket, and where it
        // did, the wait would only be shorter or as long as its bound.
        unsafe {
            libc::setsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVLOWAT,
                (&raw const mark).cast(),
                size_of_val(&mark) as libc::socklen_t,
            );
        }
    }
}

/// Waits until bytes are there, or the client has ended.
///
/// # Errors
/// Those of poll(2).
pub async fn wait_readable(stream: &TcpStream) -> io::Result<()> {
    stream.readable(true).await
}

/// Whether something is there to be received, or the other end has ended.
pub fn is_ready(stream: &TcpStream) -> bool {
    // SAFETY: the stream stays open for as long as it is borrowed.
    let socket = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) };
    let looked = recv(socket, &mut [0_u8; 1][..], RecvFlags::DONTWAIT | RecvFlags::PEEK);
    !matches!(looked, Err(rustix::io::Errno::WOULDBLOCK))
}

/// Appends at most `room` of the bytes that are there to a buffer; 0: the client has ended.
///
/// # Errors
/// Those of recv(2): `WouldBlock` when nothing is there.
pub fn receive(stream: &TcpStream, buffer: &mut Buffer, room: usize) -> io::Result<usize> {
    let start = buffer.len();
    buffer.set_len(start + room.min(RECEIVE_MAX));
    // SAFETY: the stream stays open for as long as it is borrowed.
    let socket = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) };
    let received = recv(socket, &mut buffer[start..], RecvFlags::DONTWAIT);
    let received = received.map(|(received, _)| received);
    buffer.set_len(start + received.unwrap_or(0));
    Ok(received?)
}
