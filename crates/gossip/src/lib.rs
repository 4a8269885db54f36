//! Send data from any node of a cluster to all the others, with no broker in between.
//!
//! Programs that embed this library are *nodes*. They find each other, notice who fails, and publish messages that every
//! live node gets, once and in order. Use it where all instances of a service must hear the same news: drop this cache
//! entry, reload that setting. It is no log: nothing is stored on disk, and messages of different publishers have no order.
//!
//! Membership is SWIM with Lifeguard's extensions, over the wire protocol of
//! [hashicorp/memberlist](https://github.com/hashicorp/memberlist), so Rust and Go nodes share a cluster.
//!
//! # Start
//!
//! The package is `broadcast-gossip`; in code it is called `broadcast`. Here are two nodes in one program, on ports that
//! the system chooses:
//!
//! ```
//! use broadcast::{Config, Profile, Seed, start};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = |name| Config::new(name).bind(([127, 0, 0, 1], 0).into()).profile(Profile::Local);
//! let alice = start(config("alice")).await?;
//! let bob = start(config("bob").join([alice.addr().to_string().parse::<Seed>()?])).await?;
//!
//! // A message goes to the members of that moment: wait until bob has joined.
//! bob.joined().await?;
//! let mut messages = alice.subscribe();
//! // Keys are text, values whatever serde can write as JSON.
//! let receipt = bob.publish("cache:drop", &42).await?;
//!
//! let message = messages.recv().await.ok_or("alice has stopped")??;
//! assert_eq!((message.key(), message.value_as::<u32>()?), ("cache:drop", 42));
//!
//! // The receipt knows when every live member has it.
//! let delivery = receipt.delivered().await?;
//! assert_eq!((delivery.delivered, delivery.members), (1, 1));
//!
//! // Say goodbye, so that nobody takes it for a failure.
//! bob.leave().await;
//! alice.leave().await;
//! # Ok(())
//! # }
//! ```
//!
//! Between hosts, give nodes an [`Envelope`] with a key: without one, everybody who reaches their ports can join, listen
//! and forge.
//!
//! # What you can rely on
//!
//! - **Everyone gets it.** Each node that is a member when a message is published, and stays one, delivers it, in spite of
//!   lost packets, pauses and partitions that heal.
//! - **Once, and in order.** A node delivers each message of a publisher once, in the order of publishing.
//! - **No silent loss.** If nobody keeps a message any more, each node that lacks it is told: [`Event::Missed`].
//! - **You can know.** A [`Receipt`] tells when every live member has the message, or who does not.
//!
//! This holds between nodes of this crate. Plain memberlist nodes get every message, but cannot acknowledge it.
//!
//! # Where to look
//!
//! | to | see |
//! |---|---|
//! | configure a node, and know what each setting trades | [`Config`], [`Profile`], [`Tuning`], [`Retention`], [`ResourceLimits`] |
//! | publish | [`Handle::publish`], [`Handle::try_publish`], [`Receipt`] |
//! | receive | [`Handle::subscribe`], [`Handle::subscribe_all`], [`Message`] |
//! | see who is there, and how far away | [`Handle::members`], [`Member`], [`Handle::watch_members`] |
//! | hear that members join, leave and fail | [`Handle::events`], [`Event`] |
//! | decide who may become a member | [`Config::allow`], [`Config::admit`] |
//! | tell the others about this node | [`Config::meta`], [`Config::info`], [`NodeInfo`] |
//! | encrypt, and change keys while nodes run | [`Envelope`], [`Handle::install_key`], [`Handle::use_key`] |
//! | share a cluster with serf agents | [`SerfConfig`] |
//! | observe | [`Handle::metrics`], [`Handle::overview`], [`Handle::health`], [`probe`] |
//! | test how a program copes with a bad network | [`Faults`] |
//! | drive nodes without sockets or a clock | [`node::Node`], and the example `two_cores` |
//! | simulate thousands of nodes | `sim`, with the feature of that name |
//! | read and write the protocol itself | [`wire`] |
//!
//! # Words
//!
//! - A *member* is a node that others know of. It is *alive*, *suspect* (it did not answer lately), *dead*, or has *left*.
//! - Its *incarnation* is a number that it raises to refute a suspicion: what is said with a higher one overrules the rest.
//! - A *view* is all that one node knows of the members. Two nodes exchange views by *push/pull*, over TCP.
//! - A *seed* is an address at which a node that starts looks for the cluster.
//! - The *origin* of a message is the node that published it; an *epoch* is one run of a node, from start to end.
//!
//! # Features
//!
//! | feature | adds |
//! |---|---|
//! | `net`, on by default | nodes on real sockets: [`start`] and the [`Handle`], on tokio |
//! | `sim` | the module `sim`: nodes on a virtual clock and network |
//! | `fuzzing` | what fuzzers need of the insides; neither for applications nor stable |
//!
//! Without features, the library has no sockets, tasks or clock: your program drives a [`node::Node`].
//!
//! # The code, from the bottom up
//!
//! | module | holds | depends on |
//! |---|---|---|
//! | [`wire`] | bytes ⇄ messages of the memberlist protocol: pure functions, in a crate of their own | nothing |
//! | `metrics` | counters and histograms, for everything below `driver` | nothing |
//! | `member`, `event` | what the application sees of members, and what it is told | `wire` |
//! | [`rate`] | rate limits | nothing |
//! | `membership` | who is in the cluster: probes, suspicion, refutation, push/pull, the queue of news | `wire` |
//! | `dissemination` | messages: identity, spread, repair, order, acknowledgement, retention | `membership`, `wire` |
//! | `serf` | what serf adds to memberlist: intents, user events, queries | `membership`, `wire` |
//! | [`node`] | all of them behind a few methods, without clock, socket or task (sans-IO) | the four above |
//! | `sim` | a virtual clock and network, which drive the same `Node`s by the thousand | `node` |
//! | `driver` | sockets, timers, DNS; the [`Handle`] for applications | `node` |
//!
//! Modules depend only on those above them in this table. Other crates build on the [`Handle`] and nothing beneath it:
//! `broadcast-session` lets nodes call each other, `broadcast-gateway` is the API for programs in any language, and
//! `broadcast-node` is the program.

#![deny(missing_docs, unreachable_pub)]
// Some of the core serves only one of its drivers. What serves neither is found when both are compiled.
#![cfg_attr(not(all(feature = "net", feature = "sim")), allow(dead_code))]

pub mod config;
mod dissemination;
#[cfg(feature = "net")]
mod driver;
mod event;
mod former_names;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod member;
mod membership;
mod metrics;
pub mod node;
pub mod rate;
mod serf;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod timers;

/// The wire protocol of memberlist: bytes to messages and back.
pub use broadcast_wire as wire;
pub use config::{
    Candidate, Claim, Config, ConfigError, Faults, IpNet, NodeId, NodeInfo, Profile, ResourceLimits, Retention, Seed,
    SerfConfig, Tags, Tuning,
};
pub use dissemination::{Acks, Message, MessageCounts, MessageId, PublishError, StreamPosition};
#[cfg(feature = "net")]
pub use driver::{
    Delivery, DeliveryError, DepartedMembers, FaultsError, ForeignStreams, Handle, JoinError, KeysError, Lagged,
    Receipt, RequestError, StartError, Subscription, UpdateError, ViewError,
    health::{HealthError, probe},
    host_network, start, zones,
};
pub use event::{Event, Reach};
#[doc(hidden)]
pub use former_names::*;
pub use member::{Member, MemberState, NodeName, ViewEntry};
pub use membership::MembershipCounts;
pub use metrics::Histogram;
pub use node::{Gauges, Health, LimitCounts, MemberOverview, Metrics, Overview, RejectionCounts, SentBytes, Traffic};
pub use wire::envelope::Envelope;

/// The code in the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

/// So does that in the page about the library.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/library.md")]
struct LibraryPage;
