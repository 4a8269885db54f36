//! What goes on for as long as a node is served, whoever asks: its messages and what happens are written down for
//! those who follow, and whether its members have settled is found out.

use std::{
    convert::Infallible,
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use broadcast::{Event, Handle, Lagged, Message, Subscription};
use tokio::time::{Instant, sleep};

use super::{app::App, bulletin::MAX_MEMBERS, events::Notice, look};

/// A node's members have settled when nobody has come or gone for so long.
const SETTLED: Duration = Duration::from_millis(500);
/// Those who follow are told of changed members no sooner than so long after the last time; in a large cluster later, so
/// that it takes no more than a tenth of the time.
const PAUSE: Duration = Duration::from_millis(250);
const SHARE: u32 = 10;

/// What a node tells, from when this was made.
pub(super) struct News {
    messages: Subscription<Message>,
    events: Subscription<Event>,
}

impl News {
    pub(super) fn of(node: &Handle) -> Self {
        Self { messages: node.subscribe_all(), events: node.events_from_now() }
    }
}

impl App {
    /// Writes down what is said, and what happens, until the node stops.
    pub(super) async fn keep(self: Arc<Self>, news: News) {
        tokio::select! {
            () = self.keep_journal(news) => {}
            never = self.keep_bulletin() => match never {},
            never = self.audit.keep() => match never {},
        }
        self.bulletin.end();
    }

    /// Keeps nothing but the audit log, until the node stops.
    pub(super) async fn keep_audit(self: Arc<Self>, News { messages, mut events }: News) {
        // What is said is for others.
        drop(messages);
        tokio::select! {
            () = async { while events.recv().await.is_some() {} } => {}
            never = self.audit.keep() => match never {},
        }
    }

    /// Writes down what is said until the node stops.
    async fn keep_journal(&self, News { mut messages, mut events }: News) {
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                message = messages.recv() => match message {
                    Some(Ok(message)) => {
                        batch.push(message);
                        batch.extend(messages.drain_ready());
                        self.journal.add(&mut batch, SystemTime::now());
                    }
                    Some(Err(Lagged { missed })) => {
                        let reason = "this node cannot store messages as fast as they arrive";
                        self.journal.tell(Notice::Gone { missed: Some(missed), reason });
                    }
                    None => break,
                },
                event = events.recv() => match event {
                    Some(Ok(Event::Missed { origin, epoch, from, to })) => {
                        self.journal.tell(Notice::Missed { origin: &origin.to_string(), epoch, from, to });
                    }
                    // Something that was missed may be among it.
                    Some(Err(Lagged { .. })) => {
                        let reason = "this node cannot store events as fast as they happen";
                        self.journal.tell(Notice::Gone { missed: None, reason });
                    }
                    Some(Ok(_)) => {}
                    None => break,
                },
            }
        }
        self.journal.end();
    }

    /// Writes down how members are and what they acknowledge, while somebody follows that.
    async fn keep_bulletin(&self) -> Infallible {
        loop {
            self.bulletin.somebody_follows().await;
            tokio::select! {
                () = self.watch_members() => {}
                () = self.watch_acks() => {}
                () = self.bulletin.nobody_follows() => {}
            }
            self.bulletin.forget();
        }
    }

    /// Tells the members, and again whenever they change, until the node stops.
    async fn watch_members(&self) {
        let mut changes = self.node.watch_members();
        loop {
            // Before looking, so that nothing that comes after it is slept through.
            changes.mark_unchanged();
            let began = Instant::now();
            if let Some(members) = look::members_text(self, MAX_MEMBERS).await {
                self.bulletin.tell_members(&members);
            }
            sleep(PAUSE.max(SHARE * began.elapsed())).await;
            if changes.changed().await.is_err() {
                // The end is told by who writes down the messages, once they have ended.
                return std::future::pending().await;
            }
        }
    }

    async fn watch_acks(&self) {
        let mut acks = self.node.acks();
        // What is missed, the next ones make up for.
        while let Some(told) = acks.recv().await {
            told.iter().for_each(|acks| self.bulletin.tell_acks(acks));
        }
        std::future::pending().await
    }

    /// Waits until the node has joined and its members have settled; or it has stopped.
    pub(super) async fn settle(&self) {
        let mut events = self.node.events_from_now();
        let (mut joining, mut joined) = (pin!(self.node.joined()), false);
        let mut quiet = pin!(sleep(SETTLED));
        loop {
            tokio::select! {
                biased;
                event = events.recv() => match event {
                    // A member may be among what was missed.
                    Some(Ok(Event::Joined(_) | Event::Left(_) | Event::Failed(_)) | Err(_)) => {}
                    Some(Ok(_)) => continue,
                    None => return,
                },
                result = &mut joining, if !joined => match result {
                    Ok(()) => joined = true,
                    Err(_) => return,
                },
                () = &mut quiet, if joined => {
                    let _ = self.settled.set(());
                    return;
                }
            }
            quiet.as_mut().reset(Instant::now() + SETTLED);
        }
    }
}
