//! TLS: the certificate that a node shows, and the authorities that a command trusts.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
};

use broadcast_gateway::{Certificate, Pem, Tls, TlsError, crypto_provider};
use clap::Args;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
};
use zeroize::Zeroizing;

use super::values::{name_of, of_file, read_file};
use crate::failure::Failure;

/// The longest file, in bytes: enough for two hundred authorities.
const FILE_LIMIT: u64 = 1 << 20;

/// The certificate of a node, and what it demands of clients.
#[derive(Clone, Debug, Args)]
pub(crate) struct ServerTlsArgs {
    /// File with the certificate that the HTTP API shows, as PEM, and the authorities' certificates behind it: with it
    /// the API speaks HTTPS, and nothing else. The node reads the file again when it changes, and on SIGHUP [default:
    /// none; no TLS]
    #[arg(long, env = "BROADCAST_TLS_CERT_FILE", value_name = "FILE")]
    tls_cert_file: Option<PathBuf>,

    /// File with the certificate's private key, as PEM [default: none]
    #[arg(long, env = "BROADCAST_TLS_KEY_FILE", value_name = "FILE")]
    tls_key_file: Option<PathBuf>,

    /// File with the certificates of authorities, as PEM: clients must show a certificate from one of them, but for
    /// health checks [default: none; they need no certificate]
    #[arg(long, env = "BROADCAST_TLS_CLIENT_CA_FILE", value_name = "FILE")]
    tls_client_ca_file: Option<PathBuf>,
}

impl ServerTlsArgs {
    /// All files that are set.
    pub(crate) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.tls_cert_file, &self.tls_key_file, &self.tls_client_ca_file].into_iter().flatten()
    }

    /// The file with the private key.
    pub(crate) fn key_file(&self) -> Option<&PathBuf> {
        self.tls_key_file.as_ref()
    }

    /// The server's side of TLS; nothing, if TLS is off.
    pub(crate) fn tls(&self) -> Result<Option<Tls>, String> {
        self.with_pem(Tls::new)
    }

    /// Reads the files again, and replaces what `tls` has.
    pub(crate) fn reload(&self, tls: &Tls) -> Result<(), String> {
        self.with_pem(|pem| tls.replace(pem)).map(|_| ())
    }

    fn with_pem<T>(&self, make: impl FnOnce(Pem<'_>) -> Result<T, TlsError>) -> Result<Option<T>, String> {
        let (cert, key) = match (&self.tls_cert_file, &self.tls_key_file) {
            (Some(cert), Some(key)) => (read("tls_cert_file", cert)?, Zeroizing::new(read("tls_key_file", key)?)),
            (None, None) if self.tls_client_ca_file.is_none() => return Ok(None),
            (cert, _) => {
                let missing = name_of(if cert.is_none() { "tls_cert_file" } else { "tls_key_file" });
                return Err(format!(
                    "{missing} is not set, and TLS needs it; broadcast tls-selfsigned makes one for a trial"
                ));
            }
        };
        let client_ca = self.tls_client_ca_file.as_ref().map(|file| read("tls_client_ca_file", file)).transpose()?;
        let pem = Pem { cert: &cert, key: &key, client_ca: client_ca.as_deref() };
        make(pem).map(Some).map_err(|error| explained(&error))
    }
}

/// The error with the program's names of settings.
fn explained(error: &TlsError) -> String {
    let settings = ["tls_cert_file", "tls_key_file", "tls_client_ca_file"];
    settings.iter().fold(error.to_string(), |text, name| text.replace(&format!("`{name}`"), &name_of(name)))
}

/// The authorities that a command trusts, and its own certificate.
#[derive(Clone, Debug, Args)]
pub(crate) struct ClientTlsArgs {
    /// File with the certificates of the authorities that the node's certificate may be from, as PEM [default: those of
    /// this system]
    #[arg(long, env = "BROADCAST_CA_FILE", value_name = "FILE")]
    ca_file: Option<PathBuf>,

    /// File with the certificate to show to the node, as PEM [default: none]
    #[arg(long, env = "BROADCAST_CERT_FILE", value_name = "FILE")]
    cert_file: Option<PathBuf>,

    /// File with that certificate's private key, as PEM [default: none]
    #[arg(long, env = "BROADCAST_KEY_FILE", value_name = "FILE")]
    key_file: Option<PathBuf>,
}

impl ClientTlsArgs {
    /// Variables with which another command does the same.
    pub(super) fn env(&self) -> impl Iterator<Item = (&'static str, OsString)> {
        let files = [
            ("BROADCAST_CA_FILE", &self.ca_file),
            ("BROADCAST_CERT_FILE", &self.cert_file),
            ("BROADCAST_KEY_FILE", &self.key_file),
        ];
        files.into_iter().filter_map(|(variable, file)| Some((variable, file.clone()?.into())))
    }

    /// The client's side of TLS.
    pub(crate) fn config(&self) -> Result<Arc<ClientConfig>, Failure> {
        let roots = self.roots().map_err(Failure::usage)?;
        let builder = ClientConfig::builder_with_provider(crypto_provider()).with_safe_default_protocol_versions();
        let builder = builder.map_err(Failure::other)?.with_root_certificates(roots);
        let config = match self.own().map_err(Failure::usage)? {
            None => Ok(builder.with_no_client_auth()),
            Some((chain, key)) => builder.with_client_auth_cert(chain, key),
        };
        let config = config.map_err(|error| {
            let [cert, key] = ["cert_file", "key_file"].map(name_of);
            Failure::usage(format!("{cert} and {key} cannot be used: {error}; set both to files of one pair"))
        })?;
        Ok(with_protocol(config))
    }

    /// The client's side of TLS for a health check of a node on this host. The check sends no secret, and the certificate may
    /// be for other names. So without a file of authorities, any certificate is accepted.
    pub(crate) fn config_for_own_node(&self) -> Result<Arc<ClientConfig>, Failure> {
        if self.ca_file.is_some() {
            return self.config();
        }
        let builder = ClientConfig::builder_with_provider(crypto_provider()).with_safe_default_protocol_versions();
        let builder = builder.map_err(Failure::other)?.dangerous();
        let config = builder
            .with_custom_certificate_verifier(Arc::new(AcceptAnyCertificate(crypto_provider())))
            .with_no_client_auth();
        Ok(with_protocol(config))
    }

    fn roots(&self) -> Result<RootCertStore, String> {
        let mut roots = RootCertStore::empty();
        if let Some(file) = &self.ca_file {
            for certificate in certificates("ca_file", file)? {
                roots.add(certificate).map_err(|error| of_file("ca_file", file, &format!("{error}")))?;
            }
            return Ok(roots);
        }
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(format!(
                "this system has no certificates of authorities: set {} to a file with the one of the node's certificate",
                name_of("ca_file")
            ));
        }
        Ok(roots)
    }

    fn own(&self) -> Result<Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>, String> {
        match (&self.cert_file, &self.key_file) {
            (None, None) => Ok(None),
            (Some(cert), Some(key)) => {
                let text = Zeroizing::new(read("key_file", key)?);
                let key = PrivateKeyDer::from_pem_slice(&text)
                    .map_err(|_| of_file("key_file", key, "there is no private key in it, as PEM and not encrypted"))?;
                let chain = certificates("cert_file", cert)?;
                match Certificate::read(&chain[0]) {
                    Some(Certificate { version: version @ ..3, .. }) => {
                        let problem = format!(
                            "its certificate is of X.509 version {version}, and TLS wants version 3; have it made anew \
                             (`openssl x509 -req` needs -extfile for that)"
                        );
                        Err(of_file("cert_file", cert, &problem))
                    }
                    _ => Ok(Some((chain, key))),
                }
            }
            (Some(_), None) => {
                Err(format!("{} is set, and {} is not: set both", name_of("cert_file"), name_of("key_file")))
            }
            (None, Some(_)) => {
                Err(format!("{} is set, and {} is not: set both", name_of("key_file"), name_of("cert_file")))
            }
        }
    }
}

/// Offers HTTP/1.1 only, which is all that the client speaks.
fn with_protocol(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

fn certificates(setting: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = read(setting, file)?;
    let certificates = CertificateDer::pem_slice_iter(&read).collect::<Result<Vec<_>, _>>();
    match certificates {
        Ok(certificates) if certificates.is_empty() => {
            Err(of_file(setting, file, "there is no certificate in it, as PEM; is it the right file?"))
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(of_file(setting, file, &format!("it cannot be read as PEM: {error}"))),
    }
}

fn read(setting: &str, path: &Path) -> Result<Vec<u8>, String> {
    read_file(setting, path, FILE_LIMIT)
}

/// Accepts any certificate whose key the server has.
#[derive(Debug)]
struct AcceptAnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
