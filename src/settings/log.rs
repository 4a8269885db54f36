//! What is logged, and how.

use clap::Args;

use crate::log;

#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// What to log, in tracing's syntax: debug, or warn,broadcast=debug
    #[arg(long = "log", env = "BROADCAST_LOG", hide_env_values = true, value_name = "FILTER", default_value = "info", value_parser = log_filter)]
    pub(crate) filter: String,

    /// Format of the log
    #[arg(
        long = "log-format",
        env = "BROADCAST_LOG_FORMAT",
        hide_env_values = true,
        value_name = "FORMAT",
        value_enum,
        default_value = "text"
    )]
    pub(crate) format: log::Format,
}

pub(crate) fn log_filter(text: &str) -> Result<String, String> {
    log::filter(text).map(|_| text.into())
}
