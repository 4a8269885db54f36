//! Parses the command line and the environment. Whatever is wrong with them is said in one line, which names the setting, the
//! value and what to do.

use std::{
    any::TypeId,
    env,
    ffi::{OsStr, OsString},
    iter,
    path::PathBuf,
};

use clap::{
    Arg, FromArgMatches as _,
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::{Cli, definition, unknown_settings};
use crate::{
    failure::Failure,
    settings::{NOT_TEXT, named},
    visible::{escaped, quote},
};

/// Parses the command line and the environment.
///
/// `--help` and `--version` are printed, and end the process.
///
/// # Errors
///
/// An argument or a setting is not valid.
pub(crate) fn parse() -> Result<Cli, Failure> {
    let cli = from(env::args_os().collect(), |variable| env::var_os(variable))?;
    unknown_settings::warn(cli.command.name());
    Ok(cli)
}

fn from(args: Vec<OsString>, variable: impl Fn(&str) -> Option<OsString>) -> Result<Cli, Failure> {
    let is_empty = |name: &str| variable(name).is_some_and(|value| value.is_empty());
    let error = match without_empty_variables(definition(), &is_empty).try_get_matches_from(&args) {
        Ok(matches) => return Cli::from_arg_matches(&matches).map_err(|error| Failure::usage(one_line(&error, &args))),
        Err(error) => error,
    };
    match error.kind() {
        // Help shows all variables, the empty ones too.
        ErrorKind::DisplayHelp => {
            definition().try_get_matches_from(&args).map_or_else(|error| error.exit(), |_| error.exit())
        }
        ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => error.exit(),
        ErrorKind::InvalidUtf8 => Err(Failure::usage(not_text(&args, variable))),
        _ => Err(Failure::usage(one_line(&error, &args))),
    }
}

/// Takes out empty variables: clap would take one for an empty value, while `BROADCAST_JOIN=` in a compose file means unset.
fn without_empty_variables(mut command: clap::Command, is_empty: &impl Fn(&str) -> bool) -> clap::Command {
    for subcommand in command.get_subcommands_mut() {
        *subcommand = without_empty_variables(std::mem::take(subcommand), is_empty);
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
            (Some(problem), _) => rephrased(escaped(&problem.to_string())),
            (None, Some(valid)) => format!("it must be one of: {valid}"),
            (None, None) => format!("it needs a value, {arg}; see {}", help_of(args)),
        };
        return if value.is_empty() {
            format!("{setting}: {problem}")
        } else {
            format!("{setting} = {}: {problem}", quote(&value))
        };
    }
    let help = help_of(args);
    if let (ErrorKind::MissingRequiredArgument, Some(args)) = (error.kind(), context(ContextKind::InvalidArg)) {
        return format!("{args} must be given as well; see {help}");
    }
    let quoted = |given: &str| {
        let shown = quote(given);
        if shown[1..shown.len() - 1] == *given { format!("'{given}'") } else { shown }
    };
    // Clap repeats arguments as they are, apart from control sequences.
    let problem = match (error.kind(), context(ContextKind::InvalidArg), context(ContextKind::InvalidSubcommand)) {
        (ErrorKind::UnknownArgument, Some(given), _) => format!("unexpected argument {} found", quoted(&given)),
        (ErrorKind::InvalidSubcommand, _, Some(given)) => format!("unrecognized subcommand {}", quoted(&given)),
        _ => {
            let mut text = error.to_string();
            for given in [ContextKind::InvalidArg, ContextKind::InvalidValue].into_iter().filter_map(context) {
                text = text.replace(&format!("'{given}'"), &quoted(&given));
            }
            let mut lines = text.lines();
            let first = lines.next().unwrap_or_default();
            let first = first.strip_prefix("error: ").unwrap_or(first);
            // Arguments that exclude each other may be a list.
            let list = || lines.map_while(|line| line.strip_prefix("  ")).collect::<Vec<_>>().join(", ");
            match first.strip_suffix(':') {
                Some(first) if first.starts_with("the subcommand") => {
                    format!("{first} {}: write options behind the command", list())
                }
                Some(first) => format!("{first} {}", list()),
                None => first.into(),
            }
        }
    };
    format!("{problem}{}; see {help}", did_you_mean(error))
}

/// Names the flag or variable whose value should be text but is not.
fn not_text(args: &[OsString], variable: impl Fn(&str) -> Option<OsString>) -> String {
    if let Some(place) = args.iter().skip(1).position(|arg| arg.to_str().is_none()) {
        let text = args[place + 1].to_string_lossy();
        let flag = args[place].to_str().filter(|flag| flag.starts_with("--") && !flag.contains('='));
        return match flag.or_else(|| text.split_once('=').map(|(flag, _)| flag)) {
            Some(flag) if flag.starts_with("--") => format!("{} {NOT_TEXT}", setting(flag)),
            _ => format!("the argument {} {NOT_TEXT}", quote(&text)),
        };
    }
    let mut command = args.get(1).and_then(|name| definition().find_subcommand(name).cloned());
    for name in args.iter().skip(2) {
        let Some(inner) = command.as_ref().and_then(|command| command.find_subcommand(name).cloned()) else { break };
        command = Some(inner);
    }
    let settings = command.iter().flat_map(clap::Command::get_arguments).filter(|arg| arg.get_env().is_some());
    let broken: Vec<_> = settings
        .filter(|arg| {
            // A path may have any bytes.
            let is_path = arg.get_value_parser().type_id() == TypeId::of::<PathBuf>();
            let value = arg.get_env().and_then(OsStr::to_str).and_then(&variable);
            !is_path && value.is_some_and(|value| value.to_str().is_none())
        })
        .map(named)
        .collect();
    if broken.is_empty() { format!("an argument {NOT_TEXT}") } else { format!("{} {NOT_TEXT}", broken.join(", ")) }
}

/// Rephrases clap's "101 is not in 1..=100".
fn rephrased(problem: String) -> String {
    let range = problem.split_once(" is not in ").and_then(|(_, range)| range.split_once("..="));
    range.map(|(least, most)| format!("it must be from {least} to {most}")).unwrap_or(problem)
}

/// Clap's suggestions, to follow other words; empty if there are none.
fn did_you_mean(error: &clap::Error) -> String {
    let kinds = [ContextKind::SuggestedSubcommand, ContextKind::SuggestedArg];
    let names: Vec<_> = kinds
        .into_iter()
        .filter_map(|kind| error.get(kind))
        .flat_map(|value| match value {
            ContextValue::String(name) => vec![name.clone()],
            // Clap has the nearest last.
            ContextValue::Strings(names) => names.iter().rev().cloned().collect(),
            _ => Vec::new(),
        })
        .collect();
    if names.is_empty() { String::new() } else { format!(" (did you mean {}?)", names.join(" or ")) }
}

/// The `--help` of the command, or subcommand, that was given.
fn help_of(args: &[OsString]) -> String {
    let program = definition();
    let (mut command, mut words) = (&program, vec!["broadcast"]);
    let mut args = args.iter().skip(1).filter_map(|arg| arg.to_str());
    while let Some(arg) = args.next() {
        if let Some(known) = command.find_subcommand(arg) {
            command = known;
            words.push(known.get_name());
        } else if arg.starts_with('-') {
            let is_this = |flag: &&Arg| {
                let long = flag.get_long().map(|long| format!("--{long}"));
                let short = flag.get_short().map(|short| format!("-{short}"));
                [long, short].iter().flatten().any(|flag| flag == arg)
            };
            let takes_value = |flag: &Arg| flag.get_action().takes_values() && !flag.is_require_equals_set();
            // The value of a flag is not a subcommand.
            if command.get_arguments().find(is_this).is_some_and(takes_value) {
                args.next();
            }
        } else {
            break;
        }
    }
    format!("{} --help", words.join(" "))
}

/// Names a setting: `BROADCAST_INTERVAL (--interval)`. `arg` is what clap calls it, like `--interval <DURATION>`,
/// `--serf[=<BOOL>]` or `[FILTER]`.
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
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    fn refused(args: &[&str]) -> String {
        let args = iter::once("broadcast").chain(args.iter().copied()).map(OsString::from).collect();
        from(args, |_| None).expect_err("this cannot be").to_string()
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
                r#"BROADCAST_ROLE (--role) = "listener": it must be one of: receiver, sender, voter"#,
            ),
            (
                &["node", "--role", "receiver, sendr"],
                r#"BROADCAST_ROLE (--role) = "receiver, sendr": "sendr" is not a role; it must be one of: receiver, sender, voter; did you mean sender?"#,
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
            (&["node", "--role"], "BROADCAST_ROLE (--role): it must be one of: receiver, sender, voter"),
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
            (&["chaos", "random"], "<DURATION> must be given as well; see broadcast chaos random --help"),
            (&["chaos", "random", "20s", "2m"], "unexpected argument '2m' found; see broadcast chaos random --help"),
            (
                &["chaos", "random", "20s", "--seed"],
                "--seed: it needs a value, --seed <N>; see broadcast chaos random --help",
            ),
            (
                &["chaos", "--project-name", "kill", "loss", "node1"],
                "<PERCENT> must be given as well; see broadcast chaos loss --help",
            ),
            (
                &["chaos", "-p", "heal"],
                "'broadcast chaos' requires a subcommand but one was not provided; see broadcast chaos --help",
            ),
            (
                &["chaos", "-p", "x", "heal", "--all"],
                "unexpected argument '--all' found; see broadcast chaos heal --help",
            ),
            (
                &["node", "--da\u{202e}ta"],
                r#"unexpected argument "--da\u{202e}ta" found (did you mean --data?); see broadcast node --help"#,
            ),
            (&["node", "--data", " "], "BROADCAST_DATA (--data) = \" \": it is blank; write a path, or leave it out"),
            (
                &["members", "--http-token-file", "\t"],
                "BROADCAST_HTTP_TOKEN_FILE (--http-token-file) = \"\\t\": it is blank; write a path, or leave it out",
            ),
            (&["chaos", "brake", "node1"], "unrecognized subcommand 'brake'; see broadcast chaos --help"),
            (&["chaos", "kill"], "<NAME|DURATION>... must be given as well; see broadcast chaos kill --help"),
            (
                &["chaos", "kill", "*"],
                r#"NAME|DURATION = "*": not the name of a node; `docker compose ps` lists the containers"#,
            ),
            (
                &["chaos", "--file", "/nope", "status"],
                r#"--file = "/nope": cannot read this compose file: No such file or directory (os error 2)"#,
            ),
            (
                &["locks", "--node", "node1", "release", "a", "--force"],
                "the subcommand 'a' cannot be used with --node <NODE>, [NAME]: write options behind the command; see broadcast locks release --help",
            ),
            (
                &["lock", "a", "--try", "--wait", "5s"],
                "the argument '--try' cannot be used with '--wait <DURATION>'; see broadcast lock --help",
            ),
            (
                &["lock", "/a", "true"],
                "NAME = \"/a\": a name neither begins nor ends with /; write one like jobs/nightly",
            ),
            (&["lock", "a", "--semaphore", "0"], r#"--semaphore = "0": it must be from 1 to 1000"#),
            (&["fence", "a"], "<TOKEN> must be given as well; see broadcast fence --help"),
            (&["demo", "--for"], "--for: it needs a value, --for <DURATION>; see broadcast demo --help"),
        ] {
            assert_eq!(refused(args), line);
        }
    }

    #[test]
    fn what_is_given_is_repeated_in_a_bounded_length_and_nothing_in_it_is_hidden() {
        let long = &*"\u{1b}[2J\u{3164}é".repeat(12_500);
        assert_eq!(long.len(), 112_500);
        let arguments = definition();
        let node = arguments.find_subcommand("node").expect("the command");
        let flags: Vec<_> = node.get_arguments().filter_map(|arg| Some(format!("--{}", arg.get_long()?))).collect();
        let mut refusals = 0;
        for flag in flags.iter().filter(|flag| *flag != "--help") {
            for value in [long, &"9".repeat(100_000), &"a,".repeat(50_000), &"é".repeat(50_000)] {
                let args = ["broadcast", "node", &format!("{flag}={value}")].map(OsString::from).into();
                let Err(refused) = from(args, |_| None) else { continue };
                let line = refused.to_string();
                refusals += 1;
                assert!(line.len() < 4000, "{flag}: {} bytes", line.len());
                assert!(!line.chars().any(|c| c.is_control() || c == '\u{3164}'), "{line:?}");
                assert!(line.contains("bytes"), "{line}");
            }
        }
        assert!(refusals > 90, "{refusals}");
        for args in [&["node", long][..], &[long], &["node", &format!("--{long}")], &["chaos", long], &["log", long]] {
            let line = refused(args);
            assert!(line.len() < 3000 && !line.chars().any(char::is_control), "{} {line:?}", line.len());
        }
    }

    #[test]
    fn what_is_not_text_is_named() {
        let broken = || OsString::from_vec(b"\xff\xfe".to_vec());
        let refused = |args: &[OsString]| {
            let args = iter::once("broadcast".into()).chain(args.iter().cloned()).collect();
            from(args, |_| None).expect_err("this cannot be").to_string()
        };
        let remedy = NOT_TEXT;
        assert_eq!(refused(&["node".into(), "--name".into(), broken()]), format!("BROADCAST_NAME (--name) {remedy}"));
        let mut joined = OsString::from("--name=");
        joined.push(broken());
        assert_eq!(refused(&["node".into(), joined]), format!("BROADCAST_NAME (--name) {remedy}"));
        let args = |args: &[&str]| args.iter().map(OsString::from).collect::<Vec<_>>();
        let variable = |variables: &[&str]| {
            let set = |name: &str| variables.contains(&name).then(broken);
            not_text(&args(&["broadcast", "node"]), set)
        };
        assert_eq!(variable(&["BROADCAST_JOIN"]), format!("BROADCAST_JOIN (--join) {remedy}"));
        assert_eq!(variable(&["BROADCAST_DATA", "BROADCAST_ROLE"]), format!("BROADCAST_ROLE (--role) {remedy}"));
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
                "voters",
                "insecure_sessions",
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
                "etcd",
                "replay",
                "faults",
                "log",
                "log_format"
            ]
        );
    }
}
