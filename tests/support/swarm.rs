//! A Docker Swarm for tests: several engines, each on a host of a small network that nothing else is on.
//!
//! The machine's own engine is not part of it: a member of a swarm takes part in its decisions, and opens ports. The engines and
//! what they stored go with the test.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio, id},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::{
    docker::{IMAGE, docker, success, wait_until},
    netns::{self, Host, Net},
    remove_env, require,
};

/// What an engine on such a host needs of the kernel, beside what [`netns::missing`] looks for.
const TRIAL: &str = "ip link add vx0 type vxlan id 1 dstport 4789";
/// How long an engine may take to stop its containers, before it is killed.
const STOP: Duration = Duration::from_secs(30);
/// How often engines say that they are there. An engine that is late three times has failed, and its containers are stopped and
/// started elsewhere. By default that takes 15 s, which a busy machine may need for something else.
const HEARTBEAT: &str = "1m";

/// What is missing on this machine for a swarm.
pub fn missing() -> Option<String> {
    if let Some(missing) = require::docker().or_else(netns::missing) {
        return Some(missing);
    }
    if !netns::is_root() {
        return Some("only root starts Docker engines for a swarm: run the tests as root".into());
    }
    for (tool, package) in [("dockerd", "docker.io"), ("setpriv", "util-linux")] {
        if !require::answers(Command::new(tool).arg("--version")) {
            return Some(format!("there is no `{tool}` for engines of their own (Debian: apt-get install {package})"));
        }
    }
    (!require::answers(Command::new("unshare").args(["--net", "sh", "-ec", TRIAL]))).then(|| {
        "the kernel has no VXLAN, which swarms connect their engines with: modprobe vxlan, or take a kernel that has it"
            .into()
    })
}

/// A swarm whose engines all have the image under test.
pub struct Swarm {
    /// The first is a manager.
    pub engines: Vec<Engine>,
    // After the engines, which write to it and live on it.
    _folder: TempDir,
    _net: Net,
}

impl Swarm {
    /// Of so many engines.
    pub fn new(engines: u8) -> Self {
        let folder = TempDir::new().expect("a folder for temporary files");
        let image = folder.path().join("image.tar");
        docker(&["save", "--output", &image.display().to_string(), &IMAGE]);
        let net = Net::new();
        let start = |n| Engine::start(net.host(n), folder.path().join(format!("engine{n}")));
        let engines: Vec<_> = (1..=engines).map(start).collect();
        let swarm = Self { engines, _folder: folder, _net: net };
        let manager = &swarm.engines[0];
        let addr = |n: usize| netns::addr(n as u8 + 1).to_string();
        let load = |engine: &Engine| {
            wait_until("an engine to answer", || {
                let output = engine.docker().arg("info").output().expect("docker runs");
                output.status.success().then_some(()).ok_or_else(|| engine.log())
            });
            success(engine.docker().args(["load", "--quiet"]).stdin(File::open(&image).expect("it was saved")));
        };
        thread::scope(|scope| swarm.engines.iter().for_each(|engine| _ = scope.spawn(move || load(engine))));
        for (n, engine) in swarm.engines.iter().enumerate() {
            if n == 0 {
                engine.run(&["swarm", "init", "--advertise-addr", &addr(n), "--dispatcher-heartbeat", HEARTBEAT]);
            } else {
                let token = manager.run(&["swarm", "join-token", "--quiet", "worker"]);
                engine.run(&["swarm", "join", "--advertise-addr", &addr(n), "--token", &token, &addr(0)]);
            }
        }
        swarm
    }

    /// The engine to which the swarm is told what to do.
    pub fn manager(&self) -> &Engine {
        &self.engines[0]
    }
}

/// An engine, stopped when this is dropped.
pub struct Engine {
    process: Child,
    folder: PathBuf,
    // After the process, which runs on it.
    _host: Host,
}

impl Engine {
    fn start(host: Host, folder: PathBuf) -> Self {
        fs::create_dir(&folder).expect("the folder is new");
        // The machine's own settings are for the machine's engine.
        fs::write(folder.join("settings.json"), "{}").expect("it can be written");
        let log = File::create(folder.join("log")).expect("it can be written");
        let path = |name: &str| folder.join(name).display().to_string();
        // Where engines share a containerd, they would share their containers, too.
        let namespace = format!("broadcast-{}-{}", id(), host.name);
        let process = host
            .run("setpriv")
            // It ends with the tests, however they end.
            .args(["--pdeathsig", "TERM", "dockerd"])
            .args(["--config-file", &path("settings.json"), "--data-root", &path("data"), "--exec-root", &path("exec")])
            .args(["--pidfile", &path("pid"), "--host", &format!("unix://{}", path("sock"))])
            .args([
                "--containerd-namespace",
                &namespace,
                "--containerd-plugins-namespace",
                &format!("{namespace}-plugins"),
            ])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("dockerd was found before");
        Self { process, folder, _host: host }
    }

    /// `docker` for it, without what the environment says of the machine's own.
    pub fn docker(&self) -> Command {
        let mut command = Command::new("docker");
        remove_env(&mut command, &["BROADCAST_", "DOCKER_"]);
        command.args(["--host", &format!("unix://{}", self.folder.join("sock").display())]);
        command
    }

    /// Runs `docker` for it, which must succeed, and gives what it prints.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> String {
        success(self.docker().args(args))
    }

    /// The end of what it logs.
    fn log(&self) -> String {
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        // All at once, as each takes its time.
        self.engines.iter().for_each(Engine::end);
    }
}

impl Engine {
    /// Has it stop its containers, and unmount what it has mounted.
    fn end(&self) {
        // It may have ended: that is no failure.
        let _ = Command::new("kill").args(["-TERM", &self.process.id().to_string()]).status();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.end();
        let deadline = Instant::now() + STOP;
        while matches!(self.process.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(50));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
