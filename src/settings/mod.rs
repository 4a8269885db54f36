//! The settings of the program: flags and environment variables, each in one place.
//!
//! A setting is a field of one of the structs here, with its variable, its check and its help. Its name gives the flag and
//! the variable: `max_members` is `--max-members` and `BROADCAST_MAX_MEMBERS`. If a library has the setting too, its default
//! and its range come from there, and where errors of the library name it, they get the program's names ([`explain`]).
//!
//! Help, completions and manual pages are made from these structs. `tests/processes/settings.rs` compares the help with
//! the pages in `docs/` and with the files for Docker and Kubernetes.

mod access;
pub(crate) mod client;
pub(crate) mod envelope;
pub(crate) mod etcd;
mod explain;
pub(crate) mod http;
pub(crate) mod log;
pub(crate) mod name;
pub(crate) mod node;
mod retention;
pub(crate) mod secret;
pub(crate) mod tls;
pub(crate) mod values;

pub(crate) use self::{
    explain::{explain, named},
    values::NOT_TEXT,
};

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command};

    use super::*;

    #[test]
    fn flag_and_variable_have_the_name_of_the_setting() {
        let command = client::ClientArgs::augment_args(node::NodeSettings::augment_args(Command::new("all")));
        let mut settings = 0;
        for arg in command.get_arguments() {
            let Some(variable) = arg.get_env() else { continue };
            let name = arg.get_id().as_str();
            assert_eq!(arg.get_long(), Some(&*name.replace('_', "-")));
            assert_eq!(variable.to_str(), Some(&*format!("BROADCAST_{}", name.to_uppercase())));
            settings += 1;
        }
        assert!(settings > 30, "{settings}");
    }
}
