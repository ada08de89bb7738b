//! Kills random servers of a real three-process cluster while it is written to, and looks whether
//! anything that was acknowledged is missing.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kontiki::runtime::OsFiles;
use kontiki::storage::{FileLogStore, FileStoreConfig, LogStore as _};

use crate::steps::cargo;

struct Options {
    cycles: u32,
    seed: u64,
}

struct Server {
    number: usize,
    http: u16,
    peer: u16,
    directory: PathBuf,
    child: Option<Child>,
}

/// What was acknowledged: the value of each key.
type Acknowledged = Arc<Mutex<BTreeMap<String, String>>>;

pub(crate) fn run(words: &[&str]) -> Result<(), String> {
    let options = parse(words)?;
    println!("== crash: {} kills, seed {}", options.cycles, options.seed);
    cargo("build --quiet --example kv")?;
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mut cluster = Vec::new();
    for number in 0..3 {
        let directory = directory.path().join(format!("n{number}"));
        let (http, peer) = (free_port()?, free_port()?);
        cluster.push(Server { number, http, peer, directory, child: None });
    }
    let first = cluster[0].peer;
    for server in &mut cluster {
        server.start(Some(first))?;
        server.wait_until_up()?;
    }
    let acknowledged = Acknowledged::default();
    let killed = under_load(&mut cluster, &options, &acknowledged);
    let checked = killed.and_then(|()| check(&mut cluster, &acknowledged));
    cluster.iter_mut().for_each(Server::kill);
    checked?;
    compare(&cluster)
}

fn parse(words: &[&str]) -> Result<Options, String> {
    let mut options = Options { cycles: 20, seed: fastrand_seed() };
    for pair in words.chunks(2) {
        let number = pair.get(1).and_then(|text| text.parse::<u64>().ok());
        match (pair[0], number) {
            ("--cycles", Some(number)) => {
                options.cycles = u32::try_from(number).map_err(|error| error.to_string())?;
            }
            ("--seed", Some(number)) => options.seed = number,
            _ => return Err("crash [--cycles N] [--seed N]".to_owned()),
        }
    }
    Ok(options)
}

#[expect(clippy::disallowed_methods, reason = "a new seed each time; it is printed")]
fn fastrand_seed() -> u64 {
    fastrand::u64(..)
}

#[expect(clippy::disallowed_methods, reason = "real processes in real time")]
fn pause(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// Kills and restarts servers while clients write.
#[expect(clippy::disallowed_methods, reason = "clients of real processes are real threads")]
fn under_load(
    cluster: &mut [Server],
    options: &Options,
    acknowledged: &Acknowledged,
) -> Result<(), String> {
    let mut dice = fastrand::Rng::with_seed(options.seed);
    let (stop, writes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let ports: Vec<u16> = cluster.iter().map(|server| server.http).collect();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (stop, writes, ports) = (Arc::clone(&stop), Arc::clone(&writes), ports.clone());
            let acknowledged = Arc::clone(acknowledged);
            std::thread::spawn(move || write(client, &ports, &stop, &writes, &acknowledged))
        })
        .collect();
    let mut outcome = Ok(());
    for cycle in 1..=options.cycles {
        pause(dice.u64(200..2_500));
        // Now and then two at once: nobody may write then, but nothing may be lost either.
        let victims = if dice.u8(..5) == 0 { 2 } else { 1 };
        let from = dice.usize(..3);
        let chosen = (0..victims).map(|offset| (from + offset) % 3);
        for victim in chosen.clone() {
            cluster[victim].kill();
        }
        pause(dice.u64(0..300));
        outcome = chosen.into_iter().try_for_each(|victim| cluster[victim].start(None));
        if outcome.is_err() {
            break;
        }
        if cycle % 10 == 0 {
            println!("   {cycle} kills, {} writes acknowledged", writes.load(Ordering::Relaxed));
        }
    }
    pause(3_000);
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().map_err(|_| "a client panicked")?;
    }
    outcome
}

fn write(
    client: usize,
    ports: &[u16],
    stop: &AtomicBool,
    writes: &AtomicU64,
    acknowledged: &Acknowledged,
) {
    let agent: ureq::Agent =
        ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(3))).build().into();
    let mut number = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let key = format!("{client}-{number}");
        let value = format!("value of {key}");
        let port = ports[usize::try_from(number).unwrap_or(0) % ports.len()];
        let sent = agent.put(format!("http://127.0.0.1:{port}/kv/{key}")).send(value.as_str());
        if sent.is_ok() {
            writes.fetch_add(1, Ordering::Relaxed);
            let mut all = acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
            all.insert(key, value);
        } else {
            pause(20);
        }
    }
}

/// Everything that was acknowledged must be readable, from every server.
fn check(cluster: &mut [Server], acknowledged: &Acknowledged) -> Result<(), String> {
    let all = acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
    if all.is_empty() {
        return Err("not one write was acknowledged".to_owned());
    }
    let agent: ureq::Agent =
        ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(15))).build().into();
    for server in cluster.iter_mut() {
        server.wait_until_up()?;
        for (key, value) in all.iter() {
            let url = format!("http://127.0.0.1:{}/kv/{key}", server.http);
            let read = agent.get(url).call().map_err(|error| format!("reading {key}: {error}"))?;
            let mut found = String::new();
            let mut body = read.into_body().into_reader();
            body.read_to_string(&mut found).map_err(|error| error.to_string())?;
            if found != *value {
                return Err(format!("{key} is {found:?} on server {}", server.number));
            }
        }
    }
    println!("   {} acknowledged writes are all there, on each of the three", all.len());
    // Once more everybody hears how far the log is committed, before the stores are compared.
    pause(500);
    Ok(())
}

/// The logs of the stopped servers must agree wherever they overlap and are committed.
fn compare(cluster: &[Server]) -> Result<(), String> {
    let mut logs = Vec::new();
    for server in cluster {
        logs.push(smol::block_on(read_log(&server.directory.join("log")))?);
    }
    let overlap = |log: &Log| (log.first, log.commit);
    let first = logs.iter().map(|log| overlap(log).0).max().unwrap_or(0);
    let last = logs.iter().map(|log| overlap(log).1).min().unwrap_or(0);
    for index in first..=last {
        let entries: Vec<_> = logs.iter().map(|log| log.entries.get(&index)).collect();
        if entries.windows(2).any(|pair| pair[0] != pair[1]) {
            return Err(format!("the logs differ at index {index}: {entries:?}"));
        }
    }
    println!("   the three logs agree from {first} to {last}");
    Ok(())
}

struct Log {
    first: u64,
    commit: u64,
    entries: BTreeMap<u64, Vec<u8>>,
}

async fn read_log(directory: &Path) -> Result<Log, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let files = OsFiles::new(directory).map_err(|error| text(&error))?;
    let opened = FileLogStore::open(Arc::new(files), FileStoreConfig::default()).await;
    let mut store = opened.map_err(|error| text(&error))?;
    let recovered = store.recover().await.map_err(|error| text(&error))?;
    let first = recovered.base.log_id.index + 1;
    let (mut next, end) = (first, recovered.last.index + 1);
    let mut entries = BTreeMap::new();
    while next < end {
        let read = store.reader().read(next..end, 1 << 20).await.map_err(|error| text(&error))?;
        next += read.len() as u64;
        entries.extend(read.iter().map(|entry| (entry.log_id().index, entry.encode().to_vec())));
    }
    Ok(Log { first, commit: recovered.hard_state.commit(), entries })
}

impl Server {
    fn start(&mut self, first: Option<u16>) -> Result<(), String> {
        let mut command = Command::new("target/debug/examples/kv");
        command.args(["--name", &format!("n{}", self.number)]);
        command.arg("--data").arg(&self.directory);
        command.args(["--peer", &format!("127.0.0.1:{}", self.peer)]);
        command.args(["--http", &format!("127.0.0.1:{}", self.http)]);
        match first {
            Some(peer) if peer == self.peer => {
                command.arg("--bootstrap");
            }
            Some(peer) => {
                command.args(["--join", &format!("127.0.0.1:{peer}")]);
            }
            None => {}
        }
        let child = command.stdout(Stdio::null()).spawn();
        self.child = Some(child.map_err(|error| format!("starting kv: {error}"))?);
        Ok(())
    }

    fn wait_until_up(&mut self) -> Result<(), String> {
        let url = format!("http://127.0.0.1:{}/v1/status/leader", self.http);
        for _ in 0..200 {
            if let Some(child) = &mut self.child
                && let Ok(Some(status)) = child.try_wait()
            {
                return Err(format!("server {} ended with {status}", self.number));
            }
            if ureq::get(&url).call().is_ok() {
                return Ok(());
            }
            pause(50);
        }
        Err(format!("server {} does not answer", self.number))
    }

    /// `kill -9`: nothing is flushed, nobody is told.
    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // A server that has ended already has nothing left to kill.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    listener.local_addr().map(|address| address.port()).map_err(|error| error.to_string())
}

const CLIENTS: usize = 6;
