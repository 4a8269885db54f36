//! A watch of any node: it follows one voter, and goes on at another when that one is gone.
//!
//! What has been told is remembered by its revision; the next voter is asked for what comes after. So each revision is told
//! once, and in order, whoever leads or fails meanwhile. One that is too slow reads no more from its voter than fits in the
//! windows of its session; when history is forgotten before it has read it, it is told from where it can start again.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use broadcast_session::{CallError, Sessions};
use tokio::time::sleep;
use tracing::debug;

use super::{
    client::Client,
    error::{Said, StoreError},
    message::{WATCH, read_event, with_store, write_watch},
    replica::Watcher,
    stream::{Ended, Stream},
    voter::Voter,
};
use crate::keys::{Watch, WatchEvent};

/// The pause before another voter is asked, at first and at most.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How many voters in a row may not answer before that is told.
const TRIES: u32 = 20;

/// Changes of keys, as they happen.
#[derive(Debug)]
pub struct WatchStream {
    client: Arc<Client>,
    sessions: Sessions,
    voter: Option<Arc<Voter>>,
    watch: Watch,
    /// The store that its revisions are of; 0 before it has begun.
    store: u64,
    source: Option<Source>,
    /// Whom to ask next, by the order of voters.
    turn: usize,
    ended: bool,
}

#[derive(Debug)]
enum Source {
    Here(Watcher, VecDeque<WatchEvent>),
    There(Stream),
}

impl WatchStream {
    pub(super) fn new(client: Arc<Client>, sessions: Sessions, voter: Option<Arc<Voter>>, watch: Watch) -> Self {
        Self { client, sessions, voter, watch, store: 0, source: None, turn: 0, ended: false }
    }

    /// Only that of the store with this id: a revision says nothing of another one. Any store, if it is 0.
    #[must_use]
    pub fn of(self, store: u64) -> Self {
        Self { store, ..self }
    }

    /// The store that the revisions are of; 0 before the first event.
    pub fn store(&self) -> u64 {
        self.store
    }

    /// What is told next. The first is [`WatchEvent::Progress`], with the newest revision where the watch began. `None`
    /// once it was cancelled. Drop-safe: what was not returned is told the next time.
    ///
    /// # Errors
    ///
    /// No voter can be reached; it can be called again. Or the watch was refused.
    pub async fn next(&mut self) -> Result<Option<WatchEvent>, StoreError> {
        if self.ended {
            return Ok(None);
        }
        let mut pause = PAUSE;
        let mut tries = 0;
        loop {
            let problem = match self.try_next().await {
                Ok(mut event) => {
                    self.note(&mut event);
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
            if tries >= TRIES {
                return Err(StoreError::NoLeader { within: LONGEST_PAUSE * TRIES, problem });
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Has it told how far it is, once it is there, with [`WatchEvent::Progress`].
    pub async fn ask_progress(&mut self) {
        match &mut self.source {
            Some(Source::Here(watcher, _)) => watcher.ask_progress(),
            Some(Source::There(there)) => there.send(b"?").await,
            None => {}
        }
    }

    fn note(&mut self, event: &mut WatchEvent) {
        match event {
            WatchEvent::Changes { revision, .. } => self.watch.start_revision = *revision + 1,
            // Also where it begins: if that was not given, what follows counts, whichever voter tells it. A voter may have
            // less yet than another has told.
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
                Err(Problem::Refused(StoreError::OtherStore { .. })) => return Err(self.see_other().await),
                begun => begun?,
            });
        }
        match self.source.as_mut().expect("it was just set") {
            Source::Here(watcher, begun) => match begun.pop_front() {
                Some(event) => Ok(event),
                None => Ok(watcher.next().await),
            },
            Source::There(there) => {
                let event = there.next().await.map_err(Problem::Gone)?;
                read_event(&event).map_err(|error| Problem::Gone(format!("{}: {error}", there.name())))
            }
        }
    }

    /// A voter is of another store than it was asked for: the one that there is now, or a former one.
    async fn see_other(&self) -> Problem {
        match self.client.confirm_store().await {
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
        // This node's own state first, if it votes.
        let name = match &self.voter {
            Some(voter) if self.turn == 0 => voter.name.clone(),
            _ => voters[self.turn % voters.len()].clone(),
        };
        if let Some(voter) = self.voter.as_ref().filter(|voter| voter.name == name) {
            self.store = voter.same_store(of)?;
            let (watcher, revision) = voter.watch(self.watch.clone())?;
            return Ok(Source::Here(watcher, VecDeque::from([WatchEvent::Progress { revision }])));
        }
        let question = with_store(of, &write_watch(&self.watch));
        let (store, there) = Stream::open(&self.sessions, &name, WATCH, question).await?;
        self.store = store;
        Ok(Source::There(there))
    }
}

enum Problem {
    /// Another voter may do.
    Gone(String),
    Refused(StoreError),
}

impl From<Said> for Problem {
    fn from(said: Said) -> Self {
        match said {
            Said::Refused(error) => Self::Refused(error.into()),
            Said::OtherStore(now) => Self::Refused(StoreError::OtherStore { now }),
            Said::NotPossible(why) => Self::Refused(StoreError::NotPossible { why }),
            other => Self::Gone(other.refusal().text),
        }
    }
}

impl From<Ended> for Problem {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Call(CallError::Refused { refusal, .. }) => Said::read(&refusal).into(),
            Ended::Call(error) => Self::Gone(error.to_string()),
            Ended::Broken(problem) => Self::Gone(problem),
        }
    }
}
