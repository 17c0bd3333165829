//! TLS towards PostgreSQL, with libpq's meaning of `sslmode` and `sslrootcert`: see "SSL Support" in
//! the libpq chapter of PostgreSQL's documentation.
//!
//! Two things differ from libpq. Without an `sslrootcert` the platform's store is trusted, where
//! libpq looks into `~/.postgresql/root.crt`; and a name is looked for in the certificate's
//! alternative names alone, never in its common name.
//!
//! Does not open connections: `prefer` and `require` differ in what the connecting side does when
//! the server has no TLS, and not here.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use crate::address::{SslMode, SslPolicy};

/// Why TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The root certificates could not be read.
    #[error("cannot read root certificates from {}: {reason}", path.display())]
    Root {
        /// The file that `sslrootcert` names.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// TLS itself refused its configuration.
    #[error("cannot set up TLS: {0}")]
    Setup(#[from] Error),
}

/// The TLS configuration that `policy` asks for; `None` for [`SslMode::Disable`].
///
/// | mode | what is verified |
/// |---|---|
/// | `prefer`, `require` | nothing; `require` with a root certificate is `verify-ca`, as in libpq |
/// | `verify-ca` | the server's certificate is signed by a trusted root |
/// | `verify-full` | that, and the certificate is for the host's name |
///
/// Trusted are the certificates of `root_cert`, or the platform's where there is none or it is
/// `system`. A certificate that stands in `root_cert` itself is trusted as it is (its dates are not
/// looked at), because a self-signed server certificate is commonly used so.
///
/// # Errors
///
/// A root certificate file that can't be read or holds no usable certificate.
pub fn client_config(policy: &SslPolicy) -> Result<Option<Arc<ClientConfig>>, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let Some(verifier) = verifier(policy, &provider)? else { return Ok(None) };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(Some(Arc::new(config)))
}

fn verifier(
    policy: &SslPolicy,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<dyn ServerCertVerifier>>, TlsError> {
    let checks_name = match (policy.mode, &policy.root_cert) {
        (SslMode::Disable, _) => return Ok(None),
        (SslMode::Prefer, _) | (SslMode::Require, None) => {
            return Ok(Some(Arc::new(Unverified { provider: Arc::clone(provider) })));
        }
        (SslMode::Require, Some(_)) | (SslMode::VerifyCa, _) => false,
        (SslMode::VerifyFull, _) => true,
    };
    let root = policy.root_cert.as_deref().filter(|_| !policy.uses_system_roots());
    let (chain, pinned): (Arc<dyn ServerCertVerifier>, _) = match root {
        Some(path) => {
            let roots = read_roots(path)?;
            (chain_verifier(path, &roots, provider)?, roots)
        }
        None => {
            let platform = rustls_platform_verifier::Verifier::new(Arc::clone(provider))?;
            (Arc::new(platform), Vec::new())
        }
    };
    Ok(Some(Arc::new(Verified { chain, pinned, checks_name })))
}

fn read_roots(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unreadable = |reason: String| TlsError::Root { path: path.into(), reason };
    // Read first, because the PEM reader's own error doesn't say what the system said.
    let text = std::fs::read(path).map_err(|error| unreadable(error.to_string()))?;
    let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match roots {
        Ok(roots) if roots.is_empty() => Err(unreadable("it holds no PEM certificate".into())),
        Ok(roots) => Ok(roots),
        Err(error) => Err(unreadable(format!("not valid PEM: {error}"))),
    }
}

fn chain_verifier(
    path: &Path,
    roots: &[CertificateDer<'static>],
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, TlsError> {
    let unusable = |reason: String| TlsError::Root { path: path.into(), reason };
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).map_err(|error| unusable(error.to_string()))?;
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider))
        .build()
        .map_err(|error| unusable(error.to_string()))
}

/// Takes any certificate. The handshake's signature is still checked, so that at least the two ends
/// of one connection are the same throughout.
struct Unverified {
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for Unverified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unverified")
    }
}

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Takes a certificate that `chain` trusts or that is `pinned`.
#[derive(Debug)]
struct Verified {
    chain: Arc<dyn ServerCertVerifier>,
    pinned: Vec<CertificateDer<'static>>,
    checks_name: bool,
}

impl ServerCertVerifier for Verified {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.pinned.iter().any(|pinned| pinned == certificate) {
            if self.checks_name {
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
            }
            return Ok(ServerCertVerified::assertion());
        }
        match self.chain.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            // webpki looks at the name last: a wrong name means that the chain was right.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.checks_name => Ok(ServerCertVerified::assertion()),
            outcome => outcome,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// The certificates in `tests/certs` are for `db.example` (or roots) and last a century. Their keys
/// were thrown away: what a verifier says of a certificate needs none.
#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certs").join(name)
    }

    fn policy(mode: SslMode, root: Option<&str>) -> SslPolicy {
        SslPolicy { mode, root_cert: root.map(path) }
    }

    /// Whether `policy` takes the certificate `name` from a server that was reached as `host`.
    fn takes(policy: &SslPolicy, name: &str, host: &'static str) -> bool {
        let verifier = verifier(policy, &Arc::new(ring::default_provider())).unwrap().unwrap();
        let certificate = CertificateDer::from_pem_file(path(name)).unwrap();
        let host = ServerName::try_from(host).unwrap();
        verifier.verify_server_cert(&certificate, &[], &host, &[], UnixTime::now()).is_ok()
    }

    #[test]
    fn no_encryption_needs_no_configuration() {
        assert!(client_config(&SslPolicy::disabled()).unwrap().is_none());
    }

    #[test]
    fn prefer_and_require_take_any_certificate() {
        for policy in [
            policy(SslMode::Prefer, None),
            policy(SslMode::Prefer, Some("other-root.pem")),
            policy(SslMode::Require, None),
        ] {
            assert!(client_config(&policy).unwrap().is_some());
            assert!(takes(&policy, "server.pem", "elsewhere.example"), "{policy:?}");
        }
    }

    #[test]
    fn a_chain_is_verified_and_the_name_is_not() {
        for mode in [SslMode::Require, SslMode::VerifyCa] {
            let trusting = policy(mode, Some("root.pem"));
            assert!(takes(&trusting, "server.pem", "db.example"));
            assert!(takes(&trusting, "server.pem", "elsewhere.example"));
            let other = policy(mode, Some("other-root.pem"));
            assert!(!takes(&other, "server.pem", "db.example"));
            assert!(!takes(&other, "server.pem", "elsewhere.example"));
        }
    }

    #[test]
    fn a_chain_and_the_name_are_verified() {
        let trusting = policy(SslMode::VerifyFull, Some("root.pem"));
        assert!(takes(&trusting, "server.pem", "db.example"));
        assert!(!takes(&trusting, "server.pem", "elsewhere.example"));
        assert!(!takes(
            &policy(SslMode::VerifyFull, Some("other-root.pem")),
            "server.pem",
            "db.example"
        ));
    }

    #[test]
    fn a_self_signed_certificate_is_its_own_root() {
        let own = |mode| policy(mode, Some("self-signed.pem"));
        assert!(takes(&own(SslMode::VerifyCa), "self-signed.pem", "elsewhere.example"));
        assert!(takes(&own(SslMode::VerifyFull), "self-signed.pem", "db.example"));
        assert!(!takes(&own(SslMode::VerifyFull), "self-signed.pem", "elsewhere.example"));
        assert!(!takes(
            &policy(SslMode::VerifyCa, Some("root.pem")),
            "self-signed.pem",
            "db.example"
        ));
    }

    #[test]
    fn an_unusable_root_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root.pem");
        let policy = SslPolicy { mode: SslMode::VerifyFull, root_cert: Some(root.clone()) };
        for text in
            [None, Some(""), Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")]
        {
            text.iter().for_each(|text| std::fs::write(&root, text).unwrap());
            let message = client_config(&policy).unwrap_err().to_string();
            assert!(message.contains("root.pem"), "{message}");
        }
    }
}
