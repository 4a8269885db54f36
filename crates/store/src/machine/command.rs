//! Commands, and the versions that members know.
//!
//! A command is encoded as the version in which it appeared, its machine's name, its request id, and a body that its machine
//! reads. This frame never changes, so every release recognises a command that it does not know.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{NAME, RequestId, VERSION};
use crate::{
    codec::{ByteReader, ByteWriter},
    error::{ApplyError, CodecError, Error},
    keys::{self, MAX_REQUEST},
};

/// The most bytes of an encoded command: a request and the frame around it.
pub const MAX_COMMAND: usize = MAX_REQUEST + 1024;

/// A command: what Raft's entries carry. It is for the state itself or for one of its machines.
///
/// ```
/// use broadcast_store::machine::Command;
///
/// let command = Command::grant(7, 60);
/// assert_eq!(Command::decode(&command.encode())?, command);
/// # Ok::<(), broadcast_store::ApplyError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    pub(super) request: Option<RequestId>,
    pub(super) action: Action,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// For the state itself.
    Store(StoreCommand),
    Machine {
        machine: String,
        version: u16,
        body: Bytes,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StoreCommand {
    OpenClient,
    Grant { lease: i64, ttl: i64 },
    Revoke { lease: i64 },
    Expire { lease: i64, term: u64 },
    SetQuota { machine: String, bytes: u64 },
}

impl StoreCommand {
    /// The version of the state's own commands that this appeared in.
    fn version(&self) -> u16 {
        match self {
            Self::OpenClient
            | Self::Grant { .. }
            | Self::Revoke { .. }
            | Self::Expire { .. }
            | Self::SetQuota { .. } => 1,
        }
    }

    fn write(&self, to: &mut ByteWriter) {
        match self {
            Self::OpenClient => to.byte(0),
            Self::Grant { lease, ttl } => {
                to.byte(1);
                to.signed(*lease);
                to.signed(*ttl);
            }
            Self::Revoke { lease } => {
                to.byte(2);
                to.signed(*lease);
            }
            Self::Expire { lease, term } => {
                to.byte(3);
                to.signed(*lease);
                to.number(*term);
            }
            Self::SetQuota { machine, bytes } => {
                to.byte(4);
                to.bytes(machine.as_bytes());
                to.number(*bytes);
            }
        }
    }

    fn read(from: &mut ByteReader<'_>) -> Result<Self, CodecError> {
        Ok(match from.byte()? {
            0 => Self::OpenClient,
            1 => Self::Grant { lease: from.signed()?, ttl: from.signed()? },
            2 => Self::Revoke { lease: from.signed()? },
            3 => Self::Expire { lease: from.signed()?, term: from.number()? },
            4 => Self::SetQuota { machine: from.text()?, bytes: from.number()? },
            tag => return Err(CodecError::Tag { what: "command for the store", tag }),
        })
    }
}

impl Command {
    fn store(command: StoreCommand) -> Self {
        Self { request: None, action: Action::Store(command) }
    }

    /// A command for users' keys.
    ///
    /// # Errors
    ///
    /// Those of [`keys::KeysCommand::check`]: a command that is wrong in itself is never proposed.
    pub fn keys(command: &keys::KeysCommand) -> Result<Self, Error> {
        command.check()?;
        Self::machine(keys::NAME, command.version(), command.encode())
    }

    /// A command for another machine: its name, the version in which the command appeared, and the encoded command.
    ///
    /// # Errors
    ///
    /// [`Error::RequestTooLarge`].
    pub fn machine(machine: &str, version: u16, body: impl Into<Bytes>) -> Result<Self, Error> {
        let body = body.into();
        if body.len() > MAX_REQUEST {
            return Err(Error::RequestTooLarge { size: body.len() as u64 });
        }
        Ok(Self { request: None, action: Action::Machine { machine: machine.to_owned(), version, body } })
    }

    /// Opens a client: [`Outcome::Client`](super::Outcome::Client) has its id, for [`Command::of`].
    pub fn open_client() -> Self {
        Self::store(StoreCommand::OpenClient)
    }

    /// Grants a lease for `ttl` seconds. The proposer chooses the id at random; 0 is not an id.
    pub fn grant(lease: i64, ttl: i64) -> Self {
        Self::store(StoreCommand::Grant { lease, ttl })
    }

    /// Revokes a lease: ends it, and deletes its keys.
    pub fn revoke(lease: i64) -> Self {
        Self::store(StoreCommand::Revoke { lease })
    }

    /// Ends a lease that the leader of `term` has found expired. In another term the state refuses it.
    pub fn expire(lease: i64, term: u64) -> Self {
        Self::store(StoreCommand::Expire { lease, term })
    }

    /// Sets how many bytes a machine may take.
    pub fn set_quota(machine: &str, bytes: u64) -> Self {
        Self::store(StoreCommand::SetQuota { machine: machine.to_owned(), bytes })
    }

    /// The same command as a request of a client: it is applied once, however often it is proposed.
    #[must_use]
    pub fn of(mut self, request: RequestId) -> Self {
        self.request = Some(request);
        self
    }

    /// The client's request id, if it has one.
    pub fn request(&self) -> Option<RequestId> {
        self.request
    }

    /// Whether it expires a lease, which only the leader may propose.
    pub fn is_expiry(&self) -> bool {
        matches!(self.action, Action::Store(StoreCommand::Expire { .. }))
    }

    /// The machine that has to know it, and in which version.
    pub fn required_version(&self) -> (&str, u16) {
        match &self.action {
            // Only a member with that machine can set its quota.
            Action::Store(StoreCommand::SetQuota { machine, .. }) => (machine, 1),
            Action::Store(command) => (NAME, command.version()),
            Action::Machine { machine, version, .. } => (machine, *version),
        }
    }

    /// Encodes it for the log.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = ByteWriter::new();
        let (machine, version) = match &self.action {
            Action::Store(command) => (NAME, command.version()),
            Action::Machine { machine, version, .. } => (machine.as_str(), *version),
        };
        writer.number(version.into());
        writer.bytes(machine.as_bytes());
        writer.option(self.request.as_ref(), |to, request| {
            to.number(request.client);
            to.number(request.serial);
            to.number(request.answered_below);
        });
        let mut bytes = writer.finish();
        match &self.action {
            Action::Store(command) => {
                let mut body = ByteWriter::new();
                command.write(&mut body);
                bytes.extend(body.finish());
            }
            Action::Machine { body, .. } => bytes.extend_from_slice(body),
        }
        bytes
    }

    /// Decodes an entry of the log.
    ///
    /// # Errors
    ///
    /// The member has to stop: what is in the log was agreed on.
    pub fn decode(bytes: &[u8]) -> Result<Self, ApplyError> {
        let unnamed = |malformed| ApplyError::Malformed { machine: String::new(), malformed };
        if bytes.len() > MAX_COMMAND {
            return Err(unnamed(CodecError::Contradiction { what: "it is larger than a command may be" }));
        }
        let mut from = ByteReader::new(bytes);
        let frame = |from: &mut ByteReader<'_>| {
            let version = u16::try_from(from.number()?).map_err(|_| CodecError::Number)?;
            let machine = from.text()?;
            let request = from.option(|from| {
                Ok(RequestId { client: from.number()?, serial: from.number()?, answered_below: from.number()? })
            })?;
            Ok((version, machine, request))
        };
        let (version, machine, request) = frame(&mut from).map_err(unnamed)?;
        if machine != NAME {
            let body = Bytes::copy_from_slice(from.rest());
            return Ok(Self { request, action: Action::Machine { machine, version, body } });
        }
        if version > VERSION {
            return Err(ApplyError::Unknown { machine, needs: version, knows: VERSION });
        }
        let command = StoreCommand::read(&mut from).and_then(|command| from.end().map(|()| command));
        let command = command.map_err(|malformed| ApplyError::Malformed { machine, malformed })?;
        Ok(Self { request, action: Action::Store(command) })
    }
}

/// The highest version of each machine's commands that a member knows, or that several members all know.
///
/// A leader proposes a command only if [`CommandVersions::check`] lets it through for each voter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandVersions(BTreeMap<String, u16>);

impl<'a> FromIterator<(&'a str, u16)> for CommandVersions {
    fn from_iter<I: IntoIterator<Item = (&'a str, u16)>>(versions: I) -> Self {
        let mut all = BTreeMap::new();
        for (machine, version) in versions {
            let highest = all.entry(machine.to_owned()).or_insert(version);
            *highest = version.max(*highest);
        }
        Self(all)
    }
}

impl CommandVersions {
    /// The versions that both know.
    #[must_use]
    pub fn common(&self, other: &Self) -> Self {
        let both = self.iter().map(|(machine, version)| (machine, version.min(other.of(machine))));
        both.filter(|(_, version)| *version > 0).collect()
    }

    /// The version of a machine; 0 if there is none of that name.
    pub fn of(&self, machine: &str) -> u16 {
        self.0.get(machine).copied().unwrap_or(0)
    }

    /// The machines and their versions, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u16)> {
        self.0.iter().map(|(machine, version)| (machine.as_str(), *version))
    }

    /// Checks that a command is known.
    ///
    /// # Errors
    ///
    /// [`ApplyError::Unknown`]: a leader must not propose the command before that member is upgraded.
    pub fn check(&self, command: &Command) -> Result<(), ApplyError> {
        let (machine, _) = command.required_version();
        check(command, self.of(machine))
    }
}

/// Checks that a member whose machine has version `knows` knows a command.
pub(super) fn check(command: &Command, knows: u16) -> Result<(), ApplyError> {
    let (machine, needs) = command.required_version();
    if needs > knows { Err(ApplyError::Unknown { machine: machine.to_owned(), needs, knows }) } else { Ok(()) }
}
