//! Who is let in between nodes, who is not, and what they are told.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

#[path = "support/tls.rs"]
mod tls;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::ExtendedKeyUsagePurpose;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tls::{Authority, DEADLINE, NODES, Node, Wallet, connect, linked, names, start, valid_until_2020};

/// A client that believes what it likes: the certificate it shows, if any, and what it hears of the node at the end.
fn hear(node: &Node, authority: &Authority, shows: Option<(String, String)>) -> String {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let config = match shows {
        None => config.with_no_client_auth(),
        Some((certificate, key)) => config
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap(),
    };
    let name = ServerName::try_from("node-2").unwrap();
    let tcp = TcpStream::connect(node.address).unwrap();
    tcp.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut stream = StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), tcp);
    // The handshake of a client ends before it is judged, so that what it sends first may still go.
    let _ = stream.write_all(b"let me in");
    match stream.read(&mut [0; 10]) {
        Ok(bytes) => format!("{bytes} bytes"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn clients_without_a_good_certificate_are_told_and_not_let_in() {
    let (ours, foreign) = (Authority::new(), Authority::new());
    let node = Node::start(&Wallet::of(&ours, "node-2"), "node-2");
    let server_only = |params: &mut rcgen::CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    };
    for (shows, told) in [
        (None, "CertificateRequired"),
        (Some(foreign.issue(&["node-1"], |_| ())), "UnknownCA"),
        (Some(ours.issue(&["node-1"], valid_until_2020)), "CertificateExpired"),
        (Some(ours.issue(&["stranger"], |_| ())), "BadCertificate"),
        (Some(ours.issue(&["node-1", "node-3"], |_| ())), "BadCertificate"),
        (Some(ours.issue(&["*.cluster"], |_| ())), "BadCertificate"),
        (Some(ours.issue(&["node-1"], server_only)), "UnsupportedCertificate"),
    ] {
        let heard = hear(&node, &ours, shows);
        assert!(heard.contains(told), "told '{heard}', not {told}");
        node.let_nobody_in();
    }
    welcome(&node, &ours);
}

/// The same client with a good certificate.
fn welcome(node: &Node, authority: &Authority) {
    std::thread::scope(|scope| {
        let client = scope.spawn(|| hear(node, authority, Some(authority.issue(&["node-1"], |_| ()))));
        let (mut stream, name) = node.accept();
        assert_eq!(name, "node-1");
        let mut said = [0; 9];
        stream.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"let me in");
        stream.write_all(b"welcome").unwrap();
        assert_eq!(client.join().unwrap(), "7 bytes");
    });
}

#[test]
fn each_side_knows_the_other_by_name() {
    let authority = Authority::new();
    let nodes = NODES.map(|name| Node::start(&Wallet::of(&authority, name), name));
    for (from, node) in nodes.iter().enumerate() {
        for (to, other) in nodes.iter().enumerate() {
            let _ours = connect(&node.relay.connector(), other.address, NODES[to]).unwrap();
            assert_eq!(other.accept().1, NODES[from]);
        }
    }
}

#[test]
fn a_node_that_is_another_one_is_not_spoken_to() {
    let (ours, foreign) = (Authority::new(), Authority::new());
    let one = Node::start(&Wallet::of(&ours, "node-1"), "node-1");
    let three = Node::start(&Wallet::of(&ours, "node-3"), "node-3");
    let stranger = Node::start(&Wallet::of(&foreign, "node-2"), "node-2");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (address, name, cause) in [
        (three.address, "node-2", "its certificate is of another name (DnsName(\"node-3\"))"),
        (stranger.address, "node-2", "not signed by our authority"),
        (closed, "node-2", "refused"),
        (three.address, "node-9", "no node of this cluster"),
    ] {
        let error = connect(&one.relay.connector(), address, name).unwrap_err().to_string();
        assert!(error.contains(cause), "{error}");
        assert!(error.starts_with(&format!("{name} at {address}: ")) && !error.contains('\n'), "{error}");
    }
    three.let_nobody_in();
    stranger.let_nobody_in();
}

/// The node that connects hears of its own certificate, too, before it sends anything.
#[test]
fn a_refusal_reaches_the_one_who_connects() {
    let (ours, foreign) = (Authority::new(), Authority::new());
    let two = Node::start(&Wallet::of(&ours, "node-2"), "node-2");
    // It believes in both authorities, so that it is node-2 that refuses.
    let wallet = Wallet::of(&foreign, "node-1");
    fs::write(wallet.files().authority, foreign.pem() + &ours.pem()).unwrap();
    let one = start(&wallet, "node-1").unwrap();
    let error = connect(&one.connector(), two.address, "node-2").unwrap_err().to_string();
    assert!(error.contains("it does not know the authority of our certificate"), "{error}");
    two.let_nobody_in();
}

#[test]
fn plain_http_is_refused() {
    let authority = Authority::new();
    let node = Node::start(&Wallet::of(&authority, "node-2"), "node-2");
    let mut tcp = TcpStream::connect(node.address).unwrap();
    tcp.set_read_timeout(Some(DEADLINE)).unwrap();
    tcp.write_all(b"GET /health HTTP/1.1\r\nHost: node-2\r\n\r\n").unwrap();
    let mut heard = Vec::new();
    let _ = tcp.read_to_end(&mut heard);
    assert!(heard.len() < 10, "{heard:?}");
    node.let_nobody_in();

    // And a node with TLS says what is wrong with one that has none.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let plain = std::thread::spawn(move || {
        let (mut tcp, _) = listener.accept().unwrap();
        tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        let _ = tcp.read_to_end(&mut Vec::new());
    });
    let error = connect(&node.relay.connector(), address, "node-1").unwrap_err().to_string();
    assert!(error.contains("what it sends is no TLS"), "{error}");
    plain.join().unwrap();
}

#[test]
fn a_slow_handshake_is_cut() {
    let authority = Authority::new();
    let node = Node::start(&Wallet::of(&authority, "node-2"), "node-2");
    let begun = Instant::now();
    let mut slow = TcpStream::connect(node.address).unwrap();
    slow.set_read_timeout(Some(DEADLINE)).unwrap();
    // The beginning of a record whose rest never comes.
    slow.write_all(&[22, 3, 1, 2, 0, 1]).unwrap();
    // One that answers nothing, as seen by a node that connects.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = mute.local_addr().unwrap();
    let error = connect(&node.relay.connector(), address, "node-1").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut, "{error}");
    assert!(matches!(slow.read(&mut [0]), Ok(0) | Err(_)));
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(5) && took < DEADLINE, "{took:?}");
}

#[test]
fn new_files_are_taken_without_a_restart_and_broken_ones_are_not() {
    let (old, new) = (Authority::new(), Authority::new());
    let (wallet, other) = (Wallet::of(&old, "node-1"), Wallet::of(&old, "node-2"));
    let (one, two) = (Node::start(&wallet, "node-1"), Node::start(&other, "node-2"));
    let (mut early, mut early_peer) = linked(&one, &two, "node-2");
    let reaches = || connect(&one.relay.connector(), two.address, "node-2").map(drop);

    // Half of a replacement: the key is still the old one's.
    let (certificate, key) = new.issue(&["node-1"], |_| ());
    fs::write(wallet.files().certificate, &certificate).unwrap();
    reaches().unwrap();
    fs::write(wallet.files().key, &key).unwrap();
    reaches().unwrap();
    // Whole; but node-2 does not know the new authority yet.
    fs::write(wallet.files().authority, new.pem() + &old.pem()).unwrap();
    let error = reaches().unwrap_err().to_string();
    assert!(error.contains("does not know the authority"), "{error}");
    fs::write(other.files().authority, old.pem() + &new.pem()).unwrap();
    reaches().unwrap();
    // What was open stays open.
    early.write_all(b"still").unwrap();
    let mut still = [0; 5];
    early_peer.read_exact(&mut still).unwrap();
    assert_eq!(&still, b"still");
}

#[test]
fn files_that_cannot_be_used_are_named_with_a_way_out() {
    let authority = Authority::new();
    let good = || Wallet::of(&authority, "node-1");
    let with = |issued| Wallet::new(&authority, &issued);
    let broken = |change: fn(&amberblob::tls::Files)| {
        let wallet = good();
        change(&wallet.files());
        wallet
    };
    let server_only = |params: &mut rcgen::CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    };
    let cases = [
        (with(authority.issue(&["node-1"], valid_until_2020)), "node.crt has expired"),
        (with(authority.issue(&["node-2"], |_| ())), "node.crt does not name this node, 'node-1'"),
        (with(authority.issue(&["node-1", "node-2"], |_| ())), "and no other"),
        (with(authority.issue(&["node-1"], server_only)), "extendedKeyUsage=serverAuth,clientAuth"),
        (with(Authority::new().issue(&["node-1"], |_| ())), "node.crt is not signed by"),
        (
            with((authority.issue(&["node-1"], |_| ()).0, authority.issue(&["node-1"], |_| ()).1)),
            "node.key is not the key of",
        ),
        (broken(|files| fs::remove_file(&files.key).unwrap()), "node.key cannot be read"),
        (broken(|files| fs::write(&files.key, "secret").unwrap()), "node.key has no private key"),
        (broken(|files| fs::write(&files.certificate, "").unwrap()), "node.crt has no certificate"),
        (
            broken(|files| fs::write(&files.authority, "-----BEGIN").unwrap()),
            "authority.crt has no certificate",
        ),
        (broken(|files| fs::write(&files.key, vec![0; 2 << 20]).unwrap()), "node.key is larger"),
    ];
    for (wallet, part) in cases {
        let error = start(&wallet, "node-1").err().unwrap();
        assert!(error.contains(part) && !error.contains('\n'), "{error}\nnot: {part}");
        assert!(error.contains(": "), "no way out: {error}");
    }
    let mut odd = names();
    odd.push("node 4".to_owned());
    let error = amberblob::tls::Relay::start(good().files(), &odd, "node-1", 1).err().unwrap();
    assert!(error.contains("'node 4', which no certificate can name"), "{error}");
}
