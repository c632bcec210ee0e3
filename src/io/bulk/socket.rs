//! Descriptors that operations hold open.
//!
//! The kernel looks a descriptor up when an entry is submitted, not when it is queued. If it were closed in between,
//! its number could by then name another file. So an operation holds the owner until its last result.

use std::any::Any;
use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;

use monoio::net::TcpStream;

#[derive(Clone)]
#[expect(dead_code, reason = "held, never looked at")]
enum Owner {
    Core(Rc<dyn Any>),
    Process(Arc<dyn Any + Send + Sync>),
}

/// A descriptor, and what keeps it open.
#[derive(Clone)]
pub struct Descriptor {
    fd: RawFd,
    #[expect(dead_code, reason = "held, never looked at")]
    owner: Owner,
}

impl Descriptor {
    /// The descriptor of a file that this core owns.
    pub fn of<F: AsRawFd + 'static>(file: &Rc<F>) -> Self {
        Self { fd: file.as_raw_fd(), owner: Owner::Core(Rc::<F>::clone(file)) }
    }

    /// The descriptor of a file that cores share.
    pub fn of_shared<F: AsRawFd + Send + Sync + 'static>(file: &Arc<F>) -> Self {
        Self { fd: file.as_raw_fd(), owner: Owner::Process(Arc::<F>::clone(file)) }
    }
}

impl Descriptor {
    pub(super) fn fd(&self) -> RawFd {
        self.fd
    }
}

/// A connection's socket: used like the stream it holds, and closed when it was dropped and no operation of the bulk
/// ring is under way on it any more.
pub struct Socket {
    /// There until the drop.
    stream: Option<TcpStream>,
    lease: Rc<Lease>,
}

/// Held by the socket and by each operation under way; who lets go last closes the stream.
struct Lease {
    fd: RawFd,
    left: Cell<Option<TcpStream>>,
}

impl AsRawFd for Lease {
    fn as_raw_fd(&self) -> RawFd {
        self.fd
    }
}

impl Socket {
    /// Takes a stream over.
    pub fn new(stream: TcpStream) -> Self {
        let lease = Rc::new(Lease { fd: stream.as_raw_fd(), left: Cell::new(None) });
        Self { stream: Some(stream), lease }
    }

    pub(super) fn descriptor(&self) -> Descriptor {
        Descriptor::of(&self.lease)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        #[expect(unsafe_code, reason = "the stream lends its number only")]
        // SAFETY: the stream is open for as long as the socket exists.
        unsafe {
            BorrowedFd::borrow_raw(self.lease.fd)
        }
    }
}

impl Deref for Socket {
    type Target = TcpStream;
    #[expect(clippy::expect_used, reason = "it is taken by the drop only")]
    fn deref(&self) -> &TcpStream {
        self.stream.as_ref().expect("the socket is open")
    }
}

impl DerefMut for Socket {
    #[expect(clippy::expect_used, reason = "it is taken by the drop only")]
    fn deref_mut(&mut self) -> &mut TcpStream {
        self.stream.as_mut().expect("the socket is open")
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.lease.left.set(self.stream.take());
    }
}
