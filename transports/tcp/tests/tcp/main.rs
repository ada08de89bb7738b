//! The TCP transport beyond what the conformance kit asks of every transport (`tests/conformance`
//! of the library): its bytes, its limits, its counts, its logs, its patience.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::io::{AsyncReadExt as _, Cursor};
use kontiki::runtime::sim::{Sim, SimProcess};
use kontiki::runtime::{ByteReader, Runtime};
use kontiki::transport::{Inbox, Local, Message, Peer, StreamRefused, Transport as _};
use kontiki::{ClusterId, GroupId, NodeId};
use kontiki_transport_tcp::{TcpConfig, TcpTransport};

mod dialing;
mod logs;
mod messages;
mod refused;
mod streams;

const MINUTE: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(crate) struct Received {
    pub(crate) messages: Vec<Bytes>,
    pub(crate) streams: Vec<Vec<u8>>,
    pub(crate) unreachable: Vec<NodeId>,
}

pub(crate) struct FakeInbox {
    local: Local,
    pub(crate) received: Mutex<Received>,
}

impl FakeInbox {
    pub(crate) fn new(node: u64) -> Arc<Self> {
        Self::of(cluster(1), node)
    }

    pub(crate) fn of(cluster: ClusterId, node: u64) -> Arc<Self> {
        let local = Local { cluster, group: GroupId(0), node: node.into() };
        Arc::new(Self { local, received: Mutex::default() })
    }

    pub(crate) fn messages(&self) -> usize {
        self.received.lock().unwrap().messages.len()
    }

    pub(crate) fn unreachable(&self) -> usize {
        self.received.lock().unwrap().unreachable.len()
    }
}

#[async_trait]
impl Inbox for FakeInbox {
    fn local(&self) -> Local {
        self.local.clone()
    }

    fn deliver(&self, message: Message) {
        let payload = message.probe_payload().unwrap().clone();
        self.received.lock().unwrap().messages.push(payload);
    }

    fn unreachable(&self, peer: NodeId) {
        self.received.lock().unwrap().unreachable.push(peer);
    }

    async fn receive_stream(&self, _: Message, mut body: ByteReader) -> Result<(), StreamRefused> {
        let mut bytes = Vec::new();
        let read = body.read_to_end(&mut bytes).await;
        read.map_err(|error| StreamRefused::Failed(error.to_string()))?;
        self.received.lock().unwrap().streams.push(bytes);
        Ok(())
    }

    fn accepts(&self, cluster: ClusterId, _: NodeId) -> bool {
        cluster == self.local.cluster
    }
}

pub(crate) fn cluster(n: u64) -> ClusterId {
    ClusterId::from_random(n, n)
}

pub(crate) fn probe(from: u64, to: u64, payload: &'static [u8]) -> Message {
    Message::probe(cluster(1), GroupId(0), from.into(), to.into(), Bytes::from_static(payload))
}

pub(crate) fn peer(n: u64, address: &str) -> Peer {
    Peer { id: Some(n.into()), address: address.to_owned() }
}

pub(crate) async fn bind(process: &Arc<SimProcess>, config: TcpConfig) -> Arc<TcpTransport> {
    let address = format!("host-{}:1", process.id());
    TcpTransport::bind(process.clone(), process.clone(), &address, config).await.unwrap()
}

pub(crate) async fn pause(runtime: &dyn Runtime, ms: u64) {
    runtime.timer(runtime.now() + Duration::from_millis(ms)).await;
}

/// Two servers, 1 and 2, at host-1:1 and host-2:1.
pub(crate) async fn two(sim: &Sim) -> [(Arc<TcpTransport>, Arc<FakeInbox>); 2] {
    let mut both = Vec::new();
    for n in [1, 2] {
        let transport = bind(&sim.process(n), TcpConfig::default()).await;
        let inbox = FakeInbox::new(n);
        transport.attach(inbox.clone());
        both.push((transport, inbox));
    }
    both.try_into().unwrap_or_else(|_| unreachable!())
}

pub(crate) fn in_sim<F: Future<Output = ()> + Send + 'static>(test: impl FnOnce(Sim) -> F) {
    logs::install();
    let sim = Sim::new(11);
    sim.run_until(10 * MINUTE, test(sim.clone())).unwrap();
}

pub(crate) fn body(bytes: Vec<u8>) -> ByteReader {
    Box::pin(Cursor::new(bytes))
}
