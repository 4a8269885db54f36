//! `broadcast keygen`: a secret key for a cluster.

use std::process::ExitCode;

use broadcast::wire::SecretKey;
use clap::{Args, ValueEnum};
use rand::{TryRng as _, rngs::SysRng};
use zeroize::Zeroizing;

use super::output;
use crate::failure::Failure;

/// Make a secret key for a cluster, and print it
///
/// Give the key to every node, in BROADCAST_SECRET_KEYS or in a file that BROADCAST_SECRET_KEYS_FILE names. The
/// nodes then encrypt everything that they send each other, and ignore everyone who does not have the key.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  export BROADCAST_SECRET_KEYS=$(broadcast keygen)\n  broadcast node --name node1")]
pub(super) struct KeygenArgs {
    /// Length of the key
    #[arg(long, value_enum, default_value = "256")]
    bits: Bits,
}

/// A key's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Bits {
    #[value(name = "128")]
    Aes128,
    #[value(name = "192")]
    Aes192,
    #[value(name = "256")]
    Aes256,
}

impl Bits {
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
    output::print(&**line)?;
    Ok(ExitCode::SUCCESS)
}
