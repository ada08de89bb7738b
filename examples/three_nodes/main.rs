//! The main job: a live three-node cluster on smol, with durable logs, peers over TCP and the
//! operator API of each node.
//!
//! `cargo run --example three_nodes` serves until Ctrl-C. You will see who leads as a table, lines
//! to try with curl, and one line for every change of leader or membership. `--demo` walks through
//! an election, a hundred writes, the loss of the leader, a linearizable read of what was written,
//! the old leader's return and a transfer back, and ends.

#[path = "../common/node.rs"]
mod node;
#[path = "../common/service.rs"]
mod service;
#[path = "../common/store.rs"]
mod store;

mod demo;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use kontiki::http::{Server, ServerConfig};
use kontiki::operator::{AllowAll, ApiConfig, OperatorApi};
use kontiki::runtime::Smol;
use kontiki::typed::Shared;
use kontiki::{Member, Raft, Role, Status};

use self::node::Failure;
use self::service::Service;
use self::store::Store;

/// A live three-node cluster in one process.
#[derive(Parser)]
struct Options {
    /// Where the logs are; kept between runs, so that the cluster comes back with its data.
    #[arg(long, default_value = "target/three_nodes")]
    data: PathBuf,
    /// HTTP of the first node; the others are 10 and 20 above, peers one above each. 0: free ports,
    /// and a temporary directory.
    #[arg(long, default_value_t = 4646)]
    port: u16,
    /// Walk through what a cluster does, and end.
    #[arg(long)]
    demo: bool,
}

/// One of the three, as long as it is up.
pub(crate) struct Up {
    pub(crate) raft: Raft,
    pub(crate) store: Shared<Store>,
    server: Server,
}

/// Where one of the three is, up or not.
#[derive(Clone)]
pub(crate) struct Place {
    name: String,
    directory: PathBuf,
    http: String,
    peer: String,
}

pub(crate) struct Cluster {
    pub(crate) places: Vec<Place>,
    pub(crate) up: Vec<Option<Up>>,
}

fn main() -> ExitCode {
    match smol::block_on(run(Options::parse())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("three_nodes: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(mut options: Options) -> Result<(), Failure> {
    // Kept until the end: dropped, the temporary directory is gone.
    let temporary = if options.port == 0 { Some(tempfile::tempdir()?) } else { None };
    if let Some(directory) = &temporary {
        options.data = directory.path().to_owned();
    }
    let mut cluster = Cluster::start(&options.data, options.port).await?;
    let leader = cluster.leader().await?;
    println!("{}", table(&cluster.raft(leader)?.status()));
    if options.demo {
        demo::walk(&mut cluster).await?;
    } else {
        println!("{}", cluster.hints());
        serve(&cluster).await?;
    }
    cluster.stop().await
}

/// Prints every change until Ctrl-C.
async fn serve(cluster: &Cluster) -> Result<(), Failure> {
    let (interrupted, interrupt) = async_channel();
    ctrlc::set_handler(move || {
        // The second Ctrl-C finds nobody listening any more.
        let _ = interrupted.try_send(());
    })?;
    let mut last = String::new();
    loop {
        for up in cluster.up.iter().flatten() {
            let status = up.raft.status();
            if let Some(fatal) = status.stopped {
                return Err(fatal.into());
            }
            if let Some(line) = news(&status).filter(|line| *line != last && status.established) {
                println!("{line}");
                last = line;
            }
        }
        if interrupt.try_recv().is_ok() {
            println!("shutting down");
            return Ok(());
        }
        smol::Timer::after(Duration::from_millis(50)).await;
    }
}

fn async_channel() -> (smol::channel::Sender<()>, smol::channel::Receiver<()>) {
    smol::channel::bounded(1)
}

fn news(status: &Status) -> Option<String> {
    let leader = status.membership.member(status.leader?)?;
    let members: Vec<_> = status.membership.members().map(|member| member.name.as_str()).collect();
    let voters = status.membership.voters().count();
    Some(format!(
        "term {}: {} leads {} ({voters} vote)",
        status.term,
        leader.name,
        members.join(", ")
    ))
}

/// The members as Nomad's `operator raft list-peers` prints them.
pub(crate) fn table(status: &Status) -> String {
    let mut rows =
        vec![["Node", "ID", "Address", "State", "Voter", "RaftProtocol"].map(str::to_owned)];
    let mut members: Vec<&Member> = status.membership.members().collect();
    members.sort_by(|a, b| a.name.cmp(&b.name));
    rows.extend(members.into_iter().map(|member| {
        let state = if status.leader == Some(member.id) { "leader" } else { "follower" };
        let voter = (member.role == Role::Voter).to_string();
        let name = format!("{}.global", member.name);
        [name, member.id.to_string(), member.address.clone(), state.into(), voter, "3".into()]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(width).collect();
    let line = |row: &[String; 6]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

impl Cluster {
    async fn start(data: &Path, port: u16) -> Result<Self, Failure> {
        let at = |offset: u16| {
            let port = if port == 0 { Some(0) } else { port.checked_add(offset) };
            port.map(|port| format!("127.0.0.1:{port}")).ok_or("--port is too high")
        };
        let mut places = Vec::new();
        for number in 0..3_u16 {
            let name = format!("n{}", number + 1);
            let (http, peer) = (at(10 * number)?, at(10 * number + 1)?);
            places.push(Place { directory: data.join(&name), name, http, peer });
        }
        let mut cluster = Self { places, up: [None, None, None].into() };
        for number in 0..3 {
            cluster.bring_up(number).await?;
        }
        cluster.form().await?;
        Ok(cluster)
    }

    /// Starts one of the three on what its directory holds.
    pub(crate) async fn bring_up(&mut self, number: usize) -> Result<(), Failure> {
        let place = &mut self.places[number];
        let runtime = Arc::new(Smol::new());
        let mut config = kontiki::Config::default();
        config.name.clone_from(&place.name);
        config.address.clone_from(&place.peer);
        let node = node::start(runtime.clone(), &place.directory, config, SEGMENT_BYTES).await?;
        let authorizer = Arc::new(AllowAll::new());
        let config = ApiConfig::default();
        let operator = OperatorApi::new(node.raft.clone(), authorizer, runtime.clone(), config);
        let service = Service {
            raft: node.raft.clone(),
            store: node.store.clone(),
            operator: Arc::new(operator),
        };
        let (handler, config) = (Arc::new(service), ServerConfig::default());
        let bound = Server::bind(runtime.clone(), runtime, &place.http, handler, config).await;
        let server = bound.map_err(|error| format!("cannot listen on {}: {error}", place.http))?;
        place.http = server.local_address().to_owned();
        place.peer = node.peer_address;
        self.up[number] = Some(Up { raft: node.raft, store: node.store, server });
        Ok(())
    }

    /// On empty directories: the first forms a cluster, the others join it.
    async fn form(&self) -> Result<(), Failure> {
        let first = self.raft(0)?;
        if first.status().cluster.is_nil() {
            let place = &self.places[0];
            let member = Member::voter(first.id(), place.name.clone(), place.peer.clone());
            first.bootstrap(vec![member]).await?;
        }
        for number in 1..3 {
            let raft = self.raft(number)?;
            if raft.status().cluster.is_nil() {
                raft.join(&[self.places[0].peer.clone()]).await?;
            }
        }
        self.until("all three vote", |status| status.membership.voters().count() == 3).await
    }

    /// The one that leads and can serve.
    pub(crate) async fn leader(&self) -> Result<usize, Failure> {
        self.until("somebody leads", |status| status.established).await?;
        let leads = |up: &Option<Up>| up.as_ref().is_some_and(|up| up.raft.status().established);
        self.up.iter().position(leads).ok_or_else(|| "the leader was lost again".into())
    }

    /// Waits until that is so for one that is up.
    pub(crate) async fn until(
        &self,
        what: &str,
        holds: impl Fn(&Status) -> bool,
    ) -> Result<(), Failure> {
        for _ in 0..600 {
            if self.up.iter().flatten().any(|up| holds(&up.raft.status())) {
                return Ok(());
            }
            smol::Timer::after(Duration::from_millis(50)).await;
        }
        Err(format!("it did not come about in 30 s that {what}").into())
    }

    pub(crate) fn raft(&self, number: usize) -> Result<Raft, Failure> {
        let up = self.up[number].as_ref().ok_or("that node is down")?;
        Ok(up.raft.clone())
    }

    pub(crate) fn name(&self, number: usize) -> &str {
        &self.places[number].name
    }

    fn hints(&self) -> String {
        let http = &self.places[1].http;
        format!(
            "\nTry, on any of the three ({}):\n  \
             curl {http}/v1/operator/raft/configuration?pretty\n  \
             curl -X PUT --data hello {http}/kv/greeting\n  \
             curl {http}/kv/greeting\n  \
             curl -X PUT '{http}/v1/operator/raft/transfer-leadership?address={}'\n\
             Ctrl-C ends all three.\n",
            self.places.iter().map(|place| place.http.as_str()).collect::<Vec<_>>().join(", "),
            self.places[2].peer,
        )
    }

    /// Ends one of the three, cleanly.
    pub(crate) async fn bring_down(&mut self, number: usize) -> Result<(), Failure> {
        if let Some(up) = self.up[number].take() {
            up.server.shutdown().await;
            up.raft.shutdown().await?;
        }
        Ok(())
    }

    /// Ends all three, whoever leads last.
    async fn stop(mut self) -> Result<(), Failure> {
        for number in 0..3 {
            let Some(up) = &self.up[number] else { continue };
            let status = up.raft.status();
            let heir = self.up.iter().skip(number + 1).flatten().next();
            if let Some(heir) = heir.filter(|_| status.established) {
                // An heir that is not ready must not keep us: the cluster elects one when it comes
                // back.
                if let Err(error) = up.raft.transfer_leadership(heir.raft.id()).await {
                    eprintln!("leadership was not handed over: {error}");
                }
            }
            self.bring_down(number).await?;
        }
        Ok(())
    }
}

const SEGMENT_BYTES: u64 = 4 << 20;
