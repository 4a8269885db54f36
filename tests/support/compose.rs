//! The repository's compose project, once for each test that needs it.

use std::{
    collections::BTreeSet,
    process::{Command, Output, id},
};

use super::{
    docker::{IMAGE, docker, printed},
    remove_env, repository,
};

/// How often the engine is asked for a port of its choice.
const ATTEMPTS: usize = 4;

/// A compose project of its own. Taken down when dropped, so that nothing is left behind by a test that fails.
pub struct Project {
    /// Its name.
    pub name: String,
    settings: &'static [(&'static str, &'static str)],
}

impl Project {
    /// One for the test of that name, with these variables in the environment of `docker compose`.
    pub fn new(test: &str, settings: &'static [(&'static str, &'static str)]) -> Self {
        Self { name: format!("broadcast-{}-{test}", id()), settings }
    }

    /// `docker compose` for it.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("docker");
        remove_env(&mut command, &["BROADCAST_", "COMPOSE_"]);
        command.args(["compose", "--project-name", &self.name, "--file"]).arg(repository("compose.yaml")).args(args);
        // Projects that run at the same time cannot publish the same port.
        command.envs([("BROADCAST_IMAGE", IMAGE.as_str()), ("BROADCAST_HTTP_PORT", "0"), ("BROADCAST_ETCD_PORT", "0")]);
        command.envs(self.settings.iter().copied());
        command
    }

    /// Runs `docker compose`, which must succeed, and gives what it prints.
    #[track_caller]
    pub fn compose(&self, args: &[&str]) -> String {
        // The engine picks a port to publish among those that any process here may get, and somebody may have got it
        // before the engine listens there. Asked again, it goes on where it stopped, with another port.
        let taken = |output: &Output| String::from_utf8_lossy(&output.stderr).contains("address already in use");
        let ask = || self.command(args).output().expect("docker was found before");
        let output = (1..ATTEMPTS).map(|_| ask()).find(|output| !taken(output));
        printed(&self.command(args), &output.unwrap_or_else(ask))
    }

    /// The ids of its nodes' containers, stopped ones too.
    pub fn containers(&self) -> BTreeSet<String> {
        let filter = format!("label=com.docker.compose.project={}", self.name);
        let format = r#"{{.ID}} {{.Label "com.docker.compose.service"}}"#;
        let listed = docker(&["ps", "--all", "--no-trunc", "--filter", &filter, "--format", format]);
        let ids = listed.lines().filter_map(|line| line.split_once(' ')).filter(|(_, service)| *service != "key");
        ids.map(|(id, _)| id.into()).collect()
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        // There may be nothing any more.
        let _ = self.command(&["down", "--timeout", "0", "--remove-orphans", "--volumes"]).output();
    }
}
