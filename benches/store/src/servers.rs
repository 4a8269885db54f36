//! The server processes: starts, kills and restarts them, and reads their CPU time and memory.

use std::{
    ffi::OsString,
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    process::{Child, Command},
    time::timeout,
};

use crate::Outcome;

/// How long servers have to end that are told to.
const TO_END: Duration = Duration::from_secs(10);

/// Ports of the loopback that nobody has.
pub(crate) fn free_ports<const COUNT: usize>() -> Outcome<[u16; COUNT]> {
    let mut held = Vec::new();
    let mut ports = [0; COUNT];
    for port in &mut ports {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}

/// Servers of one cluster. They end with this.
pub(crate) struct Servers(Vec<Server>);

struct Server {
    program: PathBuf,
    args: Vec<OsString>,
    log: PathBuf,
    child: Child,
}

impl Server {
    fn run(program: &Path, args: &[OsString], log: &Path) -> Outcome<Child> {
        let log = File::options().create(true).append(true).open(log)?;
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        command.spawn().map_err(|error| format!("{}: {error}", program.display()).into())
    }
}

impl Servers {
    /// Starts one for each of the arguments. Each gets a file for its log in the folder.
    pub(crate) fn start(program: &Path, folder: &Path, args: Vec<Vec<OsString>>) -> Outcome<Self> {
        fs::create_dir_all(folder)?;
        let start = |(number, args): (usize, Vec<OsString>)| {
            let log = folder.join(format!("{number}.log"));
            let child = Server::run(program, &args, &log)?;
            Ok(Server { program: program.into(), args, log, child })
        };
        args.into_iter().enumerate().map(start).collect::<Outcome<Vec<_>>>().map(Self)
    }

    fn pids(&self) -> impl Iterator<Item = u32> {
        self.0.iter().filter_map(|server| server.child.id())
    }

    /// Kills one with SIGKILL.
    pub(crate) fn kill(&mut self, at: usize) -> Outcome<()> {
        Ok(self.0[at].child.start_kill()?)
    }

    /// Starts one again that was killed.
    pub(crate) async fn restart(&mut self, at: usize) -> Outcome<()> {
        let server = &mut self.0[at];
        server.child.wait().await?;
        server.child = Server::run(&server.program, &server.args, &server.log)?;
        Ok(())
    }

    /// Ends all with SIGTERM, so that they have time to save what they do only at their end, as a profile.
    pub(crate) async fn stop(mut self) -> Outcome<()> {
        let pids: Vec<_> = self.pids().map(|pid| pid.to_string()).collect();
        let told = Command::new("kill").arg("-TERM").args(pids).status().await;
        for server in &mut self.0 {
            if told.is_err() || timeout(TO_END, server.child.wait()).await.is_err() {
                eprintln!("a server does not end by itself, and is killed");
                server.child.kill().await?;
            }
        }
        Ok(())
    }

    /// What all of them have taken of processors so far.
    pub(crate) fn cpu(&self) -> Outcome<Duration> {
        self.pids().map(cpu).sum()
    }

    /// What each has in memory, in bytes.
    pub(crate) fn resident(&self) -> Outcome<Vec<u64>> {
        self.pids().map(resident).collect()
    }
}

/// Time of a process in user and system mode. Linux counts it in hundredths of a second here.
fn cpu(pid: u32) -> Outcome<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name of the program may have spaces, and is in parentheses.
    let (_, fields) = stat.rsplit_once(')').ok_or("what /proc tells of a process has no name in it")?;
    let ticks: Vec<u64> = fields.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(Duration::from_millis(10 * ticks.iter().sum::<u64>()))
}

fn resident(pid: u32) -> Outcome<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("a process without memory")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib << 10)
}
