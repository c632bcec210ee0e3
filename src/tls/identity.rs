//! A node's certificate, key and authority, from their files to the configurations of both sides.
//!
//! They are verified here as the peers will verify them, so that a mistake is found at the start, or keeps the certificate
//! that is in use from being replaced, instead of showing up on another machine.

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{CertificateError, CipherSuite, ClientConfig, Error, RootCertStore, ServerConfig};

use super::verify::{Acknowledge, Names, PeerVerifier};
use crate::limits::TLS_FILE_MAX;

/// Where the certificate of a node lies. PEM, all three.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The certificate, with the name of the node as DNS name, and the intermediate ones behind it.
    pub certificate: PathBuf,
    /// Its private key, without a passphrase: PKCS#8, SEC1 or PKCS#1.
    pub key: PathBuf,
    /// The certificates of whoever signs the certificates of the nodes.
    pub authority: PathBuf,
}

/// Both sides of the handshake, ready for use.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) server: Arc<ServerConfig>,
    pub(super) client: Arc<ClientConfig>,
}

impl Files {
    /// Reads the files and verifies them.
    ///
    /// # Errors
    /// One line: the file, what is wrong with it, the way out.
    pub(super) fn load(&self, names: &Arc<Names>, me: &str) -> Result<Identity, String> {
        let chain = certificates(&self.certificate)?;
        let authority = certificates(&self.authority)?;
        let key = PrivateKeyDer::from_pem_slice(&read(&self.key)?).map_err(|_| {
            let way_out = "it needs a PEM key without a passphrase, as 'openssl pkey' writes it";
            at(&self.key, format_args!("has no private key that can be read: {way_out}"))
        })?;
        let mut roots = RootCertStore::empty();
        for root in authority {
            roots.add(root).map_err(|error| at(&self.authority, format_args!("cannot be used: {error}")))?;
        }
        self.build(chain, key, Arc::new(roots), names, me)
    }

    fn build(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        roots: Arc<RootCertStore>,
        names: &Arc<Names>,
        me: &str,
    ) -> Result<Identity, String> {
        let provider = provider();
        let unusable =
            |error: &dyn fmt::Display| at(&self.authority, format_args!("cannot be used: {error}"));
        let by_authority =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
                .build()
                .map_err(|error| unusable(&error))?;
        let servers = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .build()
            .map_err(|error| unusable(&error))?;
        let clients = Arc::new(PeerVerifier { by_authority, names: Arc::clone(names) });
        self.verify(&chain, clients.as_ref(), servers.as_ref(), names, me)?;

        let mismatch = |error: Error| match error {
            Error::InconsistentKeys(_) => at(
                &self.key,
                format_args!(
                    "is not the key of {}: name the two that were made together",
                    self.certificate.display()
                ),
            ),
            error => at(&self.key, format_args!("cannot be used: {error}")),
        };
        let versions = |error: Error| format!("TLS 1.3 is not to be had: {error}");
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(versions)?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(mismatch)?;
        server.session_storage = Arc::new(Acknowledge);
        server.send_tls13_tickets = 1;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(versions)?
            .with_webpki_verifier(servers)
            .with_client_auth_cert(chain, key)
            .map_err(mismatch)?;
        client.resumption = Resumption::disabled();
        Ok(Identity { server: Arc::new(server), client: Arc::new(client) })
    }

    /// Verifies our own certificate as a peer does, in both roles.
    fn verify(
        &self,
        chain: &[CertificateDer<'static>],
        clients: &PeerVerifier,
        servers: &WebPkiServerVerifier,
        names: &Names,
        me: &str,
    ) -> Result<(), String> {
        use rustls::client::danger::ServerCertVerifier as _;
        use rustls::server::danger::ClientCertVerifier as _;
        let (first, others) = chain.split_first().ok_or_else(|| at(&self.certificate, "is empty"))?;
        let name = names.find(me).ok_or_else(|| format!("'{me}' is not among the nodes of the cluster"))?;
        let now = UnixTime::now();
        servers
            .verify_server_cert(first, others, name, &[], now)
            .map(drop)
            .and_then(|()| clients.verify_client_cert(first, others, now).map(drop))
            .map_err(|error| self.explain(&error, me))
    }

    fn explain(&self, error: &Error, me: &str) -> String {
        use CertificateError as Bad;
        let Error::InvalidCertificate(bad) = error else {
            return at(&self.certificate, format_args!("cannot be used: {error}"));
        };
        let what = match bad {
            Bad::Expired | Bad::ExpiredContext { .. } => "has expired: issue a new one".to_owned(),
            Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
                "is not valid yet: compare this machine's clock with that of the authority".to_owned()
            }
            Bad::UnknownIssuer | Bad::BadSignature => format!(
                "is not signed by {}: issue it with that authority, or name the one that signed it",
                self.authority.display()
            ),
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => format!(
                "does not name this node, '{me}', and no other: issue one whose subjectAltName is DNS:{me}"
            ),
            Bad::InvalidPurpose | Bad::InvalidPurposeContext { .. } => {
                "is not for both sides of a connection: issue one with extendedKeyUsage=serverAuth,clientAuth"
                    .to_owned()
            }
            _ => format!("is refused: {bad}"),
        };
        at(&self.certificate, what)
    }
}

/// Encryption by `ring`, the suite first that is cheapest on processors with AES instructions.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = ring::default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => {
            Err(at(path, "has no certificate that can be read: it needs PEM, '-----BEGIN CERTIFICATE-----'"))
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).and_then(|file| file.take(TLS_FILE_MAX + 1).read_to_end(&mut bytes));
    file.map_err(|error| at(path, format_args!("cannot be read: {error}")))?;
    if bytes.len() as u64 > TLS_FILE_MAX {
        return Err(at(path, "is larger than any certificate or key: name another file"));
    }
    Ok(bytes)
}

fn at(path: &Path, what: impl fmt::Display) -> String {
    format!("{} {what}", path.display())
}
