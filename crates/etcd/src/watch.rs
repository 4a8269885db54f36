//! Watches: many on one stream, and leases that are kept alive on one.
//!
//! Each watch is a task that follows the store and puts what it is told into the stream, which holds [`ANSWERS`] and then
//! waits for the client to read. The store keeps no queue for a watch, so nobody else waits.

use std::{
    collections::{BTreeSet, HashMap},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use broadcast_store::{
    Store, StoreError,
    keys::{self, CancelReason, KeyRange, Watch, WatchEvent},
    node::WatchStream,
};
use futures_util::{Stream, stream};
use prost::Message as _;
use tokio::{
    sync::{Notify, mpsc},
    task::{AbortHandle, Id, JoinSet},
    time::{Instant, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    Etcd, Task,
    grpc::MAX_MESSAGE,
    kv::{key_value, signed, unsigned},
    messages::{
        Event, LeaseKeepAliveRequest, LeaseKeepAliveResponse, ResponseHeader, WatchCreateRequest, WatchRequest,
        WatchResponse,
        enums::{DELETE, NODELETE, NOPUT},
    },
    routes::Requests,
    status::Status,
};

/// Answers that a stream holds for a client that does not read.
const ANSWERS: usize = 16;
/// Watches of one stream.
const WATCHES: usize = 10_000;
/// How often a watch that asked for it is told how far it is, if nothing happens: etcd's.
const PROGRESS: Duration = Duration::from_secs(600);

type Answer = Result<WatchResponse, Status>;

impl Etcd {
    /// Serves the watches of one stream. As with etcd, it goes on when the client sends no more.
    pub(crate) fn watch(
        self,
        requests: Requests<WatchRequest>,
        needs_leader: bool,
    ) -> impl Stream<Item = Answer> + Send + 'static {
        let (out, told) = mpsc::channel(ANSWERS);
        tokio::spawn(async move {
            let answers = out.clone();
            let served = async {
                if needs_leader {
                    self.need_leader().await?;
                }
                let (store, runtime) = self.open().await?;
                let serving = Session::new(self.clone(), store, answers).run(requests);
                // Nobody waits for it once nobody reads.
                let mut serving = Task(runtime.spawn(serving));
                tokio::select! {
                    ended = &mut serving.0 => ended.unwrap_or(Ok(())),
                    status = self.no_leader(), if needs_leader => Err(status),
                    () = out.closed() => Ok(()),
                }
            };
            if let Err(status) = served.await {
                let _ = out.send(Err(status)).await;
            }
        });
        ReceiverStream::new(told)
    }

    /// Keeps leases alive, one for each message, until the client sends no more.
    pub(crate) fn keep_all_alive(
        self,
        requests: Requests<LeaseKeepAliveRequest>,
        needs_leader: bool,
    ) -> impl Stream<Item = Result<LeaseKeepAliveResponse, Status>> + Send + 'static {
        stream::unfold(Some((self, requests)), move |state| async move {
            let (etcd, mut requests) = state?;
            let answered = async {
                if needs_leader {
                    etcd.need_leader().await?;
                }
                let next = tokio::select! {
                    next = requests.next() => next?,
                    status = etcd.no_leader(), if needs_leader => return Err(status),
                };
                match next {
                    Some(request) => etcd.keep_alive(request).await.map(Some),
                    None => Ok(None),
                }
            };
            match answered.await {
                Ok(answer) => answer.map(|answer| (Ok(answer), Some((etcd, requests)))),
                Err(status) => Some((Err(status), None)),
            }
        })
    }
}

/// The watches of one stream.
struct Session {
    etcd: Etcd,
    store: Store,
    out: mpsc::Sender<Answer>,
    watches: HashMap<i64, Watching>,
    tasks: JoinSet<()>,
    /// Which watch a task is.
    ids: HashMap<Id, i64>,
    next_id: i64,
    progress: mpsc::Sender<(i64, u64)>,
    reported: mpsc::Receiver<(i64, u64)>,
    asked: Option<Asked>,
    /// Whether it was asked for again meanwhile.
    again: bool,
}

/// A watch, for who serves all of them.
struct Watching {
    task: AbortHandle,
    ask: Arc<Notify>,
}

/// The client has asked how far all watches are.
struct Asked {
    waits_for: BTreeSet<i64>,
    revision: u64,
}

impl Session {
    fn new(etcd: Etcd, store: Store, out: mpsc::Sender<Answer>) -> Self {
        let (progress, reported) = mpsc::channel(ANSWERS);
        Self {
            etcd,
            store,
            out,
            watches: HashMap::new(),
            tasks: JoinSet::new(),
            ids: HashMap::new(),
            next_id: 0,
            progress,
            reported,
            asked: None,
            again: false,
        }
    }

    /// Ends with an error, or when nobody reads any more.
    async fn run(mut self, mut requests: Requests<WatchRequest>) -> Result<(), Status> {
        let mut has_ended = false;
        loop {
            tokio::select! {
                request = requests.next(), if !has_ended => match request? {
                    Some(request) => self.obey(request).await?,
                    None => has_ended = true,
                },
                Some((id, revision)) = self.reported.recv() => self.report(id, Some(revision)).await,
                Some(ended) = self.tasks.join_next_with_id() => {
                    let task = ended.map_or_else(|error| error.id(), |(task, ())| task);
                    if let Some(id) = self.ids.remove(&task) {
                        self.watches.remove(&id);
                        self.report(id, None).await;
                    }
                }
                () = self.out.closed() => return Ok(()),
            }
        }
    }

    async fn obey(&mut self, request: WatchRequest) -> Result<(), Status> {
        if let Some(create) = request.create_request {
            self.create(create).await?;
        } else if let Some(cancel) = request.cancel_request {
            self.cancel(cancel.watch_id).await;
        } else if request.progress_request.is_some() {
            self.ask().await;
        }
        Ok(())
    }

    /// Whether anybody reads it is found out by who serves.
    async fn tell(&self, answer: WatchResponse) {
        let _ = self.out.send(Ok(answer)).await;
    }

    async fn create(&mut self, request: WatchCreateRequest) -> Result<(), Status> {
        let id = match request.watch_id {
            0 => {
                while self.watches.contains_key(&self.next_id) {
                    self.next_id += 1;
                }
                Ok(self.next_id)
            }
            id if self.watches.contains_key(&id) => Err("mvcc: duplicate watch ID provided on the WatchStream"),
            id => Ok(id),
        };
        let id = match watched(&request).and(id) {
            Ok(_) if self.watches.len() >= WATCHES => {
                return self.refuse("etcdserver: too many watches on one stream").await;
            }
            Ok(id) => id,
            Err(why) => return self.refuse(why).await,
        };
        let begins = watched(&request).expect("it was just looked at");
        let start = begins.start_revision;
        let mut stream = self.store.watch(begins);
        let revision = match stream.next().await {
            Ok(Some(WatchEvent::Progress { revision })) if start == 0 => revision,
            Ok(_) => 0,
            Err(StoreError::Refused(error)) => return self.refuse(&error.to_string()).await,
            Err(error) => return Err(error.into()),
        };
        if request.watch_id == 0 {
            self.next_id = id + 1;
        }
        let header = match revision {
            0 => self.etcd.header_now().await,
            revision => self.etcd.header(revision),
        };
        let created = WatchResponse { header: Some(header), watch_id: id, created: true, ..WatchResponse::default() };
        self.tell(created).await;
        let ask = Arc::new(Notify::new());
        let watcher = Watcher {
            id,
            etcd: self.etcd.clone(),
            out: self.out.clone(),
            progress: self.progress.clone(),
            ask: Arc::clone(&ask),
            tells_progress: request.progress_notify,
            fragments: request.fragment,
            from: start,
        };
        let task = self.tasks.spawn(watcher.follow(stream));
        self.ids.insert(task.id(), id);
        self.watches.insert(id, Watching { task, ask });
        Ok(())
    }

    /// A watch that does not begin is created and cancelled in one.
    async fn refuse(&self, why: &str) -> Result<(), Status> {
        let header = Some(self.etcd.header_now().await);
        let (created, canceled, cancel_reason) = (true, true, why.to_owned());
        self.tell(WatchResponse { header, watch_id: -1, created, canceled, cancel_reason, ..WatchResponse::default() })
            .await;
        Ok(())
    }

    async fn cancel(&mut self, id: i64) {
        let Some(Watching { task, .. }) = self.watches.remove(&id) else { return };
        task.abort();
        // Nothing is told of it behind this.
        while let Some(ended) = self.tasks.join_next_with_id().await {
            let ended = ended.map_or_else(|error| error.id(), |(task, ())| task);
            let Some(other) = self.ids.remove(&ended) else { continue };
            if other == id {
                break;
            }
            self.watches.remove(&other);
            self.report(other, None).await;
        }
        self.report(id, None).await;
        let header = Some(self.etcd.header_now().await);
        self.tell(WatchResponse { header, watch_id: id, canceled: true, ..WatchResponse::default() }).await;
    }

    /// Asks all watches how far they are: the answer is behind all that they have told until then.
    async fn ask(&mut self) {
        if self.asked.is_some() {
            self.again = true;
            return;
        }
        self.watches.values().for_each(|watch| watch.ask.notify_one());
        let waits_for = self.watches.keys().copied().collect();
        self.asked = Some(Asked { waits_for, revision: u64::MAX });
        self.answer_if_known().await;
    }

    /// A watch has told everything up to this revision; nothing, if it has ended.
    async fn report(&mut self, id: i64, revision: Option<u64>) {
        let Some(asked) = &mut self.asked else { return };
        if asked.waits_for.remove(&id) {
            asked.revision = asked.revision.min(revision.unwrap_or(u64::MAX));
        }
        self.answer_if_known().await;
    }

    async fn answer_if_known(&mut self) {
        let Some(asked) = self.asked.take_if(|asked| asked.waits_for.is_empty()) else { return };
        let header = match asked.revision {
            u64::MAX => self.etcd.header_now().await,
            revision => self.etcd.header(revision),
        };
        // It is about all watches.
        self.tell(WatchResponse { header: Some(header), watch_id: -1, ..WatchResponse::default() }).await;
        if std::mem::take(&mut self.again) {
            Box::pin(self.ask()).await;
        }
    }
}

/// What is to be watched, as etcd reads it.
fn watched(request: &WatchCreateRequest) -> Result<Watch, &'static str> {
    // They are not to keep the memory of the whole message.
    let copy = |bytes: &[u8]| bytes::Bytes::copy_from_slice(bytes);
    let mut keys = KeyRange { key: copy(&request.key), end: copy(&request.range_end) };
    if keys.key.is_empty() {
        // The least key that there may be.
        keys.key = bytes::Bytes::from_static(&[0]);
    }
    if !keys.end.is_empty() && *keys.end != [0] && keys.key >= keys.end {
        return Err("mvcc: watcher range is empty");
    }
    let start = request.start_revision;
    Ok(Watch {
        keys,
        // Before the first revision there was nothing.
        start_revision: if start < 0 { 1 } else { unsigned(start) },
        prev_kv: request.prev_kv,
        no_put: request.filters.contains(&NOPUT),
        no_delete: request.filters.contains(&NODELETE),
    })
}

/// Tells what happens to the keys of one watch.
struct Watcher {
    id: i64,
    etcd: Etcd,
    out: mpsc::Sender<Answer>,
    progress: mpsc::Sender<(i64, u64)>,
    /// It is asked how far it is.
    ask: Arc<Notify>,
    tells_progress: bool,
    fragments: bool,
    /// The revision that it was to begin with.
    from: u64,
}

impl Watcher {
    async fn follow(self, mut stream: WatchStream) {
        let mut notify = pin!(sleep_until(Instant::now() + PROGRESS));
        let (mut asked, mut due) = (false, false);
        loop {
            let event = tokio::select! {
                event = stream.next() => event,
                () = self.ask.notified() => {
                    asked = true;
                    stream.request_progress().await;
                    continue;
                }
                () = &mut notify, if self.tells_progress => {
                    due = true;
                    stream.request_progress().await;
                    notify.as_mut().reset(Instant::now() + PROGRESS);
                    continue;
                }
            };
            match event {
                Ok(Some(WatchEvent::Changes { revision, events })) => {
                    notify.as_mut().reset(Instant::now() + PROGRESS);
                    self.tell(revision, &events).await;
                }
                Ok(Some(WatchEvent::Progress { revision })) => {
                    // Where it has not begun yet, it has nothing to say.
                    let is_ahead = revision < self.from;
                    if std::mem::take(&mut asked) {
                        let _ = self.progress.send((self.id, if is_ahead { u64::MAX } else { revision })).await;
                    }
                    if std::mem::take(&mut due) && !is_ahead {
                        self.send(self.answer(self.etcd.header(revision))).await;
                    }
                }
                Ok(Some(WatchEvent::Cancelled(cancelled))) => {
                    let (CancelReason::Compacted { compacted, .. } | CancelReason::Slow { compacted, .. }) = cancelled;
                    // As etcd has it, this has no revision.
                    let header = ResponseHeader { revision: 0, ..self.etcd.header_now().await };
                    let canceled =
                        WatchResponse { canceled: true, compact_revision: signed(compacted), ..self.answer(header) };
                    return self.send(canceled).await;
                }
                Ok(None) => return,
                // Voters may be there again, and are asked again.
                Err(StoreError::NoLeader { .. } | StoreError::NoVoters) => {}
                Err(error) => {
                    let cancel_reason = Status::from(error).message.into_owned();
                    let header = self.etcd.header_now().await;
                    return self.send(WatchResponse { canceled: true, cancel_reason, ..self.answer(header) }).await;
                }
            }
        }
    }

    fn answer(&self, header: ResponseHeader) -> WatchResponse {
        WatchResponse { header: Some(header), watch_id: self.id, ..WatchResponse::default() }
    }

    async fn send(&self, answer: WatchResponse) {
        let _ = self.out.send(Ok(answer)).await;
    }

    async fn tell(&self, revision: u64, changes: &[keys::KeyEvent]) {
        let whole =
            WatchResponse { events: changes.iter().map(event).collect(), ..self.answer(self.etcd.header(revision)) };
        if !self.fragments || whole.encoded_len() < MAX_MESSAGE {
            return self.send(whole).await;
        }
        // In parts, of which all but the last say that there are more.
        let mut rest = whole.events.into_iter().peekable();
        while rest.peek().is_some() {
            let mut part = self.answer(self.etcd.header(revision));
            let mut size = 0;
            while let Some(next) = rest.next_if(|next| size == 0 || size + next.encoded_len() < MAX_MESSAGE) {
                size += next.encoded_len();
                part.events.push(next);
            }
            part.fragment = rest.peek().is_some();
            self.send(part).await;
        }
    }
}

fn event(change: &keys::KeyEvent) -> Event {
    Event {
        r#type: if change.kv.is_tombstone() { DELETE } else { 0 },
        kv: Some(key_value(&change.kv)),
        prev_kv: change.prev.as_ref().map(|kv| key_value(kv)),
    }
}
