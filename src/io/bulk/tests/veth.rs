//! Two network namespaces joined by a virtual cable: `auto` begins with zero-copy, and goes back to copying when the
//! kernel says that it copied. Needs root; says so where it cannot run.

use std::io::Read as _;
use std::net::TcpListener;
use std::process::Command;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread;

use super::late::registered;
use super::support::{LONG, Tracked, pattern, runtime, skipped, until};
use crate::io::bulk::registry::Registry;
use crate::io::bulk::socket::Socket;
use crate::io::bulk::{Bulk, Counts};
use crate::io::send::Sender;
use crate::io::send_mode::Mode;
use crate::limits::ZERO_COPY_STRIKES;

const MIB: usize = 1 << 20;
const SENDS: usize = 100;

/// Runs `ip` in the namespace of the calling thread.
fn ip(arguments: &str) -> Result<(), String> {
    let run = Command::new("ip").args(arguments.split(' ')).output();
    match run {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr))),
        Err(error) => Err(format!("ip: {error}")),
    }
}

/// Gives the calling thread a network namespace of its own.
#[expect(unsafe_code, reason = "a call of C")]
fn own_namespace() -> Result<i32, String> {
    // SAFETY: it changes this thread's network only.
    let done = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    if done != 0 {
        return Err(format!("unshare: {}", std::io::Error::last_os_error()));
    }
    Ok(rustix::thread::gettid().as_raw_nonzero().get())
}

#[test]
fn auto_follows_what_the_kernel_reports() {
    let (tell_number, number) = mpsc::channel::<i32>();
    let (tell_cable, cable) = mpsc::channel::<()>();
    let (tell_address, address) = mpsc::channel();
    // The peer: listens at its end of the cable and reads to the end.
    let peer = thread::spawn(move || -> Result<Vec<u8>, String> {
        tell_number.send(own_namespace()?).unwrap();
        cable.recv().map_err(|_| "no cable".to_owned())?;
        ip("addr add 10.99.0.2/24 dev amber1")?;
        ip("link set amber1 up")?;
        let listener = TcpListener::bind("10.99.0.2:0").unwrap();
        tell_address.send(listener.local_addr().unwrap()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).map(|_| all).map_err(|error| error.to_string())
    });
    let ours = thread::spawn(move || -> Result<(u64, u64), String> {
        own_namespace()?;
        let peer = number.recv().map_err(|_| "no peer".to_owned())?;
        ip(&format!("link add amber0 type veth peer name amber1 netns {peer}"))?;
        ip("addr add 10.99.0.1/24 dev amber0")?;
        ip("link set amber0 up")?;
        tell_cable.send(()).unwrap();
        let address = address.recv().map_err(|_| "no address".to_owned())?;
        Ok(runtime(async || {
            let stream = std::net::TcpStream::connect(address).unwrap();
            let socket = Socket::new(monoio::net::TcpStream::from_std(stream).unwrap());
            let registry = Arc::new(Registry::new(8 << 20).unwrap());
            let counts = Counts::default();
            let bulk = Bulk::start(&registry, counts.clone()).unwrap();
            let (buffer, index) = registered(&registry, &pattern(MIB));
            let (memory, _) = Tracked::over(buffer, index);
            let memory = Rc::new(memory);
            let mut sender = Sender::new(Mode::Auto, &socket);
            for _ in 0..SENDS {
                let mut sent = 0;
                while sent < MIB {
                    sent += sender.send(&bulk, &socket, &memory, sent, LONG).await.unwrap().bytes;
                }
            }
            until("the notifications", || bulk.held() == 0).await;
            (counts.zero_copy.get(), counts.copied.get())
        }))
    });
    match (ours.join().unwrap(), peer.join().unwrap()) {
        (Ok((zero_copy, copied)), Ok(received)) => {
            eprintln!(
                "veth: of {SENDS} sends {zero_copy} began zero-copy, and {copied} of these were copied"
            );
            let expected = pattern(MIB);
            assert!(received.len() == SENDS * MIB && received.chunks(MIB).all(|chunk| *chunk == expected));
            assert!(zero_copy > 0, "auto begins with zero-copy");
            if copied >= u64::from(ZERO_COPY_STRIKES) {
                assert!(zero_copy < SENDS as u64, "auto goes back to copying");
            }
        }
        (ours, peer) => skipped(&format!("no veth here: {:?} {:?}", ours.err(), peer.err())),
    }
}
