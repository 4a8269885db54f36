//! Secret settings: they come from a variable or a file, never from a flag, which every user of the host could read. No
//! message shows a secret.

use std::{env, ffi::OsString, path::Path};

use zeroize::Zeroizing;

use super::values::{NOT_TEXT, name_of, of_file, read_file};
use crate::failure::Failure;

/// The longest file, in bytes.
pub(crate) const FILE_LIMIT: u64 = 64 << 10;

/// A secret setting. The setting with the path of its file is called `<name>_file`.
#[derive(Debug)]
pub(crate) struct Secret {
    /// The name of the setting.
    pub(super) name: &'static str,
    /// The variable with the secret itself.
    pub(crate) variable: &'static str,
}

/// The cluster's keys.
pub(super) const KEYS: Secret = Secret { name: "secret_keys", variable: "BROADCAST_SECRET_KEYS" };
/// The token for all ports.
pub(crate) const TOKEN: Secret = Secret { name: "token", variable: "BROADCAST_TOKEN" };
/// The token for the HTTP API, in place of the one for all ports.
pub(crate) const HTTP_TOKEN: Secret = Secret { name: "http_token", variable: "BROADCAST_HTTP_TOKEN" };
/// All secrets.
pub(crate) const ALL: [Secret; 3] = [KEYS, TOKEN, HTTP_TOKEN];

impl Secret {
    /// The name of the setting with the path of the file.
    pub(crate) fn file(&self) -> String {
        format!("{}_file", self.name)
    }

    /// Parses the secret from the variable or the file; nothing, if neither is set.
    pub(super) fn read<T>(
        &self,
        file: Option<&Path>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Failure> {
        let variable = env::var_os(self.variable).filter(|value| !value.is_empty());
        let read = match (variable, file) {
            (None, None) => return Ok(None),
            (Some(text), None) => self.in_variable(text, parse),
            (None, Some(file)) => self.in_file(file, parse),
            (Some(_), Some(_)) => {
                Err(format!("{} and {} are both set: keep one of them", self.variable, name_of(&self.file())))
            }
        };
        read.map(Some).map_err(Failure::usage)
    }

    fn in_variable<T>(&self, text: OsString, parse: impl Fn(&str) -> Result<T, String>) -> Result<T, String> {
        let text = text.into_string().map(Zeroizing::new).map_err(|_| format!("{} {NOT_TEXT}", self.variable))?;
        parse(&text).map_err(|problem| format!("{}: {problem}", self.variable))
    }

    /// Parses the secret in a file.
    pub(super) fn in_file<T>(&self, path: &Path, parse: impl Fn(&str) -> Result<T, String>) -> Result<T, String> {
        in_file(&self.file(), path, parse)
    }
}

/// Parses the secret in the file that a setting names.
pub(super) fn in_file<T>(setting: &str, path: &Path, parse: impl Fn(&str) -> Result<T, String>) -> Result<T, String> {
    let read = Zeroizing::new(read_file(setting, path, FILE_LIMIT)?);
    let text = std::str::from_utf8(&read).map_err(|_| "it cannot be read: stream did not contain valid UTF-8".into());
    text.and_then(parse).map_err(|problem| of_file(setting, path, &problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_named_and_not_shown() {
        let not_text = std::os::unix::ffi::OsStringExt::from_vec(b"\xff".to_vec());
        let read = |text: &str| Ok(text.to_owned());
        assert_eq!(
            KEYS.in_variable(not_text, read),
            Err("BROADCAST_SECRET_KEYS is not text in UTF-8; write it anew".into())
        );
        let error = HTTP_TOKEN.in_file(Path::new("/there/is/none"), read).expect_err("no file");
        let told = r#"BROADCAST_HTTP_TOKEN_FILE (--http-token-file) = "/there/is/none": it cannot be read"#;
        assert!(error.starts_with(told), "{error}");
        let error = KEYS.in_file(Path::new("/dev/zero"), read).expect_err("no end");
        assert!(error.ends_with("it is larger than 65536 bytes; is it the right file?"), "{error}");
    }
}
