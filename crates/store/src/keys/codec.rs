//! The encoding of commands and outcomes for keys. The log, snapshots and the wire have it, so it never changes; new variants get
//! new numbers.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    Compare, CompareOp, CompareTarget, Delete, DeleteOutcome, KeyRange, KeyValue, KeysCommand, KeysOutcome, MAX_OPS,
    Op, OpOutcome, Put, PutOutcome, Range, RangeOutcome, SortOrder, SortTarget, Txn,
};
use crate::{
    codec::{ByteReader, ByteWriter},
    error::CodecError,
};

/// The encoded size of a command, without the frame around it.
pub(super) fn size(command: &KeysCommand) -> usize {
    let mut writer = ByteWriter::new();
    write_command(&mut writer, command);
    writer.len()
}

impl KeysCommand {
    /// Encodes it: as the body of a [`crate::machine::Command`], or as part of another machine's command.
    pub fn encode(&self) -> Bytes {
        let mut writer = ByteWriter::new();
        write_command(&mut writer, self);
        writer.finish().into()
    }

    /// Decodes a command.
    ///
    /// # Errors
    ///
    /// The bytes are malformed.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut from = ByteReader::new(bytes);
        let command = read_command(&mut from)?;
        from.end()?;
        Ok(command)
    }
}

fn write_command(to: &mut ByteWriter, command: &KeysCommand) {
    match command {
        KeysCommand::Put(put) => {
            to.byte(0);
            write_put(to, put);
        }
        KeysCommand::Delete(delete) => {
            to.byte(1);
            write_delete(to, delete);
        }
        KeysCommand::Txn(txn) => {
            to.byte(2);
            write_txn(to, txn);
        }
        KeysCommand::Compact { revision } => {
            to.byte(3);
            to.number(*revision);
        }
        KeysCommand::Disarm => to.byte(4),
    }
}

fn read_command(from: &mut ByteReader<'_>) -> Result<KeysCommand, CodecError> {
    Ok(match from.byte()? {
        0 => KeysCommand::Put(read_put(from)?),
        1 => KeysCommand::Delete(read_delete(from)?),
        2 => KeysCommand::Txn(read_txn(from, 0)?),
        3 => KeysCommand::Compact { revision: from.number()? },
        4 => KeysCommand::Disarm,
        tag => return Err(CodecError::Tag { what: "command for keys", tag }),
    })
}

fn write_put(to: &mut ByteWriter, put: &Put) {
    to.bytes(&put.key);
    to.bytes(&put.value);
    to.signed(put.lease);
    to.byte(u8::from(put.prev_kv) | u8::from(put.ignore_value) << 1 | u8::from(put.ignore_lease) << 2);
}

fn read_put(from: &mut ByteReader<'_>) -> Result<Put, CodecError> {
    let (key, value, lease) = (from.bytes()?, from.bytes()?, from.signed()?);
    let flags = read_flags(from, 0b111)?;
    Ok(Put { key, value, lease, prev_kv: flags & 1 != 0, ignore_value: flags & 2 != 0, ignore_lease: flags & 4 != 0 })
}

fn read_flags(from: &mut ByteReader<'_>, known: u8) -> Result<u8, CodecError> {
    let flags = from.byte()?;
    if flags & !known == 0 { Ok(flags) } else { Err(CodecError::Tag { what: "set of flags", tag: flags }) }
}

pub(crate) fn write_keys(to: &mut ByteWriter, keys: &KeyRange) {
    to.bytes(&keys.key);
    to.bytes(&keys.end);
}

pub(crate) fn read_keys(from: &mut ByteReader<'_>) -> Result<KeyRange, CodecError> {
    Ok(KeyRange { key: from.bytes()?, end: from.bytes()? })
}

fn write_delete(to: &mut ByteWriter, delete: &Delete) {
    write_keys(to, &delete.keys);
    to.flag(delete.prev_kv);
}

fn read_delete(from: &mut ByteReader<'_>) -> Result<Delete, CodecError> {
    Ok(Delete { keys: read_keys(from)?, prev_kv: from.flag()? })
}

fn write_txn(to: &mut ByteWriter, txn: &Txn) {
    to.list(&txn.compare, write_compare);
    to.list(&txn.success, write_op);
    to.list(&txn.failure, write_op);
}

fn read_txn(from: &mut ByteReader<'_>, depth: usize) -> Result<Txn, CodecError> {
    // Deeper than any that `KeysCommand::check` lets through, and not so deep that the stack would not do.
    if depth > MAX_OPS {
        return Err(CodecError::Nested);
    }
    Ok(Txn {
        compare: from.list(read_compare)?,
        success: from.list(|from| read_op(from, depth))?,
        failure: from.list(|from| read_op(from, depth))?,
    })
}

fn write_op(to: &mut ByteWriter, op: &Op) {
    match op {
        Op::Range(range) => {
            to.byte(0);
            write_range(to, range);
        }
        Op::Put(put) => {
            to.byte(1);
            write_put(to, put);
        }
        Op::Delete(delete) => {
            to.byte(2);
            write_delete(to, delete);
        }
        Op::Txn(txn) => {
            to.byte(3);
            write_txn(to, txn);
        }
    }
}

fn read_op(from: &mut ByteReader<'_>, depth: usize) -> Result<Op, CodecError> {
    Ok(match from.byte()? {
        0 => Op::Range(read_range(from)?),
        1 => Op::Put(read_put(from)?),
        2 => Op::Delete(read_delete(from)?),
        3 => Op::Txn(read_txn(from, depth + 1)?),
        tag => return Err(CodecError::Tag { what: "operation", tag }),
    })
}

fn write_compare(to: &mut ByteWriter, compare: &Compare) {
    write_keys(to, &compare.keys);
    to.byte(compare.op as u8);
    match &compare.target {
        CompareTarget::Version(version) => {
            to.byte(0);
            to.number(*version);
        }
        CompareTarget::Create(revision) => {
            to.byte(1);
            to.number(*revision);
        }
        CompareTarget::Mod(revision) => {
            to.byte(2);
            to.number(*revision);
        }
        CompareTarget::Value(value) => {
            to.byte(3);
            to.bytes(value);
        }
        CompareTarget::Lease(lease) => {
            to.byte(4);
            to.signed(*lease);
        }
    }
}

fn read_compare(from: &mut ByteReader<'_>) -> Result<Compare, CodecError> {
    let keys = read_keys(from)?;
    let op = match from.byte()? {
        0 => CompareOp::Equal,
        1 => CompareOp::Greater,
        2 => CompareOp::Less,
        3 => CompareOp::NotEqual,
        tag => return Err(CodecError::Tag { what: "way to compare", tag }),
    };
    let target = match from.byte()? {
        0 => CompareTarget::Version(from.number()?),
        1 => CompareTarget::Create(from.number()?),
        2 => CompareTarget::Mod(from.number()?),
        3 => CompareTarget::Value(from.bytes()?),
        4 => CompareTarget::Lease(from.signed()?),
        tag => return Err(CodecError::Tag { what: "thing to compare", tag }),
    };
    Ok(Compare { keys, op, target })
}

pub(crate) fn write_range(to: &mut ByteWriter, range: &Range) {
    write_keys(to, &range.keys);
    to.number(range.limit);
    to.number(range.revision);
    to.byte(range.order as u8);
    to.byte(range.target as u8);
    to.byte(u8::from(range.keys_only) | u8::from(range.count_only) << 1);
    to.number(range.min_mod_revision);
    to.number(range.max_mod_revision);
    to.number(range.min_create_revision);
    to.number(range.max_create_revision);
}

pub(crate) fn read_range(from: &mut ByteReader<'_>) -> Result<Range, CodecError> {
    let (keys, limit, revision) = (read_keys(from)?, from.number()?, from.number()?);
    let order = match from.byte()? {
        0 => SortOrder::None,
        1 => SortOrder::Ascend,
        2 => SortOrder::Descend,
        tag => return Err(CodecError::Tag { what: "order", tag }),
    };
    let target = match from.byte()? {
        0 => SortTarget::Key,
        1 => SortTarget::Version,
        2 => SortTarget::Create,
        3 => SortTarget::Mod,
        4 => SortTarget::Value,
        tag => return Err(CodecError::Tag { what: "thing to sort by", tag }),
    };
    let flags = read_flags(from, 0b11)?;
    Ok(Range {
        keys,
        limit,
        revision,
        order,
        target,
        keys_only: flags & 1 != 0,
        count_only: flags & 2 != 0,
        min_mod_revision: from.number()?,
        max_mod_revision: from.number()?,
        min_create_revision: from.number()?,
        max_create_revision: from.number()?,
    })
}

pub(crate) fn write_key_value(to: &mut ByteWriter, kv: &KeyValue) {
    to.bytes(&kv.key);
    to.number(kv.mod_revision);
    to.number(kv.version);
    // A tombstone has no more.
    if !kv.is_tombstone() {
        to.number(kv.create_revision);
        to.signed(kv.lease);
        to.bytes(&kv.value);
    }
}

pub(crate) fn read_key_value(from: &mut ByteReader<'_>) -> Result<Arc<KeyValue>, CodecError> {
    let (key, mod_revision, version) = (from.bytes()?, from.number()?, from.number()?);
    let kv = if version == 0 {
        KeyValue::tombstone(key, mod_revision)
    } else {
        let (create_revision, lease) = (from.number()?, from.signed()?);
        // An empty value allocates nothing.
        let value = from.slice()?;
        let value = if value.is_empty() { Bytes::new() } else { Bytes::copy_from_slice(value) };
        KeyValue { key, value, create_revision, mod_revision, version, lease }
    };
    Ok(Arc::new(kv))
}

fn write_kv(to: &mut ByteWriter, kv: &Arc<KeyValue>) {
    write_key_value(to, kv);
}

pub(crate) fn write_outcome(to: &mut ByteWriter, outcome: &KeysOutcome) {
    match outcome {
        KeysOutcome::Put(put) => {
            to.byte(0);
            write_put_outcome(to, put);
        }
        KeysOutcome::Delete(delete) => {
            to.byte(1);
            write_delete_outcome(to, delete);
        }
        KeysOutcome::Txn { revision, succeeded, responses } => {
            to.byte(2);
            write_txn_outcome(to, *revision, *succeeded, responses);
        }
        KeysOutcome::Compact { revision } => {
            to.byte(3);
            to.number(*revision);
        }
        KeysOutcome::Disarmed { revision } => {
            to.byte(4);
            to.number(*revision);
        }
    }
}

pub(crate) fn read_outcome(from: &mut ByteReader<'_>) -> Result<KeysOutcome, CodecError> {
    Ok(match from.byte()? {
        0 => KeysOutcome::Put(read_put_outcome(from)?),
        1 => KeysOutcome::Delete(read_delete_outcome(from)?),
        2 => {
            let (revision, succeeded, responses) = read_txn_outcome(from, 0)?;
            KeysOutcome::Txn { revision, succeeded, responses }
        }
        3 => KeysOutcome::Compact { revision: from.number()? },
        4 => KeysOutcome::Disarmed { revision: from.number()? },
        tag => return Err(CodecError::Tag { what: "outcome of a command for keys", tag }),
    })
}

fn write_put_outcome(to: &mut ByteWriter, put: &PutOutcome) {
    to.number(put.revision);
    to.option(put.prev.as_ref(), write_kv);
}

fn read_put_outcome(from: &mut ByteReader<'_>) -> Result<PutOutcome, CodecError> {
    Ok(PutOutcome { revision: from.number()?, prev: from.option(read_key_value)? })
}

fn write_delete_outcome(to: &mut ByteWriter, delete: &DeleteOutcome) {
    to.number(delete.revision);
    to.number(delete.deleted);
    to.list(&delete.prev, write_kv);
}

fn read_delete_outcome(from: &mut ByteReader<'_>) -> Result<DeleteOutcome, CodecError> {
    Ok(DeleteOutcome { revision: from.number()?, deleted: from.number()?, prev: from.list(read_key_value)? })
}

fn write_txn_outcome(to: &mut ByteWriter, revision: u64, succeeded: bool, responses: &[OpOutcome]) {
    to.number(revision);
    to.flag(succeeded);
    to.list(responses, |to, response| match response {
        OpOutcome::Range(range) => {
            to.byte(0);
            to.number(range.revision);
            to.number(range.count);
            to.flag(range.more);
            to.list(&range.kvs, write_kv);
        }
        OpOutcome::Put(put) => {
            to.byte(1);
            write_put_outcome(to, put);
        }
        OpOutcome::Delete(delete) => {
            to.byte(2);
            write_delete_outcome(to, delete);
        }
        OpOutcome::Txn { revision, succeeded, responses } => {
            to.byte(3);
            write_txn_outcome(to, *revision, *succeeded, responses);
        }
    });
}

fn read_txn_outcome(from: &mut ByteReader<'_>, depth: usize) -> Result<(u64, bool, Vec<OpOutcome>), CodecError> {
    if depth > MAX_OPS {
        return Err(CodecError::Nested);
    }
    let (revision, succeeded) = (from.number()?, from.flag()?);
    let responses = from.list(|from| {
        Ok(match from.byte()? {
            0 => OpOutcome::Range(RangeOutcome {
                revision: from.number()?,
                count: from.number()?,
                more: from.flag()?,
                kvs: from.list(read_key_value)?,
            }),
            1 => OpOutcome::Put(read_put_outcome(from)?),
            2 => OpOutcome::Delete(read_delete_outcome(from)?),
            3 => {
                let (revision, succeeded, responses) = read_txn_outcome(from, depth + 1)?;
                OpOutcome::Txn { revision, succeeded, responses }
            }
            tag => return Err(CodecError::Tag { what: "outcome of an operation", tag }),
        })
    })?;
    Ok((revision, succeeded, responses))
}
