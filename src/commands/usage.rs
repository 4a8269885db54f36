//! Reading the command line and the environment, and saying in one line what is wrong with them.

use std::{env, ffi::OsString, iter};

use clap::{
    Arg, FromArgMatches as _,
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::{Cli, definition, unknown};
use crate::{failure::Failure, settings::named};

/// Reads the command line and the environment.
///
/// `--help` and `--version` are printed, and end the process.
///
/// # Errors
///
/// What was given cannot be.
pub(crate) fn parse() -> Result<Cli, Failure> {
    let cli = from(env::args_os().collect(), |variable| env::var_os(variable).is_some_and(|value| value.is_empty()))?;
    unknown::warn(cli.command.name());
    Ok(cli)
}

fn from(args: Vec<OsString>, is_empty: impl Fn(&str) -> bool) -> Result<Cli, Failure> {
    let error = match without_empty_variables(definition(), &is_empty).try_get_matches_from(&args) {
        Ok(matches) => return Cli::from_arg_matches(&matches).map_err(|error| Failure::usage(one_line(&error, &args))),
        Err(error) => error,
    };
    match error.kind() {
        // Help shows all variables, whichever of them are empty.
        ErrorKind::DisplayHelp => {
            definition().try_get_matches_from(&args).map_or_else(|error| error.exit(), |_| error.exit())
        }
        ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => error.exit(),
        _ => Err(Failure::usage(one_line(&error, &args))),
    }
}

/// clap takes an empty variable for an empty value; here it counts as unset, as in a compose file's
/// `BROADCAST_JOIN=`.
fn without_empty_variables(mut command: clap::Command, is_empty: &impl Fn(&str) -> bool) -> clap::Command {
    for subcommand in command.get_subcommands_mut() {
        let unset = std::mem::take(subcommand).mut_args(|arg| match arg.get_env().and_then(|name| name.to_str()) {
            Some(variable) if is_empty(variable) => arg.env(None::<&str>),
            _ => arg,
        });
        *subcommand = unset;
    }
    command
}

fn one_line(error: &clap::Error, args: &[OsString]) -> String {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => Some(texts.join(", ")),
        _ => None,
    };
    if let (ErrorKind::InvalidValue | ErrorKind::ValueValidation, Some(arg), Some(value)) =
        (error.kind(), context(ContextKind::InvalidArg), context(ContextKind::InvalidValue))
    {
        let setting = setting(&arg);
        let valid = context(ContextKind::ValidValue).filter(|valid| !valid.is_empty());
        let problem = match (std::error::Error::source(error), valid) {
            (Some(problem), _) => in_words(problem.to_string()),
            (None, Some(valid)) => format!("it must be one of: {valid}"),
            (None, None) => format!("it needs a value, {arg}; see {}", help_of(args)),
        };
        return if value.is_empty() {
            format!("{setting}: {problem}")
        } else {
            format!("{setting} = {value:?}: {problem}")
        };
    }
    let help = help_of(args);
    if let (ErrorKind::MissingRequiredArgument, Some(args)) = (error.kind(), context(ContextKind::InvalidArg)) {
        return format!("{args} must be given as well; see {help}");
    }
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    format!("{}{}; see {help}", first.strip_prefix("error: ").unwrap_or(first), did_you_mean(error))
}

/// clap's "101 is not in 1..=100", as one says it.
fn in_words(problem: String) -> String {
    let range = problem.split_once(" is not in ").and_then(|(_, range)| range.split_once("..="));
    range.map(|(least, most)| format!("it must be from {least} to {most}")).unwrap_or(problem)
}

/// What it may have been meant to be, as it follows other words; or nothing.
fn did_you_mean(error: &clap::Error) -> String {
    let kinds = [ContextKind::SuggestedSubcommand, ContextKind::SuggestedArg];
    let names: Vec<_> = kinds
        .into_iter()
        .filter_map(|kind| error.get(kind))
        .flat_map(|value| match value {
            ContextValue::String(name) => vec![name.clone()],
            // The nearest is the last.
            ContextValue::Strings(names) => names.iter().rev().cloned().collect(),
            _ => Vec::new(),
        })
        .collect();
    if names.is_empty() { String::new() } else { format!(" (did you mean {}?)", names.join(" or ")) }
}

/// What tells how the command is used that was given.
fn help_of(args: &[OsString]) -> String {
    let command = definition();
    let known = args.get(1).and_then(|name| command.find_subcommand(name));
    known.map_or("broadcast --help".into(), |known| format!("broadcast {} --help", known.get_name()))
}

/// How a setting is named: `BROADCAST_INTERVAL (--interval)`. `arg` is clap's `--interval <DURATION>`, or `--serf[=<BOOL>]`,
/// or `[FILTER]`.
fn setting(arg: &str) -> String {
    if !arg.starts_with('-') {
        return arg.trim_matches(['[', ']', '<', '>', '.']).into();
    }
    let flag = arg.split([' ', '[']).next().unwrap_or(arg);
    let command = definition();
    let mut args = iter::once(&command).chain(command.get_subcommands()).flat_map(clap::Command::get_arguments);
    let with_variable = |arg: &&Arg| arg.get_env().is_some() && flag.strip_prefix("--") == arg.get_long();
    args.find(with_variable).map_or_else(|| flag.into(), named)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(args: &[&str]) -> String {
        let args = iter::once("broadcast").chain(args.iter().copied()).map(OsString::from).collect();
        from(args, |_| false).expect_err("this cannot be").to_string()
    }

    #[test]
    fn the_command_is_well_formed() {
        definition().debug_assert();
    }

    #[test]
    fn every_refusal_is_one_line_that_names_setting_value_and_remedy() {
        for (args, line) in [
            (
                &["node", "--interval", "3x"][..],
                r#"BROADCAST_INTERVAL (--interval) = "3x": not a duration; write a number with its unit, like 250ms, 3s or 1m"#,
            ),
            (
                &["node", "--interval", "0s"],
                r#"BROADCAST_INTERVAL (--interval) = "0s": out of range; write a duration from 1ms to 1day"#,
            ),
            (
                &["node", "--role", "listener"],
                r#"BROADCAST_ROLE (--role) = "listener": it must be one of: receiver, sender"#,
            ),
            (
                &["node", "--role", "receiver, sendr"],
                r#"BROADCAST_ROLE (--role) = "receiver, sendr": "sendr" is not a role; it must be one of: receiver, sender; did you mean sender?"#,
            ),
            (
                &["node", "--allow", "10.0.0.0/8,10.0.0.0/40"],
                r#"BROADCAST_ALLOW (--allow) = "10.0.0.0/8,10.0.0.0/40": "10.0.0.0/40" is not a network: write an address and the length of its prefix, like 10.0.0.0/8 or fd00::/8"#,
            ),
            (
                &["node", "--join", "fd00::1%eth0"],
                r#"BROADCAST_JOIN (--join) = "fd00::1%eth0": "fd00::1%eth0" is not host[:port]: only link-local addresses, fe80::1 and the like, have a zone"#,
            ),
            (
                &["node", "--max-members", "1"],
                r#"BROADCAST_MAX_MEMBERS (--max-members) = "1": it must be between 2 and 1048576"#,
            ),
            (&["demo", "--senders", "0"], r#"--senders = "0": it must be from 1 to 100"#),
            (&["node", "--role"], "BROADCAST_ROLE (--role): it must be one of: receiver, sender"),
            (&["node", "--colour"], "unexpected argument '--colour' found; see broadcast node --help"),
            (
                &["log", "[{"],
                "FILTER = \"[{\": invalid filter directive; write a level (error, warn, info, debug, trace), or parts \
                 like broadcast=debug with commas",
            ),
            (
                &["publish", "k", "v", "--timeout", "2s"],
                "--ack <WHO> must be given as well; see broadcast publish --help",
            ),
            (&["tail", "--last", "x"], "--last = \"x\": not a number of messages; write one like 10"),
            (&["nod"], "unrecognized subcommand 'nod' (did you mean node?); see broadcast --help"),
            (&["help", "nod"], "unrecognized subcommand 'nod'; see broadcast --help"),
            (&["xyz"], "unrecognized subcommand 'xyz'; see broadcast --help"),
            (
                &["node", "--nmae", "x"],
                "unexpected argument '--nmae' found (did you mean --name?); see broadcast node --help",
            ),
            (
                &["node", "--name"],
                "BROADCAST_NAME (--name): it needs a value, --name <NAME>; see broadcast node --help",
            ),
            (
                &["chaos", "loss", "node1", "130%"],
                r#"PERCENT = "130%": not a share; write one from 0% to 100%, like 30%"#,
            ),
            (
                &["chaos", "random", "20"],
                r#"DURATION = "20": not a duration; write minutes and seconds with their unit, like 20s, 2m or 1m30s"#,
            ),
            (&["chaos", "random"], "<DURATION> must be given as well; see broadcast chaos --help"),
            (&["chaos", "random", "20s", "2m"], "unexpected argument '2m' found; see broadcast chaos --help"),
            (&["chaos", "random", "20s", "--seed"], "--seed: it needs a value, --seed <N>; see broadcast chaos --help"),
            (&["chaos", "brake", "node1"], "unrecognized subcommand 'brake'; see broadcast chaos --help"),
            (&["chaos", "kill"], "<NAME|DURATION>... must be given as well; see broadcast chaos --help"),
            (
                &["chaos", "kill", "*"],
                r#"NAME|DURATION = "*": not the name of a node; `docker compose ps` lists the containers"#,
            ),
            (
                &["chaos", "--file", "/nope", "status"],
                r#"--file = "/nope": cannot read this compose file: No such file or directory (os error 2)"#,
            ),
            (&["demo", "--for"], "--for: it needs a value, --for <DURATION>; see broadcast demo --help"),
        ] {
            assert_eq!(refused(args), line);
        }
    }

    #[test]
    fn a_zone_is_that_of_an_interface_of_this_host() {
        for args in [["node", "--bind"], ["node", "--http"], ["health", "--bind"]] {
            let line = refused(&[&args[..], &["[fe80::1%no-such]:7946"]].concat());
            assert!(
                line.contains("= \"[fe80::1%no-such]:7946\": this host has no interface \"no-such\"; it has "),
                "{line}"
            );
        }
    }

    #[test]
    fn an_empty_variable_is_taken_out() {
        let command = without_empty_variables(definition(), &|variable| variable == "BROADCAST_JOIN");
        let node = command.find_subcommand("node").expect("the command");
        let with_variable: Vec<_> =
            node.get_arguments().filter(|arg| arg.get_env().is_some()).map(|arg| arg.get_id().as_str()).collect();
        assert_eq!(
            with_variable,
            [
                "name",
                "role",
                "data",
                "bind",
                "advertise",
                "interval",
                "profile",
                "serf",
                "tags",
                "label",
                "secret_keys_file",
                "verify_incoming",
                "verify_outgoing",
                "skip_inbound_label_check",
                "udp_buffer_size",
                "compression",
                "retain_messages",
                "retain_bytes",
                "lag_limit",
                "meta",
                "allow",
                "max_members",
                "max_streams",
                "max_stream_bytes",
                "http",
                "token_file",
                "http_token_file",
                "tokens_file",
                "tls_cert_file",
                "tls_key_file",
                "tls_client_ca_file",
                "http_origins",
                "http_max_connections",
                "replay",
                "faults",
                "log",
                "log_format"
            ]
        );
    }
}
