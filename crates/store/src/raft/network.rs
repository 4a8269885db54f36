//! Raft's messages between voters, as calls of their sessions.
//!
//! Each says for which cluster and which node it is: a voter that lost its disk is another node under the same name, and
//! must get nothing that was for its former self. Who calls is who its session has proven it to be.

use std::{future::Future, io, pin::pin, time::Duration};

use broadcast_session::{CallError, Sessions};
use bytes::Bytes;
use futures_util::{
    Stream, StreamExt as _,
    future::{Either, select},
    stream,
};
use openraft::{
    OptionalSend, RaftNetworkFactory, RaftNetworkV2,
    base::{BoxFuture, BoxStream},
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable},
    network::{RPCOption, RPCTypes, stream_append_sequential},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
        TransferLeaderResponse, VoteRequest, VoteResponse,
    },
    type_config::alias::{SnapshotOf, VoteOf},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::{Instant, timeout};

use super::types::{RaftNode, RaftSnapshotMeta, TypeConfig};
use crate::{disk::Disk, snapshot::SnapshotFile};

type C = TypeConfig;

/// The service that takes these messages, and the one that takes snapshots.
pub const RAFT: &str = "store/raft";
/// See [`RAFT`].
pub const SNAPSHOT: &str = "store/snapshot";
/// The longest message, in bytes: one entry of any length, or many of a megabyte together.
pub const MAX_MESSAGE: usize = 8 << 20;
/// How long entries may be on their way.
const ENTRIES: Duration = Duration::from_secs(5);
/// How long a message that only tells the committed index waits for entries to go with, at most. This is how much later the other
/// voters, and those who watch at them, may learn of a change.
const LINGER: Duration = Duration::from_millis(15);
/// How much of a snapshot is read and sent at once.
const PIECE: usize = 64 << 10;

/// Which message it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum MessageKind {
    Append = 1,
    Vote = 2,
    PreVote = 3,
    Transfer = 4,
}

impl MessageKind {
    pub(super) fn of(byte: u8) -> Option<Self> {
        [Self::Append, Self::Vote, Self::PreVote, Self::Transfer].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// What stands in front of each message.
pub(super) const HEAD: usize = 17;

pub(super) fn head(kind: u8, cluster: u64, to: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.push(kind);
    out.extend_from_slice(&cluster.to_be_bytes());
    out.extend_from_slice(&to.to_be_bytes());
    out
}

/// The kind, the cluster, the node it is for, and the message.
pub(super) fn parse(message: &[u8]) -> Option<(u8, u64, u64, &[u8])> {
    let (head, rest) = message.split_first_chunk::<HEAD>()?;
    let [kind, numbers @ ..] = head;
    let (cluster, to) = numbers.split_first_chunk::<8>()?;
    Some((*kind, u64::from_be_bytes(*cluster), u64::from_be_bytes(to.try_into().ok()?), rest))
}

pub(super) fn encode<T: Serialize>(head: Vec<u8>, value: &T) -> io::Result<Bytes> {
    postcard::to_extend(value, head).map(Into::into).map_err(io::Error::other)
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    postcard::from_bytes(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
}

/// Makes the clients of one voter.
#[derive(Clone, Debug)]
pub(super) struct Network<D> {
    pub(super) sessions: Sessions,
    pub(super) cluster: u64,
    pub(super) me: u64,
    pub(super) _disk: std::marker::PhantomData<fn() -> D>,
}

/// Sends Raft's messages to one other voter.
#[derive(Debug)]
pub(super) struct PeerClient<D> {
    network: Network<D>,
    target: u64,
    name: String,
}

impl<D: Disk> RaftNetworkFactory<C> for Network<D> {
    type Network = PeerClient<D>;

    async fn new_client(&mut self, target: u64, node: &RaftNode) -> PeerClient<D> {
        PeerClient { network: self.clone(), target, name: node.name.clone() }
    }
}

impl<D: Disk> PeerClient<D> {
    async fn call<T: Serialize, A: DeserializeOwned>(
        &self,
        kind: MessageKind,
        action: RPCTypes,
        request: &T,
        within: Duration,
    ) -> Result<A, RPCError<C>> {
        let Network { sessions, cluster, me, .. } = &self.network;
        let message =
            encode(head(kind as u8, *cluster, self.target), request).map_err(|error| NetworkError::new(&error))?;
        match sessions.call(&self.name, RAFT, message, within).await {
            Ok(answer) => Ok(decode(&answer).map_err(|error| NetworkError::new(&error))?),
            Err(CallError::Deadline { .. }) => {
                Err(Timeout { action, id: *me, target: self.target, timeout: within }.into())
            }
            // Whoever is not there, or is another, is asked again after a while.
            Err(error) => Err(Unreachable::new(&error).into()),
        }
    }

    async fn send(&self, head: Bytes, file: SnapshotFile<D>) -> Result<Bytes, CallError> {
        let broken = |error: io::Error| CallError::Broken { to: self.name.clone(), problem: error.to_string() };
        let mut call = self.network.sessions.open(&self.name, SNAPSHOT, None).await?;
        let sent = async {
            call.outgoing.send(head).await.map_err(io::Error::other)?;
            let mut offset = 0;
            while offset < file.size() {
                let from = file.clone();
                let read = tokio::task::spawn_blocking(move || {
                    let mut piece = vec![0; PIECE];
                    from.read_at(&mut piece, offset).map(|len| {
                        piece.truncate(len);
                        Bytes::from(piece)
                    })
                });
                let piece = read.await.map_err(io::Error::other)??;
                if piece.is_empty() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                offset += piece.len() as u64;
                call.outgoing.send(piece).await.map_err(io::Error::other)?;
            }
            Ok(())
        };
        // What the other side says counts, if it breaks off.
        let sent = sent.await;
        let answered = call.finish(Bytes::new()).await;
        let mut answered = match (answered, sent) {
            (Ok(answered), Ok(())) => answered,
            (Err(error @ CallError::Refused { .. }), _) | (Err(error), Ok(())) => return Err(error),
            (_, Err(error)) => return Err(broken(error)),
        };
        answered.incoming.all(PIECE).await.map_err(|error| broken(io::Error::other(error)))
    }
}

/// Leaves out requests that only tell the committed index, if entries that tell it as well follow soon. Otherwise each write would
/// take twice the messages, and the next one would wait for the first.
///
/// What came twice within a time is taken to come again: the wait is twice the time between the last two requests with entries.
/// Where that is longer than [`LINGER`], nothing waits: a change by itself is told at once.
fn merge_commits<T: OptionalSend + 'static>(
    input: impl Stream<Item = T> + OptionalSend + Unpin + 'static,
    has_entries: fn(&T) -> bool,
) -> impl Stream<Item = T> + OptionalSend + Unpin + 'static {
    let paced = (input.fuse(), None::<Instant>, Duration::MAX);
    let requests = stream::unfold(paced, move |(mut input, mut last, mut interval)| async move {
        let mut request = input.next().await?;
        let wait = interval.saturating_mul(2);
        if !has_entries(&request)
            && wait <= LINGER
            && let Ok(Some(next)) = timeout(wait, input.next()).await
        {
            request = next;
        }
        if has_entries(&request) {
            let now = Instant::now();
            interval = last.replace(now).map_or(Duration::MAX, |last| now - last);
        }
        Some((request, (input, last, interval)))
    });
    Box::pin(requests)
}

impl<D: Disk> RaftNetworkV2<C> for PeerClient<D> {
    type SnapshotData = SnapshotFile<D>;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<C>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<C>, RPCError<C>> {
        // Entries take the time that they need; openraft gives them no more than a heartbeat.
        let within = if request.entries.is_empty() { option.soft_ttl() } else { option.soft_ttl().max(ENTRIES) };
        self.call(MessageKind::Append, RPCTypes::AppendEntries, &request, within).await
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<C>, RPCError<C>>>, RPCError<C>>>
    where
        S: Stream<Item = AppendEntriesRequest<C>> + OptionalSend + Unpin + 'static,
    {
        stream_append_sequential(self, merge_commits(input, |request| !request.entries.is_empty()), option)
    }

    async fn vote(&mut self, request: VoteRequest<C>, option: RPCOption) -> Result<VoteResponse<C>, RPCError<C>> {
        self.call(MessageKind::Vote, RPCTypes::Vote, &request, option.soft_ttl()).await
    }

    async fn pre_vote(&mut self, request: VoteRequest<C>, option: RPCOption) -> Result<VoteResponse<C>, RPCError<C>> {
        self.call(MessageKind::PreVote, RPCTypes::Vote, &request, option.soft_ttl()).await
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<C>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<C>, RPCError<C>> {
        self.call(MessageKind::Transfer, RPCTypes::TransferLeader, &request, option.soft_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<C>,
        snapshot: SnapshotOf<C, SnapshotFile<D>>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<C>, StreamingError<C>> {
        let about: (VoteOf<C>, RaftSnapshotMeta, u64) = (vote, snapshot.meta, snapshot.snapshot.size());
        let head = encode(head(0, self.network.cluster, self.target), &about);
        let head = head.map_err(|error| NetworkError::new(&error))?;
        let sending = timeout(option.hard_ttl().max(Duration::from_secs(1)), self.send(head, snapshot.snapshot));
        match select(pin!(sending), pin!(cancel)).await {
            Either::Left((Ok(Ok(answer)), _)) => Ok(decode(&answer).map_err(|error| NetworkError::new(&error))?),
            Either::Left((Ok(Err(error)), _)) => Err(Unreachable::new(&error).into()),
            Either::Left((Err(elapsed), _)) => Err(Unreachable::new(&elapsed).into()),
            Either::Right((closed, _)) => Err(closed.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    /// What is sent when, of requests that come when: in milliseconds from the beginning.
    async fn merged(came: &'static [(u64, &str)]) -> Vec<(u64, &'static str)> {
        let began = Instant::now();
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            for (at, request) in came {
                tokio::time::sleep_until(began + Duration::from_millis(*at)).await;
                sender.send(*request).expect("it is read to its end");
            }
        });
        let input = stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
        let requests = merge_commits(Box::pin(input), |request| request.starts_with("entry"));
        let at = |request| (u64::try_from(began.elapsed().as_millis()).expect("a short time"), request);
        requests.map(at).collect().await
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_goes_with_the_entries_that_follow_soon_or_alone() {
        let sent = merged(&[
            (0, "entry 1"),
            (1, "commit 1"),
            (4, "entry 2"),
            // From here on, 4 ms are what is expected.
            (5, "commit 2"),
            (8, "entry 3"),
            (9, "commit 3"),
            (50, "entry 4"),
            // Nothing is expected any more.
            (51, "commit 4"),
        ]);
        let expected = [
            (0, "entry 1"),
            (1, "commit 1"),
            (4, "entry 2"),
            (8, "entry 3"),
            (17, "commit 3"),
            (50, "entry 4"),
            (51, "commit 4"),
        ];
        assert_eq!(sent.await, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_waits_for_no_longer_than_the_limit() {
        let sent = merged(&[
            (0, "entry 1"),
            (8, "entry 2"),
            // Twice 8 ms are too long to wait, twice 7 are not.
            (9, "commit 2"),
            (15, "entry 3"),
            (16, "commit 3"),
            (50, "entry 4"),
        ]);
        let expected =
            [(0, "entry 1"), (8, "entry 2"), (9, "commit 2"), (15, "entry 3"), (30, "commit 3"), (50, "entry 4")];
        assert_eq!(sent.await, expected);
    }
}
