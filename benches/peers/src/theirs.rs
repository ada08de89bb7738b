//! openraft as its own benchmark runs it: requests of no bytes, a log in a tree, the network a
//! function call, servers and clients on a tokio runtime each.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::impls::leader_id_adv::LeaderId;
use openraft::impls::{EmptyNode, Entry, EntryPayload, InlineBatch, OneshotResponder, Vote};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::{SnapshotOf, VoteOf};
use openraft::vote::RaftLeaderId;
use openraft::{
    AnyError, Config, OptionalSend, Raft, RaftNetworkFactory, RaftNetworkV2, RaftTypeConfig,
};
use openraft_rt_tokio::TokioRuntime;

use crate::load::{self, Load, Run};
use crate::their_store::{Log, Machine};
use crate::threads;

#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Types;

impl RaftTypeConfig for Types {
    type D = Nothing;
    type R = Nothing;
    type NodeId = u64;
    type Node = EmptyNode;
    type Term = u64;
    type LeaderId = LeaderId<u64, u64>;
    type Vote = Vote<Self::LeaderId>;
    type Payload = EntryPayload<Nothing, u64, EmptyNode>;
    type Entry = Entry<<Self::LeaderId as RaftLeaderId>::Committed, Self::Payload>;
    type AsyncRuntime = TokioRuntime;
    type Responder<T: OptionalSend + 'static> = OneshotResponder<Self, T>;
    type Batch<T: OptionalSend + 'static> = InlineBatch<T>;
    type ErrorSource = AnyError;
}

/// A request, and an answer, of no bytes.
#[derive(Clone, Debug)]
pub(crate) struct Nothing;

impl std::fmt::Display for Nothing {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Ok(())
    }
}

type Node = Raft<Types, Machine>;

/// A fresh cluster under a load.
pub(crate) fn run(load: Load) -> Option<Run> {
    let (servers, clients) = (threads::servers(), threads::clients());
    let nodes = servers.block_on(cluster());
    let leader = nodes[&0].clone();
    let spawn = |stop| {
        let leader = leader.clone();
        let client = clients.spawn(async move {
            let propose = || leader.client_write(Nothing);
            load::client(stop, propose).await
        });
        async { client.await.expect("a client does not panic") }
    };
    let run = smol::block_on(load::measure(load, spawn));
    for node in nodes.values() {
        servers.block_on(node.shutdown()).expect("nothing failed");
    }
    run
}

async fn cluster() -> BTreeMap<u64, Node> {
    let config = Config {
        // What its own benchmark sets; all else is the default.
        election_timeout_min: 200,
        election_timeout_max: 2_000,
        purge_batch_size: 1_024,
        max_payload_entries: 1_024,
        ..Config::default()
    };
    let config = Arc::new(config.validate().expect("its own values"));
    let router = Router::default();
    let mut nodes = BTreeMap::new();
    for id in 0..3 {
        let node =
            Raft::new(id, Arc::clone(&config), router.clone(), Log::default(), Machine::default());
        nodes.insert(id, node.await.expect("an empty store starts"));
    }
    router.nodes.lock().expect("no panic").clone_from(&nodes);
    let members: BTreeMap<u64, EmptyNode> = (0..3).map(|id| (id, EmptyNode {})).collect();
    nodes[&0].initialize(members).await.expect("it is blank");
    let patience = Some(Duration::from_secs(10));
    for node in nodes.values() {
        node.wait(patience).applied_index_at_least(Some(1), "formed").await.expect("it leads");
    }
    nodes
}

#[derive(Clone, Default)]
struct Router {
    nodes: Arc<Mutex<BTreeMap<u64, Node>>>,
}

impl RaftNetworkFactory<Types> for Router {
    type Network = Link;

    async fn new_client(&mut self, target: u64, _: &EmptyNode) -> Link {
        Link(self.nodes.lock().expect("no panic")[&target].clone())
    }
}

struct Link(Node);

impl RaftNetworkV2<Types> for Link {
    type SnapshotData = ();

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        self.0.append_entries(request).await.map_err(|error| Unreachable::new(&error).into())
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        _: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.0.vote(request).await.map_err(|error| Unreachable::new(&error).into())
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<Types>,
        snapshot: SnapshotOf<Types, ()>,
        _: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let sent = self.0.install_full_snapshot(vote, snapshot).await;
        sent.map_err(|error| Unreachable::new(&error).into())
    }
}
