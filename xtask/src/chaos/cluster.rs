//! The servers of a run, with their disks, clocks and network.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Trouble;
use super::clock::Clock;
use super::disk::Disk;
use super::filter::PEER_PORT;
use super::lab::{self, Lab};
use super::machine::Machine;
use crate::kv::Client;
use crate::server::{First, Server};
use crate::wall;

/// In the order in which they must go: the servers first, the network last.
pub(crate) struct Cluster {
    pub(crate) servers: Vec<Server>,
    pub(crate) disks: Vec<Disk>,
    pub(crate) clocks: Vec<Option<Clock>>,
    pub(crate) lab: Lab,
    /// Where the outputs and traces of its servers are.
    pub(crate) notes: PathBuf,
}

impl Cluster {
    /// So many servers in one cluster, all of them voters.
    pub(crate) fn form(base: &Path, machine: &Machine, count: usize) -> Result<Self, Trouble> {
        let mut cluster = Self::make(base, machine, count)?;
        let first = cluster.servers[0].peer.clone();
        for server in &mut cluster.servers {
            let join = if server.peer == first { First::Bootstrap } else { First::Join(&first) };
            server.start(Some(join))?;
            server.wait_until_up().map_err(Trouble::Violation)?;
        }
        let kv = Client::new(wall::ms(6_000));
        for _ in 0..300 {
            let path = "/v1/operator/raft/configuration";
            let shown = kv.ask(&cluster.servers[0].http, path).map(|(_, body, _)| body);
            let voters = shown.unwrap_or_default().matches("\"Voter\":true").count();
            if voters == count {
                return Ok(cluster);
            }
            wall::pause(100);
        }
        Err(Trouble::Violation("the servers that joined are not all promoted in 30 s".to_owned()))
    }

    fn make(base: &Path, machine: &Machine, count: usize) -> Result<Self, Trouble> {
        let notes = base.join(format!("of-{count}"));
        fs::create_dir_all(&notes).map_err(|error| error.to_string())?;
        let lab = Lab::build(&format!("c{count}"), count)?;
        let (servers, disks, clocks) = (Vec::new(), Vec::new(), Vec::new());
        let mut cluster = Self { servers, disks, clocks, lab, notes };
        for number in 0..count {
            let name = format!("n{number}");
            let directory = match &machine.file_systems[..] {
                [] => cluster.notes.join(format!("{name}-data")),
                all => {
                    let kind = all[number % all.len()];
                    let disk = Disk::make(base, &format!("of-{count}-{name}"), kind)?;
                    let data = disk.data();
                    cluster.disks.push(disk);
                    data
                }
            };
            let mut launcher = cluster.lab.launcher(number);
            let mut clock = None;
            if let Some(library) = &machine.faketime {
                let new = Clock::new(cluster.notes.join(format!("{name}.clock")))?;
                launcher.extend(new.launcher(library));
                clock = Some(new);
            }
            cluster.clocks.push(clock);
            let address = lab::address(number);
            let options = format!("{SCALE} --runtime {}", RUNTIMES[number % RUNTIMES.len()]);
            cluster.servers.push(Server {
                http: format!("{address}:4646"),
                peer: format!("{address}:{PEER_PORT}"),
                directory,
                launcher,
                options: options.split(' ').map(str::to_owned).collect(),
                output: Some(cluster.notes.join(format!("{name}.out"))),
                name,
                child: None,
            });
        }
        Ok(cluster)
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        self.servers.iter().map(|server| server.http.clone()).collect()
    }

    /// Who leads, as far as anybody knows.
    pub(crate) fn leader(&self) -> Option<usize> {
        let kv = Client::new(wall::ms(300));
        self.servers.iter().find_map(|server| {
            let (_, body, _) = kv.ask(&server.http, "/v1/status/leader?stale").ok()?;
            let peer: String = serde_json::from_str(&body).ok()?;
            self.servers.iter().position(|server| server.peer == peer)
        })
    }

    /// Nobody has ended by itself.
    pub(crate) fn check_alive(&mut self) -> Result<(), Trouble> {
        for server in &mut self.servers {
            if let Some(status) = server.ended() {
                let last = last_words(server.output.as_deref());
                let what = format!("{} ended by itself with {status}: {last}", server.name);
                return Err(Trouble::Violation(what));
            }
        }
        Ok(())
    }

    /// Waits until each server answers, whatever it answers.
    pub(crate) fn wait_until_all_answer(&mut self) -> Result<(), Trouble> {
        let kv = Client::new(wall::ms(1_000));
        for number in 0..self.servers.len() {
            let until = wall::now() + ANSWERS_WITHIN;
            while kv.ask(&self.servers[number].http, "/v1/status/leader?stale").is_err() {
                self.check_alive()?;
                if wall::now() > until {
                    let what = format!("{} does not answer", self.servers[number].name);
                    return Err(Trouble::Violation(what));
                }
                wall::pause(20);
            }
        }
        Ok(())
    }
}

/// What a server said last.
fn last_words(output: Option<&Path>) -> String {
    let text = output.and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(3)..].join(" / ")
}

/// Small, so that segments, snapshots and elections come often.
const SCALE: &str =
    "--segment-bytes 65536 --snapshot-after 400 --trailing 200 --election-timeout-ms 500";
const RUNTIMES: [&str; 3] = ["smol", "async-std", "tokio"];
/// A restart is a read of the log, which is short here.
const ANSWERS_WITHIN: Duration = Duration::from_secs(20);
