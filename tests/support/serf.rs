//! Real serf agents, and their command line: `serf` in PATH, or what `SERF` names.

use std::{
    fs,
    net::TcpListener,
    path::PathBuf,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{LIMIT, child::OwnedChild, require::answers, wait_for};

/// What is missing to run agents.
pub fn missing() -> Option<String> {
    (!answers(program().arg("version"))).then(|| {
        "no serf (`serf version`): install it (on Debian: the package serf), in PATH or where SERF says".into()
    })
}

fn program() -> Command {
    Command::new(std::env::var_os("SERF").unwrap_or_else(|| "serf".into()))
}

/// What a command printed, and whether it succeeded.
#[derive(Debug)]
pub struct CommandOutput {
    pub success: bool,
    pub text: String,
}

/// A running agent, with a handler that writes down every event. Killed when dropped.
#[derive(Debug)]
pub struct Agent {
    child: OwnedChild,
    /// Where others reach it.
    pub addr: String,
    rpc: String,
    event_file: PathBuf,
}

impl Agent {
    /// Starts an agent on loopback, and waits until it answers.
    #[track_caller]
    pub fn start(name: &str, args: &[&str]) -> Self {
        // Between being found free and being bound, another program may take the ports.
        (0..5).find_map(|_| Self::try_start(name, args)).expect("an agent starts; see what it printed above")
    }

    fn try_start(name: &str, args: &[&str]) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("serf");
        fs::create_dir_all(&folder).expect("cargo's folder can be written to");
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let event_file = folder.join(format!("{name}.{}.{count}", std::process::id()));
        fs::write(&event_file, "").expect("it can be written");
        // One `printf`, so that lines are whole.
        let handler =
            format!("printf '%s|%s|%s\\n' $SERF_EVENT \"$SERF_USER_EVENT\" \"$(cat)\" >>'{}'", event_file.display());
        let (addr, rpc) = (free(), free());
        let mut command = program();
        command.arg("agent").args([&format!("-node={name}"), &format!("-bind={addr}"), &format!("-rpc-addr={rpc}")]);
        command.args(["-profile=local", &format!("-event-handler={handler}")]).args(args);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("serf runs");
        let mut agent = Self { child: OwnedChild(child), addr, rpc, event_file };
        let deadline = Instant::now() + LIMIT;
        while !agent.run("members", &[]).success {
            if agent.child.try_wait().expect("it was started here").is_some() {
                return None;
            }
            assert!(Instant::now() < deadline, "the agent {name} does not answer");
            thread::sleep(Duration::from_millis(20));
        }
        Some(agent)
    }

    /// Runs one of serf's commands with this agent. It has to end by itself.
    #[track_caller]
    pub fn run(&self, command: &str, args: &[&str]) -> CommandOutput {
        let mut run = program();
        run.args([command, &format!("-rpc-addr={}", self.rpc)]).args(args).stdin(Stdio::null());
        let mut child = run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("serf runs");
        let deadline = Instant::now() + LIMIT;
        while child.try_wait().expect("it was started here").is_none() {
            if Instant::now() >= deadline {
                let _ = child.kill();
                panic!("serf {command} {args:?} does not end");
            }
            thread::sleep(Duration::from_millis(5));
        }
        let output = child.wait_with_output().expect("it has ended");
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        CommandOutput { success: output.status.success(), text }
    }

    /// Sends a user event that handlers are not to miss for another of its name.
    #[track_caller]
    pub fn event(&self, name: &str, payload: &str) {
        let answer = self.run("event", &["-coalesce=false", name, payload]);
        assert!(answer.success, "{}", answer.text);
    }

    /// What `serf members` lists.
    #[track_caller]
    pub fn members(&self) -> Vec<Value> {
        let answer = self.run("members", &["-format=json"]);
        let list: Value = serde_json::from_str(&answer.text).unwrap_or_else(|_| panic!("{}", answer.text));
        list["members"].as_array().cloned().unwrap_or_default()
    }

    /// Waits until `serf members` lists somebody in such a state; gives the line.
    #[track_caller]
    pub fn wait_member(&self, name: &str, status: &str) -> Value {
        wait_for(&format!("{name} is {status}"), || {
            let members = self.members();
            let found = members.iter().find(|member| member["name"] == name && member["status"] == status);
            found.cloned().ok_or(members)
        })
    }

    /// The events that its handler got, as `event|name|payload`.
    pub fn events(&self) -> Vec<String> {
        fs::read_to_string(&self.event_file).expect("it was written").lines().map(str::to_owned).collect()
    }

    /// Waits until its handler has got all of these.
    #[track_caller]
    pub fn wait_events(&self, lines: &[String]) {
        self.wait_until_events(&format!("{lines:?}"), |events| lines.iter().all(|line| events.contains(line)));
    }

    /// Waits until the events that its handler got are `done`.
    #[track_caller]
    pub fn wait_until_events(&self, what: &str, done: impl Fn(&[String]) -> bool) {
        wait_for(&format!("the handler gets {what}"), || {
            let events = self.events();
            if done(&events) { Ok(()) } else { Err(events) }
        });
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Its handler writes to the file.
        self.child.end();
        let _ = fs::remove_file(&self.event_file);
    }
}

/// An address that nobody listens on.
fn free() -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("loopback has free ports");
    listener.local_addr().expect("it is bound").to_string()
}
