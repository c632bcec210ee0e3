//! Several pieces of memory that leave in one send.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd};

use monoio::buf::{IoBuf, IoVecBuf};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};

/// Pieces in the order of sending; what was sent is let go of piece by piece.
pub struct Gather<P> {
    pieces: Vec<P>,
    vecs: Vec<libc::iovec>,
    len: usize,
}

impl<P> Default for Gather<P> {
    fn default() -> Self {
        Self { pieces: Vec::new(), vecs: Vec::new(), len: 0 }
    }
}

impl<P: IoBuf> Gather<P> {
    /// Appends a piece.
    pub fn push(&mut self, piece: P) {
        let len = piece.bytes_init();
        self.vecs.push(libc::iovec { iov_base: piece.read_ptr().cast_mut().cast(), iov_len: len });
        self.pieces.push(piece);
        self.len += len;
    }

    /// Bytes left to send.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether all of it was sent.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first `n` bytes were sent.
    ///
    /// # Panics
    /// When there are not as many.
    pub fn advance(&mut self, mut n: usize) {
        assert!(n <= self.len, "{n} of {} bytes", self.len);
        self.len -= n;
        let mut sent = 0;
        for vec in &mut self.vecs {
            let now = n.min(vec.iov_len);
            vec.iov_base = vec.iov_base.cast::<u8>().wrapping_add(now).cast();
            vec.iov_len -= now;
            n -= now;
            if vec.iov_len > 0 {
                break;
            }
            sent += 1;
        }
        self.vecs.drain(..sent);
        self.pieces.drain(..sent);
    }

    /// Bytes left of the pieces that `which` names.
    pub fn sum(&self, which: impl Fn(&P) -> bool) -> usize {
        self.pieces.iter().zip(&self.vecs).filter(|(piece, _)| which(piece)).map(|(_, vec)| vec.iov_len).sum()
    }

    /// Lets go of all pieces but those that `keep` names.
    pub fn retain(&mut self, keep: impl Fn(&P) -> bool) {
        self.len = self.sum(&keep);
        let mut kept = self.pieces.iter().map(&keep);
        self.vecs.retain(|_| kept.next().unwrap_or_default());
        self.pieces.retain(keep);
    }

    /// Sends what the socket takes at once; 0 when that is nothing.
    ///
    /// # Errors
    /// Those of sendmsg(2).
    #[expect(unsafe_code, reason = "a descriptor of the caller's")]
    pub fn send_now(&mut self, socket: &impl AsRawFd) -> io::Result<usize> {
        // SAFETY: the caller holds the socket for as long as this borrow lasts.
        let socket = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
        let slices: Vec<IoSlice<'_>> = self.vecs.iter().map(as_slice).collect();
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match sendmsg(socket, &slices, &mut SendAncillaryBuffer::default(), flags) {
            Ok(sent) => {
                self.advance(sent);
                Ok(sent)
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }
}

#[expect(unsafe_code, reason = "memory shared with the kernel")]
fn as_slice(vec: &libc::iovec) -> IoSlice<'_> {
    // SAFETY: `vec` was made from a piece that the gather still holds, and lies within its initialised bytes.
    IoSlice::new(unsafe { std::slice::from_raw_parts(vec.iov_base.cast::<u8>().cast_const(), vec.iov_len) })
}

#[expect(unsafe_code, reason = "memory shared with the kernel")]
// SAFETY: the vector does not change while an operation owns the gather, and every entry lies within the bytes of
// a piece, which do not move while it is held.
unsafe impl<P: IoBuf> IoVecBuf for Gather<P> {
    fn read_iovec_ptr(&self) -> *const libc::iovec {
        self.vecs.as_ptr()
    }
    fn read_iovec_len(&self) -> usize {
        self.vecs.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(gather: &Gather<Vec<u8>>) -> Vec<u8> {
        gather.vecs.iter().flat_map(|vec| as_slice(vec).to_vec()).collect()
    }

    #[test]
    fn what_was_sent_is_let_go_of() {
        let mut gather = Gather::default();
        for piece in ["head", "", "body", "tail"] {
            gather.push(piece.as_bytes().to_vec());
        }
        gather.advance(3);
        assert_eq!((gather.len(), bytes(&gather)), (9, b"dbodytail".to_vec()));
        gather.advance(2);
        assert_eq!((gather.pieces.len(), bytes(&gather)), (2, b"odytail".to_vec()));
        assert_eq!(gather.sum(|piece| piece == b"tail"), 4);
        gather.retain(|piece| piece == b"tail");
        assert_eq!((gather.len(), bytes(&gather)), (4, b"tail".to_vec()));
        gather.advance(4);
        assert!(gather.is_empty() && gather.pieces.is_empty());
    }
}
