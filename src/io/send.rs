//! Sends that do not hold their buffer for a client that does not read.

use std::io;
use std::pin::pin;
use std::time::{Duration, Instant};

use monoio::buf::IoBuf;
use monoio::io::{CancelableAsyncWriteRent as _, Canceller};
use monoio::net::TcpStream;
use monoio::time::timeout;

use super::gather::Gather;
use crate::limits::DIRECT_SEND_MAX;

/// Sends what it can of `buffer` within `patience`; the number of bytes is 0 when the client took none.
///
/// # Errors
/// Those of send(2).
pub async fn send_some<B: IoBuf>(
    stream: &mut TcpStream,
    buffer: B,
    patience: Duration,
) -> (io::Result<usize>, B) {
    let canceller = Canceller::new();
    let mut send = pin!(stream.cancelable_write(buffer, canceller.handle()));
    if let Ok(done) = timeout(patience, &mut send).await {
        return done;
    }
    // The operation is told to stop and then waited for: only then is it known how much left, and is the buffer ours.
    let _ = canceller.cancel();
    match send.await {
        (Err(error), buffer) if error.raw_os_error() == Some(libc::ECANCELED) => (Ok(0), buffer),
        done => done,
    }
}

/// Sends what it can of `gather` within `patience`; the rest comes back. A small one goes out without the ring, as far as
/// the socket takes it at once.
///
/// # Errors
/// Those of send(2).
pub async fn send_gather<P: IoBuf>(
    stream: &mut TcpStream,
    mut gather: Gather<P>,
    patience: Duration,
) -> io::Result<Gather<P>> {
    if gather.len() <= DIRECT_SEND_MAX {
        gather.send_now(stream)?;
    }
    let deadline = Instant::now() + patience;
    while !gather.is_empty() {
        let canceller = Canceller::new();
        let mut send = pin!(stream.cancelable_writev(gather, canceller.handle()));
        let left = deadline.saturating_duration_since(Instant::now());
        let (result, back) = if let Ok(done) = timeout(left, &mut send).await {
            done
        } else {
            // As above.
            let _ = canceller.cancel();
            send.await
        };
        gather = back;
        match result {
            Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => break,
            sent => gather.advance(sent?),
        }
        if Instant::now() >= deadline {
            break;
        }
    }
    Ok(gather)
}

/// Waits until the client reads again, holding no buffer.
///
/// # Errors
/// `TimedOut` after `stall`, or those of poll(2).
pub async fn wait_writable(stream: &TcpStream, stall: Duration) -> io::Result<()> {
    timeout(stall, stream.writable(false)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
