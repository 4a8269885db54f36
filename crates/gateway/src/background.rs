//! What runs as long as a node is served: it writes messages into the journal and changes of the cluster into the event feed,
//! and finds out whether the members have settled.

use std::{
    convert::Infallible,
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use broadcast::{Event, Handle, Lagged, Message, Subscription};
use tokio::time::{Instant, sleep};

use super::{app::App, cluster, event_feed::MAX_MEMBERS_BYTES, stream_format::Notice};

/// Members have settled when none has come or gone for this long.
const SETTLE_TIME: Duration = Duration::from_millis(500);
/// How long followers wait at least for the next list of changed members. In a large cluster they wait longer, [`PAUSE_FACTOR`]
/// times as long as a list takes to write: so lists take no more than a tenth of the time.
const MIN_MEMBERS_PAUSE: Duration = Duration::from_millis(250);
const PAUSE_FACTOR: u32 = 10;

/// Subscriptions to a node's messages and events. Nothing is missed from the moment at which they were made.
pub(super) struct NodeSubscriptions {
    messages: Subscription<Message>,
    events: Subscription<Event>,
}

impl NodeSubscriptions {
    pub(super) fn new(node: &Handle) -> Self {
        Self { messages: node.subscribe_all(), events: node.events_from_now() }
    }
}

impl App {
    /// Fills the journal, the event feed and the audit log until the node stops.
    pub(super) async fn run_background(self: Arc<Self>, subscriptions: NodeSubscriptions) {
        tokio::select! {
            () = self.record_messages(subscriptions) => {}
            never = self.record_cluster_events() => match never {},
            never = self.audit.log_summaries() => match never {},
        }
        self.event_feed.end();
    }

    /// Fills the audit log only, until the node stops.
    pub(super) async fn run_audit(self: Arc<Self>, NodeSubscriptions { messages, mut events }: NodeSubscriptions) {
        // Nobody reads messages here.
        drop(messages);
        tokio::select! {
            () = async { while events.recv().await.is_some() {} } => {}
            never = self.audit.log_summaries() => match never {},
        }
    }

    /// Writes messages into the journal until the node stops.
    async fn record_messages(&self, NodeSubscriptions { mut messages, mut events }: NodeSubscriptions) {
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
                        self.journal.add_notice(Notice::Gone { missed: Some(missed), reason });
                    }
                    None => break,
                },
                event = events.recv() => match event {
                    Some(Ok(Event::Missed { origin, epoch, from, to })) => {
                        self.journal.add_notice(Notice::Missed { origin: &origin.to_string(), epoch, from, to });
                    }
                    // Among the missed events may be one that messages were missed.
                    Some(Err(Lagged { .. })) => {
                        let reason = "this node cannot store events as fast as they happen";
                        self.journal.add_notice(Notice::Gone { missed: None, reason });
                    }
                    Some(Ok(_)) => {}
                    None => break,
                },
            }
        }
        self.journal.end();
    }

    /// Writes members and acknowledgements into the event feed, while somebody follows it.
    async fn record_cluster_events(&self) -> Infallible {
        loop {
            self.event_feed.wait_for_followers().await;
            tokio::select! {
                () = self.record_members() => {}
                () = self.record_acks() => {}
                () = self.event_feed.wait_for_no_followers() => {}
            }
            self.event_feed.clear();
        }
    }

    /// Publishes the members, and again whenever they change, until the node stops.
    async fn record_members(&self) {
        let mut changes = self.node.watch_members();
        loop {
            // Before looking: a change after it wakes this task again.
            changes.mark_unchanged();
            let began = Instant::now();
            if let Some(members) = cluster::members_json(self, MAX_MEMBERS_BYTES).await {
                self.event_feed.publish_members(&members);
            }
            sleep(MIN_MEMBERS_PAUSE.max(PAUSE_FACTOR * began.elapsed())).await;
            if changes.changed().await.is_err() {
                // `run_background` ends the feed, once the messages have ended.
                return std::future::pending().await;
            }
        }
    }

    async fn record_acks(&self) {
        let mut acks = self.node.acks();
        // Newer acknowledgements make up for missed ones.
        while let Some(acks_of_members) = acks.recv().await {
            acks_of_members.iter().for_each(|acks| self.event_feed.publish_acks(acks));
        }
        std::future::pending().await
    }

    /// Waits until the node has joined and its members have settled, or until it has stopped.
    pub(super) async fn wait_until_settled(&self) {
        let mut events = self.node.events_from_now();
        let (mut joining, mut joined) = (pin!(self.node.joined()), false);
        let mut quiet = pin!(sleep(SETTLE_TIME));
        loop {
            tokio::select! {
                biased;
                event = events.recv() => match event {
                    // A member may be among the missed events.
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
            quiet.as_mut().reset(Instant::now() + SETTLE_TIME);
        }
    }
}
