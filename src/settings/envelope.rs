//! The cluster's label and its secret keys.

use std::path::{Path, PathBuf};

use super::{secret::KEYS, values::path};
use crate::failure::Failure;
use broadcast::{
    ConfigError, Envelope, config,
    wire::{Keyring, SecretKey, limits},
};
use clap::Args;

/// See [`Envelope`].
#[derive(Debug, Args)]
pub(crate) struct EnvelopeArgs {
    #[arg(
        long,
        env = "BROADCAST_LABEL",
        default_value = "",
        hide_default_value = true,
        value_parser = label,
        help = format!(
            "Name of the cluster, at most {} bytes; nodes ignore nodes that have another label [default: none]",
            limits::LABEL
        )
    )]
    label: String,

    #[arg(
        long,
        env = "BROADCAST_SECRET_KEYS_FILE",
        value_name = "FILE",
        value_parser = path(),
        help = format!(
            "File with the cluster's keys in base64, one on each line; the first one encrypts. SIGHUP makes the node \
             read the file again. Or set {} to the keys, separated by commas [default: no encryption]",
            KEYS.variable
        )
    )]
    pub(crate) secret_keys_file: Option<PathBuf>,

    /// Whether a node that has keys refuses traffic that is not encrypted
    #[arg(long, env = "BROADCAST_VERIFY_INCOMING", value_name = "BOOL", default_value_t = Envelope::default().verify_incoming, action = clap::ArgAction::Set)]
    verify_incoming: bool,

    /// Whether a node that has keys encrypts what it sends
    #[arg(long, env = "BROADCAST_VERIFY_OUTGOING", value_name = "BOOL", default_value_t = Envelope::default().verify_outgoing, action = clap::ArgAction::Set)]
    verify_outgoing: bool,

    /// Whether a proxy in front of this node removes the labels
    #[arg(long, env = "BROADCAST_SKIP_INBOUND_LABEL_CHECK", value_name = "BOOL", default_value_t = Envelope::default().skip_inbound_label_check, action = clap::ArgAction::Set)]
    skip_inbound_label_check: bool,
}

impl EnvelopeArgs {
    /// The envelope, with the keys from the environment or the file.
    pub(crate) fn envelope(self) -> Result<Envelope, Failure> {
        let Self { label, secret_keys_file, verify_incoming, verify_outgoing, skip_inbound_label_check } = self;
        let keys = KEYS.read(secret_keys_file.as_deref(), parse_keys)?.unwrap_or_default();
        let keyring = Keyring::new(keys).map_err(|error| Failure::usage(format!("{}: {error}", KEYS.variable)))?;
        Ok(Envelope { label, keyring, verify_incoming, verify_outgoing, skip_inbound_label_check })
    }
}

fn label(text: &str) -> Result<String, ConfigError> {
    config::check_label(text).map(|()| text.into())
}

/// The keys in a file.
pub(crate) fn keys_in_file(path: &Path) -> Result<Vec<SecretKey>, String> {
    KEYS.in_file(path, parse_keys)
}

/// Parses keys in base64, separated by commas, spaces or line ends. A # begins a comment.
pub(crate) fn parse_keys(text: &str) -> Result<Vec<SecretKey>, String> {
    let lines = text.lines().map(|line| line.split_once('#').map_or(line, |(keys, _)| keys));
    let words =
        lines.flat_map(|line| line.split(|c: char| c == ',' || c.is_whitespace())).filter(|word| !word.is_empty());
    let keys = words.enumerate().map(|(index, word)| {
        let refuse = |error| format!("key {} cannot be used: {error}; make one with broadcast keygen", index + 1);
        word.parse::<SecretKey>().map_err(refuse)
    });
    let keys = keys.collect::<Result<Vec<_>, _>>()?;
    if keys.is_empty() { Err("there is no key in it; make one with broadcast keygen".into()) } else { Ok(keys) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "MDEyMzQ1Njc4OWFiY2RlZg==";
    const B: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";

    #[test]
    fn keys_are_written_in_many_ways() {
        let [a, b] = [A, B].map(|text| text.parse::<SecretKey>().expect("a key"));
        for text in [format!("{A},{B}"), format!(" {A}\n{B}\n"), format!("{A}, {B},"), format!("{A}\r\n{B}\r\n")] {
            assert_eq!(parse_keys(&text), Ok(vec![a.clone(), b.clone()]), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_key_is_named_by_its_place_and_not_shown() {
        for (text, problem) in [
            ("", "there is no key in it; make one with broadcast keygen"),
            ("hunter2!", "key 1 cannot be used: a key is not base64"),
            (&format!("{A},aHVudGVyMg=="), "key 2 cannot be used: a key of 7 bytes is not valid"),
        ] {
            let error = parse_keys(text).expect_err("no keys");
            assert!(error.starts_with(problem), "{error}");
            assert!(!error.contains("hunter2") && !error.contains("aHVudGVyMg"), "{error}");
        }
    }
}
