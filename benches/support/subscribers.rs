//! The subscribers of another system, each a task of its own that counts what it hears until it is stopped.

use std::sync::{Arc, atomic::AtomicU64};

use clap::Args;
use futures::{Stream, StreamExt, pin_mut};
use tokio::{sync::watch, task::JoinSet};

use super::measure::{Clock, Load, Mode, Tally};

/// How another system is measured, and what is printed.
#[derive(Clone, Debug, Args)]
pub struct Setup {
    /// Subscribers.
    #[arg(long, default_value_t = 12)]
    pub receivers: usize,
    #[command(flatten)]
    pub load: Load,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

pub struct Subscribers {
    clock: Clock,
    mode: Mode,
    /// What all of them have heard.
    pub delivered: Arc<AtomicU64>,
    tasks: JoinSet<Tally>,
    stop: watch::Sender<bool>,
}

impl Subscribers {
    pub fn new(clock: Clock, mode: Mode) -> Self {
        let (stop, _) = watch::channel(false);
        Self { clock, mode, delivered: Arc::default(), tasks: JoinSet::new(), stop }
    }

    /// Adds one that has subscribed. `record` puts a message on its tally.
    pub fn add<S>(&mut self, messages: S, mut record: impl FnMut(&mut Tally, S::Item) + Send + 'static)
    where
        S: Stream + Send + 'static,
        S::Item: Send,
    {
        let mut tally = Tally::new(self.clock, self.mode, &self.delivered);
        let mut stop = self.stop.subscribe();
        self.tasks.spawn(async move {
            pin_mut!(messages);
            loop {
                tokio::select! {
                    biased;
                    message = messages.next() => match message {
                        Some(message) => record(&mut tally, message),
                        // What is lost with it is missing in the count of what was delivered.
                        None => return tally,
                    },
                    // It fails only when nobody is left to say so.
                    _ = stop.changed() => return tally,
                }
            }
        });
    }

    /// Stops all of them.
    pub async fn stop(self) -> Vec<Tally> {
        drop(self.stop);
        self.tasks.join_all().await
    }
}
