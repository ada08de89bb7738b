//! One `kv` process.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::kv::Client;
use crate::steps::cargo;
use crate::wall;

/// A server: where it is, how it is started, and its process while there is one.
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) http: String,
    pub(crate) peer: String,
    pub(crate) directory: PathBuf,
    /// The words in front of the program: what starts it somewhere else, or with something else.
    pub(crate) launcher: Vec<String>,
    /// What it is told beyond its name, its addresses and its directory.
    pub(crate) options: Vec<String>,
    /// Where its output goes; nowhere, and its errors to ours, without one.
    pub(crate) output: Option<PathBuf>,
    pub(crate) child: Option<Child>,
}

/// How a server becomes a member of a cluster.
pub(crate) enum First<'a> {
    Bootstrap,
    Join(&'a str),
}

/// Builds the program that the servers run.
pub(crate) fn build() -> Result<(), String> {
    cargo("build --quiet --example kv")
}

impl Server {
    /// On a directory that has state already, there is no `first`.
    pub(crate) fn start(&mut self, first: Option<First<'_>>) -> Result<(), String> {
        let program = "target/debug/examples/kv".to_owned();
        let words = [&self.launcher[..], &[program]].concat();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(["--name", &self.name]);
        command.arg("--data").arg(&self.directory);
        command.args(["--peer", &self.peer, "--http", &self.http]).args(&self.options);
        match first {
            Some(First::Bootstrap) => {
                command.arg("--bootstrap");
            }
            Some(First::Join(peer)) => {
                command.args(["--join", peer]);
            }
            None => {}
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        if let Some(path) = &self.output {
            let file = append(path).map_err(|error| format!("{}: {error}", path.display()))?;
            let second = file.try_clone().map_err(|error| error.to_string())?;
            command.stdout(file).stderr(second);
        }
        let child = command.spawn();
        self.child = Some(child.map_err(|error| format!("starting kv: {error}"))?);
        Ok(())
    }

    /// Waits until it knows a leader.
    pub(crate) fn wait_until_up(&mut self) -> Result<(), String> {
        let kv = Client::new(Duration::from_secs(6));
        for _ in 0..200 {
            if let Some(status) = self.ended() {
                return Err(format!("server {} ended with {status}", self.name));
            }
            if kv.ask(&self.http, "/v1/status/leader").is_ok_and(|(status, ..)| status == 200) {
                return Ok(());
            }
            wall::pause(50);
        }
        Err(format!("server {} does not answer", self.name))
    }

    /// How its process ended, if it did by itself.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    /// `kill -9`: nothing is flushed, nobody is told.
    pub(crate) fn kill(&mut self) -> Option<ExitStatus> {
        let mut child = self.child.take()?;
        // A server that has ended already has nothing left to kill.
        let _ = child.kill();
        child.wait().ok()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn append(path: &Path) -> std::io::Result<std::fs::File> {
    OpenOptions::new().create(true).append(true).open(path)
}
