//! A watch at any node. It reads from one voter, and goes on at another when that one is gone.
//!
//! The watch remembers the last revision that it delivered, and asks the next voter for what follows. So its reader gets each
//! revision once and in order, whichever voters lead or fail meanwhile. A slow reader slows its stream down by the session's
//! flow control. If the history is compacted before the reader has it, the watch is cancelled with the revision from which it
//! can start again.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use broadcast_session::{CallError, Sessions};
use tokio::time::sleep;
use tracing::debug;

use super::{
    client::Client,
    error::{RefusalReason, StoreError},
    message::{WATCH, read_event, with_store, write_watch},
    replica::Watcher,
    stream::{RemoteStream, RemoteStreamError},
    voter::Voter,
};
use crate::keys::{Watch, WatchEvent};

/// The first and the longest pause before the watch asks another voter.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How many voters in a row may fail before the caller gets an error.
const MAX_TRIES: u32 = 20;

/// A watch: the changes of some keys, as they happen. [`Store::watch`](super::Store::watch) begins one, and has an example.
#[derive(Debug)]
pub struct WatchStream {
    client: Arc<Client>,
    sessions: Sessions,
    voter: Option<Arc<Voter>>,
    watch: Watch,
    /// The id of the store that the revisions are of; 0 before the watch has begun.
    store: u64,
    source: Option<Source>,
    /// Which voter to ask next.
    turn: usize,
    ended: bool,
}

#[derive(Debug)]
enum Source {
    Local(Watcher, VecDeque<WatchEvent>),
    Remote(RemoteStream),
}

impl WatchStream {
    pub(super) fn new(client: Arc<Client>, sessions: Sessions, voter: Option<Arc<Voter>>, watch: Watch) -> Self {
        Self { client, sessions, voter, watch, store: 0, source: None, turn: 0, ended: false }
    }

    /// Limits the watch to the store with this id, for a start revision means nothing in another store. 0 allows any.
    #[must_use]
    pub fn of(self, store: u64) -> Self {
        Self { store, ..self }
    }

    /// The id of the store that the revisions are of; 0 before the first event.
    pub fn store(&self) -> u64 {
        self.store
    }

    /// The next event. The first is [`WatchEvent::Progress`], with the newest revision where the watch began. `None` after the
    /// watch was cancelled. Drop-safe: an event that was not returned comes the next time.
    ///
    /// # Errors
    ///
    /// No voter can be reached: you may call it again. Or the watch was refused.
    pub async fn next(&mut self) -> Result<Option<WatchEvent>, StoreError> {
        if self.ended {
            return Ok(None);
        }
        let mut pause = PAUSE;
        let mut tries = 0;
        loop {
            let problem = match self.try_next().await {
                Ok(mut event) => {
                    self.advance(&mut event);
                    return Ok(Some(event));
                }
                Err(Problem::Refused(error)) => {
                    self.ended = true;
                    return Err(error);
                }
                Err(Problem::Gone(problem)) => problem,
            };
            debug!(%problem, "a watch goes on at another voter");
            (self.source, self.turn, tries) = (None, self.turn + 1, tries + 1);
            if self.sessions.node().has_stopped() {
                return Err(StoreError::Stopped("the node has left its cluster".into()));
            }
            if tries >= MAX_TRIES {
                return Err(StoreError::NoLeader { within: LONGEST_PAUSE * MAX_TRIES, problem });
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Requests a [`WatchEvent::Progress`], which comes after all changes so far.
    pub async fn request_progress(&mut self) {
        match &mut self.source {
            Some(Source::Local(watcher, _)) => watcher.request_progress(),
            Some(Source::Remote(stream)) => stream.send(b"?").await,
            None => {}
        }
    }

    /// Remembers how far the watch is.
    fn advance(&mut self, event: &mut WatchEvent) {
        match event {
            WatchEvent::Changes { revision, .. } => self.watch.start_revision = *revision + 1,
            // The first one fixes where a watch of future changes begins, whichever voter delivers them. Another voter may be
            // behind what was delivered already.
            WatchEvent::Progress { revision } => {
                *revision = self.watch.start_revision.saturating_sub(1).max(*revision);
                self.watch.start_revision = *revision + 1;
            }
            WatchEvent::Cancelled(_) => self.ended = true,
        }
    }

    async fn try_next(&mut self) -> Result<WatchEvent, Problem> {
        if self.source.is_none() {
            self.source = Some(match self.begin().await {
                Err(Problem::Refused(StoreError::OtherStore { .. })) => return Err(self.resolve_other_store().await),
                begun => begun?,
            });
        }
        match self.source.as_mut().expect("it was just set") {
            Source::Local(watcher, begun) => match begun.pop_front() {
                Some(event) => Ok(event),
                None => Ok(watcher.next().await),
            },
            Source::Remote(stream) => {
                let event = stream.next().await.map_err(Problem::Gone)?;
                read_event(&event).map_err(|error| Problem::Gone(format!("{}: {error}", stream.name())))
            }
        }
    }

    /// A voter says that it is of another store: either the current one, or a former one that nobody else is of.
    async fn resolve_other_store(&self) -> Problem {
        match self.client.probe_store().await {
            Ok(now) if ![0, now].contains(&self.store) => Problem::Refused(StoreError::OtherStore { now }),
            Ok(_) => Problem::Gone("a voter is of another store".into()),
            Err(error) => Problem::Gone(error.to_string()),
        }
    }

    async fn begin(&mut self) -> Result<Source, Problem> {
        let voters = self.client.voters().await;
        if voters.is_empty() {
            return Err(Problem::Gone("no live member has the role voter".into()));
        }
        let of = match self.store {
            0 => self.client.store().await.map_err(|error| Problem::Gone(error.to_string()))?,
            of => of,
        };
        // This node's own voter is the nearest.
        let name = match &self.voter {
            Some(voter) if self.turn == 0 => voter.name.clone(),
            _ => voters[self.turn % voters.len()].clone(),
        };
        if let Some(voter) = self.voter.as_ref().filter(|voter| voter.name == name) {
            self.store = voter.check_store(of)?;
            let (watcher, revision) = voter.watch(self.watch.clone())?;
            return Ok(Source::Local(watcher, VecDeque::from([WatchEvent::Progress { revision }])));
        }
        let question = with_store(of, &write_watch(&self.watch));
        let (store, stream) = RemoteStream::open(&self.sessions, &name, WATCH, question).await?;
        self.store = store;
        Ok(Source::Remote(stream))
    }
}

enum Problem {
    /// This voter cannot serve the watch, another one may.
    Gone(String),
    /// The watch itself is refused.
    Refused(StoreError),
}

impl From<RefusalReason> for Problem {
    fn from(reason: RefusalReason) -> Self {
        match reason {
            RefusalReason::State(error) => Self::Refused(error.into()),
            RefusalReason::OtherStore(now) => Self::Refused(StoreError::OtherStore { now }),
            RefusalReason::NotPossible(why) => Self::Refused(StoreError::NotPossible { why }),
            other => Self::Gone(other.refusal().text),
        }
    }
}

impl From<RemoteStreamError> for Problem {
    fn from(error: RemoteStreamError) -> Self {
        match error {
            RemoteStreamError::Call(CallError::Refused { refusal, .. }) => RefusalReason::read(&refusal).into(),
            RemoteStreamError::Call(error) => Self::Gone(error.to_string()),
            RemoteStreamError::Broken(problem) => Self::Gone(problem),
        }
    }
}
