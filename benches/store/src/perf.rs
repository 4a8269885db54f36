//! What etcd's own `etcdctl check perf` says of voters of ours, and of etcd. Its loads have a fixed rate: `s` is 150 puts a second of 50
//! clients, `m` 1,000 of 200, for a minute each. So what differs is what they cost.

use std::{path::Path, time::Duration};

use tokio::time::sleep;

use crate::{Outcome, etcd, load::Client as _, ours, report::System, servers::Servers, until};

/// How long servers have to settle.
const SETTLE: Duration = Duration::from_secs(5);
const LOADS: [&str; 2] = ["s", "m"];

/// Prints it as a table in Markdown.
pub(crate) async fn measure(broadcast: &Path, etcd: &Path, folder: &Path) -> Outcome<()> {
    let mut rows = Vec::new();
    for system in [System::EtcdApi, System::Etcd] {
        for load in LOADS {
            eprintln!("{system}: etcdctl check perf --load {load}, which takes a minute");
            let folder = folder.join(format!("{system}-{load}"));
            rows.push(match system {
                System::Etcd => {
                    let (servers, client) = etcd::start(etcd, &folder, 1).await?;
                    row(system, load, servers, &client).await?
                }
                _ => {
                    let (servers, voters) = ours::start(broadcast, &folder).await?;
                    let client = etcd::connect(etcd, &voters.etcd_ports, 1)?;
                    row(system, load, servers, &client).await?
                }
            });
        }
    }
    println!(
        "| load, of | puts a second | slowest, s | standard deviation, s | CPU of all, s | memory of the largest, MiB |"
    );
    println!("|---|---|---|---|---|---|");
    for row in rows {
        println!("{row}");
    }
    Ok(())
}

async fn row(system: System, load: &str, servers: Servers, client: &etcd::Client) -> Outcome<String> {
    until(async || client.leader().await).await?;
    sleep(SETTLE).await;
    let cpu = servers.cpu()?;
    let done = client.etcdctl(&["check", "perf", "--load", load]).output().await?;
    let cpu = (servers.cpu()? - cpu).as_secs_f64();
    let resident = servers.resident()?.into_iter().max().unwrap_or_default() as f64 / f64::from(1 << 20);
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let figure = |before: &str| {
        let rest = text.rsplit_once(before).map_or("", |(_, rest)| rest);
        let digits: String = rest.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
        if digits.is_empty() { Err(format!("there is no figure behind {before:?}: {text}")) } else { Ok(digits) }
    };
    // It says of what is as it should be that it "is", and of what is not that it is "too low" or "took too long".
    let put = figure("Throughput is ").or_else(|_| figure("Throughput too low: "))?;
    let slowest = figure("Slowest request took ").or_else(|_| figure("Slowest request took too long: "))?;
    let deviation = figure("Stddev is ").or_else(|_| figure("Stddev too high: "))?;
    servers.stop().await?;
    Ok(format!("| {load}, {system} | {put} | {slowest} | {deviation} | {cpu:.1} | {resident:.1} |"))
}
