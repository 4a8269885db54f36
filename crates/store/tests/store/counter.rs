//! A machine besides users' keys.

use std::io;

use broadcast_store::{
    Malformed, SnapshotError,
    machine::{Context, LeaseEnd, Machine, Sink, Source, View},
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

    fn check(&self, body: &[u8]) -> Result<(), Malformed> {
        if body.len() == 1 { Ok(()) } else { Err(Malformed::Cut) }
    }

    fn apply(&mut self, context: &mut Context<'_>, body: &[u8]) -> Result<Bytes, Malformed> {
        self.check(body)?;
        self.count += body[0];
        context.tell(vec![self.count]);
        Ok(Bytes::from(vec![self.count, context.leases().len() as u8, context.at().term as u8]))
    }

    fn answer(&self, view: &View<'_>, question: &[u8]) -> Result<Bytes, Malformed> {
        self.check(question)?;
        Ok(vec![self.count, question[0], view.leases.len() as u8].into())
    }

    fn lease_ended(&mut self, context: &mut Context<'_>, lease: i64, _: LeaseEnd) {
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

    fn write(&self, sink: &mut Sink<'_>) -> io::Result<()> {
        sink.record(&[self.count])?;
        self.ended.iter().try_for_each(|lease| sink.record(&lease.to_le_bytes()))
    }

    fn read(&mut self, source: &mut Source<'_>) -> Result<(), SnapshotError> {
        let count = source.record()?.unwrap_or_default();
        let &[count] = &count[..] else { return Err(source.malformed(Malformed::Cut)) };
        self.count = count;
        while let Some(record) = source.record()? {
            let lease = record.try_into().map_err(|_| source.malformed(Malformed::Cut))?;
            self.ended.push(i64::from_le_bytes(lease));
        }
        Ok(())
    }
}
