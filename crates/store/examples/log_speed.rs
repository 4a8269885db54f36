//! How long it takes until entries are durable, beside a plain write and sync of the same bytes on the same disk.
//!
//! ```console
//! $ cargo run --release -p broadcast-store --example log_speed -- FOLDER
//! ```
//!
//! Each round does both once, one after the other, for what other processes do to the disk changes by the minute: only
//! the ratio means something.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use broadcast_store::disk::{Folder, Ids};
use broadcast_store::log::{Entry, Log, LogId, LogOptions};
use bytes::Bytes;
use tokio::sync::oneshot;

const PAYLOAD: usize = 256;
const ROUNDS: usize = 400;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = PathBuf::from(std::env::args_os().nth(1).ok_or("usage: log_speed FOLDER")?);
    let folder = Folder::open(path.join("log"))?;
    let (mut log, writer) = Log::open(folder, Ids { cluster: 1, node: 1 }, LogOptions::default())?;
    let writer = writer.spawn(|ended| drop(ended.inspect_err(|error| eprintln!("{error}"))))?;
    let plain = OpenOptions::new().create(true).truncate(true).write(true).open(path.join("plain"))?;
    let mut offset = 0;
    let mut next = log.state().last.map_or(0, |last| last.index + 1);
    for group in [1, 16, 64] {
        let (mut ours, mut plains) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let bytes = vec![7; group * PAYLOAD];
            let start = Instant::now();
            plain.write_all_at(&bytes, offset)?;
            plain.sync_data()?;
            plains.push(start.elapsed());
            offset += bytes.len() as u64;

            // As from so many clients at once: each entry by itself, and each is waited for.
            let start = Instant::now();
            let mut waiting = Vec::new();
            for _ in 0..group {
                let (sender, receiver) = oneshot::channel();
                let payload = Bytes::from_static(&[7; PAYLOAD]);
                let entry = Entry { log_id: LogId { term: 1, index: next }, kind: 1, payload };
                log.append(vec![entry], Box::new(|result| drop(sender.send(result)))).await?;
                waiting.push(receiver);
                next += 1;
            }
            for receiver in waiting {
                receiver.await??;
            }
            ours.push(start.elapsed());
        }
        let (ours, plain) = (median(ours), median(plains));
        let ratio = ours.as_secs_f64() / plain.as_secs_f64();
        println!("{group:3} entries: log {ours:9.1?}, plain {plain:9.1?}, ratio {ratio:.2}");
    }
    drop(log);
    writer.join().map_err(|_| "the writer panicked")?;
    Ok(())
}
