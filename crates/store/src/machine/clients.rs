//! The clients and the outcomes of their requests, so that no request is applied twice: client sessions as in chapter 6.3 of
//! the Raft dissertation.
//!
//! A command opens a client, and its outcome has the client's id. The client numbers its requests, has as many under way as it
//! likes, and sends one again with the same number until it has an answer. The state keeps the outcome of each request until
//! the client says that it has the answer. If there are too many outcomes, the oldest is forgotten; from then on a request with
//! that number or a lower one is refused unless its outcome is still there, for it may have been applied. If there are too many
//! clients, the one that was heard of least recently is forgotten, and its requests are refused as well.

use bytes::Bytes;

use super::{Outcome, SectionReader, SectionWriter};
use crate::{
    codec::{ByteReader, ByteWriter},
    cow_map::CowMap,
    error::{CodecError, Error, SnapshotError},
};

/// How many clients the state remembers.
pub const MAX_CLIENTS: usize = 1 << 14;

/// How many outcomes the state keeps.
pub const MAX_OUTCOMES: usize = 1 << 15;

/// How many bytes these outcomes may take.
pub const MAX_OUTCOMES_BYTES: u64 = 16 << 20;

/// The largest outcome that is kept. Of a larger one only [`Error::AlreadyApplied`] is kept.
pub const MAX_OUTCOME_BYTES: u64 = 64 << 10;

/// How many bytes an outcome takes besides its own.
const KEPT_BYTES: u64 = 160;

/// A client's request: its id for deduplication. See the [module](super).
///
/// ```
/// use broadcast_store::machine::{Command, RequestId};
///
/// let request = RequestId { client: 3, serial: 1, answered_below: 1 };
/// assert_eq!(Command::grant(7, 60).of(request).request(), Some(request));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId {
    /// The client's id, from [`Outcome::Client`].
    pub client: u64,
    /// The request's number, from 1 on. Each request has a higher one than those before.
    pub serial: u64,
    /// All requests with lower numbers were answered: the state may forget their outcomes.
    pub answered_below: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Client {
    /// A request without an outcome here and with a number up to this was answered or forgotten.
    floor: u64,
    /// The number of its last command.
    last: u64,
}

#[derive(Clone, Debug)]
struct KeptOutcome {
    /// The number of the command that led to it.
    command: u64,
    outcome: Bytes,
}

/// The clients, and the outcomes that are kept for them.
#[derive(Clone, Debug, Default)]
pub(super) struct Clients {
    clients: CowMap<u64, Client>,
    by_last: CowMap<u64, u64>,
    kept: CowMap<(u64, u64), KeptOutcome>,
    by_command: CowMap<u64, (u64, u64)>,
    bytes: u64,
}

impl Clients {
    /// Opens a client. Its id is the number of the command, so no two clients have the same.
    pub(super) fn open(&mut self, command: u64) -> u64 {
        if self.clients.len() >= MAX_CLIENTS
            && let Some((_, &oldest)) = self.by_last.first()
        {
            self.forget_client(oldest);
        }
        self.clients.insert(command, Client { floor: 0, last: command });
        self.by_last.insert(command, command);
        command
    }

    fn forget_client(&mut self, client: u64) {
        self.forget_below(client, u64::MAX);
        if let Some(forgotten) = self.clients.remove(&client) {
            self.by_last.remove(&forgotten.last);
        }
    }

    /// The outcome of a request that was applied; `None` if the request is new.
    pub(super) fn find(&self, request: RequestId) -> Result<Option<Bytes>, Error> {
        let RequestId { client, serial, .. } = request;
        let known = self.clients.get(&client).ok_or(Error::UnknownClient { client })?;
        match self.kept.get(&(client, serial)) {
            Some(kept) => Ok(Some(kept.outcome.clone())),
            None if serial <= known.floor => Err(Error::RequestForgotten { client, serial }),
            None => Ok(None),
        }
    }

    /// Keeps the outcome of a new request, which left the keys at `revision`.
    pub(super) fn keep(&mut self, request: RequestId, command: u64, revision: u64, outcome: &Outcome) {
        let RequestId { client, serial, answered_below } = request;
        let Some(known) = self.clients.get_mut(&client) else { return };
        let last = std::mem::replace(&mut known.last, command);
        // A request cannot be answered before it is applied, whatever it says.
        let answered_below = answered_below.min(serial);
        known.floor = known.floor.max(answered_below.saturating_sub(1));
        self.by_last.remove(&last);
        self.by_last.insert(command, client);
        self.forget_below(client, answered_below);

        let encoded = (outcome.size() <= MAX_OUTCOME_BYTES).then(|| outcome.encode());
        let encoded = encoded.filter(|encoded| encoded.len() as u64 <= MAX_OUTCOME_BYTES);
        let encoded = encoded.unwrap_or_else(|| Outcome::Refused(Error::AlreadyApplied { revision }).encode());
        self.bytes += KEPT_BYTES + encoded.len() as u64;
        self.kept.insert((client, serial), KeptOutcome { command, outcome: encoded.into() });
        self.by_command.insert(command, (client, serial));
        while self.kept.len() > MAX_OUTCOMES || self.bytes > MAX_OUTCOMES_BYTES {
            let Some((_, &(client, serial))) = self.by_command.first() else { return };
            self.forget(client, serial);
            if let Some(known) = self.clients.get_mut(&client) {
                known.floor = known.floor.max(serial);
            }
        }
    }

    fn forget_below(&mut self, client: u64, below: u64) {
        while let Some((&(each, serial), _)) = self.kept.iter_from(&(client, 0)).next()
            && each == client
            && serial < below
        {
            self.forget(client, serial);
        }
    }

    fn forget(&mut self, client: u64, serial: u64) {
        if let Some(kept) = self.kept.remove(&(client, serial)) {
            self.by_command.remove(&kept.command);
            self.bytes -= KEPT_BYTES + kept.outcome.len() as u64;
        }
    }

    pub(super) fn write(&self, sink: &mut SectionWriter<'_>) -> std::io::Result<()> {
        for (client, known) in self.clients.iter() {
            let mut record = ByteWriter::new();
            record.number(*client);
            record.number(known.floor);
            record.number(known.last);
            sink.record(&record.finish())?;
            for ((_, serial), kept) in self.kept.iter_from(&(*client, 0)).take_while(|((each, _), _)| each == client) {
                let mut record = ByteWriter::new();
                // No client has the id 0, so this is no client's record.
                record.number(0);
                record.number(*serial);
                record.number(kept.command);
                record.bytes(&kept.outcome);
                sink.record(&record.finish())?;
            }
        }
        Ok(())
    }

    pub(super) fn read(source: &mut SectionReader<'_>, commands: u64) -> Result<Self, SnapshotError> {
        let mut all = Self::default();
        let mut current = None;
        while let Some(record) = source.record()? {
            all.add(&record, &mut current, commands).map_err(|malformed| source.malformed(malformed))?;
        }
        Ok(all)
    }

    fn add(&mut self, record: &[u8], current: &mut Option<u64>, commands: u64) -> Result<(), CodecError> {
        let check = |holds: bool, what| if holds { Ok(()) } else { Err(CodecError::Contradiction { what }) };
        let mut from = ByteReader::new(record);
        let client = from.number()?;
        if client != 0 {
            let known = Client { floor: from.number()?, last: from.number()? };
            from.end()?;
            check(current.is_none_or(|last| last < client), "clients are not in order")?;
            check(client <= known.last && known.last <= commands, "a client was heard of before it was opened")?;
            check(self.clients.len() < MAX_CLIENTS, "there are too many clients")?;
            *current = Some(client);
            self.clients.insert(client, known);
            let before = self.by_last.insert(known.last, client);
            return check(before.is_none(), "two clients were heard of with the same command");
        }
        let client = current.ok_or(CodecError::Contradiction { what: "a request is of no client" })?;
        let (serial, command, outcome) = (from.number()?, from.number()?, from.bytes()?);
        from.end()?;
        Outcome::decode(&outcome)?;
        let last = self.clients.get(&client).map_or(0, |known| known.last);
        check(client < command && command <= last, "a request is newer than the last of its client")?;
        self.bytes += KEPT_BYTES + outcome.len() as u64;
        let kept = self.kept.insert((client, serial), KeptOutcome { command, outcome });
        let before = self.by_command.insert(command, (client, serial));
        check(kept.is_none() && before.is_none(), "two requests are the same")?;
        check(self.kept.len() <= MAX_OUTCOMES && self.bytes <= MAX_OUTCOMES_BYTES, "there are too many outcomes")
    }
}
