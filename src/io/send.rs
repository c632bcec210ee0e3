//! Sends that do not hold their buffer for a client that does not read.

use std::io;
use std::pin::pin;
use std::time::Duration;

use monoio::buf::IoBuf;
use monoio::io::{CancelableAsyncWriteRent as _, Canceller};
use monoio::net::TcpStream;
use monoio::time::timeout;

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

/// Waits until the client reads again, holding no buffer.
///
/// # Errors
/// `TimedOut` after `stall`, or those of poll(2).
pub async fn wait_writable(stream: &TcpStream, stall: Duration) -> io::Result<()> {
    timeout(stall, stream.writable(false)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
