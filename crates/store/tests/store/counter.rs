//! A machine besides users' keys.

use std::io;

use broadcast_store::{
    CodecError, SnapshotError,
    machine::{ApplyContext, LeaseEndReason, Machine, QueryContext, SectionReader, SectionWriter},
};
use bytes::Bytes;

/// Counts, and remembers which leases ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Counter {
    pub(crate) count: u8,
    pub(crate) ended: Vec<i64>,
    pub(crate) quota: u64,
}

impl Machine for Counter {
    fn name(&self) -> &'static str {
        "counter"
    }

    fn version(&self) -> u16 {
        2
    }

    fn check(&self, body: &[u8]) -> Result<(), CodecError> {
        if body.len() == 1 { Ok(()) } else { Err(CodecError::Cut) }
    }

    fn apply(&mut self, context: &mut ApplyContext<'_>, body: &[u8]) -> Result<Bytes, CodecError> {
        self.check(body)?;
        self.count += body[0];
        context.emit(vec![self.count]);
        Ok(Bytes::from(vec![self.count, context.leases().len() as u8, context.log_id().term as u8]))
    }

    fn query(&self, context: &QueryContext<'_>, question: &[u8]) -> Result<Bytes, CodecError> {
        self.check(question)?;
        Ok(vec![self.count, question[0], context.leases.len() as u8].into())
    }

    fn lease_ended(&mut self, context: &mut ApplyContext<'_>, lease: i64, _: LeaseEndReason) {
        assert!(!context.leases().contains(lease));
        self.ended.push(lease);
    }

    fn bytes(&self) -> u64 {
        self.count.into()
    }

    fn set_quota(&mut self, bytes: u64) {
        self.quota = bytes;
    }

    fn copy(&self) -> Box<dyn Machine> {
        Box::new(self.clone())
    }

    fn write(&self, sink: &mut SectionWriter<'_>) -> io::Result<()> {
        sink.record(&[self.count])?;
        self.ended.iter().try_for_each(|lease| sink.record(&lease.to_le_bytes()))
    }

    fn read(&mut self, source: &mut SectionReader<'_>) -> Result<(), SnapshotError> {
        let count = source.record()?.unwrap_or_default();
        let &[count] = &count[..] else { return Err(source.malformed(CodecError::Cut)) };
        self.count = count;
        while let Some(record) = source.record()? {
            let lease = record.try_into().map_err(|_| source.malformed(CodecError::Cut))?;
            self.ended.push(i64::from_le_bytes(lease));
        }
        Ok(())
    }
}
