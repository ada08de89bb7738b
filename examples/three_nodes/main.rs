//! The main job: a live three-node cluster on smol, with durable logs, peers over TCP and the
//! operator API of each node.
//!
//! `cargo run --example three_nodes` serves until Ctrl-C. You will see who leads as a table, lines
//! to try with curl, and one line for every change of leader or membership; Ctrl-C hands leadership
//! over and ends all three. `--demo` walks through an election, a hundred writes, the loss of the
//! leader, a linearizable read of what was written, the old leader's return and a transfer back,
//! and ends.

#[path = "../common/node.rs"]
mod node;
#[path = "../common/options.rs"]
mod options;
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

use self::node::{Failure, Node};
use self::service::Service;
use self::store::Store;

/// A live three-node cluster in one process.
#[derive(Parser)]
struct Options {
    /// Where the logs are; kept between runs, so that the cluster comes back with its data. Without
    /// it target/three_nodes, or with --port 0 a temporary directory.
    #[arg(long)]
    data: Option<PathBuf>,
    /// HTTP of the first node; the others are 10 and 20 above, peers one above each. 0: free ports,
    /// or, for peers that know each other, those by which they do.
    #[arg(long, default_value_t = 4646, value_parser = clap::value_parser!(u16).range(..=65_514))]
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
    let options = match options::parse("three_nodes") {
        Ok(options) => options,
        Err(code) => return code,
    };
    match smol::block_on(run(options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("three_nodes: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<(), Failure> {
    let interrupted = interrupts()?;
    // Kept until the end: dropped, the temporary directory is gone.
    let temporary;
    let data = match &options.data {
        Some(data) => data.as_path(),
        None if options.port == 0 => {
            temporary = tempfile::tempdir()?;
            temporary.path()
        }
        None => Path::new("target/three_nodes"),
    };
    let mut cluster = Cluster::new(data, options.port);
    let work = work(&mut cluster, options.demo);
    let worked = smol::future::or(work, async {
        // If nobody can interrupt any more, the work goes on.
        if interrupted.recv().await.is_err() {
            std::future::pending().await
        }
        println!("shutting down");
        Ok(())
    });
    let worked = worked.await;
    let stopped = cluster.stop().await;
    worked.and(stopped)
}

async fn work(cluster: &mut Cluster, demo: bool) -> Result<(), Failure> {
    cluster.start().await?;
    let leader = cluster.leader().await?;
    println!("{}", table(&cluster.raft(leader)?.status()));
    if demo {
        return demo::walk(cluster).await;
    }
    println!("{}", cluster.hints());
    report(cluster).await
}

/// Hears of every Ctrl-C.
fn interrupts() -> Result<smol::channel::Receiver<()>, Failure> {
    let (interrupted, interrupts) = smol::channel::bounded(1);
    ctrlc::set_handler(move || {
        // The second finds the first not heard yet, or nobody who listens any more.
        let _ = interrupted.try_send(());
    })?;
    Ok(interrupts)
}

/// Prints every change of leader or membership, until a node fails.
async fn report(cluster: &Cluster) -> Result<(), Failure> {
    let all: Vec<&Raft> = cluster.up.iter().flatten().map(|up| &up.raft).collect();
    let mut watches: Vec<_> = all.iter().map(|raft| raft.watch()).collect();
    let mut last = String::new();
    loop {
        let statuses: Vec<Status> = all.iter().map(|raft| raft.status()).collect();
        if let Some(fatal) = statuses.iter().find_map(|status| status.stopped.clone()) {
            return Err(fatal.into());
        }
        // One that has lost leadership may not know yet.
        let leads = statuses.iter().filter(|status| status.established);
        let line = leads.max_by_key(|status| status.term).and_then(news);
        if let Some(line) = line.filter(|line| *line != last) {
            println!("{line}");
            last = line;
        }
        let changes = watches.iter_mut().map(|watch| Box::pin(watch.changed()));
        futures::future::select_all(changes).await;
    }
}

fn news(status: &Status) -> Option<String> {
    let leader = status.membership.member(status.leader?)?;
    let mut members: Vec<_> =
        status.membership.members().map(|member| member.name.as_str()).collect();
    members.sort_unstable();
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
    /// Nothing is up yet.
    fn new(data: &Path, port: u16) -> Self {
        // With port 0 every one of them is free.
        let at = |offset| format!("127.0.0.1:{}", if port == 0 { 0 } else { port + offset });
        let place = |number: u16| {
            let name = format!("n{}", number + 1);
            let (http, peer) = (at(10 * number), at(10 * number + 1));
            Place { directory: data.join(&name), name, http, peer }
        };
        Self { places: (0..3).map(place).collect(), up: [None, None, None].into() }
    }

    async fn start(&mut self) -> Result<(), Failure> {
        for number in 0..3 {
            self.bring_up(number).await?;
        }
        self.form().await
    }

    /// Starts one of the three on what its directory holds.
    pub(crate) async fn bring_up(&mut self, number: usize) -> Result<(), Failure> {
        let runtime = Arc::new(Smol::new());
        let node = self.places[number].start(runtime.clone()).await?;
        let place = &mut self.places[number];
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

    /// Those whose directories are empty take part: the first forms a cluster if there is none, the
    /// others join.
    async fn form(&self) -> Result<(), Failure> {
        let rafts: Vec<Raft> = (0..3).map(|number| self.raft(number)).collect::<Result<_, _>>()?;
        let is_blank = |number: &usize| rafts[*number].status().cluster.is_nil();
        let mut blank: Vec<usize> = (0..3).filter(is_blank).collect();
        if blank.len() == 3 {
            let (first, place) = (&rafts[0], &self.places[0]);
            let member = Member::voter(first.id(), place.name.clone(), place.peer.clone());
            first.bootstrap(vec![member]).await?;
            blank.remove(0);
        }
        let peers: Vec<String> = (0..3)
            .filter(|number| !blank.contains(number))
            .map(|number| self.places[number].peer.clone())
            .collect();
        for &number in &blank {
            rafts[number].join(&peers).await?;
        }
        let votes = |status: &Status, number: usize| {
            let member = status.membership.member(rafts[number].id());
            member.is_some_and(|member| member.role == Role::Voter)
        };
        let all_vote = |status: &Status| blank.iter().all(|number| votes(status, *number));
        self.until("all three vote", all_vote).await
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
             curl '{http}/v1/operator/raft/configuration?pretty'\n  \
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
                match up.raft.transfer_leadership(heir.raft.id()).await {
                    Ok(()) => println!("{} hands leadership over", self.name(number)),
                    Err(error) => eprintln!("leadership was not handed over: {error}"),
                }
            }
            self.bring_down(number).await?;
        }
        Ok(())
    }
}

impl Place {
    async fn start(&self, runtime: Arc<Smol>) -> Result<Node, Failure> {
        let config = |address: &str| {
            let mut config = kontiki::Config::default();
            config.name.clone_from(&self.name);
            config.address = address.to_owned();
            config
        };
        let (directory, here) = (self.directory.as_path(), config(&self.peer));
        let node = node::start(runtime.clone(), directory, here, SEGMENT_BYTES).await?;
        let Some(known) = node.known_elsewhere() else { return Ok(node) };
        node.raft.shutdown().await?;
        if !self.peer.ends_with(":0") {
            let (directory, peer) = (directory.display(), &self.peer);
            return Err(
                format!("the peers of {directory} know it at {known}, not at {peer}").into()
            );
        }
        node::start(runtime, &self.directory, config(&known), SEGMENT_BYTES).await
    }
}

const SEGMENT_BYTES: u64 = 4 << 20;
