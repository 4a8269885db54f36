//! What queues should do, said in the shortest way: who is granted is worked out anew from the order of all entries.

use broadcast_lock::Mode;

/// An entry of a queue: its token, its session, its locks, and how it is asked for.
#[derive(Clone, Debug)]
pub(crate) struct QueueEntry {
    pub(crate) token: u64,
    pub(crate) session: i64,
    pub(crate) locks: Vec<u8>,
    pub(crate) mode: Mode,
}

/// All entries, in the order in which they were taken.
#[derive(Debug, Default)]
pub(crate) struct Model(pub(crate) Vec<QueueEntry>);

impl Model {
    /// The tokens that are granted.
    pub(crate) fn granted(&self) -> Vec<u64> {
        let granted = self.0.iter().enumerate().filter(|(at, entry)| {
            entry.locks.iter().all(|lock| {
                let before: Vec<Mode> =
                    self.0[..*at].iter().filter(|each| each.locks.contains(lock)).map(|each| each.mode).collect();
                match entry.mode {
                    Mode::Exclusive => before.is_empty(),
                    Mode::Shared => before.iter().all(|mode| *mode == Mode::Shared),
                    Mode::Semaphore { permits } => {
                        let of_others = before.iter().map(|mode| match mode {
                            Mode::Semaphore { permits } => Some(*permits),
                            _ => None,
                        });
                        let least =
                            of_others.chain([Some(permits)]).try_fold(u16::MAX, |least, each| Some(least.min(each?)));
                        least.is_some_and(|least| before.len() < least.into())
                    }
                }
            })
        });
        granted.map(|(_, entry)| entry.token).collect()
    }
}
