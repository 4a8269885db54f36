//! A compose project and its nodes, as Docker knows them.

use std::{fmt, path::PathBuf};

use broadcast::Faults;
use serde_json::Value;

use super::docker::{self, DockerOutput};
use crate::{commands::natural_order::natural_key, failure::Failure};

/// The port of a node's page in its container.
const PAGE_PORT: &str = "8946/tcp";

/// A compose project that runs.
pub(super) struct Project {
    name: String,
}

/// A container that runs a node.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// The node's own name.
    pub(super) name: String,
    /// The container's id.
    pub(super) container: String,
    container_name: String,
    service: String,
    pub(super) state: ContainerState,
    /// Whether it is on a network.
    pub(super) attached: bool,
    /// Whether it was started with `BROADCAST_FAULTS`.
    pub(super) takes_faults: bool,
}

/// The state of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ContainerState {
    Running,
    Paused,
    /// It has ended with SIGKILL.
    Killed,
    Exited,
    Created,
    Other(String),
}

impl ContainerState {
    /// Whether it should run and does not.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self, Self::Killed | Self::Exited | Self::Created)
    }
}

impl fmt::Display for ContainerState {
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
    /// The project of this name, or the one that compose uses here.
    pub(super) async fn find(name: Option<String>, files: &[PathBuf]) -> Result<Self, Failure> {
        if let Some(name) = name {
            return Ok(Self { name });
        }
        let files: Vec<_> = files.iter().flat_map(|file| ["--file".to_owned(), file.display().to_string()]).collect();
        let command: Vec<&str> = ["compose"].into_iter().chain(files.iter().map(String::as_str)).collect();
        let config = docker::output(&[&command[..], &["config", "--format", "json"]].concat()).await;
        let remedy = "name the compose project with --project-name, or its file with --file";
        let config = config.map_err(|failure| Failure::other(format!("{failure}; {remedy}")))?;
        let config: Value = serde_json::from_str(&config).unwrap_or_default();
        let name = config["name"].as_str().map(str::to_owned);
        let name = name.ok_or_else(|| Failure::other(format!("compose does not tell the project's name: {remedy}")))?;
        Ok(Self { name })
    }

    /// All nodes, sorted by name.
    pub(super) async fn nodes(&self) -> Result<Vec<Node>, Failure> {
        let label = self.label();
        let filters = ["--filter", &label, "--filter", "label=com.docker.compose.oneoff=False"];
        let ids = docker::output(&[&["ps", "--all", "--quiet"][..], &filters].concat()).await?;
        if ids.is_empty() {
            return Err(Failure::other(format!(
                "no containers of the compose project {}: start it with docker compose up (where no registry can be \
                 reached, make the image with scripts/image first), or name another one with --project-name",
                self.name
            )));
        }
        let inspected = docker::output(&["inspect"].into_iter().chain(ids.lines()).collect::<Vec<_>>()).await?;
        let inspected: Vec<Value> = serde_json::from_str(&inspected)
            .map_err(|error| Failure::other(format!("docker inspect does not print what it should: {error}")))?;
        let mut nodes: Vec<_> = inspected.iter().filter_map(Node::from_inspect).collect();
        nodes.sort_by_cached_key(|node| natural_key(&node.name));
        Ok(nodes)
    }

    fn label(&self) -> String {
        format!("label=com.docker.compose.project={}", self.name)
    }

    /// The network of the nodes.
    pub(super) async fn network(&self) -> Result<String, Failure> {
        let label = self.label();
        let filters = ["--filter", &label, "--filter", "label=com.docker.compose.network=gossip"];
        let network = docker::output(&[&["network", "ls", "--quiet"][..], &filters].concat()).await?;
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
    /// Reads the output of `docker inspect`. Gives nothing for a container without a role, which is not a node.
    fn from_inspect(container: &Value) -> Option<Self> {
        let (id, config) = (container["Id"].as_str()?, &container["Config"]);
        let variable = |name: &str| {
            let settings = config["Env"].as_array().into_iter().flatten().filter_map(Value::as_str);
            settings.filter_map(|setting| setting.split_once('=')).find(|(is, _)| *is == name).map(|(_, value)| value)
        };
        variable("BROADCAST_ROLE")?;
        let label = |name: &str| config["Labels"][format!("com.docker.compose.{name}")].as_str();
        let (service, number) = (label("service")?, label("container-number")?);
        // A node takes the name of its host, unless that is the container's id.
        let host = config["Hostname"].as_str().filter(|host| !id.starts_with(host));
        let state = match (container["State"]["Status"].as_str()?, &container["State"]["ExitCode"]) {
            ("running", _) => ContainerState::Running,
            ("paused", _) => ContainerState::Paused,
            ("exited", code) if *code == 128 + 9 => ContainerState::Killed,
            ("exited", _) => ContainerState::Exited,
            ("created", _) => ContainerState::Created,
            (other, _) => ContainerState::Other(other.into()),
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

    /// Whether the other nodes should see it.
    pub(super) fn is_reachable(&self) -> bool {
        self.state == ContainerState::Running && self.attached
    }

    /// Its names on the network.
    pub(super) fn aliases(&self) -> [&str; 2] {
        [&self.service, &self.container_name]
    }

    /// Arguments for `docker` that run a command of the program in the container.
    pub(super) fn exec(&self, command: &[&str]) -> Vec<String> {
        let program = ["exec", &self.container, "/broadcast"];
        program.iter().chain(command).map(|arg| (*arg).into()).collect()
    }

    /// The address that Docker has assigned.
    pub(super) async fn docker_address(&self) -> Result<String, Failure> {
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        docker::output(&["inspect", "--format", format, &self.container]).await
    }

    /// The address that the node advertises, which it keeps as long as it runs. Nothing, if HTTP is off or the node has ended.
    pub(super) async fn advertised_address(&self) -> Result<Option<String>, Failure> {
        let output = docker::run(self.exec(&["status", "--json"])).await?;
        let status: Value = serde_json::from_str(&output.stdout).unwrap_or_default();
        let address = status["addr"].as_str().and_then(|addr| addr.rsplit_once(':'));
        Ok(address.map(|(ip, _)| ip.to_owned()))
    }
}

/// Runs `docker COMMAND` for the containers of these nodes.
pub(super) async fn apply(command: &str, nodes: &[Node]) -> Result<(), Failure> {
    let ids = nodes.iter().map(|node| node.container.as_str());
    docker::output(&[command].into_iter().chain(ids).collect::<Vec<_>>()).await.map(drop)
}

/// Runs `docker` for each node at the same time. The outputs are in the order of the nodes.
pub(super) async fn each<'a>(
    nodes: impl IntoIterator<Item = &'a Node>,
    args: impl Fn(&Node) -> Vec<String>,
) -> Result<Vec<DockerOutput>, Failure> {
    docker::all(nodes.into_iter().map(args).collect()).await
}

/// The URLs of the nodes' pages on this host, if their ports are published.
pub(super) async fn pages(nodes: &[Node]) -> Result<Vec<(String, String)>, Failure> {
    let ports = each(nodes, |node| ["port", &node.container, PAGE_PORT].map(str::to_owned).into()).await?;
    let page = |(node, port): (&Node, DockerOutput)| {
        let addr = port.stdout.lines().next()?;
        Some((node.name.clone(), format!("http://{addr}/")))
    };
    Ok(nodes.iter().zip(ports).filter_map(page).collect())
}

/// The faults in what running nodes send, with the names of those that have any.
pub(super) async fn faults(nodes: &[Node]) -> Result<Vec<(String, String)>, Failure> {
    let running: Vec<_> =
        nodes.iter().filter(|node| node.state == ContainerState::Running && node.takes_faults).collect();
    let outputs = each(running.iter().copied(), |node| node.exec(&["faults"])).await?;
    let active = |(node, output): (&&Node, DockerOutput)| {
        let faults: Faults = output.stdout.trim().parse().ok().filter(|faults: &Faults| !faults.is_inactive())?;
        let at_rest = Faults { seed: faults.seed, ..Faults::default() }.to_string();
        let (faults, at_rest) = (faults.to_string(), at_rest.split(',').collect::<Vec<_>>());
        let faults: Vec<_> = faults.split(',').filter(|fault| !at_rest.contains(fault)).collect();
        Some((node.name.clone(), faults.join(",")))
    };
    Ok(running.iter().zip(outputs).filter_map(active).collect())
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
        assert!(Node::from_inspect(&container("grafana", &["PATH=/bin"])).is_none());
        let node = Node::from_inspect(&container("0123456789ab", &["BROADCAST_ROLE=sender", "BROADCAST_FAULTS="]));
        let node = node.expect("it has a role");
        assert_eq!((&*node.name, node.aliases()), ("sender-4", ["sender", "demo-sender-4"]));
        assert_eq!((node.state.to_string(), node.attached, node.takes_faults), ("killed".into(), false, false));
        let node = Node::from_inspect(&container("node1", &["BROADCAST_ROLE=receiver", "BROADCAST_FAULTS=ready"]));
        let node = node.expect("it has a role");
        assert_eq!((&*node.name, node.takes_faults), ("node1", true));
    }
}
