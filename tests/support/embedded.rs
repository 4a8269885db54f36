//! Nodes inside the test: the library, each node on a thread and a runtime of its own. So it can be stopped in the middle of
//! everything, or paused for a while, as a process can.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use broadcast::{Config, Event, Handle, Member, Message, start};
use serde_json::{Value, json};
use tokio::{runtime, sync::oneshot};

use super::{LIMIT, Log};

/// A running node. If it is dropped, it stops at once, as if it was killed.
#[derive(Debug)]
pub struct Embedded {
    /// The events and messages that its application gets, as the program logs them.
    pub log: Arc<Log>,
    name: String,
    addr: SocketAddr,
    handle: Handle,
    runtime: runtime::Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// While this exists, a node does nothing.
#[derive(Debug)]
pub struct Pause(#[expect(dead_code, reason = "what counts is when it is dropped")] mpsc::Sender<()>);

impl Embedded {
    /// Starts a node.
    #[track_caller]
    pub fn start(config: Config) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (ready, started) = mpsc::channel();
        let log = Arc::new(Log::default());
        let followed = Arc::clone(&log);
        let thread = thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
            runtime.block_on(async {
                let handle = start(config).await.expect("the node starts");
                follow(&handle, &followed);
                ready.send((runtime::Handle::current(), handle)).expect("the test waits");
                // An error says the same: nobody needs it any more.
                let _ = stopped.await;
            });
        });
        let (runtime, handle) = started.recv_timeout(LIMIT).expect("the node starts");
        let (name, addr) = (handle.name().to_owned(), handle.addr());
        Self { log, name, addr, handle, runtime, stop: Some(stop), thread: Some(thread) }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Does something with the node's handle, on its thread, and waits for the outcome.
    #[track_caller]
    pub fn run<T, F>(&self, job: impl FnOnce(Handle) -> F) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (done, outcome) = mpsc::channel();
        let job = job(self.handle.clone());
        self.runtime.spawn(async move { done.send(job.await) });
        outcome.recv_timeout(LIMIT).expect("it is done in time")
    }

    /// Publishes, and waits until it is numbered.
    #[track_caller]
    pub fn publish(&self, key: &str, value: &Value) {
        let (key, value) = (key.to_owned(), value.clone());
        self.run(|node| async move { node.publish(&key, &value).await.map(drop) }).expect("it can be published");
    }

    /// Whom it sees.
    #[track_caller]
    pub fn members(&self) -> Vec<Member> {
        self.run(|node| async move { node.members().await })
    }

    /// Leaves, and ends.
    #[track_caller]
    pub fn leave(self) {
        self.run(|node| async move { node.leave().await });
    }

    /// Lets it do nothing, as a process that gets SIGSTOP.
    pub fn pause(&self) -> Pause {
        let (resume, resumed) = mpsc::channel();
        self.runtime.spawn(async move {
            // An error says it, too.
            let _ = resumed.recv();
        });
        Pause(resume)
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // What went wrong on it has been told.
            let _ = thread.join();
        }
    }
}

/// Logs the node's events and messages.
fn follow(handle: &Handle, log: &Arc<Log>) {
    let (mut events, to) = (handle.events(), Arc::clone(log));
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            to.push(&event_json(&event.expect("a test keeps up")).to_string());
        }
    });
    let (mut messages, to) = (handle.subscribe(), Arc::clone(log));
    tokio::spawn(async move {
        while let Some(message) = messages.recv().await {
            to.push(&message_json(&message.expect("a test keeps up")).to_string());
        }
    });
}

fn event_json(event: &Event) -> Value {
    let of = |event: &str, member: &Member| {
        let meta = String::from_utf8_lossy(&member.meta).into_owned();
        json!({"event": event, "member": member.name.to_string(), "addr": member.addr.to_string(), "meta": meta})
    };
    match event {
        Event::Joined(member) => of("joined", member),
        Event::Left(member) => of("left", member),
        Event::Failed(member) => of("failed", member),
        Event::Updated(member) => of("updated", member),
        other => json!({"event": "other", "what": format!("{other:?}")}),
    }
}

fn message_json(message: &Message) -> Value {
    let value: Value = serde_json::from_str(message.value()).expect("it is JSON");
    let from = message.origin().to_string();
    match message.raw() {
        Some(bytes) => json!({"event": "raw", "from": from, "bytes": STANDARD.encode(bytes)}),
        None => json!({"event": "received", "from": from, "key": message.key(), "value": value}),
    }
}
