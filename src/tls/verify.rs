//! Who a peer is: the one node of the cluster that its certificate names.
//!
//! A certificate that names several nodes says of none that it is this one, so it is refused like one that names none.

use std::sync::Arc;

use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, StoresServerSessions};
use rustls::{
    AlertDescription, CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
};

/// The names that certificates can stand for: those of the cluster's nodes.
#[derive(Debug)]
pub(super) struct Names(Vec<(String, ServerName<'static>)>);

impl Names {
    /// The names of all nodes.
    ///
    /// # Errors
    /// One line, when a name cannot stand in a certificate.
    pub(super) fn new(names: &[String]) -> Result<Self, String> {
        let parse = |name: &String| match ServerName::try_from(name.clone()) {
            Ok(server_name @ ServerName::DnsName(_)) => Ok((name.clone(), server_name)),
            _ => Err(format!(
                "cluster.nodes names '{name}', which no certificate can name: with TLS, node names are letters, digits, \
                 hyphens and dots"
            )),
        };
        names.iter().map(parse).collect::<Result<_, _>>().map(Self)
    }

    /// A node's name as certificates have it.
    pub(super) fn find(&self, node: &str) -> Option<&ServerName<'static>> {
        self.0.iter().find(|(name, _)| name == node).map(|(_, server_name)| server_name)
    }

    /// The one node that a certificate names.
    ///
    /// # Errors
    /// When it names none or several.
    pub(super) fn named_by(&self, certificate: &CertificateDer<'_>) -> Result<&str, Error> {
        let parsed = ParsedCertificate::try_from(certificate)?;
        let mut named = self.0.iter().filter(|(_, name)| verify_server_name(&parsed, name).is_ok());
        match (named.next(), named.next()) {
            (Some((name, _)), None) => Ok(name),
            _ => Err(CertificateError::NotValidForName.into()),
        }
    }
}

/// Verifies clients: by the authority, and by name.
#[derive(Debug)]
pub(super) struct PeerVerifier {
    pub(super) by_authority: Arc<dyn ClientCertVerifier>,
    pub(super) names: Arc<Names>,
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.by_authority.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.by_authority.verify_client_cert(end_entity, intermediates, now)?;
        self.names.named_by(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        self.by_authority.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        self.by_authority.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_authority.supported_verify_schemes()
    }
}

/// Lets a server send one session ticket and forget it.
///
/// In TLS 1.3 a client has finished its handshake before the server has judged its certificate. The ticket comes after that
/// judgement, so a client that waits for it knows that it was let in. Nothing is ever resumed: each connection is verified.
#[derive(Debug)]
pub(super) struct Acknowledge;

impl StoresServerSessions for Acknowledge {
    fn put(&self, _key: Vec<u8>, _value: Vec<u8>) -> bool {
        true
    }

    fn get(&self, _key: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn take(&self, _key: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn can_cache(&self) -> bool {
        true
    }
}

/// What went wrong between us and a peer, and the way out, on one line.
pub(super) fn explain(error: &Error) -> String {
    use CertificateError as Bad;
    let what = match error {
        Error::InvalidCertificate(bad) => match bad {
            Bad::UnknownIssuer | Bad::BadSignature => {
                "its certificate is not signed by our authority: issue it with the cluster's authority, or add its \
                 authority to the file of ours"
            }
            Bad::Expired | Bad::ExpiredContext { .. } => "its certificate has expired: issue a new one",
            Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
                "its certificate is not valid yet: compare the clocks of both nodes"
            }
            Bad::NotValidForNameContext { presented, .. } => {
                return format!(
                    "its certificate is of another name ({}): issue one whose subjectAltName is DNS:<name of the node>",
                    presented.join(", ")
                );
            }
            Bad::NotValidForName => {
                "its certificate does not name exactly one node of the cluster: issue one whose subjectAltName is \
                 DNS:<name of the node>"
            }
            Bad::InvalidPurpose | Bad::InvalidPurposeContext { .. } => {
                "its certificate is not for this use: issue one with extendedKeyUsage=serverAuth,clientAuth"
            }
            _ => return format!("its certificate is refused: {bad}"),
        },
        Error::NoCertificatesPresented => "it showed no certificate",
        Error::InvalidMessage(_) => {
            "what it sends is no TLS: let every node of the cluster have TLS, or none"
        }
        // The second is said where an authority of the same name signed it.
        Error::AlertReceived(AlertDescription::UnknownCA | AlertDescription::DecryptError) => {
            "it does not know the authority of our certificate: both nodes need the same authority"
        }
        Error::AlertReceived(AlertDescription::CertificateExpired) => {
            "it takes our certificate for expired: issue a new one, or compare the clocks of both nodes"
        }
        Error::AlertReceived(AlertDescription::BadCertificate) => {
            "it does not accept our certificate: compare its subjectAltName with the name of this node"
        }
        Error::AlertReceived(alert) => return format!("it refuses us with the alert {alert:?}: see its log"),
        _ => return error.to_string(),
    };
    what.to_owned()
}
