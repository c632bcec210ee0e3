//! The receive low-water mark: how many bytes must have arrived before the kernel wakes the client.
//!
//! Without one, a bulk read wakes the client for every segment or two, and the client's share of a machine it has in common with the
//! server is mostly wake-ups. With 1 MiB it costs a third to a fifth as much per byte. What always holds: the mark is never higher than
//! what is still to come, or the end of a body would never be reported.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

/// The highest mark that can be asked for; the kernel cuts it to half of what a socket may buffer.
pub(crate) const MOST: u64 = 64 << 20;
/// The kernel's own default: any byte wakes.
const ANY_BYTE: u64 = 1;

/// The mark of one socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LowWater {
    bulk: u64,
    current: u64,
}

impl LowWater {
    /// For a new socket; `bulk`, at most [`MOST`], is the mark while so much or more is to come.
    pub(crate) fn new(bulk: u64) -> Self {
        Self { bulk: bulk.clamp(ANY_BYTE, MOST), current: ANY_BYTE }
    }

    /// Sets the mark for a socket on which `left` more bytes are certain to come.
    pub(crate) fn adjust(&mut self, socket: impl AsFd, left: u64) -> io::Result<()> {
        let wanted = if left >= self.bulk { self.bulk } else { ANY_BYTE };
        if wanted != self.current {
            set(socket, wanted)?;
            self.current = wanted;
        }
        Ok(())
    }
}

#[expect(unsafe_code, reason = "rustix has no SO_RCVLOWAT")]
fn set(socket: impl AsFd, bytes: u64) -> io::Result<()> {
    let value = libc::c_int::try_from(bytes).map_err(io::Error::other)?;
    // SAFETY: the descriptor is borrowed for the whole call, and the option's value is a c_int of which pointer and size are given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    fn readable_within(socket: &TcpStream, milliseconds: i64) -> bool {
        let timeout = Timespec { tv_sec: milliseconds / 1000, tv_nsec: milliseconds % 1000 * 1_000_000 };
        poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&timeout)).unwrap() > 0
    }

    #[test]
    fn a_trickle_below_the_mark_wakes_nobody() {
        let (near, mut far) = pair();
        let mut mark = LowWater::new(1000);
        mark.adjust(&near, 1000).unwrap();
        far.write_all(&[0; 999]).unwrap();
        assert!(!readable_within(&near, 50));
        far.write_all(&[0; 1]).unwrap();
        assert!(readable_within(&near, 5000));
    }

    #[test]
    fn the_end_of_a_body_is_never_waited_for_in_vain() {
        let (near, mut far) = pair();
        let mut mark = LowWater::new(1000);
        mark.adjust(&near, 5000).unwrap();
        mark.adjust(&near, 999).unwrap();
        far.write_all(&[0; 10]).unwrap();
        assert!(readable_within(&near, 5000));
    }
}
