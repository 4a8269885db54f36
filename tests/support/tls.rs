//! Certificates for tests, and nodes that show them.

use tempfile::TempDir;

use super::{Process, program, stdout};

/// What `broadcast tls-selfsigned` makes, in a folder of its own.
pub struct Certificates(TempDir);

impl Certificates {
    /// Makes them; `args` follow the folder.
    pub fn new(args: &[&str]) -> Self {
        let certificates = Self(TempDir::new().expect("a folder"));
        let folder = certificates.path("tls");
        stdout(program(&[&["tls-selfsigned", &folder], args].concat()).output().expect("the program runs"));
        certificates
    }

    /// A path beside the folder that has them, which is `tls`.
    pub fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("text").into()
    }

    /// One of the files, such as `ca.pem`.
    pub fn file(&self, name: &str) -> String {
        self.path(&format!("tls/{name}"))
    }

    /// A node that serves its HTTP API with the certificate.
    pub fn node(&self, args: &[&str], env: &[(&str, &str)]) -> Process {
        let (cert, key) = (self.file("server.pem"), self.file("server-key.pem"));
        let own = ["--name", "node1", "--http", "127.0.0.1:0", "--tls-cert-file", &cert, "--tls-key-file", &key];
        Process::node_with(&[&own, args].concat(), env)
    }
}
