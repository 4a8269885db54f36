//! Long responses, written in chunks. Of a response that nobody reads, no more than two chunks wait.

use std::io;

use bytes::Bytes;
use futures_util::{Stream, stream};
use serde::Serialize;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use super::problem;

/// About how many bytes a chunk has.
pub(super) const CHUNK_BYTES: usize = 32 << 10;

/// What comes before the elements of a list, and behind them. `envelope` is an object whose last list is empty.
pub(super) fn split_envelope(envelope: &impl Serialize) -> (String, String) {
    let text = problem::to_json(envelope);
    let (before, after) = text.rsplit_once("[]").expect("the envelope has an empty list");
    (format!("{before}["), format!("]{after}"))
}

/// Writes an element of a list.
pub(super) fn push_element(text: &mut String, element: &impl Serialize) {
    if !text.ends_with('[') {
        text.push(',');
    }
    text.push_str(&problem::to_json(element));
}

/// Writes a response in chunks. Its functions give `None` when the client is gone.
pub(super) struct ChunkWriter {
    /// The next chunk.
    pub(super) text: String,
    sender: mpsc::Sender<Chunk>,
    until: Instant,
    /// All chunks so far, as long as they take no more than so many bytes.
    cached: Option<(Vec<Bytes>, usize)>,
}

struct Chunk {
    text: Bytes,
    is_last: bool,
}

/// A writer, and the body that it writes. The client must have read all of it by `until`. If `keep` is set, the chunks are
/// cached, as long as they take no more bytes than that.
pub(super) fn chunked_body(
    until: Instant,
    keep: Option<usize>,
) -> (ChunkWriter, impl Stream<Item = io::Result<Bytes>>) {
    let (sender, received) = mpsc::channel(1);
    let body = stream::unfold(Some(received), async |received: Option<mpsc::Receiver<Chunk>>| {
        let mut received = received?;
        match received.recv().await {
            Some(Chunk { text, is_last }) => Some((Ok(text), (!is_last).then_some(received))),
            // A client must not take a part for the whole: break the connection.
            None => Some((Err(io::Error::other("it was read too slowly")), None)),
        }
    });
    (ChunkWriter { text: String::new(), sender, until, cached: keep.map(|most| (Vec::new(), most)) }, body)
}

impl ChunkWriter {
    /// Sends the text, if it is as long as a chunk.
    pub(super) async fn flush(&mut self) -> Option<()> {
        if self.text.len() >= CHUNK_BYTES { self.send(false).await } else { Some(()) }
    }

    /// Sends the rest of the text, and ends the response.
    pub(super) async fn finish(&mut self) -> Option<()> {
        self.send(true).await
    }

    /// Whether the client has not read the response in time.
    pub(super) fn is_overdue(&self) -> bool {
        Instant::now() >= self.until
    }

    /// All chunks, if they were cached.
    pub(super) fn into_cached(self) -> Option<Vec<Bytes>> {
        self.cached.map(|(chunks, _)| chunks)
    }

    async fn send(&mut self, is_last: bool) -> Option<()> {
        let text = Bytes::from(std::mem::take(&mut self.text));
        self.cached = self.cached.take().and_then(|(mut chunks, room)| {
            chunks.push(text.clone());
            Some((chunks, room.checked_sub(text.len())?))
        });
        timeout_at(self.until, self.sender.send(Chunk { text, is_last })).await.ok()?.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, time::Duration};

    use futures_util::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn it_is_told_in_order_and_kept_while_it_is_short() {
        for (length, keep, is_kept) in
            [(3, Some(3 * CHUNK_BYTES), true), (4, Some(3 * CHUNK_BYTES), false), (3, None, false)]
        {
            let (mut chunks, body) = chunked_body(Instant::now() + Duration::from_secs(60), keep);
            let received = tokio::spawn(body.collect::<Vec<_>>());
            for i in 0..length * 10 {
                chunks.text +=
                    &i.to_string().repeat(CHUNK_BYTES / 20).chars().take(CHUNK_BYTES / 10).collect::<String>();
                chunks.flush().await.expect("it is read");
            }
            chunks.finish().await.expect("it is read");
            let received: Vec<_> =
                received.await.expect("it ends").into_iter().map(|piece| piece.expect("all of it")).collect();
            let cached = chunks.into_cached();
            assert_eq!(cached.is_some(), is_kept, "{length} pieces");
            assert!(cached.is_none_or(|cached| cached == received));
        }
    }

    #[tokio::test]
    async fn who_does_not_read_has_it_broken_off_and_holds_two_pieces() {
        let (mut chunks, body) = chunked_body(Instant::now() + Duration::from_millis(50), None);
        let mut sent = 0;
        loop {
            chunks.text = "x".repeat(CHUNK_BYTES);
            if chunks.flush().await.is_none() {
                break;
            }
            sent += 1;
        }
        assert_eq!((sent, chunks.is_overdue()), (1, true));
        drop(chunks);
        let received: Vec<_> = pin!(body).collect().await;
        assert!(matches!(&received[..], [Ok(_), Err(_)]), "{received:?}");
    }

    #[tokio::test]
    async fn whoever_tells_notices_that_nobody_is_there() {
        let (mut chunks, body) = chunked_body(Instant::now() + Duration::from_secs(60), None);
        drop(body);
        assert_eq!((chunks.finish().await, chunks.is_overdue()), (None, false));
    }
}
