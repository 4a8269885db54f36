//! The cluster's label and keys, as the program is given them.
//!
//! Keys come from a variable or a file and never from a flag, which every user of the host could read. No
//! message shows any of a key.

use std::{
    env,
    ffi::OsString,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use broadcast::{
    ConfigError, Envelope, config,
    wire::{Keyring, SecretKey},
};
use clap::Args;
use zeroize::Zeroizing;

use crate::failure::Failure;

/// The variable that has the keys themselves.
const KEYS: &str = "BROADCAST_SECRET_KEYS";
const KEYS_FILE: &str = "BROADCAST_SECRET_KEYS_FILE (--secret-keys-file)";
/// What a file of keys has at most, in bytes.
const FILE_LIMIT: u64 = 64 << 10;

/// See [`Envelope`].
#[derive(Debug, Args)]
pub(crate) struct EnvelopeArgs {
    /// Name of the cluster, at most 255 bytes; nodes ignore nodes that have another label [default: none]
    #[arg(long, env = "BROADCAST_LABEL", hide_env_values = true, default_value = "", hide_default_value = true, value_parser = label)]
    label: String,

    /// File with the cluster's keys in base64, one on each line; the first one encrypts. SIGHUP makes the node read
    /// the file again. Or set BROADCAST_SECRET_KEYS to the keys, separated by commas [default: no encryption]
    #[arg(long, env = "BROADCAST_SECRET_KEYS_FILE", hide_env_values = true, value_name = "FILE")]
    pub(crate) secret_keys_file: Option<PathBuf>,

    /// Whether a node that has keys refuses traffic that is not encrypted
    #[arg(long, env = "BROADCAST_VERIFY_INCOMING", hide_env_values = true, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    verify_incoming: bool,

    /// Whether a node that has keys encrypts what it sends
    #[arg(long, env = "BROADCAST_VERIFY_OUTGOING", hide_env_values = true, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    verify_outgoing: bool,

    /// Whether a proxy in front of this node removes the labels
    #[arg(long, env = "BROADCAST_SKIP_INBOUND_LABEL_CHECK", hide_env_values = true, value_name = "BOOL", default_value_t = false, action = clap::ArgAction::Set)]
    skip_inbound_label_check: bool,
}

impl EnvelopeArgs {
    /// The envelope, with the keys that the environment or the file has.
    pub(crate) fn envelope(self) -> Result<Envelope, Failure> {
        let Self { label, secret_keys_file, verify_incoming, verify_outgoing, skip_inbound_label_check } = self;
        let variable = env::var_os(KEYS).filter(|value| !value.is_empty());
        let keys = match (variable, &secret_keys_file) {
            (None, None) => Vec::new(),
            (Some(text), None) => keys_in_variable(text)?,
            (None, Some(file)) => keys_in_file(file).map_err(Failure::usage)?,
            (Some(_), Some(_)) => {
                return Err(Failure::usage(format!("{KEYS} and {KEYS_FILE} are both set: keep one of them")));
            }
        };
        let keyring = Keyring::new(keys).map_err(|error| Failure::usage(format!("{KEYS}: {error}")))?;
        Ok(Envelope { label, keyring, verify_incoming, verify_outgoing, skip_inbound_label_check })
    }
}

fn label(text: &str) -> Result<String, ConfigError> {
    config::check_label(text).map(|()| text.into())
}

fn keys_in_variable(text: OsString) -> Result<Vec<SecretKey>, Failure> {
    let text = text.into_string().map(Zeroizing::new);
    let text = text.map_err(|_| Failure::usage(format!("{KEYS} is not text; write the keys in base64")))?;
    parse(&text).map_err(|problem| Failure::usage(format!("{KEYS}: {problem}")))
}

/// The keys in a file.
pub(crate) fn keys_in_file(path: &Path) -> Result<Vec<SecretKey>, String> {
    let refuse = |problem: String| format!("{KEYS_FILE} = {path:?}: {problem}");
    let mut text = Zeroizing::new(String::new());
    let read = File::open(path).and_then(|file| file.take(FILE_LIMIT + 1).read_to_string(&mut text));
    match read {
        Err(error) => Err(refuse(format!("it cannot be read: {error}"))),
        Ok(len) if len as u64 > FILE_LIMIT => {
            Err(refuse(format!("it is larger than {FILE_LIMIT} bytes; is it a file of keys?")))
        }
        Ok(_) => parse(&text).map_err(refuse),
    }
}

/// Keys in base64, with commas, spaces or ends of lines between them; what is behind a # is a comment.
fn parse(text: &str) -> Result<Vec<SecretKey>, String> {
    let lines = text.lines().map(|line| line.split_once('#').map_or(line, |(keys, _)| keys));
    let words =
        lines.flat_map(|line| line.split(|c: char| c == ',' || c.is_whitespace())).filter(|word| !word.is_empty());
    let keys = words.enumerate().map(|(index, word)| {
        word.parse::<SecretKey>().map_err(|error| format!("key {} cannot be used: {error}", index + 1))
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
            assert_eq!(parse(&text), Ok(vec![a.clone(), b.clone()]), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_key_is_named_by_its_place_and_not_shown() {
        for (text, problem) in [
            ("", "there is no key in it; make one with broadcast keygen"),
            ("hunter2!", "key 1 cannot be used: a key is not base64"),
            (&format!("{A},aHVudGVyMg=="), "key 2 cannot be used: a key of 7 bytes is not valid"),
        ] {
            let error = parse(text).expect_err("no keys");
            assert!(error.starts_with(problem), "{error}");
            assert!(!error.contains("hunter2") && !error.contains("aHVudGVyMg"), "{error}");
        }
        let error = keys_in_variable(text_of(b"\xff")).expect_err("no text").to_string();
        assert_eq!(error, "BROADCAST_SECRET_KEYS is not text; write the keys in base64");
        let error = keys_in_file(Path::new("/there/is/none")).expect_err("no file");
        assert!(
            error.starts_with(
                r#"BROADCAST_SECRET_KEYS_FILE (--secret-keys-file) = "/there/is/none": it cannot be read"#
            ),
            "{error}"
        );
    }

    fn text_of(bytes: &[u8]) -> OsString {
        std::os::unix::ffi::OsStringExt::from_vec(bytes.to_vec())
    }
}
