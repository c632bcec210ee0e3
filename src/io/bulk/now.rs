//! A send without the ring, of what the socket takes at once.
#![expect(unsafe_code, reason = "a gather list of C")]

use std::io;
use std::os::fd::AsRawFd as _;

use super::entries::Message;
use super::memory::{Gather, cut};
use super::socket::Socket;
use crate::limits::{BULK_REGIONS, BULK_SEND_MAX};

/// Sends what `parts` holds from byte `skip` on, as far as the socket has room.
///
/// # Errors
/// `WouldBlock` when it has none, else those of sendmsg(2).
pub fn send_now<G: Gather>(socket: &Socket, parts: &G, skip: usize) -> io::Result<usize> {
    let regions = cut(|name| parts.regions(name), skip..skip.saturating_add(BULK_SEND_MAX), BULK_REGIONS);
    let message = Message::new(&regions);
    // SAFETY: the header names regions that `parts` keeps while it is borrowed, for reading.
    let sent = unsafe {
        libc::sendmsg(socket.as_raw_fd(), message.header(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}
