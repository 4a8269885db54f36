//! The subscribers of another system, each a task of its own that counts what it receives until it is stopped.

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
    /// How many messages all of them have received.
    pub delivered: Arc<AtomicU64>,
    tasks: JoinSet<Tally>,
    stop: watch::Sender<bool>,
}

impl Subscribers {
    pub fn new(clock: Clock, mode: Mode) -> Self {
        let (stop, _) = watch::channel(false);
        Self { clock, mode, delivered: Arc::default(), tasks: JoinSet::new(), stop }
    }

    /// Adds a subscriber. `record` enters a message in its tally.
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
                        // Lost messages are missing in the count of delivered ones.
                        None => return tally,
                    },
                    // Fails only if the sender is gone, which means the same.
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
