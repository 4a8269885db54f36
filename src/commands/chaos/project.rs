//! The compose project, and its nodes as Docker knows them.

use std::{cmp::Ordering, fmt, path::PathBuf};

use broadcast::Faults;
use serde_json::Value;

use super::docker::{self, Printed};
use crate::failure::Failure;

/// The port of a node's page, in its container.
const PAGE: &str = "8946/tcp";

/// A compose project that runs.
pub(super) struct Project {
    name: String,
}

/// A container with a role.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// As it names itself.
    pub(super) name: String,
    /// The container's id.
    pub(super) container: String,
    container_name: String,
    service: String,
    pub(super) state: State,
    /// Whether it is on a network.
    pub(super) attached: bool,
    /// Whether it was started with `BROADCAST_FAULTS`.
    pub(super) takes_faults: bool,
}

/// What Docker says of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    Running,
    Paused,
    /// It was ended at once.
    Killed,
    Exited,
    Created,
    Other(String),
}

impl State {
    /// Whether it ran once, or was to, and does not.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self, Self::Killed | Self::Exited | Self::Created)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Killed => "killed",
            Self::Exited => "exited",
            Self::Created => "created",
            Self::Other(state) => state,
        })
    }
}

impl Project {
    /// The one of this name, or the one that compose uses here.
    pub(super) async fn find(name: Option<String>, files: &[PathBuf]) -> Result<Self, Failure> {
        if let Some(name) = name {
            return Ok(Self { name });
        }
        let files: Vec<_> = files.iter().flat_map(|file| ["--file".to_owned(), file.display().to_string()]).collect();
        let command: Vec<&str> = ["compose"].into_iter().chain(files.iter().map(String::as_str)).collect();
        let config = docker::need(&[&command[..], &["config", "--format", "json"]].concat()).await;
        let remedy = "name the compose project with --project-name, or its file with --file";
        let config = config.map_err(|failure| Failure::other(format!("{failure}; {remedy}")))?;
        let config: Value = serde_json::from_str(&config).unwrap_or_default();
        let name = config["name"].as_str().map(str::to_owned);
        let name = name.ok_or_else(|| Failure::other(format!("compose does not tell the project's name: {remedy}")))?;
        Ok(Self { name })
    }

    /// All its nodes, in the order of their names.
    pub(super) async fn look(&self) -> Result<Vec<Node>, Failure> {
        let label = self.label();
        let filters = ["--filter", &label, "--filter", "label=com.docker.compose.oneoff=False"];
        let ids = docker::need(&[&["ps", "--all", "--quiet"][..], &filters].concat()).await?;
        if ids.is_empty() {
            return Err(Failure::other(format!(
                "no containers of the compose project {}: start it with docker compose up (where no registry can be \
                 reached, make the image with scripts/image first), or name another one with --project-name",
                self.name
            )));
        }
        let inspected = docker::need(&["inspect"].into_iter().chain(ids.lines()).collect::<Vec<_>>()).await?;
        let inspected: Vec<Value> = serde_json::from_str(&inspected)
            .map_err(|error| Failure::other(format!("docker inspect does not print what it should: {error}")))?;
        let mut nodes: Vec<_> = inspected.iter().filter_map(Node::of).collect();
        nodes.sort_by(|one, other| by_number(&one.name, &other.name));
        Ok(nodes)
    }

    fn label(&self) -> String {
        format!("label=com.docker.compose.project={}", self.name)
    }

    /// The network that the nodes talk in.
    pub(super) async fn network(&self) -> Result<String, Failure> {
        let label = self.label();
        let filters = ["--filter", &label, "--filter", "label=com.docker.compose.network=gossip"];
        let network = docker::need(&[&["network", "ls", "--quiet"][..], &filters].concat()).await?;
        if network.is_empty() {
            return Err(Failure::other(format!(
                "the compose project {} has no network named gossip: name the project with --project-name, or its \
                 file with --file",
                self.name
            )));
        }
        Ok(network)
    }
}

impl Node {
    /// From what `docker inspect` prints of a container. Nothing if it has no role, and so is no node.
    fn of(container: &Value) -> Option<Self> {
        let (id, config) = (container["Id"].as_str()?, &container["Config"]);
        let variable = |name: &str| {
            let settings = config["Env"].as_array().into_iter().flatten().filter_map(Value::as_str);
            settings.filter_map(|setting| setting.split_once('=')).find(|(is, _)| *is == name).map(|(_, value)| value)
        };
        variable("BROADCAST_ROLE")?;
        let label = |name: &str| config["Labels"][format!("com.docker.compose.{name}")].as_str();
        let (service, number) = (label("service")?, label("container-number")?);
        // As the nodes name themselves: after the host, unless that is the container's id.
        let host = config["Hostname"].as_str().filter(|host| !id.starts_with(host));
        let state = match (container["State"]["Status"].as_str()?, &container["State"]["ExitCode"]) {
            ("running", _) => State::Running,
            ("paused", _) => State::Paused,
            ("exited", code) if *code == 128 + 9 => State::Killed,
            ("exited", _) => State::Exited,
            ("created", _) => State::Created,
            (other, _) => State::Other(other.into()),
        };
        Some(Self {
            name: host.map_or_else(|| format!("{service}-{number}"), str::to_owned),
            container: id.into(),
            container_name: container["Name"].as_str()?.trim_start_matches('/').into(),
            service: service.into(),
            state,
            attached: container["NetworkSettings"]["Networks"].as_object().is_some_and(|networks| !networks.is_empty()),
            takes_faults: variable("BROADCAST_FAULTS").is_some_and(|faults| !faults.is_empty()),
        })
    }

    /// Whether others are to see it.
    pub(super) fn is_there(&self) -> bool {
        self.state == State::Running && self.attached
    }

    /// The names that others find it by on the network.
    pub(super) fn aliases(&self) -> [&str; 2] {
        [&self.service, &self.container_name]
    }

    /// The arguments of `docker` that run a command of the node's own program in its container.
    pub(super) fn exec(&self, command: &[&str]) -> Vec<String> {
        let program = ["exec", &self.container, "/broadcast"];
        program.iter().chain(command).map(|arg| (*arg).into()).collect()
    }

    /// The address that Docker gives it.
    pub(super) async fn given_address(&self) -> Result<String, Failure> {
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        docker::need(&["inspect", "--format", format, &self.container]).await
    }

    /// The address a node has told the others, which it keeps as long as it lives. Nothing where HTTP is off, or it has
    /// ended.
    pub(super) async fn told_address(&self) -> Result<Option<String>, Failure> {
        let printed = docker::run(self.exec(&["status", "--json"])).await?;
        let status: Value = serde_json::from_str(&printed.stdout).unwrap_or_default();
        let address = status["addr"].as_str().and_then(|addr| addr.rsplit_once(':'));
        Ok(address.map(|(ip, _)| ip.to_owned()))
    }
}

/// Runs `docker COMMAND` for the containers of these nodes.
pub(super) async fn apply(command: &str, nodes: &[Node]) -> Result<(), Failure> {
    let ids = nodes.iter().map(|node| node.container.as_str());
    docker::need(&[command].into_iter().chain(ids).collect::<Vec<_>>()).await.map(drop)
}

/// Runs `docker` for each of these nodes at the same time, and gives what it prints, in their order.
pub(super) async fn each<'a>(
    nodes: impl IntoIterator<Item = &'a Node>,
    args: impl Fn(&Node) -> Vec<String>,
) -> Result<Vec<Printed>, Failure> {
    docker::all(nodes.into_iter().map(args).collect()).await
}

/// Where this host finds the pages of these nodes, if their ports are published.
pub(super) async fn pages(nodes: &[Node]) -> Result<Vec<(String, String)>, Failure> {
    let ports = each(nodes, |node| ["port", &node.container, PAGE].map(str::to_owned).into()).await?;
    let page = |(node, port): (&Node, Printed)| {
        let addr = port.stdout.lines().next()?;
        Some((node.name.clone(), format!("http://{addr}/")))
    };
    Ok(nodes.iter().zip(ports).filter_map(page).collect())
}

/// What the datagrams of those that run suffer, beside the name of each that suffers.
pub(super) async fn faults(nodes: &[Node]) -> Result<Vec<(String, String)>, Failure> {
    let asked: Vec<_> = nodes.iter().filter(|node| node.state == State::Running && node.takes_faults).collect();
    let told = each(asked.iter().copied(), |node| node.exec(&["faults"])).await?;
    let suffers = |(node, told): (&&Node, Printed)| {
        let faults: Faults = told.stdout.trim().parse().ok().filter(|faults: &Faults| !faults.is_inactive())?;
        let at_rest = Faults { seed: faults.seed, ..Faults::default() }.to_string();
        let (faults, at_rest) = (faults.to_string(), at_rest.split(',').collect::<Vec<_>>());
        let faults: Vec<_> = faults.split(',').filter(|fault| !at_rest.contains(fault)).collect();
        Some((node.name.clone(), faults.join(",")))
    };
    Ok(asked.iter().zip(told).filter_map(suffers).collect())
}

/// node2 comes before node10.
fn by_number(one: &str, other: &str) -> Ordering {
    let parts = |name: &str| {
        let end = name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        (name[..end].to_owned(), name[end..].parse::<u64>().ok())
    };
    parts(one).cmp(&parts(other)).then_with(|| one.cmp(other))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn container(host: &str, env: &[&str]) -> Value {
        json!({
            "Id": "0123456789abcdef",
            "Name": "/demo-sender-4",
            "State": {"Status": "exited", "ExitCode": 137},
            "Config": {
                "Hostname": host,
                "Env": env,
                "Labels": {"com.docker.compose.service": "sender", "com.docker.compose.container-number": "4"},
            },
            "NetworkSettings": {"Networks": {}},
        })
    }

    #[test]
    fn a_node_is_what_has_a_role_and_is_named_as_it_names_itself() {
        assert!(Node::of(&container("grafana", &["PATH=/bin"])).is_none());
        let node = Node::of(&container("0123456789ab", &["BROADCAST_ROLE=sender", "BROADCAST_FAULTS="]));
        let node = node.expect("it has a role");
        assert_eq!((&*node.name, node.aliases()), ("sender-4", ["sender", "demo-sender-4"]));
        assert_eq!((node.state.to_string(), node.attached, node.takes_faults), ("killed".into(), false, false));
        let node = Node::of(&container("node1", &["BROADCAST_ROLE=receiver", "BROADCAST_FAULTS=ready"]));
        let node = node.expect("it has a role");
        assert_eq!((&*node.name, node.takes_faults), ("node1", true));
    }

    #[test]
    fn names_are_sorted_by_their_numbers() {
        let mut names = ["sender-1", "node10", "node2", "sender-10", "a", "sender-2"];
        names.sort_by(|one, other| by_number(one, other));
        assert_eq!(names, ["a", "node2", "node10", "sender-1", "sender-2", "sender-10"]);
    }
}
