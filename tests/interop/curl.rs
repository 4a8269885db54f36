//! curl as a client of the HTTP API. It shares no code with the node.

use std::process::Command;

/// What is missing to run it with these of its features.
pub fn missing(features: &[&str]) -> Option<String> {
    let version = Command::new("curl").arg("--version").output().map(|output| output.stdout).unwrap_or_default();
    let version = String::from_utf8_lossy(&version);
    let has = |feature: &&str| version.split_whitespace().any(|word| word == *feature);
    (!features.iter().all(has)).then(|| {
        let features = features.join(" and ");
        format!("curl has not {features}, or is not installed: install one that has (`curl --version`)")
    })
}

/// The outcome of a request.
pub struct CurlResponse {
    /// curl's exit code.
    pub code: i32,
    /// The body of the answer.
    pub body: String,
    /// The protocol's version, and the status.
    pub status: String,
}

/// Asks for a URL.
pub fn fetch(url: &str, args: &[&str]) -> CurlResponse {
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "20", "--write-out", "\n%{http_version} %{http_code}"])
        .args(args)
        .arg(url)
        .output()
        .expect("curl runs");
    let code = output.status.code().expect("it ends");
    let text = String::from_utf8(output.stdout).expect("text");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let (body, status) = match text.rsplit_once('\n') {
        None if code == 0 => panic!("{url}: {text}{stderr}"),
        split => split.unwrap_or_default(),
    };
    CurlResponse { code, body: body.into(), status: status.into() }
}
