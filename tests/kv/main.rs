//! What `examples/kv` and `examples/three_nodes` answer under `/kv`, on a cluster of three in
//! virtual time.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../examples/common/service.rs"]
mod service;
#[path = "../../examples/common/store.rs"]
mod store;

mod outcomes;
mod table;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use kontiki::http::{Body, Handler as _};
use kontiki::operator::{AllowAll, ApiConfig, OperatorApi};
use kontiki::runtime::Runtime;
use kontiki::runtime::sim::{Sim, SimProcess};
use kontiki::storage::{MemoryLogStore, MemorySnapshotStore};
use kontiki::{Config, GroupId, Member, Parts, Raft, typed};
use kontiki_transport_memory::Network;

use self::service::{COMMAND_BYTES_MAX, Service};
use self::store::Store;

/// Three servers; number 1 leads.
pub(crate) struct Cluster {
    pub(crate) process: Arc<SimProcess>,
    pub(crate) network: Network,
    services: Vec<Arc<Service>>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

pub(crate) fn address(n: usize) -> String {
    format!("kv-{n}")
}

impl Cluster {
    async fn start(process: Arc<SimProcess>) -> Self {
        let network = Network::new(process.clone());
        let mut cluster = Self { process, network, services: Vec::new() };
        for n in 1..=3 {
            let mut config = Config::default();
            config.id = Some((n as u64).into());
            config.address = address(n);
            config.command_bytes_max = COMMAND_BYTES_MAX;
            let (state_machine, store) = typed::machine(Store::default());
            let runtime: Arc<dyn Runtime> = cluster.process.clone();
            let parts = Parts {
                config,
                group: GroupId::default(),
                runtime: runtime.clone(),
                transport: cluster.network.endpoint(address(n)),
                log: Box::new(MemoryLogStore::new()),
                snapshots: Arc::new(MemorySnapshotStore::new()),
                state_machine,
            };
            let raft = Raft::start(parts).await.unwrap();
            let members = (1..=3).map(|n| Member::voter((n as u64).into(), "", address(n)));
            raft.bootstrap(members.collect()).await.unwrap();
            let (allow, config) = (Arc::new(AllowAll::new()), ApiConfig::default());
            let operator = Arc::new(OperatorApi::new(raft.clone(), allow, runtime, config));
            cluster.services.push(Arc::new(Service { raft, store, operator }));
        }
        cluster.pause(4_000).await;
        cluster.raft(3).transfer_leadership(1.into()).await.unwrap();
        cluster
    }

    pub(crate) fn raft(&self, n: usize) -> Raft {
        self.services[n - 1].raft.clone()
    }

    pub(crate) async fn pause(&self, ms: u64) {
        self.process.timer(self.process.now() + Duration::from_millis(ms)).await;
    }

    pub(crate) async fn ask(
        &self,
        n: usize,
        method: &str,
        uri: &str,
        body: impl Into<Body>,
    ) -> Answer {
        let request = Request::builder().method(method).uri(uri).body(body.into()).unwrap();
        let (head, body) = self.services[n - 1].handle(request).await.into_parts();
        let body = body.collect(usize::MAX - 1).await.unwrap();
        Answer { status: head.status.as_u16(), headers: head.headers, body }
    }
}

/// Runs a test on a cluster of its own, in virtual time.
pub(crate) fn on_cluster<F: Future<Output = ()> + Send + 'static>(test: fn(Cluster) -> F) {
    let sim = Sim::new(6);
    let process = sim.process(0);
    let run = async move { test(Cluster::start(process).await).await };
    sim.run_until(Duration::from_secs(600), run).unwrap();
}
