//! TLS: the server's certificate, and the authorities of clients' certificates.
//!
//! A [`Tls`] is made of PEM texts. They can be replaced while the server runs: later connections get the new certificate, and
//! open ones go on. In the handshake a client chooses its version of HTTP (ALPN): `h2` or `http/1.1`.
//!
//! # Clients' certificates
//!
//! With an authority set, a certificate that a client shows must be from it, or the handshake fails. A client without a
//! certificate may only make health checks: orchestrators have none to show. `guard` refuses all its other requests.
//!
//! # What can go wrong
//!
//! - *A slow handshake* holds its connection for the timeout of a head, and holds up no others ([`handshakes`]).
//! - *A renewed certificate that cannot be used*, has expired, or does not fit its key: [`Tls::replace`] fails, and the old one
//!   stays.
//! - *A certificate that expires while the server runs*: [`Tls::certificate`] tells when, so a program can warn in time.

mod der;
pub(crate) mod handshakes;

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::SystemTime,
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};

pub use self::der::Certificate;

/// The certificates and the key of a server, in PEM. Never printed.
#[derive(Clone, Copy)]
pub struct Pem<'a> {
    /// The server's certificate, and behind it those of the authorities between it and the root.
    pub cert: &'a [u8],
    /// The private key of the certificate.
    pub key: &'a [u8],
    /// The certificates of the authorities of clients' certificates. If set, clients need a certificate: others can only make
    /// health checks, and each client has to be given one.
    pub client_ca: Option<&'a [u8]>,
}

/// The versions and ciphers of TLS that this project's servers and clients speak.
#[must_use]
pub fn crypto_provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Why a server cannot use TLS. Each names the setting at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// A file has no certificate.
    #[error("`{0}`: there is no certificate in it; it must be PEM, with -----BEGIN CERTIFICATE-----")]
    NoCertificate(&'static str),
    /// The file has no private key.
    #[error(
        "`tls_key_file`: there is no private key in it; it must be PEM, with -----BEGIN PRIVATE KEY-----, and not encrypted"
    )]
    NoKey,
    /// A certificate cannot be read.
    #[error("`{0}`: a certificate in it cannot be read: {1}; is it the right file, and whole?")]
    BadCertificate(&'static str, String),
    /// A certificate has a version of X.509 that TLS does not take.
    #[error(
        "`{0}`: its certificate is of X.509 version {1}, and TLS wants version 3; make it anew with the node's names in \
         it (`openssl x509 -req` needs -extfile with a subjectAltName for that)"
    )]
    OldVersion(&'static str, u8),
    /// The key does not belong to the certificate.
    #[error("`tls_key_file` has not the key of the certificate in `tls_cert_file`; set both to files of one pair")]
    Mismatch,
    /// Certificate and key cannot be used together.
    #[error("`tls_cert_file` and `tls_key_file` cannot be used: {0}; use a key of ECDSA, Ed25519 or RSA")]
    Unusable(String),
    /// The new certificate has expired.
    #[error("`tls_cert_file`: its certificate has expired at {}; renew it", when(.0))]
    Expired(SystemTime),
}

fn when(time: &SystemTime) -> humantime::Rfc3339Timestamp {
    humantime::format_rfc3339_seconds(*time)
}

/// What a server shows to new connections. Clones share it.
#[derive(Clone)]
pub struct Tls(Arc<RwLock<Current>>);

#[derive(Clone)]
struct Current {
    config: Arc<ServerConfig>,
    certificate: Arc<Certificate>,
    asks_for_certificate: bool,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tls").field(&self.certificate()).finish()
    }
}

impl Tls {
    /// Reads certificates and key. A certificate that has expired is accepted: the node should run all the same.
    ///
    /// # Errors
    ///
    /// See [`TlsError`].
    pub fn new(pem: Pem<'_>) -> Result<Self, TlsError> {
        Ok(Self(Arc::new(RwLock::new(Current::new(pem)?))))
    }

    /// From now on uses these. If they cannot be used, the old ones stay.
    ///
    /// # Errors
    ///
    /// See [`TlsError`].
    pub fn replace(&self, pem: Pem<'_>) -> Result<(), TlsError> {
        let next = Current::new(pem)?;
        if next.certificate.not_after < SystemTime::now() {
            return Err(TlsError::Expired(next.certificate.not_after));
        }
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }

    /// What the server's certificate says.
    #[must_use]
    pub fn certificate(&self) -> Arc<Certificate> {
        Arc::clone(&self.current().certificate)
    }

    /// Whether clients need a certificate.
    #[must_use]
    pub fn asks_for_certificate(&self) -> bool {
        self.current().asks_for_certificate
    }

    fn current(&self) -> Current {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.current().config
    }
}

impl Current {
    fn new(Pem { cert, key, client_ca }: Pem<'_>) -> Result<Self, TlsError> {
        let chain = certificates("tls_cert_file", cert)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| TlsError::NoKey)?;
        let certificate = Certificate::read(&chain[0])
            .ok_or_else(|| TlsError::BadCertificate("tls_cert_file", "it is no X.509 certificate".into()))?;
        if certificate.version < 3 {
            return Err(TlsError::OldVersion("tls_cert_file", certificate.version));
        }
        let asks_for_certificate = client_ca.is_some();
        let verifier = client_ca.map_or_else(|| Ok(WebPkiClientVerifier::no_client_auth()), clients_of)?;
        let builder = ServerConfig::builder_with_provider(crypto_provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Unusable(error.to_string()))?;
        let mut config =
            builder.with_client_cert_verifier(verifier).with_single_cert(chain, key).map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => TlsError::Mismatch,
                rustls::Error::InvalidCertificate(error) => {
                    TlsError::BadCertificate("tls_cert_file", format!("{error:?}"))
                }
                error => TlsError::Unusable(error.to_string()),
            })?;
        config.alpn_protocols = [&b"h2"[..], b"http/1.1"].map(Vec::from).into();
        Ok(Self { config: Arc::new(config), certificate: Arc::new(certificate), asks_for_certificate })
    }
}

fn clients_of(pem: &[u8]) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    const SETTING: &str = "tls_client_ca_file";
    let mut roots = RootCertStore::empty();
    for certificate in certificates(SETTING, pem)? {
        roots.add(certificate).map_err(|error| TlsError::BadCertificate(SETTING, error.to_string()))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), crypto_provider());
    let verifier = verifier.allow_unauthenticated().build();
    verifier.map_err(|error| TlsError::BadCertificate(SETTING, error.to_string()))
}

fn certificates(setting: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|error| TlsError::BadCertificate(setting, error.to_string()))?;
    if certificates.is_empty() { Err(TlsError::NoCertificate(setting)) } else { Ok(certificates) }
}
