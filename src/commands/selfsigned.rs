//! `broadcast tls-selfsigned`: certificates and keys for a trial of TLS, from an authority whose key is thrown away.

use std::{
    fs::{DirBuilder, OpenOptions},
    io::{self, Write as _},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use clap::{Args, value_parser};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls::pki_types::DnsName;
use zeroize::Zeroizing;

use super::output;
use crate::failure::Failure;

/// How long the certificates may be valid, in days: browsers take no longer ones.
const MAX_DAYS: i64 = 397;
/// How long ago validity begins, since the clocks of other hosts may be behind.
const CLOCK_SKEW: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Make certificates and keys for a trial of TLS, in a directory
///
/// It makes an authority, and from it a certificate for nodes and one for clients. The key of the authority is thrown
/// away, so that it can make no others: give all names at once. Nothing that exists is overwritten. For more than a
/// trial, get certificates from an authority that can renew them.
///
/// The files are ca.pem; server.pem and server-key.pem; client.pem and client-key.pem. Only you can read the keys.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    broadcast tls-selfsigned tls\n  \
    broadcast node --tls-cert-file tls/server.pem --tls-key-file tls/server-key.pem\n  \
    broadcast members --node https://localhost:8946 --ca-file tls/ca.pem\n  \
    broadcast tls-selfsigned tls --host node1,node2.example.org,10.0.0.7 --client ci")]
pub(super) struct SelfSignedArgs {
    /// Directory for the files; made if it is not there
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,

    /// Names and addresses that the nodes are called by, separated by commas, besides localhost, 127.0.0.1 and ::1
    #[arg(long, value_name = "HOSTS", value_delimiter = ',', value_parser = host)]
    host: Vec<String>,

    /// Name of the client, which the audit log tells
    #[arg(long, value_name = "NAME", default_value = "client")]
    client: String,

    #[arg(
        long,
        value_name = "N",
        default_value_t = 30,
        value_parser = value_parser!(u16).range(1..=MAX_DAYS),
        help = format!("How many days the certificates are valid, 1 to {MAX_DAYS}")
    )]
    days: u16,
}

/// A name or an address. What is between two commas may be empty.
fn host(text: &str) -> Result<String, String> {
    let host = text.trim().trim_matches(['[', ']']);
    let name = host.strip_prefix("*.").unwrap_or(host);
    let is_valid =
        host.is_empty() || host.parse::<IpAddr>().is_ok() || (!name.ends_with('.') && DnsName::try_from(name).is_ok());
    if is_valid {
        return Ok(host.into());
    }
    Err("not the name of a host, nor an address; write one like node1.example.org or 10.0.0.7, and commas between them"
        .into())
}

/// A file to write.
struct OutputFile {
    name: &'static str,
    text: Zeroizing<String>,
    is_secret: bool,
}

pub(super) fn run(args: &SelfSignedArgs) -> Result<ExitCode, Failure> {
    let hosts = ["localhost", "127.0.0.1", "::1"].into_iter().map(String::from);
    let mut all: Vec<String> = hosts.collect();
    for host in args.host.iter().filter(|host| !host.is_empty()) {
        if !all.contains(host) {
            all.push(host.clone());
        }
    }
    let until = SystemTime::now() + DAY * u32::from(args.days);
    let files = certificates(&all, &args.client, until).map_err(|error| {
        Failure::usage(format!(
            "cannot make certificates for {all:?} and {:?}: {error}; write other names",
            args.client
        ))
    })?;
    write(&args.directory, &files)?;
    let path = |name: &str| args.directory.join(name).display().to_string();
    let [ca, server, server_key, client, client_key] =
        ["ca.pem", "server.pem", "server-key.pem", "client.pem", "client-key.pem"].map(path);
    output::print(format!(
        "made certificates for {}, valid until {}\n\
         nodes:    BROADCAST_TLS_CERT_FILE={server} BROADCAST_TLS_KEY_FILE={server_key}\n\
         commands: BROADCAST_NODE=https://localhost:8946 BROADCAST_CA_FILE={ca}\n\
         to let in only who has the client certificate:\n\
         nodes:    BROADCAST_TLS_CLIENT_CA_FILE={ca}\n\
         commands: BROADCAST_CERT_FILE={client} BROADCAST_KEY_FILE={client_key}\n",
        all.join(", "),
        humantime::format_rfc3339_seconds(until),
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Makes an authority, and from it a certificate with its key for each side.
fn certificates(hosts: &[String], client: &str, until: SystemTime) -> Result<[OutputFile; 5], rcgen::Error> {
    let key = || KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256);
    let params = |names: &[String], name: &str| {
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = (SystemTime::now() - CLOCK_SKEW).into();
        params.not_after = until.into();
        Ok::<_, rcgen::Error>(params)
    };
    let authority_key = key()?;
    // The authorities of two trials have different names, so that clients find the right one.
    let id: String = authority_key.public_key_raw().iter().rev().take(4).map(|byte| format!("{byte:02x}")).collect();
    let mut authority = params(&[], &format!("broadcast trial authority {id}"))?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority = CertifiedIssuer::self_signed(authority, authority_key)?;
    let pair = |names: &[String], name: &str, usage| {
        let (mut params, key) = (params(names, name)?, key()?);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &authority)?;
        Ok::<_, rcgen::Error>((certificate.pem(), key.serialize_pem()))
    };
    let (server, server_key) = pair(hosts, &hosts[0], ExtendedKeyUsagePurpose::ServerAuth)?;
    let (client, client_key) = pair(&[], client, ExtendedKeyUsagePurpose::ClientAuth)?;
    let public = |name, text: String| OutputFile { name, text: Zeroizing::new(text), is_secret: false };
    let secret = |name, text: String| OutputFile { name, text: Zeroizing::new(text), is_secret: true };
    Ok([
        public("ca.pem", authority.pem()),
        public("server.pem", server),
        secret("server-key.pem", server_key),
        public("client.pem", client),
        secret("client-key.pem", client_key),
    ])
}

/// Writes all files, or none if one of them exists.
fn write(directory: &Path, files: &[OutputFile]) -> Result<(), Failure> {
    let refuse = |path: &Path, error: &io::Error| {
        let why = if error.kind() == io::ErrorKind::AlreadyExists {
            "it exists, and is not overwritten; give another directory".into()
        } else {
            error.to_string()
        };
        Failure::other(format!("cannot write {path:?}: {why}"))
    };
    let made = DirBuilder::new().recursive(true).mode(0o755).create(directory);
    made.map_err(|error| refuse(directory, &error))?;
    for path in files.iter().map(|file| directory.join(file.name)) {
        if path.symlink_metadata().is_ok() {
            return Err(refuse(&path, &io::ErrorKind::AlreadyExists.into()));
        }
    }
    for file in files {
        let path = directory.join(file.name);
        let mode = if file.is_secret { 0o600 } else { 0o644 };
        let written = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path).and_then(|mut out| {
            out.write_all(file.text.as_bytes())?;
            out.sync_all()
        });
        written.map_err(|error| refuse(&path, &error))?;
    }
    Ok(())
}
