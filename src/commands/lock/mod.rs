//! `broadcast lock`, `elect`, `locks`, `sessions` and `fence`: the locks of the cluster from a shell.
//!
//! A lock is requested with one HTTP request, whose events tell the position in the queue and the grant ([`waiter`]). While
//! the lock is held, its session is kept alive ([`keep_alive`]). The command ends before the session can have expired
//! ([`deadlines`], [`hold`]), whatever happens to the node or the network. So two commands never hold the same lock at the
//! same time, as long as this machine runs.

mod deadlines;
mod elect;
mod fence;
mod hold;
mod keep_alive;
mod locks;
mod nested;
mod progress;
mod request;
mod sessions;
mod stop;
mod stream;
mod waiter;

use std::{ffi::OsString, process::ExitCode};

use broadcast_lock::{Mode, message::MAX_PERMITS};
use clap::{Args, ValueHint};

use self::request::{HoldArgs, name, names};
pub(super) use self::{
    elect::{ElectArgs, run as elect},
    fence::{FenceArgs, run as fence},
    locks::{LocksArgs, run as locks},
    sessions::{SessionsArgs, run as sessions},
};
use super::supervisor::Program;
use crate::{failure::Failure, settings::client::ClientArgs};

/// Run a command while holding a lock of the cluster
///
/// One command at a time holds NAME, whichever node it asks; who asks first gets it first. COMMAND has in its
/// environment BROADCAST_LOCK_NAME, BROADCAST_LOCK_KEY (NAME/session) and BROADCAST_LOCK_TOKEN, a number that grows
/// with each grant: give it to what COMMAND changes, and have it refuse lower ones (broadcast fence). It also has what
/// says which node to ask, as here. Without COMMAND, this prints the token, and holds the lock until it is interrupted.
///
/// Signals are passed on to COMMAND. If the lock is lost, COMMAND gets SIGTERM, and SIGKILL before the TTL is over, with
/// all that it has started; also if this command is killed or stopped. Where a whole container or machine is paused, the
/// token alone protects. When COMMAND ends, the lock is released at once; what it leaves in the background runs on
/// without it.
///
/// With --json, each thing that happens is a JSON object on a line: queued, granted, refused, lost, warning. They are on
/// standard error with COMMAND, and otherwise on standard output.
///
/// Exit codes: that of COMMAND, 128+N if signal N ended it; 123, the lock was lost and COMMAND was ended; 124, not
/// granted within --wait or --try, for whatever reason; 125, no node answered, or it refused; 126, COMMAND cannot be
/// run; 127, there is no such COMMAND; 2, wrong usage.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    broadcast lock jobs/nightly -- ./nightly.sh\n  \
    broadcast lock jobs/nightly --try --ttl 30s -- ./nightly.sh --verbose\n  \
    broadcast lock deploy --wait 5m --also database -- sh -c 'migrate && deploy'\n  \
    broadcast lock report --shared -- ./read-only-report\n  \
    broadcast lock licence --semaphore 3 -- ./simulate\n  \
    broadcast lock disk -- sh -c 'broadcast fence disk $BROADCAST_LOCK_TOKEN -- ./write'")]
pub(super) struct LockArgs {
    /// The lock, a path like jobs/nightly; it is made when it is asked for
    #[arg(value_name = "NAME", value_parser = name)]
    name: String,

    /// What is run while it is held, with its arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true, value_hint = ValueHint::CommandWithArguments)]
    command: Vec<OsString>,

    /// Hold this lock as well, all of them or none; may be repeated, and not with --shared or --semaphore
    #[arg(long, value_name = "NAME", value_parser = name, conflicts_with_all = ["shared", "semaphore"])]
    also: Vec<String>,

    /// Hold it together with others that ask so, and with nobody that does not
    #[arg(long)]
    shared: bool,

    /// Hold it together with others, N in all at most; all have to give the same N
    #[arg(long, value_name = "N", conflicts_with = "shared", value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_PERMITS)))]
    semaphore: Option<u16>,

    #[command(flatten)]
    hold: HoldArgs,

    #[command(flatten)]
    client: ClientArgs,
}

pub(super) async fn run(args: LockArgs) -> Result<ExitCode, Failure> {
    let names = names(args.name, args.also).map_err(Failure::usage)?;
    let mode = match args.semaphore {
        Some(permits) => Mode::Semaphore { permits },
        None if args.shared => Mode::Shared,
        None => Mode::Exclusive,
    };
    let program = Program::of(args.command);
    let request = args.hold.request(names, mode, None, program.as_ref());
    hold::run(request, program, &args.client).await
}
