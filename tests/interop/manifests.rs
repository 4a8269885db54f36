//! The files for Kubernetes and Docker Swarm, `docker/kubernetes` and `docker/stack.yaml`, checked with the clusters' own tools,
//! against the schemas of Kubernetes, and against the program: every variable, command and path in them is one that the program
//! has. `tests/containers` runs the stack.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Process, docker::success, http, program, repository, require};

/// The variable that names the folder with the programs of a Python environment; else they are looked for.
const FOLDER: &str = "BROADCAST_KUBERNETES_VALIDATE";
/// Of the versions of Kubernetes that are maintained, and those that many still run.
const VERSIONS: [&str; 3] = ["1.32", "1.35", "1.37"];
/// Where the manifests have their secrets.
const SECRETS: &str = "/run/secrets/";

/// The tests of this module.
pub fn cases() -> Vec<require::Case> {
    let tests: [require::Test; 3] = [
        ("kubernetes_knows_each_field_of_the_manifests", kubernetes_knows_each_field_of_the_manifests),
        (
            "the_manifests_select_each_other_and_ask_what_a_node_answers",
            the_manifests_select_each_other_and_ask_what_a_node_answers,
        ),
        ("the_stack_sets_and_asks_what_a_node_has", the_stack_sets_and_asks_what_a_node_has),
    ];
    require::cases(missing().as_ref(), &tests)
}

fn missing() -> Option<String> {
    if !require::answers(Command::new("kubectl").args(["kustomize", "--help"])) {
        return Some("there is no `kubectl` (Debian: apt-get install kubernetes-client)".into());
    }
    (!require::answers(Command::new(python_program("kubernetes-validate")).arg("--version"))).then(|| {
        format!(
            "kubernetes-validate is not installed: `pip install kubernetes-validate`, or name the folder of its \
             environment's programs in {FOLDER}"
        )
    })
}

/// A program of the Python environment that has kubernetes-validate, which needs PyYAML.
fn python_program(name: &str) -> OsString {
    std::env::var_os(FOLDER).map_or_else(|| name.into(), |folder| Path::new(&folder).join(name).into())
}

/// Reads YAML as JSON: all documents of a file.
fn parse(yaml: &str) -> Vec<Value> {
    let script = "import json, sys, yaml; json.dump(list(yaml.safe_load_all(sys.stdin)), sys.stdout)";
    let mut python =
        Command::new(python_program(if std::env::var_os(FOLDER).is_some() { "python" } else { "python3" }));
    let mut child =
        python.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("there is a Python");
    child.stdin.take().expect("it is piped").write_all(yaml.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it was started here");
    assert!(output.status.success(), "this is no YAML, or Python has no module named yaml");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The manifests as they are sent to a cluster.
fn rendered() -> String {
    success(Command::new("kubectl").arg("kustomize").arg(repository("docker/kubernetes")))
}

/// Checks a file strictly against the schemas of one version; gives what is wrong.
fn complaints(file: &Path, version: &str) -> Option<String> {
    let mut command = Command::new(python_program("kubernetes-validate"));
    let output = command.args(["--strict", "--kubernetes-version", version]).arg(file).output().expect("it runs");
    (!output.status.success()).then(|| String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

fn kubernetes_knows_each_field_of_the_manifests() {
    let folder = TempDir::new().expect("a folder for temporary files");
    let file = folder.path().join("all.yaml");
    for version in VERSIONS {
        fs::write(&file, rendered()).expect("it can be written");
        assert_eq!(complaints(&file, version), None, "Kubernetes {version}");
        // It does look.
        fs::write(&file, rendered().replace("publishNotReadyAddresses", "publishNotReadyAdresses")).expect("as before");
        let told = complaints(&file, version).expect("a field that Kubernetes does not have");
        assert!(told.contains("publishNotReadyAdresses"), "Kubernetes {version}: {told}");
    }
}

/// A document of a kind and name, which has to be there.
#[track_caller]
fn find<'a>(documents: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let is_it = |document: &&Value| document["kind"] == kind && document["metadata"]["name"] == name;
    documents.iter().find(is_it).unwrap_or_else(|| panic!("there is no {kind} named {name}"))
}

#[track_caller]
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is to be text"))
}

#[track_caller]
fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("{value} is to be a list"))
}

/// Whether pods with these labels are what a selector means.
fn selects(selector: &Value, labels: &Value) -> bool {
    let wanted = selector.get("matchLabels").unwrap_or(selector).as_object().expect("labels");
    !wanted.is_empty() && wanted.iter().all(|(name, value)| labels[name] == *value)
}

/// A node started with the settings of a manifest, but on loopback, with secrets that it makes up.
struct Trial {
    node: Process,
    secrets: TempDir,
}

impl Trial {
    /// Each of the settings has to be one of the program's.
    #[track_caller]
    fn start(settings: &BTreeMap<String, String>) -> Self {
        let help = String::from_utf8(program(&["node", "--help"]).output().expect("it runs").stdout).expect("text");
        let secrets = TempDir::new().expect("a folder for temporary files");
        let keygen = || program(&["keygen"]).output().expect("it runs").stdout;
        let mut env = Vec::new();
        for (name, value) in settings {
            assert!(help.contains(&format!("[env: {name}]")), "{name} is not a setting of `broadcast node`");
            let value = match value.strip_prefix(SECRETS) {
                Some(file) => {
                    let file = secrets.path().join(file.replace('/', "-"));
                    fs::write(&file, keygen()).expect("it can be written");
                    file.display().to_string()
                }
                None => value.clone(),
            };
            env.push((name.as_str(), value));
        }
        let own = ["BROADCAST_HTTP", "BROADCAST_LOG_FORMAT"];
        env.retain(|(name, _)| !own.contains(name));
        let env: Vec<_> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let node = Process::node_with(&["--http", "127.0.0.1:0"], &env);
        assert!(node.wait_started(), "it cannot start with {settings:?}");
        Self { node, secrets }
    }

    /// Runs the command of a health check at it, in the same environment.
    #[track_caller]
    fn check(&self, settings: &BTreeMap<String, String>, args: &[&str]) {
        let bind = self.node.addr().to_string();
        let mut command = program(args);
        for (name, value) in settings {
            let file = value.strip_prefix(SECRETS).map(|file| self.secrets.path().join(file.replace('/', "-")));
            command.env(name, file.map_or_else(|| value.clone(), |file| file.display().to_string()));
        }
        success(command.env("BROADCAST_BIND", bind));
    }
}

fn the_manifests_select_each_other_and_ask_what_a_node_answers() {
    let documents = parse(&rendered());
    for (kind, name, probed) in [("StatefulSet", "node", "node"), ("Deployment", "sender", "sender")] {
        let workload = find(&documents, kind, name);
        let template = &workload["spec"]["template"];
        let labels = &template["metadata"]["labels"];
        assert!(selects(&workload["spec"]["selector"], labels), "{kind} {name} is to select its own pods");
        for (kind, of, selector) in
            [("PodDisruptionBudget", probed, "/spec/selector"), ("NetworkPolicy", "broadcast", "/spec/podSelector")]
        {
            let selector = find(&documents, kind, of).pointer(selector).expect("a selector");
            assert!(selects(selector, labels), "{kind} {of} is to hold for the pods of {name}");
        }
        let pod = &template["spec"];
        let [container] = list(&pod["containers"]) else { panic!("one container: {pod}") };
        let ports: BTreeMap<_, _> =
            list(&container["ports"]).iter().map(|port| (text(&port["name"]), &port["containerPort"])).collect();
        let settings: BTreeMap<_, _> = list(&container["env"]).iter().map(setting).collect();
        // All that is read is mounted, of a secret that is named.
        let mounts = list(&container["volumeMounts"]).iter().map(|mount| text(&mount["mountPath"]));
        let mounts: Vec<_> = mounts.collect();
        for file in settings.values().filter(|value| value.starts_with(SECRETS)) {
            let folder = Path::new(file).parent().expect("a folder").display().to_string();
            assert!(mounts.contains(&folder.as_str()), "{file} is in none of {mounts:?}");
        }
        let seed = find(&documents, "Service", &settings["BROADCAST_JOIN"]);
        assert_eq!(seed["spec"]["clusterIP"], "None", "a name for each pod's address");
        assert_eq!(seed["spec"]["publishNotReadyAddresses"], true, "pods are found before they are ready");
        let seeds = &find(&documents, "StatefulSet", "node")["spec"];
        assert!(selects(&seed["spec"]["selector"], &seeds["template"]["metadata"]["labels"]));
        assert_eq!(seeds["serviceName"], seed["metadata"]["name"]);

        let trial = Trial::start(&settings);
        let addr = trial.node.http();
        for probe in ["livenessProbe", "readinessProbe"] {
            let get = &container[probe]["httpGet"];
            assert_eq!(ports[text(&get["port"])], 8946, "{probe}");
            let answer = http::ask(addr, "GET", text(&get["path"]), &[], b"");
            // It has not found the others of its cluster, so it serves, and is not ready.
            assert_eq!(answer.status, if probe == "livenessProbe" { 200 } else { 503 }, "{probe}: {}", answer.text());
            assert!(answer.json()["status"].is_string(), "{probe}: {}", answer.text());
        }
        assert_eq!(settings["BROADCAST_HTTP"], "0.0.0.0:8946");
        assert_eq!(ports["gossip-tcp"], 7946);
        assert_eq!(ports["gossip-udp"], 7946);
    }
}

/// A container's setting, with an example for what a cluster fills in.
fn setting(variable: &Value) -> (String, String) {
    let value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
        None => text(&variable["value"]),
        Some("metadata.name") => "sender-7c9d8f6b5-x2x4v",
        Some("metadata.namespace") => "demo",
        Some("status.podIP") => "127.0.0.1",
        Some(other) => panic!("{other} has no example here"),
    };
    (text(&variable["name"]).to_owned(), value.to_owned())
}

fn the_stack_sets_and_asks_what_a_node_has() {
    let stack = fs::read_to_string(stack()).expect("the stack is there");
    let [stack] = &parse(&stack)[..] else { panic!("one document") };
    let secrets = stack["secrets"].as_object().expect("secrets");
    for (name, service) in stack["services"].as_object().expect("services") {
        let env = service["environment"].as_object().expect("settings by name");
        // Swarm fills in what has braces; what is empty is the user's.
        let filled = |value: &str| {
            value
                .replace("{{.Task.Slot}}", "3")
                .replace(r#"{{index .Service.Labels "com.docker.stack.namespace"}}"#, "demo")
        };
        let mut settings: BTreeMap<_, _> =
            env.iter().map(|(name, value)| (name.clone(), filled(value.as_str().unwrap_or_default()))).collect();
        assert!(settings.values().all(|value| !value.contains("{{")), "{settings:?}");
        assert_eq!(settings["BROADCAST_ADVERTISE"], filled(text(&service["hostname"])), "{name} is found by its name");
        for file in settings.values().filter_map(|value| value.strip_prefix(SECRETS)) {
            assert!(
                secrets.contains_key(file) && list(&service["secrets"]).iter().any(|given| given == file),
                "{file}"
            );
        }
        // Who is called so is known on the stack's network only.
        settings.insert("BROADCAST_ADVERTISE".into(), "127.0.0.1".into());
        let trial = Trial::start(&settings);
        let check: Vec<_> = list(&service["healthcheck"]["test"]).iter().map(text).collect();
        let ["CMD", "/broadcast", args @ ..] = &check[..] else { panic!("{check:?}") };
        trial.check(&settings, args);
    }
}

fn stack() -> PathBuf {
    repository("docker/stack.yaml")
}
