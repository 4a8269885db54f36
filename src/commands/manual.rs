//! `broadcast completions` and `broadcast man`: scripts for shells and manual pages, made from the definition of the commands.

use std::{fs, path::PathBuf, process::ExitCode};

use clap::Args;
use clap_complete::Shell;

use super::output;
use crate::{failure::Failure, visible};

/// Print a script that completes this program's commands and flags in a shell
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    source <(broadcast completions bash)\n  \
    broadcast completions zsh > ~/.zfunc/_broadcast\n  \
    broadcast completions fish > ~/.config/fish/completions/broadcast.fish")]
pub(super) struct CompletionsArgs {
    /// Your shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Print the manual page of this program, or write one for each command
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    broadcast man | man -l -\n  \
    broadcast man --dir /usr/local/share/man/man1")]
pub(super) struct ManArgs {
    /// Write broadcast.1, broadcast-node.1 and so on into this folder
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// All commands as the manual has them: with the version alone, whatever this program was built from.
fn definition() -> clap::Command {
    super::definition().version(env!("CARGO_PKG_VERSION")).long_version(None)
}

pub(super) fn completions(args: &CompletionsArgs) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut definition(), "broadcast", &mut script);
    output::print(script)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn man(args: &ManArgs) -> Result<ExitCode, Failure> {
    let Some(dir) = &args.dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(definition()).render(&mut page).map_err(Failure::other)?;
        output::print(page)?;
        return Ok(ExitCode::SUCCESS);
    };
    let write = || {
        fs::create_dir_all(dir)?;
        clap_mangen::generate_to(definition(), dir)
    };
    write().map_err(|error| {
        Failure::other(format!("cannot write manual pages into {}: {error}", visible::quote(&dir.to_string_lossy())))
    })?;
    let dir = visible::path(dir);
    let pages = pages(&definition());
    output::print_line(&format!("wrote {pages} manual pages into {dir}, broadcast.1 and the commands' own"))?;
    Ok(ExitCode::SUCCESS)
}

/// Counts the pages of a command and its subcommands.
fn pages(command: &clap::Command) -> usize {
    1 + command.get_subcommands().map(pages).sum::<usize>()
}
