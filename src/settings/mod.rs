//! The settings of the program, each in one place.
//!
//! A setting is a field of one of the structs here, with its variable, its check and its help. Its name gives the flag and
//! the variable: `max_members` is `--max-members` and `BROADCAST_MAX_MEMBERS`. Where a library has the setting, too, its
//! default and its bounds come from there, and texts of the library that name it are put into the words of the program
//! ([`explain`]).
//!
//! Help, completions and manual pages are made from these structs. What the pages in `docs/` and the files for Docker
//! and Kubernetes say of settings is compared with the help by `tests/processes/documents.rs`.

mod access;
pub(crate) mod client;
pub(crate) mod envelope;
pub(crate) mod etcd;
mod explain;
pub(crate) mod http;
mod limits;
pub(crate) mod log;
pub(crate) mod name;
pub(crate) mod node;
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
