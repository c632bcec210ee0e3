//! Listening sockets: one per core on the same port, so that the kernel spreads connections.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{BorrowedFd, RawFd};
use std::thread;
use std::time::Instant;

use rustix::net::{
    AddressFamily, Shutdown, SocketFlags, SocketType, bind, listen, shutdown, socket_with, sockopt,
};

use crate::limits::{BACKLOG, PORT_RETRY, PORT_WAIT};

/// One listener for each of `count` cores.
///
/// # Errors
/// Those of bind(2); also when another process listens on the port, which would share its connections with us, and goes
/// on doing so.
pub fn listen_all(address: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    let deadline = Instant::now() + PORT_WAIT;
    loop {
        match open(address, false) {
            Ok(probe) => break drop(probe),
            // The kernel gives back what a killed node's ring held only after the process is gone: whoever restarts it at
            // once meets its sockets.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                thread::sleep(PORT_RETRY);
            }
            Err(error) => return Err(error),
        }
    }
    let first = open(address, true)?;
    let address = first.local_addr()?;
    let mut listeners = vec![first];
    for _ in 1..count {
        listeners.push(open(address, true)?);
    }
    Ok(listeners)
}

fn open(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, shared)?;
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
}

/// Ends both directions of a socket that is open: what waits on it wakes up.
pub fn shut(socket: RawFd) {
    #[expect(unsafe_code, reason = "a descriptor of this core")]
    // SAFETY: the caller's core holds the socket open, and only this core closes it.
    let socket = unsafe { BorrowedFd::borrow_raw(socket) };
    // A socket that is already shut needs nothing.
    let _ = shutdown(socket, Shutdown::Both);
}
