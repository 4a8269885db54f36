//! What a machine tells while it applies commands, for those who follow it at the voter that leads.
//!
//! It is told as it happens, and kept for nobody. Whoever is too slow, or follows a voter that leads no more, is told that
//! this is the end: then it follows anew, and asks the machine what it has missed.

use bytes::Bytes;
use tokio::{select, sync::broadcast::Receiver};

use super::{
    error::Said,
    stream::Stream,
    voter::{Raft, Voter},
};

/// What a machine tells at this voter, as long as that leads.
#[derive(Debug)]
pub(super) struct Here {
    raft: Raft,
    told: Receiver<Bytes>,
}

impl Here {
    /// At a voter that leads.
    pub(super) fn follow(voter: &Voter, machine: &str) -> Result<Self, Said> {
        let (raft, told) = voter.follow(machine)?;
        Ok(Self { raft, told })
    }

    /// What is told next; nothing at the end. Drop-safe.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        let mut views = self.raft.watch();
        let leads_no_more = async { while self.raft.standing().leads && views.next_standing().await.is_some() {} };
        select! {
            biased;
            // Who is too slow is at its end, too.
            told = self.told.recv() => told.ok(),
            () = leads_no_more => None,
        }
    }
}

/// What a machine tells, as it happens. See [`Store::follow`](super::Store::follow).
#[derive(Debug)]
pub struct EventStream(Source);

#[derive(Debug)]
enum Source {
    Here(Here),
    There(Stream),
}

impl EventStream {
    pub(super) fn here(here: Here) -> Self {
        Self(Source::Here(here))
    }

    pub(super) fn there(there: Stream) -> Self {
        Self(Source::There(there))
    }

    /// What is told next; nothing when this has ended, for whatever reason: then events may have been missed. Follow anew,
    /// and ask the machine how it is. Drop-safe.
    pub async fn next(&mut self) -> Option<Bytes> {
        match &mut self.0 {
            Source::Here(here) => here.next().await,
            Source::There(there) => there.next().await.ok(),
        }
    }
}
