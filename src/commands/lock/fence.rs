//! `broadcast fence`: runs a command only if the cluster has seen no greater fencing token for what it changes.

use std::{ffi::OsString, process::ExitCode};

use clap::{Args, ValueHint};
use hyper::{Method, StatusCode};

use super::{
    super::{
        client::{ApiClient, ApiRequest, ClientError, LEADER_WAIT, url_encoded},
        output::print_response,
        supervisor::Program,
    },
    hold::FAILED,
    request::name,
    waiter::NOT_IN_TIME,
};
use crate::{failure::Failure, settings::client::ClientArgs, visible};

/// The exit code if a greater token was seen.
const REFUSED: u8 = NOT_IN_TIME;

/// Run a command unless a later holder of a lock was here before
///
/// The cluster keeps the greatest token that it was told for NAME, which stands for what COMMAND changes. A lower TOKEN
/// is that of a holder that has lost its lock, and does not know yet: COMMAND is not run. Otherwise this becomes COMMAND.
/// What COMMAND changes later than that is not checked: where you can, have the resource itself compare tokens.
///
/// Exit codes: that of COMMAND, or 0 without one; 124, a greater token was seen; 125, no node answered, or it refused;
/// 126, COMMAND cannot be run; 127, there is no such COMMAND; 2, wrong usage.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    broadcast lock disk -- sh -c 'broadcast fence disk $BROADCAST_LOCK_TOKEN -- ./write'\n  \
    broadcast fence disk 12 && ./write\n  \
    broadcast fence disk --forget")]
pub(in super::super) struct FenceArgs {
    /// What is protected, a path like disks/1; mostly the name of the lock
    #[arg(value_name = "NAME", value_parser = name)]
    name: String,

    /// The token, as the lock's holder has it in BROADCAST_LOCK_TOKEN
    #[arg(value_name = "TOKEN", value_parser = token, required_unless_present = "forget")]
    token: Option<u64>,

    /// What is run, with its arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true, value_hint = ValueHint::CommandWithArguments)]
    command: Vec<OsString>,

    /// Forget the greatest token: for a resource that is made anew
    #[arg(long, conflicts_with_all = ["token", "command"])]
    forget: bool,

    #[command(flatten)]
    client: ClientArgs,
}

fn token(text: &str) -> Result<u64, &'static str> {
    text.trim().parse().map_err(|_| "not a token; write a number like 12")
}

pub(in super::super) async fn run(args: FenceArgs) -> Result<ExitCode, Failure> {
    let client = ApiClient::new(&args.client).map_err(|failure| failure.with_code(FAILED))?;
    let Some(token) = args.token else {
        forget(&args.name, &client).await.map_err(|error| Failure::from(error).with_code(FAILED))?;
        return Ok(ExitCode::SUCCESS);
    };
    let path = format!("/v1/fences/{}?token={token}", url_encoded(&args.name));
    let request = ApiRequest {
        method: Method::PUT,
        path: &path,
        server_wait: LEADER_WAIT,
        expects: "token",
        ..ApiRequest::default()
    };
    let answer = match client.call(request).await {
        Ok(answer) => answer,
        Err(ClientError::Problem(answer)) if answer.status == StatusCode::PRECONDITION_FAILED => {
            let (name, highest) = (visible::escaped(&args.name), answer.number("highest"));
            let what =
                format!("{name} has seen token {highest}, which is greater than {token}: its lock has passed on");
            return Err(Failure::other(what).with_code(REFUSED));
        }
        Err(error) => return Err(Failure::from(error).with_code(FAILED)),
    };
    match Program::of(args.command) {
        Some(program) => Ok(program.exec().into()),
        None => {
            print_response(&args.client, &answer, |_| format!("token {token}\n"))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn forget(name: &str, client: &ApiClient) -> Result<(), ClientError> {
    let path = format!("/v1/fences/{}", url_encoded(name));
    client
        .send(ApiRequest { method: Method::DELETE, path: &path, server_wait: LEADER_WAIT, ..ApiRequest::default() })
        .await
        .map(drop)
}
