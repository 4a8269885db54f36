//! The repository's compose project, as many times as tests need it.

use std::{
    collections::BTreeSet,
    process::{Command, id},
};

use super::{
    docker::{IMAGE, docker, success},
    repository,
};

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
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("BROADCAST_") || name.starts_with("COMPOSE_") {
                command.env_remove(&*name);
            }
        }
        command.args(["compose", "--project-name", &self.name, "--file"]).arg(repository("compose.yaml")).args(args);
        // Projects that run at the same time cannot publish the same port.
        command.envs([("BROADCAST_IMAGE", IMAGE.as_str()), ("BROADCAST_HTTP_PORT", "0")]);
        command.envs(self.settings.iter().copied());
        command
    }

    /// Runs `docker compose`, which must succeed, and gives what it prints.
    #[track_caller]
    pub fn compose(&self, args: &[&str]) -> String {
        success(&mut self.command(args))
    }

    /// The ids of its containers, stopped ones too.
    pub fn containers(&self) -> BTreeSet<String> {
        let filter = format!("label=com.docker.compose.project={}", self.name);
        let ids = docker(&["ps", "--all", "--quiet", "--no-trunc", "--filter", &filter]);
        ids.lines().map(Into::into).collect()
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        // There may be nothing any more.
        let _ = self.command(&["down", "--timeout", "0", "--remove-orphans"]).output();
    }
}
