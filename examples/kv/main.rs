//! A key-value server to be tested from outside: one process per node.
//!
//! ```text
//! cargo run --example kv -- --name n1 --data target/n1 --bootstrap \
//!     --peer 127.0.0.1:4647 --http 127.0.0.1:4646
//! cargo run --example kv -- --name n2 --data target/n2 --join 127.0.0.1:4647 \
//!     --peer 127.0.0.1:4657 --http 127.0.0.1:4656
//! curl -X PUT --data hello 127.0.0.1:4656/kv/greeting
//! ```
//!
//! You will see one line when the server is ready, and one whenever leader or membership change.
//! `/kv/{key}` takes GET (with `consistency`), PUT (with `cas` or `cas_index`) and DELETE,
//! `/kv?prefix=` lists keys; the operator API is on the same port. Keys and values are bytes: a key
//! is written with percent escapes where it has to be, and listed so if it is no text.

#[path = "../common/node.rs"]
mod node;
#[path = "../common/options.rs"]
mod options;
#[path = "../common/service.rs"]
mod service;
#[path = "../common/store.rs"]
mod store;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, ValueEnum};
use kontiki::http::{Server, ServerConfig};
use kontiki::operator::{AllowAll, ApiConfig, Authorizer, OperatorApi, TokenList};
use kontiki::runtime::{AsyncStd, Net, Runtime, Smol, Tokio};
use kontiki::{Config, Member, Raft};

use self::node::{Failure, Node};
use self::service::Service;

/// A replicated key-value server.
#[derive(Parser)]
#[command(group(ArgGroup::new("first").args(["bootstrap", "join"])))]
struct Options {
    /// What people call this server.
    #[arg(long)]
    name: String,
    /// Where it keeps its log and its snapshots.
    #[arg(long)]
    data: PathBuf,
    /// Where its peers reach it.
    #[arg(long)]
    peer: String,
    /// Where it serves HTTP.
    #[arg(long)]
    http: String,
    /// Form a new cluster of this one server.
    #[arg(long)]
    bootstrap: bool,
    /// Join the cluster of one of these peers.
    #[arg(long, value_delimiter = ',')]
    join: Vec<String>,
    /// What it runs on.
    #[arg(long, value_enum, default_value_t = Kind::Smol)]
    runtime: Kind,
    /// The region that the operator API is of.
    #[arg(long, default_value = "global")]
    region: String,
    /// Turns ACLs on: a file with one management token a line.
    #[arg(long)]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    scale: Scale,
}

/// Sizes and times that a test makes small, so that what is rare happens often.
#[derive(Args)]
#[command(next_help_heading = "For tests")]
struct Scale {
    /// How long a segment of the log is.
    #[arg(long, default_value_t = 16 << 20)]
    segment_bytes: u64,
    /// After how many entries a snapshot is taken.
    #[arg(long, default_value_t = Config::default().snapshot_after_entries)]
    snapshot_after: u64,
    /// How many entries before a snapshot stay in the log.
    #[arg(long, default_value_t = Config::default().trailing_entries)]
    trailing: u64,
    /// After how long without a leader a server campaigns.
    #[arg(long, default_value_t = 1_000)]
    election_timeout_ms: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    AsyncStd,
    Smol,
    Tokio,
}

fn main() -> ExitCode {
    let options = match options::parse::<Options>("kv") {
        Ok(options) => options,
        Err(code) => return code,
    };
    let served = match options.runtime {
        Kind::Smol => smol::block_on(serve(Arc::new(Smol::new()), options)),
        Kind::AsyncStd => async_std::task::block_on(serve(Arc::new(AsyncStd::new()), options)),
        Kind::Tokio => match tokio::runtime::Runtime::new() {
            Ok(tokio) => {
                let adapter = Tokio::new(tokio.handle().clone());
                tokio.block_on(serve(Arc::new(adapter), options))
            }
            Err(error) => Err(error.into()),
        },
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kv: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve<R: Runtime + Net>(runtime: Arc<R>, options: Options) -> Result<(), Failure> {
    let authorizer = authorizer(&options)?;
    let (name, scale) = (options.name.as_str(), &options.scale);
    let config = {
        let mut config = Config::default();
        config.name = name.to_owned();
        config.address.clone_from(&options.peer);
        config.snapshot_after_entries = scale.snapshot_after;
        config.trailing_entries = scale.trailing;
        config.election_timeout = Duration::from_millis(scale.election_timeout_ms);
        config
    };
    let node = node::start(runtime.clone(), &options.data, config, scale.segment_bytes).await?;
    let config = {
        let mut config = ApiConfig::default();
        config.region.clone_from(&options.region);
        config
    };
    let operator = OperatorApi::new(node.raft.clone(), authorizer, runtime.clone(), config);
    let service = Service {
        raft: node.raft.clone(),
        store: node.store.clone(),
        operator: Arc::new(operator),
    };
    let bound = Server::bind(
        runtime.clone(),
        runtime.clone(),
        &options.http,
        Arc::new(service),
        ServerConfig::default(),
    );
    let server = bound.await.map_err(|e| format!("cannot listen on {}: {e}", options.http))?;
    take_part(&node, &options).await?;
    let (id, http) = (node.raft.id(), server.local_address());
    println!("{name} is {id}; HTTP on {http}, peers on {}", node.peer_address);
    let ended = report(&node.raft).await;
    server.shutdown().await;
    Err(format!("the node has stopped: {ended}").into())
}

fn authorizer(options: &Options) -> Result<Arc<dyn Authorizer>, Failure> {
    let Some(path) = &options.token_file else {
        println!("ACLs are off: everybody may manage the cluster (see --token-file)");
        return Ok(Arc::new(AllowAll::new()));
    };
    let tokens = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    if tokens.trim().is_empty() {
        // Nobody could manage the cluster any more; surely that is not meant.
        return Err(format!("{} holds no token", path.display()).into());
    }
    Ok(Arc::new(TokenList::new(tokens.lines())))
}

/// On an empty directory: form a cluster or join one. On one with state: only what fits it is
/// accepted.
async fn take_part(node: &Node, options: &Options) -> Result<(), Failure> {
    let raft = &node.raft;
    let me = Member::voter(raft.id(), options.name.clone(), node.peer_address.clone());
    if !raft.status().cluster.is_nil() {
        return fits(node, options, me).map_err(Into::into);
    }
    if options.bootstrap {
        raft.bootstrap(vec![me]).await?;
        return Ok(());
    }
    if options.join.is_empty() {
        let data = options.data.display();
        return Err(format!("{data} is empty: pass --bootstrap or --join").into());
    }
    raft.join(&options.join).await?;
    Ok(())
}

/// Whether the state that the directory holds is what the options say.
fn fits(node: &Node, options: &Options, me: Member) -> Result<(), String> {
    let (status, data) = (node.raft.status(), options.data.display());
    let cluster = status.cluster;
    if let Some(known) = node.known_elsewhere() {
        let address = me.address;
        return Err(format!(
            "its peers know {data} at {known}, not at {address}: pass --peer {known}"
        ));
    }
    let other = |peer: &String| status.membership.member_at(peer).is_some_and(|m| m.id != me.id);
    // One that was killed while it joined does not know yet who is in its cluster.
    let joining = status.membership.members().next().is_none();
    if !options.join.is_empty() && !joining && !options.join.iter().any(other) {
        return Err(format!("{data} is of cluster {cluster}, which none of --join is in"));
    }
    if options.bootstrap && !node.raft.was_formed_of(vec![me]) {
        let text = "which this server did not form: leave --bootstrap out";
        return Err(format!("{data} is of cluster {cluster}, {text}"));
    }
    Ok(())
}

/// Prints who leads and who is there, whenever that changes; ends when the node has stopped.
async fn report(raft: &Raft) -> kontiki::Fatal {
    let mut watch = raft.watch();
    let mut last = String::new();
    loop {
        let status = raft.status();
        if let Some(fatal) = status.stopped {
            return fatal;
        }
        let leader = status.leader.map_or_else(|| "nobody".to_owned(), |id| id.to_string());
        let voters = status.membership.voters().count();
        let members = status.membership.members().count();
        let line = format!("term {}: {leader} leads {members} members, {voters} vote", status.term);
        if line != last {
            println!("{line}");
            last = line;
        }
        watch.changed().await;
    }
}
