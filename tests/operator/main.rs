//! The operator API on a leader, on a follower and without a leader, with ACLs on and off.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request};
use kontiki::http::{Body, Handler as _};
use kontiki::operator::{AllowAll, ApiConfig, Authorizer, OperatorApi, TokenList};
use kontiki::runtime::Runtime;
use kontiki::runtime::sim::{Sim, SimProcess};
use kontiki::storage::{MemoryLogStore, MemorySnapshotStore};
use kontiki::typed::{self, State};
use kontiki::{Change, Config, GroupId, LogId, Member, NodeId, Parts, Raft};
use kontiki_transport_memory::Network;

mod cases;
mod forwarding;
mod presentation;
mod wire;

#[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
struct Nothing;

impl State for Nothing {
    type Command = ();
    type Answer = ();
    fn apply(&mut self, _: LogId, (): ()) {}
}

/// Three voters and a learner; number 1 leads.
pub(crate) struct Cluster {
    pub(crate) process: Arc<SimProcess>,
    pub(crate) network: Network,
    pub(crate) rafts: Vec<Raft>,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) content_type: Option<String>,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: String,
    pub(crate) bytes: bytes::Bytes,
}

pub(crate) fn id(n: u64) -> NodeId {
    NodeId::from(n)
}

pub(crate) fn address(n: u64) -> String {
    format!("10.0.0.{n}:4647")
}

impl Cluster {
    async fn start(sim: &Sim) -> Self {
        let process = sim.process(0);
        let network = Network::new(process.clone());
        let mut cluster = Self { process, network, rafts: Vec::new() };
        let member = |n| Member::voter(id(n), format!("n{n}"), address(n));
        for n in 1..=3 {
            let mut config = Config::default();
            config.id = Some(id(n));
            config.name = format!("n{n}");
            config.address = address(n);
            let parts = Parts {
                config,
                group: GroupId::default(),
                runtime: cluster.process.clone(),
                transport: cluster.network.endpoint(address(n)),
                log: Box::new(MemoryLogStore::new()),
                snapshots: Arc::new(MemorySnapshotStore::new()),
                state_machine: typed::machine(Nothing).0,
            };
            let raft = Raft::start(parts).await.unwrap();
            raft.bootstrap((1..=3).map(member).collect()).await.unwrap();
            cluster.rafts.push(raft);
        }
        cluster.pause(4_000).await;
        cluster.rafts[2].transfer_leadership(id(1)).await.unwrap();
        let learner = Change::Add(Member::learner(id(4), "", address(4)));
        cluster.rafts[0].change_membership(learner).await.unwrap();
        cluster.pause(1_000).await;
        cluster
    }

    /// Starts a fourth server that is in no cluster.
    pub(crate) async fn add_blank(&mut self) {
        let mut config = Config::default();
        config.address = "10.0.0.44:4647".to_owned();
        let parts = Parts {
            transport: self.network.endpoint(config.address.clone()),
            config,
            group: GroupId::default(),
            runtime: self.process.clone(),
            log: Box::new(MemoryLogStore::new()),
            snapshots: Arc::new(MemorySnapshotStore::new()),
            state_machine: typed::machine(Nothing).0,
        };
        self.rafts.push(Raft::start(parts).await.unwrap());
    }

    pub(crate) async fn pause(&self, ms: u64) {
        self.process.timer(self.process.now() + Duration::from_millis(ms)).await;
    }

    pub(crate) async fn ask(&self, n: usize, method: &str, uri: &str) -> Answer {
        self.ask_as(n, method, uri, Arc::new(AllowAll::new()), &[]).await
    }

    pub(crate) async fn ask_as(
        &self,
        n: usize,
        method: &str,
        uri: &str,
        authorizer: Arc<dyn Authorizer>,
        headers: &[(&str, &str)],
    ) -> Answer {
        let api = self.api(n, authorizer, ApiConfig::default());
        let mut request = Request::builder().method(Method::try_from(method).unwrap()).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        answer(&api, request.body(Body::empty()).unwrap()).await
    }

    pub(crate) fn api(
        &self,
        n: usize,
        authorizer: Arc<dyn Authorizer>,
        config: ApiConfig,
    ) -> OperatorApi {
        OperatorApi::new(self.rafts[n - 1].clone(), authorizer, self.process.clone(), config)
    }
}

pub(crate) async fn answer(api: &OperatorApi, request: Request<Body>) -> Answer {
    let (head, body) = api.handle(request).await.into_parts();
    // What every response has, and what none has.
    assert_eq!(head.headers["vary"], "Accept-Encoding");
    for name in ["allow", "server", "x-nomad-index", "x-nomad-knownleader", "x-nomad-lastcontact"] {
        assert!(!head.headers.contains_key(name), "{name}");
    }
    let content_type = head.headers.get("content-type");
    let bytes = body.collect(1 << 20).await.unwrap();
    Answer {
        status: head.status.as_u16(),
        content_type: content_type.map(|value| value.to_str().unwrap().to_owned()),
        headers: head.headers,
        body: String::from_utf8_lossy(&bytes).into_owned(),
        bytes,
    }
}

pub(crate) fn get(uri: &str) -> Request<Body> {
    Request::get(uri).body(Body::empty()).unwrap()
}

/// Runs a test on a cluster of its own, in virtual time.
pub(crate) fn on_cluster<F: Future<Output = ()> + Send + 'static>(test: fn(Cluster) -> F) {
    let sim = Sim::new(5);
    let world = sim.clone();
    let run = async move { test(Cluster::start(&world).await).await };
    sim.run_until(Duration::from_secs(600), run).unwrap();
}

pub(crate) fn acls() -> Arc<dyn Authorizer> {
    Arc::new(TokenList::new(["management"]))
}
