//! Small networks for tests: hosts that are network namespaces, joined by bridges in a namespace of its own.
//!
//! No namespace has a name, and no address exists outside of them: networks do not know each other, and nothing
//! of the machine is changed. A namespace lives as long as the process that holds it, which ends when the network
//! is dropped, or with the tests, however they end.
//!
//! ```text
//!   host "node1"    host "node2"    host "node3"
//!   eth0 10.77.0.1  eth0 10.77.0.2  eth0 10.77.0.3
//!        └───────────────┼───────────────┘
//!                    br0 (switch)
//! ```

use std::{
    fmt::Write as _,
    io::{BufRead as _, BufReader, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::MetadataExt as _,
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use super::{Process, child::OwnedChild, program, require, wait_for};

/// The port of nodes in these networks: each has its host to itself.
pub const PORT: u16 = 7946;
/// Where they serve their HTTP API, in their hosts.
const HTTP: &str = "127.0.0.1:8946";
/// What a namespace must allow.
const TRIAL: &str = "ip link set lo up && ip link add v0 type veth peer name v1 && ip link add br0 type bridge && \
     tc qdisc add dev v0 root tbf rate 1mbit burst 4kb latency 1s && iptables -w -A OUTPUT -p udp -m length --length 9 -j DROP && \
     iptables -w -t nat -A POSTROUTING -p udp -j SNAT --to-source 10.0.0.1 && iptables -w -t raw -A PREROUTING -p udp -j NOTRACK";

/// What is missing on this machine for tests in networks of their own.
pub fn missing() -> Option<String> {
    let tools = ["unshare", "nsenter", "mount", "bash", "ip", "tc", "iptables"];
    let is_here = |tool: &&str| require::answers(Command::new("sh").args(["-c", &format!("command -v {tool}")]));
    if let Some(tool) = tools.iter().find(|tool| !is_here(tool)) {
        return Some(format!("there is no `{tool}`: install iproute2, iptables and util-linux"));
    }
    (!require::answers(unshare().args(["sh", "-ec", TRIAL]))).then(|| {
        "no network namespaces, bridges, iptables or tbf: be root, or allow users to have their own \
         (kernel.unprivileged_userns_clone=1, user.max_user_namespaces)"
            .into()
    })
}

/// What is missing for nodes whose clocks are wrong.
pub fn missing_clocks() -> Option<String> {
    missing().or_else(|| {
        (!require::answers(Command::new("faketime").args(["-f", "+1d", "true"])))
            .then(|| "there is no `faketime`: install it (Debian's package of that name)".into())
    })
}

/// Whether this user may mount and unshare without a namespace of its own.
pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0)
}

/// Runs a command in new namespaces, which belong to this user.
fn unshare() -> Command {
    let mut command = Command::new("unshare");
    if !is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--net", "--mount", "--"]);
    command
}

/// A namespace, held by a process that ends when its standard input does.
#[derive(Debug)]
struct Namespace(OwnedChild);

impl Namespace {
    /// Its processes see the files `hosts` and `resolv.conf` of a folder as the system's.
    fn new(mut command: Command, etc: &TempDir) -> Self {
        let mut script = String::new();
        for file in ["hosts", "resolv.conf"] {
            let path = etc.path().join(file);
            writeln!(script, "mount --bind '{}' /etc/{file}", path.display()).expect("a string takes all");
        }
        script += "ip link set lo up\necho ready\nexec cat";
        command.args(["sh", "-ec", &script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut namespace = Self(OwnedChild(command.spawn().expect("namespaces can be made here")));
        let mut line = String::new();
        let output = namespace.0.stdout.take().expect("it is piped");
        BufReader::new(output).read_line(&mut line).expect("it can be read");
        assert_eq!(line, "ready\n", "a namespace is made");
        namespace
    }

    /// A command that runs inside.
    fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        if !is_root() {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.args(["--net", "--mount", "--target", &self.0.id().to_string(), "--"]);
        command
    }

    #[track_caller]
    fn sh(&self, script: &str) -> String {
        output(self.enter().args(["sh", "-ec", script]), script)
    }
}

#[track_caller]
fn output(command: &mut Command, what: &str) -> String {
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().expect("it runs");
    assert!(status.success(), "{what}: {status}, {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).expect("text")
}

/// A network.
#[derive(Debug)]
pub struct Net {
    switch: Namespace,
    etc: TempDir,
}

impl Net {
    /// With a bridge `br0`, and no host yet.
    pub fn new() -> Self {
        let etc = TempDir::new().expect("a folder for temporary files");
        std::fs::write(etc.path().join("hosts"), "127.0.0.1 localhost\n").expect("it can be written");
        std::fs::write(etc.path().join("resolv.conf"), "").expect("it can be written");
        let net = Self { switch: Namespace::new(unshare(), &etc), etc };
        net.bridge("br0");
        net
    }

    /// Adds a network that is apart from the others.
    pub fn bridge(&self, name: &str) {
        self.switch.sh(&format!("ip link add {name} type bridge && ip link set {name} up"));
    }

    /// Adds a host without a network.
    pub fn bare_host(&self, name: &str) -> Host {
        let mut command = self.switch.enter();
        command.args(["unshare", "--net", "--mount", "--"]);
        Host { name: name.into(), namespace: Namespace::new(command, &self.etc) }
    }

    /// Adds a host that has `10.77.0.<n>` on `br0`.
    pub fn host(&self, n: u8) -> Host {
        let host = self.bare_host(&format!("node{n}"));
        self.attach(&host, "eth0", "br0", &format!("{}/24", addr(n)));
        host
    }

    /// Connects a host to a bridge. `addr` has the length of the network's prefix; if it is empty, the interface gets none.
    pub fn attach(&self, host: &Host, interface: &str, bridge: &str, addr: &str) {
        let (pid, port) = (host.namespace.0.id(), format!("{interface}-{}", host.name));
        self.switch.sh(&format!(
            "ip link add {port} type veth peer name {interface} netns {pid} && ip link set {port} master {bridge} up"
        ));
        // Others see datagrams, not runs of them.
        host.sh(&format!("ip link set {interface} gso_max_segs 1 up"));
        if !addr.is_empty() {
            host.sh(&format!("ip addr add {addr} dev {interface}"));
        }
    }

    /// From now on these names stand for these addresses, and no others are known.
    pub fn resolve(&self, names: &[(&str, IpAddr)]) {
        let mut hosts = String::from("127.0.0.1 localhost\n");
        names.iter().for_each(|(name, addr)| hosts += &format!("{addr} {name}\n"));
        // The same file, as it is mounted.
        std::fs::write(self.etc.path().join("hosts"), hosts).expect("it can be written");
    }
}

/// The address of the host `node<n>`.
pub fn addr(n: u8) -> IpAddr {
    Ipv4Addr::new(10, 77, 0, n).into()
}

/// A host: a network namespace of its own.
#[derive(Debug)]
pub struct Host {
    /// Its name.
    pub name: String,
    namespace: Namespace,
}

impl Host {
    /// Runs a script on it, which has to succeed; gives what it printed.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        self.namespace.sh(script)
    }

    /// A command that runs a program on it; the caller adds arguments and starts it.
    pub fn run(&self, program: &str) -> Command {
        let mut command = self.namespace.enter();
        command.arg(program);
        command
    }

    /// Adds a rule of iptables: `-A INPUT …`, or takes it away: `-D INPUT …`.
    #[track_caller]
    pub fn iptables(&self, rule: &str) {
        self.sh(&format!("iptables -w {rule}"));
    }

    /// Starts a node of its name in the local profile, unless `args` say otherwise.
    pub fn node(&self, args: &[&str]) -> Process {
        self.node_with(&[], args)
    }

    /// Starts a node through a wrapper, a command that runs what its last arguments say.
    pub fn node_with(&self, wrapper: &[&str], args: &[&str]) -> Process {
        let defaults = [
            ["--name", &self.name],
            ["--bind", "0.0.0.0:7946"],
            ["--http", HTTP],
            ["--profile", "local"],
            ["--log-format", "json"],
        ];
        let defaults = defaults.iter().filter(|[flag, _]| !args.contains(flag)).flatten().copied();
        let args: Vec<_> = ["node"].into_iter().chain(defaults).chain(args.iter().copied()).collect();
        Process::spawn(&mut self.command(wrapper, &args))
    }

    /// The program, run here.
    fn command(&self, wrapper: &[&str], args: &[&str]) -> Command {
        let inner = program(args);
        let mut command = self.namespace.enter();
        command.args(wrapper).arg(inner.get_program()).args(inner.get_args());
        for (name, _) in inner.get_envs().filter(|(_, value)| value.is_none()) {
            command.env_remove(name);
        }
        command
    }

    /// Asks the node here, with the program: `publish`, `members`, …; `input` is its standard input.
    pub fn ask(&self, args: &[&str], input: &[u8]) -> Output {
        let mut command = self.command(&[], args);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program runs");
        // It may end before it has read all.
        let _ = child.stdin.take().expect("it is piped").write_all(input);
        child.wait_with_output().expect("it was started here")
    }

    /// Has the node here publish a value, and waits until all have acknowledged it. Gives to how many of how many members it
    /// was delivered.
    #[track_caller]
    pub fn publish(&self, key: &str, value: &str) -> (u64, u64) {
        let args = ["publish", key, "-", "--text", "--ack", "all", "--timeout", "40s", "--json"];
        let Output { status, stdout, stderr } = self.ask(&args, value.as_bytes());
        let [stdout, stderr] = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        assert!(status.success(), "publish {key} at {}: {status}, {stdout}{stderr}", self.name);
        let answer: Value = serde_json::from_str(stdout.trim()).expect("an object");
        let number = |field: &str| answer[field].as_u64().unwrap_or_else(|| panic!("{field} in {answer}"));
        (number("delivered"), number("members"))
    }

    /// Has the node here publish these values, without waiting for anybody.
    #[track_caller]
    pub fn publish_all(&self, key: &str, values: impl IntoIterator<Item = String>) {
        let lines: String = values.into_iter().map(|value| value + "\n").collect();
        let Output { status, stderr, .. } = self.ask(&["publish", key, "--text"], lines.as_bytes());
        assert!(status.success(), "publish at {}: {}", self.name, String::from_utf8_lossy(&stderr));
    }

    /// The members, as the node here lists them.
    #[track_caller]
    pub fn members(&self) -> Vec<Value> {
        let Output { status, stdout, stderr } = self.ask(&["members", "--json"], b"");
        assert!(status.success(), "members at {}: {}", self.name, String::from_utf8_lossy(&stderr));
        let answer: Value = serde_json::from_slice(&stdout).expect("an object");
        answer["members"].as_array().expect("a list").clone()
    }

    /// The value of one of the metrics of the node here, by its whole name; 0 if there is none.
    #[track_caller]
    pub fn metric(&self, name: &str) -> u64 {
        let (ip, port) = HTTP.split_once(':').expect("an address");
        let script = format!(
            "exec 3<>/dev/tcp/{ip}/{port}; printf 'GET /metrics HTTP/1.1\\r\\nhost: {ip}\\r\\nconnection: close\\r\\n\\r\\n' >&3; cat <&3"
        );
        let answer = output(self.namespace.enter().args(["bash", "-ec", &script]), "GET /metrics");
        let value = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0, |value| value.trim().parse().expect("a whole number"))
    }

    /// Waits until the host has a link-local IPv6 address; gives it.
    #[track_caller]
    pub fn link_local(&self, interface: &str) -> String {
        wait_for(&format!("{interface} has a link-local address"), || {
            let list = self.sh(&format!("ip -6 -o addr show dev {interface} scope link -tentative"));
            let addr = list.split_whitespace().find(|word| word.starts_with("fe80:"));
            addr.and_then(|addr| addr.split('/').next()).map(str::to_owned).ok_or(list)
        })
    }
}

/// A node's address in these networks.
pub fn seed(n: u8) -> String {
    SocketAddr::new(addr(n), PORT).to_string()
}
