//! A TCP proxy that can be slow, and can be cut off.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

#[derive(Default)]
struct Link {
    delay_millis: AtomicU64,
    cut: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

pub struct Proxy {
    pub address: SocketAddr,
    link: Arc<Link>,
}

impl Proxy {
    /// Passes on to `target`, at first as fast as it can.
    pub fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let link = Arc::new(Link::default());
        let shared = Arc::clone(&link);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(target) else { continue };
                let mut open = shared.open.lock().unwrap();
                if shared.cut.load(Ordering::SeqCst) {
                    continue;
                }
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (from, to, link) =
                        (from.try_clone().unwrap(), to.try_clone().unwrap(), Arc::clone(&shared));
                    thread::spawn(move || pass_on(from, to, &link));
                }
                open.extend([client, server]);
            }
        });
        Self { address, link }
    }

    /// Every piece takes this much longer from now on, in either direction.
    pub fn slow_down(&self, delay: Duration) {
        self.link.delay_millis.store(delay.as_millis() as u64, Ordering::SeqCst);
    }

    /// Breaks all connections and lets none through until it is [healed](Self::heal).
    pub fn cut(&self) {
        self.link.cut.store(true, Ordering::SeqCst);
        for stream in self.link.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub fn heal(&self) {
        self.link.cut.store(false, Ordering::SeqCst);
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, link: &Link) {
    let mut piece = [0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut piece) {
        let delay = link.delay_millis.load(Ordering::SeqCst);
        thread::sleep(Duration::from_millis(delay));
        if to.write_all(&piece[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
