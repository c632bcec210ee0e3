//! Authorities, certificates and nodes that speak TLS to one another.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure in it is a failed test"
)]

use std::fs;
use std::io::{self, Read as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use amberblob::tls::{Connector, Files, Peer, Relay};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};
use tempfile::TempDir;

/// What a wait may take before its test fails.
pub const DEADLINE: Duration = Duration::from_secs(30);
pub const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];

pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // Two authorities of one name would differ in their signatures only.
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let name = format!("authority {}", NUMBER.fetch_add(1, Ordering::Relaxed));
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate and its key: for these names, for both sides, valid now; `change` makes it otherwise.
    pub fn issue(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        let params = params.as_mut().unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(params);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }
}

pub fn valid_until_2020(params: &mut CertificateParams) {
    params.not_before = date_time_ymd(2019, 1, 1);
    params.not_after = date_time_ymd(2020, 1, 1);
}

/// Files of one node, in a directory that goes with it.
pub struct Wallet(TempDir);

impl Wallet {
    pub fn new(authority: &Authority, (certificate, key): &(String, String)) -> Self {
        let wallet = Self(tempfile::tempdir().unwrap());
        let files = wallet.files();
        fs::write(files.certificate, certificate).unwrap();
        fs::write(files.key, key).unwrap();
        fs::write(files.authority, authority.pem()).unwrap();
        wallet
    }

    pub fn of(authority: &Authority, name: &str) -> Self {
        Self::new(authority, &authority.issue(&[name], |_| ()))
    }

    pub fn files(&self) -> Files {
        let file = |name: &str| -> PathBuf { self.0.path().join(name) };
        Files { certificate: file("node.crt"), key: file("node.key"), authority: file("authority.crt") }
    }
}

pub fn names() -> Vec<String> {
    NODES.map(str::to_owned).to_vec()
}

pub fn start(wallet: &Wallet, me: &str) -> Result<Relay, String> {
    start_with(wallet, me, 2)
}

pub fn start_with(wallet: &Wallet, me: &str, threads: usize) -> Result<Relay, String> {
    Relay::start(wallet.files(), &names(), me, threads)
}

/// A node that accepts.
pub struct Node {
    pub relay: Relay,
    pub address: SocketAddr,
    peers: Mutex<Receiver<Peer>>,
}

impl Node {
    pub fn start(wallet: &Wallet, me: &str) -> Self {
        Self::start_with(wallet, me, 2)
    }

    pub fn start_with(wallet: &Wallet, me: &str, threads: usize) -> Self {
        let relay = start_with(wallet, me, threads).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (give, peers) = mpsc::channel();
        relay.listen(listener, move |peer| drop(give.send(peer))).unwrap();
        Self { relay, address, peers: Mutex::new(peers) }
    }

    /// The next connection that was let in, and whose.
    pub fn accept(&self) -> (UnixStream, String) {
        let peer = self.peers.lock().unwrap().recv_timeout(DEADLINE).expect("a connection is let in");
        (patient(UnixStream::from(peer.socket)), peer.name)
    }

    /// Checks that nobody was let in.
    pub fn let_nobody_in(&self) {
        assert!(self.peers.lock().unwrap().try_recv().is_err(), "somebody was let in");
    }
}

/// Two nodes of one authority.
pub fn two_nodes() -> (Node, Node) {
    let authority = Authority::new();
    let node = |name| Node::start(&Wallet::of(&authority, name), name);
    (node("node-1"), node("node-2"))
}

/// Connects from inside of a core's runtime.
pub fn connect(connector: &Connector, address: SocketAddr, node: &str) -> io::Result<UnixStream> {
    let mut runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().build().unwrap();
    let socket = runtime.block_on(connector.connect(address, node))?;
    Ok(patient(UnixStream::from(socket)))
}

/// A connection of two nodes: the end that asked, the end that was asked.
pub fn linked(from: &Node, to: &Node, name: &str) -> (UnixStream, UnixStream) {
    let ours = connect(&from.relay.connector(), to.address, name).unwrap();
    (ours, to.accept().0)
}

fn patient(stream: UnixStream) -> UnixStream {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// Reads to the end, whatever it is.
pub fn rest(mut stream: &UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes);
    let timed_out = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
    assert!(!read.as_ref().is_err_and(timed_out), "no end within {DEADLINE:?}");
    bytes
}

/// A wire to `to` that is cut once so many bytes went each of the ways, the ends being closed in good order.
pub fn fragile_wire(to: SocketAddr, forth: u64, back: u64) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (near, _) = listener.accept().unwrap();
        let far = TcpStream::connect(to).unwrap();
        let carry = |from: &TcpStream, to: &TcpStream, bytes: u64| {
            let (from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            thread::spawn(move || {
                // An end that is gone ends the wire as well.
                let _ = io::copy(&mut (&from).take(bytes), &mut to);
                let _ = from.shutdown(std::net::Shutdown::Both);
                let _ = to.shutdown(std::net::Shutdown::Both);
            })
        };
        let (forth, back) = (carry(&near, &far, forth), carry(&far, &near, back));
        forth.join().unwrap();
        back.join().unwrap();
    });
    address
}
