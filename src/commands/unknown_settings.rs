//! Warns of environment variables that look like settings but are not: a misspelt one would be ignored silently.
//!
//! Commands that run nodes warn of every unknown variable that begins with `BROADCAST_`. Other commands may run in an
//! environment that was made for something else, so they warn only of what is nearly one of their own settings. Values are
//! never shown, since one may be a secret.

use std::{env, ffi::OsString, iter};

use super::{definition, output};
use crate::{nearest, settings::secret, visible::escaped};

const PREFIX: &str = "BROADCAST_";
/// Variables of compose.yaml, and those that `broadcast lock` sets for the command it runs.
const KNOWN_BESIDES: [&str; 8] = [
    "BROADCAST_IMAGE",
    "BROADCAST_MEM_LIMIT",
    "BROADCAST_ETCD_PORT",
    "BROADCAST_HTTP_PORT",
    "BROADCAST_LOCK_NAME",
    "BROADCAST_LOCK_TOKEN",
    "BROADCAST_LOCK_KEY",
    "BROADCAST_LOCK_SESSIONS",
];
/// How variables of the tests begin.
const TESTS: &str = "BROADCAST_TESTS_";
/// Settings that protect a node. An empty one counts as unset, which a template with a missing secret can cause.
const PROTECTIONS: [&str; 8] = [
    "BROADCAST_TOKEN",
    "BROADCAST_TOKEN_FILE",
    "BROADCAST_HTTP_TOKEN",
    "BROADCAST_HTTP_TOKEN_FILE",
    "BROADCAST_TOKENS_FILE",
    "BROADCAST_TLS_CERT_FILE",
    "BROADCAST_TLS_KEY_FILE",
    "BROADCAST_TLS_CLIENT_CA_FILE",
];
/// A longer name is not compared with settings: that takes time, and it resembles none.
const LONGEST: usize = 64;

/// A variable that is not a setting.
#[derive(Debug, PartialEq, Eq)]
struct UnknownSetting {
    name: String,
    /// The setting that it resembles.
    nearest: Option<String>,
}

/// Logs unknown settings, and empty ones that should protect the node: for `broadcast node` and `broadcast demo`.
pub(super) fn log(command: &str, node: &str) {
    for unknown in unknown(command, env::vars_os()) {
        let (name, what) = (&unknown.name, unknown.message(command));
        tracing::warn!(node, event = "unknown_setting", name, "{what}");
    }
    for name in PROTECTIONS.into_iter().filter(|name| env::var_os(name).is_some_and(|value| value.is_empty())) {
        tracing::warn!(
            node,
            event = "empty_setting",
            name,
            "{name} is set to nothing, and protects nothing: give it a value, or do not set it"
        );
    }
}

/// Warns on standard error, for commands that do not log.
pub(super) fn warn(command: Option<&str>) {
    let Some(command) = command.filter(|command| !["node", "demo"].contains(command)) else { return };
    for unknown in unknown(command, env::vars_os()).iter().filter(|unknown| unknown.nearest.is_some()) {
        output::warn(&unknown.message(command));
    }
}

impl UnknownSetting {
    fn message(&self, command: &str) -> String {
        let name = escaped(&self.name);
        match &self.nearest {
            Some(nearest) => format!("{name} is not a setting and is ignored: did you mean {nearest}?"),
            None => format!("{name} is not a setting and is ignored; see broadcast {command} --help"),
        }
    }
}

fn unknown(command: &str, variables: impl Iterator<Item = (OsString, OsString)>) -> Vec<UnknownSetting> {
    let cli = definition();
    let known: Vec<String> = cli.get_subcommands().flat_map(settings).collect();
    let own: Vec<String> = cli.find_subcommand(command).map(settings).unwrap_or_default();
    let is_known = |name: &str| {
        known.iter().any(|known| known == name) || KNOWN_BESIDES.contains(&name) || name.starts_with(TESTS)
    };
    let mut unknown: Vec<_> = variables
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, value)| name.starts_with(PREFIX) && !is_known(name) && !value.is_empty())
        .filter(|(name, value)| !is_service_link(name, &value.to_string_lossy()))
        .map(|(name, _)| UnknownSetting { nearest: nearest(&name, &own), name })
        .collect();
    unknown.sort_by(|a, b| a.name.cmp(&b.name));
    unknown
}

/// The variables that a command reads.
fn settings(command: &clap::Command) -> Vec<String> {
    // Its subcommands' too.
    let all = || iter::once(command).chain(command.get_subcommands()).flat_map(clap::Command::get_arguments);
    let flags = all().filter_map(|arg| arg.get_env()?.to_str());
    let has = |name: &str| all().any(|arg| arg.get_id() == name);
    let secrets = secret::ALL.iter().filter(|secret| has(&secret.file())).map(|secret| secret.variable);
    flags.chain(secrets).map(String::from).collect()
}

/// Kubernetes tells each container by such variables where a service named `broadcast` is.
fn is_service_link(name: &str, value: &str) -> bool {
    name.starts_with("BROADCAST_SERVICE_") || name.starts_with("BROADCAST_PORT_") || value.contains("://")
}

/// The setting that resembles this name, compared without the prefix.
fn nearest(name: &str, settings: &[String]) -> Option<String> {
    if name.len() > LONGEST {
        return None;
    }
    let words = settings.iter().filter_map(|setting| setting.strip_prefix(PREFIX));
    nearest::nearest(&name[PREFIX.len()..], words).map(|word| format!("{PREFIX}{word}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unknown_of(command: &str, variables: &[(&str, &str)]) -> Vec<(String, Option<String>)> {
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
        unknown(command, variables).into_iter().map(|UnknownSetting { name, nearest }| (name, nearest)).collect()
    }

    #[test]
    fn what_is_nearly_a_setting_is_told_with_it() {
        for (name, nearest) in [
            ("BROADCAST_NMAE", Some("BROADCAST_NAME")),
            ("BROADCAST_JION", Some("BROADCAST_JOIN")),
            ("BROADCAST_NAMES", Some("BROADCAST_NAME")),
            ("BROADCAST_SECRET_KEY", Some("BROADCAST_SECRET_KEYS")),
            ("BROADCAST_HTTP_TOKNE", Some("BROADCAST_HTTP_TOKEN")),
            ("BROADCAST_RETAINED_MESSAGE", Some("BROADCAST_RETAIN_MESSAGES")),
            ("BROADCAST_SEEDS", None),
            ("BROADCAST_PORT", None),
            ("BROADCAST_", None),
        ] {
            assert_eq!(unknown_of("node", &[(name, "x")]), [(name.into(), nearest.map(String::from))]);
        }
        let long = format!("BROADCAST_{}", "X".repeat(1 << 20));
        assert_eq!(unknown_of("node", &[(&long, "x")]), [(long.clone(), None)]);
        // Of a command only its own.
        assert_eq!(unknown_of("members", &[("BROADCAST_NMAE", "x")]), [("BROADCAST_NMAE".into(), None)]);
        let node = Some("BROADCAST_NODE".into());
        assert_eq!(unknown_of("members", &[("BROADCAST_NODES", "x")]), [("BROADCAST_NODES".into(), node)]);
    }

    #[test]
    fn what_somebody_else_reads_is_not_told() {
        for (name, value) in [
            ("BROADCAST_NAME", "x"),
            ("BROADCAST_NODE", "x"),
            ("BROADCAST_SECRET_KEYS", "x"),
            ("BROADCAST_NMAE", ""),
            ("BROADCASTER", "x"),
            ("BROADCAST_IMAGE", "x"),
            ("BROADCAST_TESTS_REQUIRE", "all"),
            ("BROADCAST_SERVICE_HOST", "10.0.0.1"),
            ("BROADCAST_PORT", "tcp://10.0.0.1:7946"),
            ("BROADCAST_PORT_7946_TCP_ADDR", "10.0.0.1"),
        ] {
            assert_eq!(unknown_of("node", &[(name, value)]), [], "{name}");
        }
    }
}
