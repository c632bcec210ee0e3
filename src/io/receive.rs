//! Receiving: the ring says when bytes are there, a call that never waits takes them.
//!
//! So no buffer is with the kernel while a client is silent, and whoever waits can give up at any time.
#![expect(unsafe_code, reason = "monoio's streams only show their number")]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use monoio::net::TcpStream;
use rustix::net::{RecvFlags, recv};

use super::buffer::Buffer;
use crate::limits::RECEIVE_MAX;

/// Waits until bytes are there, or the client has ended.
///
/// # Errors
/// Those of poll(2).
pub async fn wait_readable(stream: &TcpStream) -> io::Result<()> {
    stream.readable(true).await
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
