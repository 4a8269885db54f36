//! The shipped monitoring, with a real Prometheus: its configuration, its rules, and every query of the dashboard.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use crate::support::{Process, docker::success, http, program, require, traffic, wait_every};
use serde_json::Value;

/// The tests of this module.
pub fn cases() -> Vec<require::Case> {
    let missing =
        (!["prometheus", "promtool"].iter().all(|tool| require::answers(Command::new(tool).arg("--version"))))
            .then(|| "prometheus and promtool are not installed (Debian: apt-get install prometheus)".to_owned());
    let tests: [require::Test; 5] = [
        ("the_configuration_is_sound", the_configuration_is_sound),
        ("the_metrics_are_as_prometheus_wants_them", the_metrics_are_as_prometheus_wants_them),
        ("every_query_finds_what_it_is_for", every_query_finds_what_it_is_for),
        ("the_page_of_metrics_has_them_all", the_page_of_metrics_has_them_all),
        ("the_page_of_operations_has_each_alert", the_page_of_operations_has_each_alert),
    ];
    let mut cases = require::cases(missing.as_ref(), &tests);
    let compose: [require::Test; 1] = [("the_profile_is_valid", the_profile_is_valid)];
    cases.extend(require::cases(require::compose().as_ref(), &compose));
    cases
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn the_configuration_is_sound() {
    success(Command::new("promtool").args(["check", "config"]).arg(repository("docker/prometheus/prometheus.yml")));
    success(Command::new("promtool").args(["check", "rules"]).arg(repository("docker/prometheus/rules.yml")));
}

fn the_profile_is_valid() {
    let file = repository("compose.yaml");
    let listed = success(
        Command::new("docker")
            .args(["compose", "--profile", "observe", "--file"])
            .arg(file)
            .args(["config", "--services"]),
    );
    assert!(["prometheus", "grafana"].iter().all(|service| listed.lines().any(|line| line == *service)), "{listed}");
}

/// node1 to node3, each with an HTTP API, voters of a store that is founded; all but node1 speak.
fn three() -> [Process; 3] {
    let node = |name: &str, args: &[&str]| {
        let voter = ["--name", name, "--http", "127.0.0.1:0", "--interval", "200ms", "--voters", "node1,node2,node3"];
        Process::node(&[&voter, args].concat())
    };
    let first = node("node1", &["--role", "receiver,voter"]);
    let seed = first.addr().to_string();
    let [second, third] = ["node2", "node3"].map(|name| node(name, &["--role", "sender,voter", "--join", &seed]));
    traffic::wait_members(3, &[("node1", &first.log), ("node2", &second.log), ("node3", &third.log)]);
    // It is answered once somebody leads.
    assert_eq!(http::ask(first.http(), "PUT", "/v1/kv/color", &[], b"green").status, 200);
    [first, second, third]
}

fn metrics(node: &Process) -> String {
    http::metrics(node.http())
}

fn the_metrics_are_as_prometheus_wants_them() {
    use std::io::Write as _;

    let nodes = three();
    let mut check = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool runs");
    check.stdin.take().expect("it is piped").write_all(metrics(&nodes[1]).as_bytes()).expect("it reads");
    let output = check.wait_with_output().expect("it ends");
    let complaints = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && complaints.is_empty(), "{}", String::from_utf8_lossy(&complaints));
}

/// The metrics of a node: name, kind, help.
fn families(text: &str) -> Vec<[String; 3]> {
    let help = |name: &str| {
        let start = format!("# HELP {name} ");
        text.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or_default().to_owned()
    };
    let kinds = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    kinds.map(|(name, kind)| [name.to_owned(), kind.to_owned(), help(name)]).collect()
}

fn the_page_of_metrics_has_them_all() {
    let page = fs::read_to_string(repository("docs/metrics.md")).expect("the page is there");
    let rows: Vec<_> = page.lines().filter(|line| line.starts_with("| `")).collect();
    let nodes = three();
    let expected: Vec<_> = families(&metrics(&nodes[0]))
        .into_iter()
        .map(|[name, kind, help]| format!("| `{name}` | {kind} | {help} |"))
        .collect();
    assert_eq!(rows.join("\n"), expected.join("\n"), "docs/metrics.md is to have what a node tells");
}

fn the_page_of_operations_has_each_alert() {
    let read = |path| fs::read_to_string(repository(path)).expect("it is there");
    let (rules, page) = (read("docker/prometheus/rules.yml"), read("docs/operations.md"));
    let alerts: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let rows: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("| `Broadcast")?.split('`').next()).collect();
    let rows: Vec<_> = rows.iter().map(|name| format!("Broadcast{name}")).collect();
    assert_eq!(rows, alerts, "docs/operations.md is to say what to do about each alert, in their order");
}

/// A Prometheus with the shipped rules that scrapes these nodes. Ended when dropped.
struct Prometheus {
    process: Process,
    addr: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    fn start(nodes: &[Process]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::copy(repository("docker/prometheus/rules.yml"), folder.path().join("rules.yml"))
            .expect("the rules are there");
        let shipped = fs::read_to_string(repository("docker/prometheus/prometheus.yml")).expect("it is there");
        let (head, _) = shipped.split_once("    # If the nodes have").expect("what follows says where the nodes are");
        let targets: Vec<_> = nodes.iter().map(|node| node.http().to_string()).collect();
        let config = head.replace("5s", "1s") + &format!("    static_configs: [{{ targets: {targets:?} }}]\n");
        let file = folder.path().join("prometheus.yml");
        fs::write(&file, config).expect("the folder takes it");
        // Prometheus does not tell which port it was given.
        let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("loopback has ports");
        let process = Process::spawn(
            Command::new("prometheus")
                .arg(format!("--config.file={}", file.display()))
                .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
                .arg(format!("--web.listen-address={free}"))
                .stderr(Stdio::null()),
        );
        let this = Self { process, addr: free, _folder: folder };
        this.wait("every node is scraped, twice", || {
            let up = this.query("count(count_over_time(up{job=\"broadcast\"}[1m]) > 2)");
            up.is_some_and(|found| found.len() == 1 && found[0] == nodes.len().to_string())
        });
        this
    }

    fn wait(&self, what: &str, holds: impl Fn() -> bool) {
        wait_every(Duration::from_millis(100), what, || {
            assert!(self.process.log.len() < 10_000);
            if holds() { Ok(()) } else { Err("it does not hold") }
        });
    }

    /// The current values of an expression; nothing if Prometheus does not answer yet.
    fn query(&self, expression: &str) -> Option<Vec<String>> {
        let stream = std::net::TcpStream::connect(self.addr).ok()?;
        drop(stream);
        let path = format!("/api/v1/query?query={}", encoded(expression));
        let answer = http::ask(self.addr, "GET", &path, &[], b"");
        if answer.status == 503 {
            return None;
        }
        let value = answer.json();
        assert_eq!((answer.status, &value["status"]), (200, &Value::from("success")), "{expression}: {value}");
        let found = value["data"]["result"].as_array().expect("a vector").iter();
        Some(found.map(|sample| sample["value"][1].as_str().expect("a text").to_owned()).collect())
    }
}

fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// The queries of the dashboard, with where each is.
fn queries() -> Vec<(String, String)> {
    let text = fs::read_to_string(repository("docker/grafana/dashboards/broadcast.json")).expect("it is there");
    let dashboard: Value = serde_json::from_str(&text).expect("it is JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let queries = panels.iter().flat_map(|panel| {
        let title = panel["title"].as_str().expect("a title").to_owned();
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        targets.into_iter().map(move |target| (title.clone(), target["expr"].as_str().expect("a query").to_owned()))
    });
    queries.map(|(title, query)| (title, query.replace("$__rate_interval", "10s"))).collect()
}

fn every_query_finds_what_it_is_for() {
    let mut nodes = three();
    let prometheus = Prometheus::start(&nodes);
    let all = queries();
    assert!(all.len() > 20, "{all:?}");
    for (panel, query) in &all {
        prometheus.wait(&format!("{panel}: {query} finds something"), || {
            // Without changes there is no sync to measure, and without locks no wait.
            assert_eq!(http::ask(nodes[1].http(), "PUT", "/v1/kv/color", &[], b"red").status, 200);
            if query.contains("_lock_") {
                let node = nodes[1].http().to_string();
                success(&mut program(&["lock", "color", "--node", &node, "--", "true"]));
            }
            let found = prometheus.query(query).expect("it answers");
            let by_node = query.contains("broadcast_build_info");
            found.iter().any(|value| value != "NaN") && (!by_node || found.len() == nodes.len())
        });
    }
    let sizes = || {
        let size = all.iter().find(|(panel, _)| panel.starts_with("Cluster size")).expect("the panel is there");
        prometheus.query(&size.1).expect("it answers")
    };
    assert_eq!(sizes(), ["3", "3", "3"]);
    prometheus.wait("every rule can be evaluated", || {
        // In chunks, which may part anything but so little text.
        let rules = http::ask(prometheus.addr, "GET", "/api/v1/rules", &[], b"").text();
        let healthy = rules.matches("\"health\":\"ok\"").count();
        healthy > 5 && healthy == rules.matches("\"health\":").count()
    });
    assert_eq!(prometheus.query("ALERTS"), Some(Vec::new()), "all is well");
    let recorded = prometheus.query("broadcast:delivery_seconds:p99").expect("it answers");
    assert!(recorded.len() == 1 && recorded[0] != "NaN", "{recorded:?}");

    nodes[2].kill();
    prometheus.wait("both others see two members", || sizes() == ["2", "2"]);
    prometheus.wait("the alert that a member failed is there", || {
        prometheus.query("ALERTS{alertname=\"BroadcastMemberFailed\"}").is_some_and(|found| !found.is_empty())
    });

    prometheus.wait("the alert that a voter is missing is about to be there", || {
        let alert = "ALERTS{alertname=\"BroadcastStoreVoterMissing\"}";
        prometheus.query(alert).is_some_and(|found| found.len() == 1)
    });

    // Another voter, and most of them are gone: whoever led, the last one hears of no leader.
    nodes[1].kill();
    prometheus.wait("the alert that there is no leader is about to be there", || {
        let alert = "ALERTS{alertname=\"BroadcastStoreNoLeader\"}";
        prometheus.query(alert).is_some_and(|found| found.len() == 1)
    });
}
