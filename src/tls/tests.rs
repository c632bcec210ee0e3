//! What only the parts show: sessions whose bytes are tampered with, keys that are used up, waits of minutes.

use std::fs;
use std::io;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedCipherSuite, Tls13CipherSuite};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::time::Instant;

use super::buffers::{Buffer, Buffers};
use super::identity::{Files, Identity};
use super::pump::Link;
use super::session::Session;
use super::verify::Names;
use crate::limits::{TLS_HALF_OPEN, TLS_LINGER, TLS_SEAL_MAX};

/// Files of a node, and what was made of them.
fn node(name: &str) -> (TempDir, Files, Identity) {
    let dir = tempfile::tempdir().unwrap();
    let file = |name| dir.path().join(name);
    let files = Files { certificate: file("crt"), key: file("key"), authority: file("ca") };
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    fs::write(&files.certificate, certificate.pem()).unwrap();
    fs::write(&files.key, key.serialize_pem()).unwrap();
    fs::write(&files.authority, authority.pem()).unwrap();
    let names = Arc::new(Names::new(&[name.to_owned()]).unwrap());
    let identity = files.load(&names, name).unwrap();
    (dir, files, identity)
}

/// A node that connects to itself: both sides, before their handshake.
fn sides(identity: &Identity, client: Arc<ClientConfig>, buffers: &Buffers) -> (Session, Session) {
    let name = ServerName::try_from("node").unwrap();
    (
        Session::connect(client, name, buffers).unwrap(),
        Session::accept(Arc::clone(&identity.server), buffers).unwrap(),
    )
}

/// Gives bytes to a session in pieces.
fn give(to: &mut Session, mut bytes: &[u8], piece: usize, plain: &mut Buffer) -> io::Result<()> {
    while !bytes.is_empty() {
        let room = to.room();
        let size = piece.min(bytes.len()).min(room.len());
        room[..size].copy_from_slice(&bytes[..size]);
        bytes = &bytes[size..];
        to.open(size, plain)?;
    }
    Ok(())
}

fn sealed(from: &mut Session) -> Vec<u8> {
    let bytes = from.sealed().to_vec();
    from.sent(bytes.len());
    bytes
}

fn xorshift(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 8) as usize
}

/// A panic would end the node, and anybody may send it bytes.
#[test]
fn tampered_bytes_are_errors_whatever_they_are() {
    let (_dir, _, identity) = node("node");
    let buffers = Buffers::default();
    let mut refused = 0;
    for seed in 1..=1500 {
        let random = &mut 0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(seed);
        let (mut client, mut server) = sides(&identity, Arc::clone(&identity.client), &buffers);
        let (mut ours, mut theirs) = (buffers.take(), buffers.take());
        let tampered = xorshift(random) % 6;
        client.open(0, &mut ours).unwrap();
        for flight in 0..6 {
            let (from, to) =
                if flight % 2 == 0 { (&mut client, &mut server) } else { (&mut server, &mut client) };
            if flight >= 4 && from.is_established() {
                from.seal(&vec![1; xorshift(random) % 40_000 + 1]).unwrap();
            }
            let mut bytes = sealed(from);
            if flight == tampered && !bytes.is_empty() {
                let at = xorshift(random) % bytes.len();
                match xorshift(random) % 4 {
                    0 => bytes[at] ^= 1 << (xorshift(random) % 8),
                    1 => drop(bytes.remove(at)),
                    2 => bytes.insert(at, xorshift(random) as u8),
                    _ => bytes.extend_from_within(at..),
                }
            }
            let piece = xorshift(random) % 3000 + 1;
            if give(to, &bytes, piece, &mut theirs).is_err() {
                refused += 1;
                // An alert goes back, and both may be asked for more before they are dropped.
                let _ = give(from, &sealed(to), piece, &mut ours);
                let _ = (from.seal(b"and yet"), to.seal(b"and yet"), give(to, &bytes, piece, &mut theirs));
                break;
            }
            ours.consume(ours.len());
            theirs.consume(theirs.len());
        }
    }
    assert!(refused > 500, "only {refused} were refused");
}

/// A stream of 256 GiB uses up the keys of AES-GCM; here they last for 40 records.
#[test]
fn keys_are_renewed_in_a_long_stream() {
    let (_dir, files, identity) = node("node");
    let suite = TLS13_AES_128_GCM_SHA256.tls13().unwrap();
    let common = rustls::crypto::CipherSuiteCommon {
        suite: suite.common.suite,
        hash_provider: suite.common.hash_provider,
        confidentiality_limit: 40,
    };
    let suite: &'static Tls13CipherSuite = Box::leak(Box::new(Tls13CipherSuite {
        common,
        hkdf_provider: suite.hkdf_provider,
        aead_alg: suite.aead_alg,
        quic: None,
    }));
    let cipher_suites = vec![SupportedCipherSuite::Tls13(suite)];
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&files.authority).unwrap()).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::new(CryptoProvider {
        cipher_suites,
        ..ring::default_provider()
    }))
    .with_protocol_versions(&[&rustls::version::TLS13])
    .unwrap()
    .with_root_certificates(roots)
    .with_client_auth_cert(
        vec![CertificateDer::from_pem_file(&files.certificate).unwrap()],
        PrivateKeyDer::from_pem_file(&files.key).unwrap(),
    )
    .unwrap();
    let buffers = Buffers::default();
    let (mut client, mut server) = sides(&identity, Arc::new(client), &buffers);
    let (mut ours, mut theirs) = (buffers.take(), buffers.take());
    client.open(0, &mut ours).unwrap();
    while !client.is_established() || !server.is_established() {
        give(&mut server, &sealed(&mut client), 1 << 20, &mut theirs).unwrap();
        give(&mut client, &sealed(&mut server), 1 << 20, &mut ours).unwrap();
    }
    for round in 0..100u8 {
        let sent = vec![round; TLS_SEAL_MAX];
        client.seal(&sent).unwrap();
        give(&mut server, &sealed(&mut client), 50_000, &mut theirs).unwrap();
        assert!(theirs[..] == sent, "round {round}");
        theirs.consume(sent.len());
        if round % 10 == 0 {
            server.seal(b"go on").unwrap();
            give(&mut client, &sealed(&mut server), 10, &mut ours).unwrap();
            assert_eq!(&ours[..], b"go on");
            ours.consume(5);
        }
    }
}

/// Two relayed connections, and the cores' ends of both.
async fn linked() -> (Link, UnixStream, UnixStream, Link, UnixStream, UnixStream) {
    let (_dir, _, identity) = node("node");
    let buffers = Buffers::default();
    let (client, server) = sides(&identity, Arc::clone(&identity.client), &buffers);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let far = listener.accept().await.unwrap().0;
    let (near, far) =
        tokio::try_join!(Link::establish(near, client, &buffers), Link::establish(far, server, &buffers))
            .unwrap();
    let ((our_core, ours), (their_core, theirs)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
    (near, ours, our_core, far, theirs, their_core)
}

fn in_paused_time<F: Future>(test: F) -> F::Output {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(test)
}

#[test]
fn a_direction_that_stands_still_alone_is_cut() {
    in_paused_time(async {
        let (near, ours, mut our_core, far, theirs, mut their_core) = linked().await;
        let (_running, stop) = watch::channel(false);
        let begun = Instant::now();
        let cores = async {
            // We have finished; the peer says something once, and then neither ends nor goes on.
            our_core.shutdown().await.unwrap();
            assert_eq!(their_core.read(&mut [0]).await.unwrap(), 0);
            tokio::time::sleep(TLS_HALF_OPEN / 2).await;
            their_core.write_all(b"yes").await.unwrap();
            let mut said = Vec::new();
            our_core.read_to_end(&mut said).await.unwrap();
            assert_eq!(said, b"yes");
            begun.elapsed()
        };
        let (near, far, took) =
            tokio::join!(near.relay(ours, stop.clone()), far.relay(theirs, stop.clone()), cores);
        assert!(near.is_err() || far.is_err());
        assert!(took >= TLS_HALF_OPEN && took <= 3 * TLS_HALF_OPEN, "{took:?}");
    });
}

#[test]
fn a_core_that_is_gone_is_waited_for_by_nobody() {
    in_paused_time(async {
        let (near, ours, our_core, far, theirs, mut their_core) = linked().await;
        let (_running, stop) = watch::channel(false);
        let begun = Instant::now();
        drop(our_core);
        let cores = async {
            assert_eq!(their_core.read(&mut [0]).await.unwrap(), 0);
            // It is silent, and does not close.
            std::future::pending::<()>().await;
        };
        let near = async {
            let relayed = near.relay(ours, stop.clone()).await;
            (relayed, begun.elapsed())
        };
        let (relayed, took) = tokio::select! {
            relayed = near => relayed,
            _ = far.relay(theirs, stop.clone()) => panic!("the peer's side ended first"),
            () = cores => panic!("never"),
        };
        relayed.unwrap();
        assert!(took >= TLS_LINGER && took <= 2 * TLS_LINGER, "{took:?}");
    });
}
