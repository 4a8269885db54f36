//! `broadcast keygen`: makes a secret key for a cluster, from the system's source of randomness.

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use broadcast::wire::SecretKey;
use clap::{Args, ValueEnum};
use rand::{TryRng as _, rngs::SysRng};
use zeroize::Zeroizing;

use super::{atomic_file::AtomicFile, output};
use crate::{
    failure::Failure,
    settings::{
        envelope::parse_keys,
        secret::FILE_LIMIT,
        values::{path, read_up_to},
    },
};

/// Make a secret key for a cluster, and print it or write it to a file
///
/// Give the key to every node, in BROADCAST_SECRET_KEYS or in a file that BROADCAST_SECRET_KEYS_FILE names. The
/// nodes then encrypt everything that they send each other, and ignore everyone who does not have the key.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  export BROADCAST_SECRET_KEYS=$(broadcast keygen)\n  \
    broadcast keygen --file keys\n  broadcast node --name node1 --secret-keys-file keys")]
pub(super) struct KeygenArgs {
    /// File to write the key to, readable by you alone. A file that has keys already stays as it is
    #[arg(long, value_name = "FILE", value_parser = path())]
    file: Option<PathBuf>,

    /// Length of the key
    #[arg(long, value_enum, default_value = "256")]
    bits: KeyLength,
}

/// The length of an AES key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum KeyLength {
    #[value(name = "128")]
    Aes128,
    #[value(name = "192")]
    Aes192,
    #[value(name = "256")]
    Aes256,
}

impl KeyLength {
    fn bytes(self) -> usize {
        match self {
            Self::Aes128 => 16,
            Self::Aes192 => 24,
            Self::Aes256 => 32,
        }
    }
}

pub(super) fn run(args: &KeygenArgs) -> Result<ExitCode, Failure> {
    let mut bytes = Zeroizing::new(vec![0; args.bits.bytes()]);
    SysRng
        .try_fill_bytes(&mut bytes)
        .map_err(|error| Failure::other(format!("the system has no source of randomness: {error}")))?;
    let key = SecretKey::new(bytes.to_vec()).map_err(Failure::other)?;
    let line = Zeroizing::new(format!("{}\n", *key.reveal()));
    match &args.file {
        None => output::print(&**line)?,
        Some(file) => match write_new(file, line.as_bytes()) {
            Ok(()) => eprintln!("wrote a new key to {}", file.display()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let keys = count_keys(file).map_err(|problem| {
                    Failure::other(format!(
                        "{file:?} is there already, and is no file of keys: {problem}; name another --file"
                    ))
                })?;
                eprintln!("{} stays as it is: it has {} already", file.display(), counted(keys));
            }
            Err(error) => {
                return Err(Failure::other(format!("cannot write a key to {file:?}: {error}; name another --file")));
            }
        },
    }
    Ok(ExitCode::SUCCESS)
}

/// Counts the keys in a file.
fn count_keys(file: &Path) -> Result<usize, String> {
    let read = Zeroizing::new(read_up_to(file, FILE_LIMIT)?);
    let text = std::str::from_utf8(&read).map_err(|_| "it is not text in UTF-8")?;
    parse_keys(text).map(|keys| keys.len())
}

fn counted(keys: usize) -> String {
    if keys == 1 { "a key".into() } else { format!("{keys} keys") }
}

/// Writes a file, unless it exists.
fn write_new(file: &Path, text: &[u8]) -> io::Result<()> {
    let mut new = AtomicFile::new(file)?;
    new.write(text)?;
    new.commit_new()
}
