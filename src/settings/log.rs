//! The filter and the format of the log.

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// What to log, in tracing's syntax: debug, or warn,broadcast=debug
    #[arg(long, env = "BROADCAST_LOG", value_name = "FILTER", default_value = "info", value_parser = checked)]
    pub(crate) log: String,

    /// Format of the log
    #[arg(long, env = "BROADCAST_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value = "text")]
    pub(crate) log_format: Format,
}

/// The format of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For programs: one object a line.
    Json,
}

/// The longest filter, in bytes.
const MAX_FILTER: usize = 1024;

/// Parses a filter in tracing's syntax. Regular expressions are off, since some take minutes and gigabytes.
pub(crate) fn filter(text: &str) -> Result<EnvFilter, String> {
    if text.len() > MAX_FILTER {
        return Err(format!("it has {} bytes; at most {MAX_FILTER} are allowed", text.len()));
    }
    // tracing-subscriber 0.3 miscounts blanks before a part, and may panic within a character.
    let parts: Vec<_> = text.split(',').map(str::trim).collect();
    EnvFilter::builder().with_regex(false).parse(parts.join(",")).map_err(|error| {
        format!("{error}; write a level (error, warn, info, debug, trace), or parts like broadcast=debug with commas")
    })
}

/// The text itself, if it is a valid filter.
pub(crate) fn checked(text: &str) -> Result<String, String> {
    filter(text).map(|_| text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_costs_little_whatever_it_says() {
        // As a regular expression it would take gigabytes.
        let costly = format!("[{{key={}}}]=debug", "(x|y)*x".to_owned() + &"(x|y)".repeat(60));
        assert!(filter(&costly).is_ok());
        assert!(filter(&"a".repeat(MAX_FILTER + 1)).unwrap_err().contains("at most 1024"));
    }

    #[test]
    fn a_filter_may_have_blanks_and_any_letters() {
        assert_eq!(filter(" info , broadcast=debug ").unwrap().to_string(), "broadcast=debug,info");
        for text in [" ä=debug", "info,\u{a0}日本", "\u{2003}é[ü{ö}]=trace"] {
            // Whether it is one is tracing's to say.
            let _ = filter(text);
        }
    }
}
