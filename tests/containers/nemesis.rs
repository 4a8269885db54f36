//! The store under faults, in containers: the voters of the repository's compose file; beside each a client that uses it over
//! HTTP; and `broadcast chaos`, which breaks them as users do. Afterwards all answers and events are checked: by revision, and
//! by real time.
//!
//! It takes forty seconds; `BROADCAST_TESTS_NEMESIS` says how many instead.

#[path = "../interop/nemesis/client.rs"]
mod client;
#[path = "../interop/nemesis/faults.rs"]
mod faults;
#[allow(dead_code, reason = "the simulation uses the rest")]
#[path = "../../crates/store/tests/simulation/history.rs"]
mod history;
#[path = "../interop/nemesis/run.rs"]
mod run;

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use self::faults::Faults;
use crate::support::{
    Process,
    compose::Project,
    docker::{PROGRAM, docker, success, wait_until},
    require,
    voters::leader,
    wait,
};

const VOTERS: [&str; 3] = ["node1", "node2", "node3"];

/// The tests of this module.
pub fn cases() -> Vec<require::Case> {
    require::cases(require::compose().as_ref(), &[("nemesis/what_was_answered_is_true", what_was_answered_is_true)])
}

/// Whether this process is one that uses the store; then it has done so.
pub fn was_client() -> bool {
    let Ok(name) = std::env::var(client::NAME) else { return false };
    client::run(&name, &[client::WATCH], &client::WORK);
    true
}

struct Nemesis {
    project: Project,
    clients: Vec<Process>,
    /// Where the clients read their nodes' addresses.
    addresses: TempDir,
    faults: Faults,
}

/// How many kinds of faults there are.
const KINDS: usize = 9;

impl Nemesis {
    fn start() -> Self {
        let settings = &[("BROADCAST_INTERVAL", "1s"), ("BROADCAST_LOG_FORMAT", "json")];
        let project = Project::new("nemesis", settings);
        project.compose(&["up", "--detach", "--no-build"]);
        let addresses = TempDir::new().expect("a folder for temporary files");
        let mut nemesis = Self { project, clients: Vec::new(), addresses, faults: Faults::new(KINDS) };
        nemesis.wait_well();
        nemesis.clients = VOTERS
            .map(|name| {
                let mut client = Command::new(std::env::current_exe().expect("this program has a path"));
                client.env(client::NAME, name).env(client::NODE, nemesis.address_file(name)).stdin(Stdio::piped());
                Process::spawn(&mut client)
            })
            .into();
        nemesis
    }

    fn address_file(&self, name: &str) -> PathBuf {
        self.addresses.path().join(name)
    }

    /// Tells the clients where their nodes are: a container that was started or connected again may have another address.
    fn tell_addresses(&self) {
        for name in VOTERS {
            let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
            let address = docker(&["inspect", "--format", format, &self.container(name)]);
            // Nobody reads half of it.
            let written = self.addresses.path().join("new");
            fs::write(&written, address)
                .and_then(|()| fs::rename(&written, self.address_file(name)))
                .expect("there is room");
        }
    }

    fn container(&self, name: &str) -> String {
        format!("{}-{name}-1", self.project.name)
    }

    /// Runs `broadcast` in the container of a node.
    fn ask(&self, name: &str, args: &[&str]) -> Output {
        let mut command = self.project.command(&[&["exec", "-T", name, "/broadcast"], args].concat());
        command.output().expect("docker runs")
    }

    /// What the store says of itself, through the first node that answers.
    fn status(&self) -> Option<Value> {
        VOTERS
            .iter()
            .find_map(|name| serde_json::from_slice(&self.ask(name, &["store", "status", "--json"]).stdout).ok())
    }

    /// Waits until all three vote, and one leads.
    fn wait_well(&self) {
        self.tell_addresses();
        wait_until("all to vote again", || {
            let status = self.status().unwrap_or_default();
            leader(&status, 3).map(|_| ()).ok_or_else(|| format!("{status} after {:?}", self.faults))
        });
        for name in VOTERS {
            let state = docker(&["inspect", "--format", "{{.State.Running}}", &self.container(name)]);
            assert_eq!(state, "true", "{name} has ended after {:?}", self.faults);
        }
    }

    /// The leader, or anybody.
    fn victim(&mut self) -> &'static str {
        let any = self.faults.below(3);
        let any = if self.faults.below(10) < 4 {
            any
        } else {
            self.status().and_then(|status| leader(&status, 3)).unwrap_or(any)
        };
        VOTERS[any]
    }

    fn chaos(&self, args: &[&str]) {
        success(Command::new(&*PROGRAM).args(["chaos", "--project-name", &self.project.name]).args(args));
    }

    /// Breaks something, and repairs it after 1 s to 6 s, which is longer than elections and leases last.
    fn chaos_for_a_while(&mut self, fault: &[&str]) {
        let time = format!("{}s", 1 + self.faults.below(6));
        self.chaos(&[fault, &[&time]].concat());
    }

    fn fault(&mut self) {
        let victim = self.victim();
        let [one, two, three] = VOTERS;
        let name = match self.faults.next_kind() {
            0 => {
                self.chaos_for_a_while(&["kill", victim]);
                "killed"
            }
            1 => {
                self.chaos_for_a_while(&["kill", one, two, three]);
                "all killed"
            }
            2 => {
                self.chaos_for_a_while(&["pause", victim]);
                "paused"
            }
            3 => {
                self.chaos_for_a_while(&["pause", one, two, three]);
                "all paused"
            }
            4 => {
                self.chaos_for_a_while(&["partition", victim]);
                "off the network"
            }
            5 => {
                self.chaos_for_a_while(&["loss", victim, "40%"]);
                "loss"
            }
            6 => {
                self.chaos_for_a_while(&["delay", victim, "5ms..200ms"]);
                "delay"
            }
            7 => {
                self.wipe(victim);
                "wiped disk"
            }
            _ => {
                for name in VOTERS {
                    self.chaos(&["restart", name]);
                    self.wait_well();
                }
                "rolling restart"
            }
        };
        self.faults.count(name);
        self.tell_addresses();
    }

    /// A voter loses its volume, and an operator adds it again.
    fn wipe(&mut self, victim: &str) {
        self.wait_well();
        self.project.compose(&["rm", "--stop", "--force", victim]);
        docker(&["volume", "rm", &format!("{}_{victim}", self.project.name)]);
        self.project.compose(&["up", "--detach", "--no-build", victim]);
        let other = VOTERS.into_iter().find(|name| *name != victim).expect("there are three");
        wait_until("the voter to be replaced", || {
            let asked = self.ask(other, &["voters", "replace", victim]);
            if asked.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&asked.stderr).into_owned()) }
        });
    }

    /// Breaks one thing after the other for so long, and waits until all is well again.
    fn break_things(&mut self, time: Duration) {
        let began = Instant::now();
        while began.elapsed() < time {
            self.fault();
            let rest = 500 * self.faults.below(7) as u64;
            thread::sleep(Duration::from_millis(rest));
        }
        self.wait_well();
    }

    /// Ends the clients, and gives what they printed.
    fn client_lines(&mut self) -> Vec<Value> {
        self.clients.iter_mut().for_each(|client| client.send_line("rest"));
        for client in &self.clients {
            client
                .log
                .wait("a client to rest", |lines| lines.iter().any(|line| !line["resting"].is_null()).then_some(()));
        }
        wait("leases end", || run::has_ended(|args| self.ask(VOTERS[0], args)));
        let mut lines = Vec::new();
        for client in &mut self.clients {
            assert!(client.wait().success(), "a client ends well");
            client.log.wait_end();
            lines.extend(client.log.lines());
        }
        lines
    }
}

fn what_was_answered_is_true() {
    let mut nemesis = Nemesis::start();
    nemesis.break_things(Duration::from_secs(client::seconds(40)));
    run::check(nemesis.client_lines(), &nemesis.faults);
}
