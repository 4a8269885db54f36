//! Send data from any node of a cluster to all the others, with no broker in between.
//!
//! Nodes find each other and watch each other by gossip (SWIM with Lifeguard's extensions) over the
//! wire protocol of [hashicorp/memberlist](https://github.com/hashicorp/memberlist), so Rust and Go
//! nodes share a cluster. What one node publishes, every other live node gets, once and in order, and the
//! publisher's [`Receipt`] knows when.
//!
//! # The rooms, from the ground up
//!
//! | module | holds | knows of |
//! |---|---|---|
//! | [`wire`] | bytes ⇄ messages of the memberlist protocol; pure, a crate of its own | nothing |
//! | `metrics` | numbers that are counted, by everything below `driver` | nothing |
//! | `member`, `event` | what the application sees of members, and what it is told | `wire` |
//! | [`rate`] | how often something may happen, wherever that is limited | nothing |
//! | `membership` | who is in the cluster: probe, suspicion, refutation, push/pull, the queue | `wire` |
//! | `dissemination` | what is said: identity, spread, repair, order, acknowledgement, retention | `membership`, `wire` |
//! | `serf` | what a member of a serf cluster says besides: intents, user events, queries | `membership`, `wire` |
//! | [`node`] | all of them behind a few verbs, without clock, socket or task (sans-IO) | the four above |
//! | `sim` | a virtual clock and network that drive the very same `Node`s by the thousand | `node` |
//! | `driver` | sockets, timers, DNS; the [`Handle`] for applications | `node` |
//!
//! Arrows run downwards only. Above them are crates that know the [`Handle`] and nothing beneath it: `broadcast-session`
//! lets nodes call each other, `broadcast-gateway` is the API for programs in any language, and the page;
//! `broadcast-node` is the program.
//!
//! # Features
//!
//! | feature | adds |
//! |---|---|
//! | `net`, by default | `driver` |
//! | `sim` | `sim` |

#![deny(missing_docs, unreachable_pub)]
// Some of the core serves one of its drivers only. What serves none is found with both.
#![cfg_attr(not(all(feature = "net", feature = "sim")), allow(dead_code))]

pub mod config;
mod dissemination;
#[cfg(feature = "net")]
mod driver;
mod event;
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

/// Bytes and messages of the memberlist protocol.
pub use broadcast_wire as wire;
pub use config::{
    Bounds, Candidate, Claim, Config, ConfigError, Faults, IpNet, Limits, NodeId, NodeInfo, Profile, Seed, Serf, Tags,
    Tuning,
};
pub use dissemination::{Acks, Counters, Message, MessageId, Position, PublishError};
#[cfg(feature = "net")]
pub use driver::former_names::*;
#[cfg(feature = "net")]
pub use driver::{
    Delivery, DeliveryError, DepartedMembers, FaultsError, ForeignStreams, Handle, JoinError, KeysError, Lagged,
    Receipt, RequestError, StartError, Subscription, UpdateError, ViewError,
    health::{HealthError, probe},
    host_network, start, zones,
};
pub use event::{Event, Reach};
pub use member::{Belief, Member, MemberState, NodeName};
pub use membership::MembershipCounts;
pub use metrics::Histogram;
pub use node::{Gauges, Health, Metrics, OverLimit, Overview, Rejected, Seen, Sent, Traffic};
pub use wire::envelope::Envelope;

/// The code in the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

/// So does that in the page about the library.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/library.md")]
struct LibraryPage;
