//! Translates names of settings in errors of the libraries: `max_members` in backquotes becomes
//! `BROADCAST_MAX_MEMBERS (--max-members)`.

use std::{collections::BTreeMap, sync::LazyLock};

use broadcast::StartError;
use broadcast_gateway::BindError;
use clap::{Arg, Args as _, Command};

use super::{node::NodeSettings, secret};
use crate::failure::Failure;

/// Settings that the gateway calls by other names: its name, and the program's.
const GATEWAY: [(&str, &str); 2] = [("addr", "http"), ("origins", "http_origins")];

/// The program's name of each setting of a node, by the library's name.
static NAMED: LazyLock<BTreeMap<String, String>> = LazyLock::new(|| {
    let command = NodeSettings::augment_args(Command::new("settings"));
    let flags = command.get_arguments().map(|arg| (arg.get_id().to_string(), named(arg)));
    let secrets = secret::ALL.map(|secret| (secret.name.into(), secret.variable.into()));
    let mut all: BTreeMap<_, _> = flags.chain(secrets).collect();
    for (theirs, ours) in GATEWAY {
        all.insert(theirs.into(), all[ours].clone());
    }
    all
});

/// The full name of a setting: `BROADCAST_INTERVAL (--interval)`.
pub(crate) fn named(arg: &Arg) -> String {
    let flag = arg.get_long().map(|long| format!("--{long}")).unwrap_or_default();
    match arg.get_env() {
        Some(variable) => format!("{} ({flag})", variable.display()),
        None => flag,
    }
}

/// Replaces names of settings in backquotes by the program's.
pub(crate) fn explain(text: &str) -> String {
    let mut explained = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('`') {
        explained.push_str(before);
        match after.split_once('`').and_then(|(name, behind)| Some((NAMED.get(name)?, behind))) {
            Some((named, behind)) => {
                explained.push_str(named);
                rest = behind;
            }
            None => {
                explained.push('`');
                rest = after;
            }
        }
    }
    explained + rest
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let what = explain(&error.to_string());
        match error {
            StartError::Bind { .. } => Self::other(what),
            _ => Self::usage(what),
        }
    }
}

impl From<BindError> for Failure {
    fn from(error: BindError) -> Self {
        Self::other(explain(&error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_in_backquotes_get_variable_and_flag() {
        for (text, explained) in [
            ("", ""),
            ("is `max_members` too small?", "is BROADCAST_MAX_MEMBERS (--max-members) too small?"),
            (
                "add its network to `allow`, or set `advertise`",
                "add its network to BROADCAST_ALLOW (--allow), or set BROADCAST_ADVERTISE (--advertise)",
            ),
            ("give another `addr`", "give another BROADCAST_HTTP (--http)"),
            ("set a `token`", "set a BROADCAST_TOKEN"),
            ("write `loss=0.3`, not `", "write `loss=0.3`, not `"),
            ("a ` before `bind`", "a ` before BROADCAST_BIND (--bind)"),
            ("max_members", "max_members"),
        ] {
            assert_eq!(explain(text), explained);
        }
    }
}
