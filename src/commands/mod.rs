//! The commands of the `broadcast` program.
//!
//! Every setting is a flag and an environment variable ([`settings`](crate::settings)); the flag wins, and an empty
//! variable counts as unset. What is not valid is refused in one line, before anything starts.
//!
//! - Commands that run nodes: [`node`], [`demo`], and [`sim`] on a virtual clock. What they serve over HTTP is in
//!   [`http_api`], with the routes of [`store_api`], [`lock_api`] and [`control`], and in [`etcd_api`].
//! - Commands that ask a node, with the [`client`]: [`publish`], [`tail`], [`kv`], [`lock`], [`voters`], [`backup`],
//!   [`cluster`], [`health`] and [`operate`].
//! - Commands that need no node: [`keygen`], [`selfsigned`], [`manual`], [`timeline`] for logs; and [`chaos`], which
//!   breaks a compose project.

mod atomic_file;
mod backoff;
mod backup;
mod chaos;
mod client;
mod cluster;
mod control;
mod demo;
mod etcd_api;
mod follow;
mod health;
mod http_api;
mod keygen;
mod kv;
mod lock;
mod lock_api;
mod manual;
mod natural_order;
mod node;
mod operate;
mod output;
mod publish;
mod reload;
mod selfsigned;
mod signals;
mod sim;
mod sse;
mod store_api;
mod supervisor;
mod table;
mod tail;
mod timeline;
mod unknown_settings;
mod usage;
mod voters;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

pub(crate) use self::{supervisor::enter, usage::parse};
use crate::{failure::Failure, log, version};

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "broadcast",
    version = version::SHORT,
    long_version = version::LONG,
    about = "Send data from any node of a cluster to all the others, with no broker",
    long_about = "Send data from any node of a cluster to all the others, with no broker.\n\n\
        Nodes find each other by gossip, in the protocol of hashicorp/memberlist. What one node sends, \
        every other node receives.",
    after_help = "See three nodes talk, in this terminal:\n  \
        broadcast demo\n\n\
        Run two nodes yourself, each in a terminal of its own:\n  \
        broadcast node --name node1 --bind 127.0.0.1:17946\n  \
        broadcast node --name node2 --bind 127.0.0.1:0 --http off --join 127.0.0.1:17946 --role sender\n\n\
        Publish through node1, and follow all messages:\n  \
        broadcast publish greeting hello --ack all\n  \
        broadcast tail\n\n\
        Draw who received what, of the demo or of any cluster's logs:\n  \
        broadcast demo --timeline\n  \
        docker compose logs | broadcast timeline",
    arg_required_else_help = true,
    subcommand_required = true,
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// The definition of all commands. Help does not show the values of variables, since they may be private.
fn definition() -> clap::Command {
    Cli::command().mut_subcommands(|command| command.mut_args(|arg| arg.hide_env_values(true)))
}

#[derive(Debug, Subcommand)]
enum Command {
    Node(Box<node::NodeArgs>),
    Demo(demo::DemoArgs),
    Publish(publish::PublishArgs),
    Tail(tail::TailArgs),
    Timeline(timeline::TimelineArgs),
    Kv(kv::KvArgs),
    Lock(lock::LockArgs),
    Elect(lock::ElectArgs),
    Locks(lock::LocksArgs),
    Sessions(lock::SessionsArgs),
    Fence(lock::FenceArgs),
    Voters(voters::VotersArgs),
    Store(voters::StoreArgs),
    Members(cluster::MembersArgs),
    Status(cluster::StatusArgs),
    Health(health::HealthArgs),
    Log(operate::LogArgs),
    Faults(operate::FaultsArgs),
    Leave(operate::LeaveArgs),
    Keygen(keygen::KeygenArgs),
    #[command(name = "tls-selfsigned")]
    TlsSelfSigned(selfsigned::SelfSignedArgs),
    Sim(sim::SimArgs),
    Chaos(chaos::ChaosArgs),
    Completions(manual::CompletionsArgs),
    Man(manual::ManArgs),
}

impl Command {
    /// The name of a command that reads settings from the environment; nothing for the others.
    fn name(&self) -> Option<&'static str> {
        match self {
            Self::Node(_) => Some("node"),
            Self::Demo(_) => Some("demo"),
            Self::Publish(_) => Some("publish"),
            Self::Tail(_) => Some("tail"),
            Self::Timeline(_) => Some("timeline"),
            Self::Kv(_) => Some("kv"),
            Self::Lock(_) => Some("lock"),
            Self::Elect(_) => Some("elect"),
            Self::Locks(_) => Some("locks"),
            Self::Sessions(_) => Some("sessions"),
            Self::Fence(_) => Some("fence"),
            Self::Voters(_) => Some("voters"),
            Self::Store(_) => Some("store"),
            Self::Members(_) => Some("members"),
            Self::Status(_) => Some("status"),
            Self::Health(_) => Some("health"),
            Self::Log(_) => Some("log"),
            Self::Faults(_) => Some("faults"),
            Self::Leave(_) => Some("leave"),
            Self::Keygen(_)
            | Self::TlsSelfSigned(_)
            | Self::Sim(_)
            | Self::Chaos(_)
            | Self::Completions(_)
            | Self::Man(_) => None,
        }
    }
}

impl Cli {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// The command failed.
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        let result = match self.command {
            Command::Node(args) => node::run(*args).await,
            Command::Demo(args) => demo::run(args).await,
            Command::Publish(args) => publish::run(args).await,
            Command::Tail(args) => tail::run(args).await,
            Command::Timeline(args) => timeline::run(args).await,
            Command::Kv(args) => kv::run(args).await,
            Command::Lock(args) => lock::run(args).await,
            Command::Elect(args) => lock::elect(args).await,
            Command::Locks(args) => lock::locks(args).await,
            Command::Sessions(args) => lock::sessions(args).await,
            Command::Fence(args) => lock::fence(args).await,
            Command::Voters(args) => voters::voters(args).await,
            Command::Store(args) => voters::store(args).await,
            Command::Members(args) => cluster::members(args).await,
            Command::Status(args) => cluster::status(args).await,
            Command::Health(args) => health::run(args).await,
            Command::Log(args) => operate::set_log(args).await,
            Command::Faults(args) => operate::set_faults(args).await,
            Command::Leave(args) => operate::leave(args).await,
            Command::Keygen(args) => keygen::run(&args),
            Command::TlsSelfSigned(args) => selfsigned::run(&args),
            Command::Sim(args) => sim::run(args).await,
            Command::Chaos(args) => chaos::run(args).await,
            Command::Completions(args) => manual::completions(&args),
            Command::Man(args) => manual::man(&args),
        };
        log::finish();
        result
    }
}
