//! etcd's service `Watch`: many watches on one stream. Also the stream on which clients keep leases alive.
//!
//! A [`WatchServer`] serves one stream. It starts a [`WatchTask`] for each watch, which follows the store and puts responses
//! into the stream. The stream holds [`RESPONSE_BUFFER`] responses; then its watches wait until the client reads. The store
//! keeps no queue for a watch, so a client that does not read delays nobody else.
//!
//! When a client asks for the progress of all watches, the server asks each task, waits until all have reported, and answers
//! with the lowest revision: all changes up to it are in the stream by then.

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
    AbortOnDrop, Etcd, OpenedStore,
    grpc::MAX_MESSAGE,
    kv::{key_value, to_i64, to_u64},
    messages::{
        Event, LeaseKeepAliveRequest, LeaseKeepAliveResponse, ResponseHeader, WatchCreateRequest, WatchRequest,
        WatchResponse,
        enums::{DELETE, NODELETE, NOPUT},
    },
    routes::Requests,
    status::Status,
};

/// How many responses a stream holds for a client that does not read.
const RESPONSE_BUFFER: usize = 16;
/// How many watches a stream may have.
const MAX_WATCHES: usize = 10_000;
/// How often a quiet watch is told its progress, if it wants that: as often as etcd does.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(600);

type WatchResult = Result<WatchResponse, Status>;

impl Etcd {
    /// Serves the watches of one stream. As in etcd, they go on when the client has sent its last request.
    pub(crate) fn watch(
        self,
        requests: Requests<WatchRequest>,
        needs_leader: bool,
    ) -> impl Stream<Item = WatchResult> + Send + 'static {
        let (out, responses) = mpsc::channel(RESPONSE_BUFFER);
        tokio::spawn(async move {
            let sender = out.clone();
            let served = async {
                if needs_leader {
                    self.require_leader().await?;
                }
                let OpenedStore { store, runtime, .. } = self.opened().await?;
                let server = WatchServer::new(self.clone(), store.clone(), sender).run(requests);
                // It ends when nobody reads any more.
                let mut server = AbortOnDrop(runtime.spawn(server));
                tokio::select! {
                    ended = &mut server.0 => ended.unwrap_or(Ok(())),
                    status = self.leader_lost(), if needs_leader => Err(status),
                    () = out.closed() => Ok(()),
                }
            };
            if let Err(status) = served.await {
                let _ = out.send(Err(status)).await;
            }
        });
        ReceiverStream::new(responses)
    }

    /// Keeps leases alive, one for each request, until the client sends no more.
    pub(crate) fn keep_alive_stream(
        self,
        requests: Requests<LeaseKeepAliveRequest>,
        needs_leader: bool,
    ) -> impl Stream<Item = Result<LeaseKeepAliveResponse, Status>> + Send + 'static {
        stream::unfold(Some((self, requests)), move |state| async move {
            let (etcd, mut requests) = state?;
            let answered = async {
                if needs_leader {
                    etcd.require_leader().await?;
                }
                let next = tokio::select! {
                    next = requests.next() => next?,
                    status = etcd.leader_lost(), if needs_leader => return Err(status),
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

/// Serves one stream of watches.
struct WatchServer {
    etcd: Etcd,
    store: Store,
    out: mpsc::Sender<WatchResult>,
    watches: HashMap<i64, WatchHandle>,
    tasks: JoinSet<()>,
    /// The watch of each task.
    ids: HashMap<Id, i64>,
    next_id: i64,
    progress: mpsc::Sender<(i64, u64)>,
    progress_reports: mpsc::Receiver<(i64, u64)>,
    progress_request: Option<ProgressRequest>,
    /// Whether the client has asked for progress again meanwhile.
    progress_again: bool,
}

/// A watch, as the server sees it.
struct WatchHandle {
    task: AbortHandle,
    progress_asked: Arc<Notify>,
}

/// A request for the progress of all watches, until each has reported.
struct ProgressRequest {
    waits_for: BTreeSet<i64>,
    revision: u64,
}

impl WatchServer {
    fn new(etcd: Etcd, store: Store, out: mpsc::Sender<WatchResult>) -> Self {
        let (progress, progress_reports) = mpsc::channel(RESPONSE_BUFFER);
        Self {
            etcd,
            store,
            out,
            watches: HashMap::new(),
            tasks: JoinSet::new(),
            ids: HashMap::new(),
            next_id: 0,
            progress,
            progress_reports,
            progress_request: None,
            progress_again: false,
        }
    }

    /// Runs until an error, or until nobody reads any more.
    async fn run(mut self, mut requests: Requests<WatchRequest>) -> Result<(), Status> {
        let mut requests_ended = false;
        loop {
            tokio::select! {
                request = requests.next(), if !requests_ended => match request? {
                    Some(request) => self.handle(request).await?,
                    None => requests_ended = true,
                },
                Some((id, revision)) = self.progress_reports.recv() => self.report(id, Some(revision)).await,
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

    async fn handle(&mut self, request: WatchRequest) -> Result<(), Status> {
        if let Some(create) = request.create_request {
            self.create(create).await?;
        } else if let Some(cancel) = request.cancel_request {
            self.cancel(cancel.watch_id).await;
        } else if request.progress_request.is_some() {
            self.request_progress().await;
        }
        Ok(())
    }

    /// Sends a response; `run` finds out whether anybody reads it.
    async fn send(&self, response: WatchResponse) {
        let _ = self.out.send(Ok(response)).await;
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
        let id = match parse_create_request(&request).and(id) {
            Ok(_) if self.watches.len() >= MAX_WATCHES => {
                return self.refuse("etcdserver: too many watches on one stream").await;
            }
            Ok(id) => id,
            Err(why) => return self.refuse(why).await,
        };
        let watch = parse_create_request(&request).expect("it was just checked");
        let start = watch.start_revision;
        let mut stream = self.store.watch(watch);
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
            0 => self.etcd.current_header().await,
            revision => self.etcd.header(revision),
        };
        let created = WatchResponse { header: Some(header), watch_id: id, created: true, ..WatchResponse::default() };
        self.send(created).await;
        let progress_asked = Arc::new(Notify::new());
        let watch = WatchTask {
            id,
            etcd: self.etcd.clone(),
            out: self.out.clone(),
            progress: self.progress.clone(),
            progress_asked: Arc::clone(&progress_asked),
            notifies_progress: request.progress_notify,
            fragments: request.fragment,
            from: start,
        };
        let task = self.tasks.spawn(watch.follow(stream));
        self.ids.insert(task.id(), id);
        self.watches.insert(id, WatchHandle { task, progress_asked });
        Ok(())
    }

    /// Refuses a watch: etcd says that it is created and cancelled, in one response.
    async fn refuse(&self, why: &str) -> Result<(), Status> {
        let header = Some(self.etcd.current_header().await);
        let (created, canceled, cancel_reason) = (true, true, why.to_owned());
        self.send(WatchResponse { header, watch_id: -1, created, canceled, cancel_reason, ..WatchResponse::default() })
            .await;
        Ok(())
    }

    async fn cancel(&mut self, id: i64) {
        let Some(WatchHandle { task, .. }) = self.watches.remove(&id) else { return };
        task.abort();
        // No event of this watch may come behind the response that it is cancelled: wait until its task has ended.
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
        let header = Some(self.etcd.current_header().await);
        self.send(WatchResponse { header, watch_id: id, canceled: true, ..WatchResponse::default() }).await;
    }

    /// Asks all watches for their progress. The response comes behind all events that they have sent until then.
    async fn request_progress(&mut self) {
        if self.progress_request.is_some() {
            self.progress_again = true;
            return;
        }
        self.watches.values().for_each(|watch| watch.progress_asked.notify_one());
        let waits_for = self.watches.keys().copied().collect();
        self.progress_request = Some(ProgressRequest { waits_for, revision: u64::MAX });
        self.answer_progress().await;
    }

    /// A watch has sent all events up to this revision; `None` if it has ended.
    async fn report(&mut self, id: i64, revision: Option<u64>) {
        let Some(request) = &mut self.progress_request else { return };
        if request.waits_for.remove(&id) {
            request.revision = request.revision.min(revision.unwrap_or(u64::MAX));
        }
        self.answer_progress().await;
    }

    async fn answer_progress(&mut self) {
        let Some(request) = self.progress_request.take_if(|request| request.waits_for.is_empty()) else { return };
        let header = match request.revision {
            u64::MAX => self.etcd.current_header().await,
            revision => self.etcd.header(revision),
        };
        // -1 stands for all watches.
        self.send(WatchResponse { header: Some(header), watch_id: -1, ..WatchResponse::default() }).await;
        if std::mem::take(&mut self.progress_again) {
            Box::pin(self.request_progress()).await;
        }
    }
}

/// Reads what is to be watched, as etcd does.
fn parse_create_request(request: &WatchCreateRequest) -> Result<Watch, &'static str> {
    // Slices would keep the whole message in memory as long as the watch lives.
    let copy = |bytes: &[u8]| bytes::Bytes::copy_from_slice(bytes);
    let mut keys = KeyRange { key: copy(&request.key), end: copy(&request.range_end) };
    if keys.key.is_empty() {
        // The first of all keys.
        keys.key = bytes::Bytes::from_static(&[0]);
    }
    if !keys.end.is_empty() && *keys.end != [0] && keys.key >= keys.end {
        return Err("mvcc: watcher range is empty");
    }
    let start = request.start_revision;
    Ok(Watch {
        keys,
        // The store has no revisions below 0, and 0 means from now on.
        start_revision: if start < 0 { 1 } else { to_u64(start) },
        prev_kv: request.prev_kv,
        no_put: request.filters.contains(&NOPUT),
        no_delete: request.filters.contains(&NODELETE),
    })
}

/// A watch: sends the events of its keys.
struct WatchTask {
    id: i64,
    etcd: Etcd,
    out: mpsc::Sender<WatchResult>,
    progress: mpsc::Sender<(i64, u64)>,
    /// Notified when the server wants to know its progress.
    progress_asked: Arc<Notify>,
    notifies_progress: bool,
    fragments: bool,
    /// The revision at which it begins.
    from: u64,
}

impl WatchTask {
    async fn follow(self, mut stream: WatchStream) {
        let mut notify = pin!(sleep_until(Instant::now() + PROGRESS_INTERVAL));
        let (mut asked, mut due) = (false, false);
        loop {
            let event = tokio::select! {
                event = stream.next() => event,
                () = self.progress_asked.notified() => {
                    asked = true;
                    stream.request_progress().await;
                    continue;
                }
                () = &mut notify, if self.notifies_progress => {
                    due = true;
                    stream.request_progress().await;
                    notify.as_mut().reset(Instant::now() + PROGRESS_INTERVAL);
                    continue;
                }
            };
            match event {
                Ok(Some(WatchEvent::Changes { revision, events })) => {
                    notify.as_mut().reset(Instant::now() + PROGRESS_INTERVAL);
                    self.send_changes(revision, &events).await;
                }
                Ok(Some(WatchEvent::Progress { revision })) => {
                    // A watch that begins in the future has no progress yet.
                    let is_ahead = revision < self.from;
                    if std::mem::take(&mut asked) {
                        let _ = self.progress.send((self.id, if is_ahead { u64::MAX } else { revision })).await;
                    }
                    if std::mem::take(&mut due) && !is_ahead {
                        self.send(self.response(self.etcd.header(revision))).await;
                    }
                }
                Ok(Some(WatchEvent::Cancelled(cancelled))) => {
                    let (CancelReason::Compacted { compacted, .. } | CancelReason::Slow { compacted, .. }) = cancelled;
                    // As in etcd, this header has no revision.
                    let header = ResponseHeader { revision: 0, ..self.etcd.current_header().await };
                    let canceled =
                        WatchResponse { canceled: true, compact_revision: to_i64(compacted), ..self.response(header) };
                    return self.send(canceled).await;
                }
                Ok(None) => return,
                // The stream asks again, as soon as voters are there.
                Err(StoreError::NoLeader { .. } | StoreError::NoVoters) => {}
                Err(error) => {
                    let cancel_reason = Status::from(error).message.into_owned();
                    let header = self.etcd.current_header().await;
                    return self.send(WatchResponse { canceled: true, cancel_reason, ..self.response(header) }).await;
                }
            }
        }
    }

    fn response(&self, header: ResponseHeader) -> WatchResponse {
        WatchResponse { header: Some(header), watch_id: self.id, ..WatchResponse::default() }
    }

    async fn send(&self, response: WatchResponse) {
        let _ = self.out.send(Ok(response)).await;
    }

    async fn send_changes(&self, revision: u64, changes: &[keys::KeyEvent]) {
        let whole =
            WatchResponse { events: changes.iter().map(event).collect(), ..self.response(self.etcd.header(revision)) };
        if !self.fragments || whole.encoded_len() < MAX_MESSAGE {
            return self.send(whole).await;
        }
        // In fragments, of which all but the last say that more follow.
        let mut rest = whole.events.into_iter().peekable();
        while rest.peek().is_some() {
            let mut part = self.response(self.etcd.header(revision));
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
