//! Answers that may be long: told piece by piece, as they are made. Of one that is not read no more than two pieces wait.

use std::io;

use bytes::Bytes;
use futures_util::{Stream, stream};
use serde::Serialize;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use super::problem;

/// What is told in one piece, about.
pub(super) const PIECE: usize = 32 << 10;

/// What comes before the elements of a list, and after them: `envelope` is an object whose last list is empty.
pub(super) fn around(envelope: &impl Serialize) -> (String, String) {
    let text = problem::text(envelope);
    let (before, after) = text.rsplit_once("[]").expect("the envelope has an empty list");
    (format!("{before}["), format!("]{after}"))
}

/// Adds an element to a list that is being written.
pub(super) fn push(text: &mut String, element: &impl Serialize) {
    if !text.ends_with('[') {
        text.push(',');
    }
    text.push_str(&problem::text(element));
}

/// An answer that is being told. Its functions give nothing when nobody is there any more to be told.
pub(super) struct Pieces {
    /// What comes next.
    pub(super) text: String,
    sender: mpsc::Sender<Piece>,
    until: Instant,
    /// All so far, while that is no more than so many bytes.
    kept: Option<(Vec<Bytes>, usize)>,
}

struct Piece {
    text: Bytes,
    is_last: bool,
}

/// An answer, which has to be read until then, and its body. It is kept while it has no more than so many bytes.
pub(super) fn pieces(until: Instant, keep: Option<usize>) -> (Pieces, impl Stream<Item = io::Result<Bytes>>) {
    let (sender, told) = mpsc::channel(1);
    let body = stream::unfold(Some(told), async |told: Option<mpsc::Receiver<Piece>>| {
        let mut told = told?;
        match told.recv().await {
            Some(Piece { text, is_last }) => Some((Ok(text), (!is_last).then_some(told))),
            // Half of an answer is not to be taken for one.
            None => Some((Err(io::Error::other("it was read too slowly")), None)),
        }
    });
    (Pieces { text: String::new(), sender, until, kept: keep.map(|most| (Vec::new(), most)) }, body)
}

impl Pieces {
    /// Tells what there is, if that is a piece.
    pub(super) async fn flush(&mut self) -> Option<()> {
        if self.text.len() >= PIECE { self.send(false).await } else { Some(()) }
    }

    /// Tells what there is, which is the last of it.
    pub(super) async fn finish(&mut self) -> Option<()> {
        self.send(true).await
    }

    /// Whether it has not been read in time.
    pub(super) fn is_late(&self) -> bool {
        Instant::now() >= self.until
    }

    /// All of it, if that was to be kept.
    pub(super) fn into_kept(self) -> Option<Vec<Bytes>> {
        self.kept.map(|(pieces, _)| pieces)
    }

    async fn send(&mut self, is_last: bool) -> Option<()> {
        let text = Bytes::from(std::mem::take(&mut self.text));
        self.kept = self.kept.take().and_then(|(mut pieces, room)| {
            pieces.push(text.clone());
            Some((pieces, room.checked_sub(text.len())?))
        });
        timeout_at(self.until, self.sender.send(Piece { text, is_last })).await.ok()?.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, time::Duration};

    use futures_util::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn it_is_told_in_order_and_kept_while_it_is_short() {
        for (length, keep, is_kept) in [(3, Some(3 * PIECE), true), (4, Some(3 * PIECE), false), (3, None, false)] {
            let (mut pieces, body) = pieces(Instant::now() + Duration::from_secs(60), keep);
            let told = tokio::spawn(body.collect::<Vec<_>>());
            for i in 0..length * 10 {
                pieces.text += &i.to_string().repeat(PIECE / 20).chars().take(PIECE / 10).collect::<String>();
                pieces.flush().await.expect("it is read");
            }
            pieces.finish().await.expect("it is read");
            let told: Vec<_> =
                told.await.expect("it ends").into_iter().map(|piece| piece.expect("all of it")).collect();
            let kept = pieces.into_kept();
            assert_eq!(kept.is_some(), is_kept, "{length} pieces");
            assert!(kept.is_none_or(|kept| kept == told));
        }
    }

    #[tokio::test]
    async fn who_does_not_read_has_it_broken_off_and_holds_two_pieces() {
        let (mut pieces, body) = pieces(Instant::now() + Duration::from_millis(50), None);
        let mut sent = 0;
        loop {
            pieces.text = "x".repeat(PIECE);
            if pieces.flush().await.is_none() {
                break;
            }
            sent += 1;
        }
        assert_eq!((sent, pieces.is_late()), (1, true));
        drop(pieces);
        let told: Vec<_> = pin!(body).collect().await;
        assert!(matches!(&told[..], [Ok(_), Err(_)]), "{told:?}");
    }

    #[tokio::test]
    async fn whoever_tells_notices_that_nobody_is_there() {
        let (mut pieces, body) = pieces(Instant::now() + Duration::from_secs(60), None);
        drop(body);
        assert_eq!((pieces.finish().await, pieces.is_late()), (None, false));
    }
}
