//! A replicated key-value store: Raft underneath, etcd's data model on top.
//!
//! # What it is
//!
//! Some nodes of a cluster, the *voters*, agree on each change by [Raft](https://raft.github.io/raft.pdf). They keep keys,
//! leases and the history of all changes, as etcd does: the store has a *revision*, which each change raises by one; watches
//! tell of changes from any revision on that is not *compacted*; a *lease* ends unless somebody keeps it alive, and takes its
//! keys with it. Other crates add [machines](machine::Machine) of their own to the replicated state; `broadcast-lock` keeps
//! locks this way.
//!
//! Every node of the cluster has a [`Store`], whether or not it votes. It finds the leader by gossip, and calls it over
//! [sessions](broadcast_session).
//!
//! This page is for programmers who embed the store or change it. The repository's `docs/store.md` is for those who run one: what
//! it promises to users, how it is founded, backed up and restored.
//!
//! # Five minutes
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use broadcast_session::Sessions;
//! use broadcast_store::{Store, StoreConfig, keys::{Put, Range, WatchEvent}};
//!
//! // A node that does not vote: it asks those that do.
//! let node = broadcast::start(broadcast::Config::new("reader")).await?;
//! let sessions = Sessions::start(&node, Default::default()).await?;
//! let store = Store::start(&sessions, StoreConfig::default()).await?;
//!
//! let mut watch = store.watch_prefix("colors/");
//! let put = store.put(Put { key: "colors/sky".into(), value: "blue".into(), ..Put::default() }).await?;
//! println!("revision {}", put.revision);
//!
//! let found = store.range(Range::of("colors/sky")).await?;
//! assert_eq!(found.kvs[0].value, "blue");
//!
//! while let Some(event) = watch.next().await? {
//!     if let WatchEvent::Changes { revision, events } = event {
//!         println!("{} keys changed at revision {revision}", events.len());
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A voter starts with `StoreConfig::default().voters(["node1", "node2", "node3"]).data("/var/lib/broadcast")`, and its node
//! has the role [`node::VOTER_ROLE`].
//!
//! # Layers
//!
//! From the ground up. Each layer knows those above it in this table, and none below.
//!
//! | module | what it does | what else goes by that name |
//! |---|---|---|
//! | [`keys`] | keys, revisions, transactions, history, compaction, watches; pure | etcd's `mvcc` |
//! | [`machine`] | the replicated state: keys, leases, clients, further machines; its commands and snapshots; pure | Raft's state machine |
//! | [`disk`] | one directory: a real one, or a simulated one that crashes | |
//! | [`log`] | Raft's log on disk: one writer, one sync for all that waits (group commit) | etcd's `wal` |
//! | [`snapshot`] | snapshots as files | etcd's `snap` |
//! | [`raft`] | the adapter to [openraft](https://docs.rs/openraft): log, state machine, network, settings | |
//! | [`backup`] | the state in a file; a new store from a backup, or from one voter's directory | `etcdctl snapshot`, `--force-new-cluster` |
//! | [`node`] | the store of one node: client, voter, lease expiry, compaction, membership changes | |
//! | [`RuntimeBridge`] | requests from other threads, to a store with a thread of its own | |
//!
//! The replicated state reads no clock, draws no random number and does no I/O. The members agree on an order of
//! [`machine::Command`]s; each gives them to [`machine::State::apply`], and gets a [`machine::Outcome`]. Equal commands in an
//! equal order give equal states, equal outcomes, and snapshots with equal bytes, on every member.
//!
//! ```
//! use broadcast_store::{LogId, keys::{KeysCommand, KeysOutcome, Put, Range}, machine::{Command, Outcome, State}};
//!
//! let mut state = State::new();
//! let put = KeysCommand::Put(Put { key: "color".into(), value: "green".into(), ..Put::default() });
//! // The leader appends these bytes to its log, and every member reads them from its own.
//! let entry = Command::keys(&put)?.encode();
//! let outcome = state.apply(LogId { term: 1, index: 1 }, &Command::decode(&entry)?)?;
//! assert!(matches!(outcome, Outcome::Keys(KeysOutcome::Put(put)) if put.revision == 2));
//!
//! let found = state.keys().range(&Range::of("color"))?;
//! assert_eq!(found.kvs[0].value, "green");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # One put, from the client to the answer
//!
//! 1. **At any node.** [`Store::put`] makes a [`machine::Command`], and [`Store::execute`] gives it to the node's client
//!    (`node/client.rs`). `Client::execute` adds a [`machine::RequestId`], so that the command takes effect once however often
//!    it is sent. `Client::request` sends it to the leader with the call `store/execute`, and to the next one if that fails.
//! 2. **At the leader.** `services::execute` takes the call. `Voter::execute_for_client` checks the command with
//!    [`machine::State::check`] and makes sure that all voters know it. `Voter::execute` proposes it with
//!    [`raft::Consensus::propose`].
//! 3. **To the log.** openraft appends an entry: [`raft::LogStore`] gives it to [`log::Log::append`]. The
//!    [`log::LogWriter`] writes it with all else that waits, syncs once, and then calls the entry's
//!    [`log::DurableCallback`].
//! 4. **To the followers.** At the same time openraft sends the entry with `PeerClient::append_entries`
//!    (`raft/network.rs`), the call `store/raft`. There [`raft::Consensus::handle_message`] has it appended to the follower's
//!    log in the same way, and answers once it is synced.
//! 5. **Committed.** Once a majority has synced the entry, [`raft::StateMachine`] applies it: `Replica::apply` calls
//!    [`machine::State::apply`], which calls the keys. [`keys::WatchHub::observe`] names the watchers to wake.
//! 6. **Back.** The encoded [`machine::Outcome`] returns from `propose`, and as the call's answer to `Client::request`. The
//!    caller gets a [`keys::PutOutcome`] with the new revision.
//!
//! A read ([`Store::range`]) goes to the leader, too, and not into the log: [`raft::Consensus::read_index`] confirms with a
//! quorum that the leader still leads and waits until all that was committed is applied; then [`keys::Keys::range`] answers. A
//! watch ([`Store::watch`]) follows any one voter, and goes on at another one when that is gone.
//!
//! # Invariants, and who upholds them
//!
//! | what holds | who upholds it |
//! |---|---|
//! | An acknowledged change stays while a majority keep their disks | [`log::Log::append`] calls back, and [`log::Log::save_vote`] returns, only after the sync; openraft commits with a majority |
//! | All members have the same state | [`machine::State::apply`] is pure. Who meets an unknown command stops ([`ApplyError`]), and leaders do not propose one that some voter does not know ([`machine::CommandVersions`]) |
//! | A command takes effect once | the clients and outcomes in [`machine::State`], by [`machine::RequestId`] |
//! | A read is no older than its question | [`raft::Consensus::read_index`] before each read, query and keepalive |
//! | No lease ends early | [`machine::LeaseTimers`] run at the leader only, and anew under each leader; an expiry names its term and is refused in another |
//! | A watch has each revision once, in order | [`keys::WatchHub`] at one voter; [`node::WatchStream`] across voters |
//! | A transaction has one revision or no effect | [`keys::Keys`] undoes what it did before an error |
//! | A voter without its disk is another member | [`disk::DataFolder`] keeps the id; each message of Raft names the ids that it is for |
//! | No message of one store has an effect in another | the store's id in each message, file and folder |
//! | Two stores are never founded from one list of voters | `Voter::found` waits until all voters say that they have none (`node/voter.rs`) |
//! | What is damaged on disk is noticed | checksums in [`log`], [`snapshot`] and [`backup`]; a voter that cannot trust its disk stops |
//!
//! # Features
//!
//! - `sim`: a disk in memory that forgets what was not synced, and openraft's simulated runtime, for tests.

#![deny(missing_docs, unreachable_pub)]

pub mod backup;
mod bridge;
mod codec;
mod cow_map;
pub mod disk;
mod error;
pub mod keys;
mod leases;
mod limits;
pub mod log;
mod log_id;
pub mod machine;
pub mod node;
pub mod raft;
mod section;
pub mod snapshot;

pub use bridge::RuntimeBridge;
pub use error::{ApplyError, CodecError, Error, SnapshotError};
pub use log_id::LogId;
pub use node::{Store, StoreConfig, StoreError};

/// Renamed.
#[doc(hidden)]
#[deprecated(note = "renamed to `StoreConfig`")]
pub type Config = StoreConfig;
/// Renamed.
#[doc(hidden)]
#[deprecated(note = "renamed to `CodecError`")]
pub type Malformed = CodecError;
/// Renamed.
#[doc(hidden)]
#[deprecated(note = "renamed to `ApplyError`")]
pub type Stop = ApplyError;
