//! Random changes of a log, with an end at any step of the disk. What is there afterwards must be what was asked for up to
//! some moment, and that moment is not before the last one that somebody was told is durable.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use broadcast_store::disk::{CrashOutcome, Ids, SimDisk};
use broadcast_store::log::{Entry, Log, LogError, LogId, LogOptions, LogState, Vote};
use bytes::Bytes;

use crate::random::{Random, seeds};

const IDS: Ids = Ids { cluster: 7, node: 8 };

fn options() -> LogOptions {
    LogOptions { segment: 2048, reserve: 256, queue: 4096, cache: 600, read: 500 }
}

/// What the log should have.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    state: LogState,
    entries: BTreeMap<u64, Entry>,
}

impl Model {
    fn truncate(&mut self, last: Option<LogId>) {
        self.entries.retain(|index, _| last.is_some_and(|last| *index <= last.index));
        self.state.last = last.max(self.state.purged);
        if self.state.committed > self.state.last {
            self.state.committed = None;
        }
    }

    fn purge(&mut self, up_to: LogId) {
        self.entries.retain(|index, _| *index > up_to.index);
        self.state.purged = Some(up_to);
        if self.entries.is_empty() {
            self.state.last = Some(up_to);
        }
    }
}

/// What was asked for, one model after each record, and which one is known to be durable.
struct History {
    models: Vec<Model>,
    durable: Arc<Mutex<usize>>,
}

impl History {
    fn now(&self) -> Model {
        self.models.last().expect("it begins with one").clone()
    }

    fn mark_durable(&self, at: usize) {
        let mut durable = self.durable.lock().expect("no panic");
        *durable = at.max(*durable);
    }
}

async fn change(log: &mut Log<SimDisk>, history: &mut History, random: &mut Random) -> Result<(), LogError> {
    let mut model = history.now();
    let last = model.state.last;
    match random.below(20) {
        0..=8 => {
            let term = model.state.vote.map_or(1, |vote| vote.term).max(last.map_or(0, |last| last.term));
            let mut entries = Vec::new();
            let next = last.map_or(0, |last| last.index + 1);
            for index in next..=next + random.below(6) {
                let size = if random.below(10) == 0 { 1200 } else { random.below(150) };
                let payload = Bytes::from(vec![random.number() as u8; size as usize]);
                let entry = Entry { log_id: LogId { term, index }, kind: random.below(3) as u8, payload };
                model.state.last = Some(entry.log_id);
                model.entries.insert(entry.log_id.index, entry.clone());
                history.models.push(model.clone());
                entries.push(entry);
            }
            let (durable, at) = (history.durable.clone(), history.models.len() - 1);
            let done = Box::new(move |result: std::io::Result<()>| {
                if result.is_ok() {
                    let mut durable = durable.lock().expect("no panic");
                    *durable = at.max(*durable);
                }
            });
            log.append(entries, done).await?;
        }
        9..=11 => {
            let term = model.state.vote.map_or(1, |vote| vote.term) + random.below(2);
            model.state.vote = Some(Vote { term, node: random.below(3), committed: random.below(2) == 0 });
            let vote = model.state.vote.expect("set above");
            history.models.push(model);
            log.save_vote(vote).await?;
            history.mark_durable(history.models.len() - 1);
        }
        12..=13 => {
            let candidates: Vec<_> = model.entries.values().map(|entry| entry.log_id).collect();
            let to = match random.below(candidates.len() as u64 + 1) as usize {
                0 => model.state.purged,
                n => Some(candidates[n - 1]),
            };
            model.truncate(to);
            history.models.push(model);
            log.truncate_after(to).await?;
        }
        14..=15 => {
            let mut candidates: Vec<_> = model.entries.values().map(|entry| entry.log_id).collect();
            let next = last.map_or(0, |last| last.index + 1 + random.below(30));
            candidates.push(LogId { term: last.map_or(1, |last| last.term), index: next });
            // Mostly the front: else the log is nearly always empty.
            let at = random.below(candidates.len() as u64).min(random.below(candidates.len() as u64));
            model.purge(candidates[at as usize]);
            history.models.push(model);
            log.purge(candidates[at as usize]).await?;
        }
        16..=17 => {
            let candidates: Vec<_> = model.entries.values().map(|entry| entry.log_id).collect();
            if !candidates.is_empty() {
                model.state.committed = Some(candidates[random.below(candidates.len() as u64) as usize]);
                let committed = model.state.committed;
                history.models.push(model);
                log.save_committed(committed)?;
            }
        }
        18 => {
            log.flush().await?;
            history.mark_durable(history.models.len() - 1);
        }
        _ => tokio::task::yield_now().await,
    }
    Ok(())
}

fn found(log: &Log<SimDisk>) -> Model {
    let state = log.state();
    let mut entries = BTreeMap::new();
    let reader = log.reader();
    let mut next = 0;
    loop {
        let read = reader.read(next.., 700).expect("the log can be read");
        let Some(last) = read.last() else { break };
        next = last.log_id.index + 1;
        entries.extend(read.into_iter().map(|entry| (entry.log_id.index, entry)));
    }
    Model { state, entries }
}

fn crash(seed: u64) {
    let mut random = Random::new(seed);
    let disk = SimDisk::new(random.number());
    let mut model = Model::default();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    for life in 0..6 {
        let durable = Arc::new(Mutex::new(0));
        let mut history = History { models: vec![model.clone()], durable };
        disk.end_after(2 + random.below(250));
        let opened = Log::open(disk.clone(), IDS, options());
        if let Ok((mut log, writer)) = opened {
            assert_eq!(found(&log), model, "life {life}: opened twice, the same");
            runtime.block_on(async {
                let writer = tokio::spawn(writer.run(|| std::future::ready(())));
                for _ in 0..400 {
                    if change(&mut log, &mut history, &mut random).await.is_err() {
                        break;
                    }
                    if random.below(4) == 0 && log.failure().is_none() && !disk.ended() {
                        assert_eq!(found(&log), history.now(), "life {life}: readers see what was asked for");
                    }
                }
                drop(log);
                let _ = writer.await.expect("the writer does not panic");
            });
        } else {
            assert!(disk.ended(), "life {life}: cannot open: {:?}", opened.err());
        }
        let landing = [CrashOutcome::Nothing, CrashOutcome::Everything, CrashOutcome::Torn, CrashOutcome::ProcessOnly]
            [random.below(4) as usize];
        disk.reboot(landing);
        let (log, _writer) = match Log::open(disk.clone(), IDS, options()) {
            Ok(opened) => opened,
            Err(error) => panic!("life {life}, {landing:?}: {error}"),
        };
        let found = found(&log);
        let durable = *history.durable.lock().expect("no panic");
        assert!(
            history.models[durable..].contains(&found),
            "life {life}, {landing:?}: of {} records {durable} are durable, and there is {found:#?} instead of {:#?}",
            history.models.len() - 1,
            history.models[durable],
        );
        assert!(found.state.committed <= found.state.last, "committed is not ahead of the entries");
        model = found;
    }
}

#[test]
fn nothing_durable_is_lost_wherever_the_process_ends() {
    seeds("nothing_durable_is_lost_wherever_the_process_ends", 0..400, crash);
}
