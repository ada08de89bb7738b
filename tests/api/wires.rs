//! What carries the messages of a test: the library's own transport in memory, or the one that the
//! example explains.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use kontiki::GroupId;
use kontiki::runtime::{ByteReader, Runtime};
use kontiki::transport::{Inbox, Message, Peer, Transport, TransportError};
use kontiki_transport_memory::{Faults, Network};

use crate::postman::Postman;

pub(crate) enum Wires {
    Memory(Network),
    Postman(Postman, Arc<Mutex<BTreeSet<String>>>),
}

impl Wires {
    pub(crate) fn memory(runtime: Arc<dyn Runtime>) -> Self {
        Self::Memory(Network::new(runtime))
    }

    pub(crate) fn postman() -> Self {
        Self::Postman(Postman::new(), Arc::default())
    }

    pub(crate) fn endpoint(&self, address: String) -> Arc<dyn Transport> {
        match self {
            Self::Memory(network) => network.endpoint(address),
            Self::Postman(postman, cut) => {
                let (inner, cut) = (postman.letterbox(&address), Arc::clone(cut));
                Arc::new(Fenced { inner, address, cut })
            }
        }
    }

    /// What goes wrong from here on; the example's transport has no faults.
    pub(crate) fn set_faults(&self, faults: Faults) {
        if let Self::Memory(network) = self {
            network.set_faults(faults);
        }
    }

    /// Cuts one server off from everyone.
    pub(crate) fn isolate(&self, address: &str) {
        match self {
            Self::Memory(network) => network.isolate(address),
            Self::Postman(_, cut) => drop(cut.lock().unwrap().insert(address.to_owned())),
        }
    }

    pub(crate) fn heal(&self) {
        match self {
            Self::Memory(network) => network.heal(),
            Self::Postman(_, cut) => cut.lock().unwrap().clear(),
        }
    }
}

/// A transport that can be cut off, whatever carries it.
struct Fenced {
    inner: Arc<dyn Transport>,
    address: String,
    cut: Arc<Mutex<BTreeSet<String>>>,
}

impl Fenced {
    fn reach(&self, peer: &Peer) -> Result<(), TransportError> {
        let cut = self.cut.lock().unwrap();
        if cut.contains(&self.address) || cut.contains(&peer.address) {
            return Err(TransportError::Unreachable { reason: "cut off".to_owned() });
        }
        Ok(())
    }
}

#[async_trait]
impl Transport for Fenced {
    fn check(&self, address: &str, message_bytes: u64) -> Result<(), TransportError> {
        self.inner.check(address, message_bytes)
    }

    fn attach(&self, inbox: Arc<dyn Inbox>) {
        self.inner.attach(inbox);
    }

    fn send(&self, peer: &Peer, message: Message) -> Result<(), TransportError> {
        self.reach(peer)?;
        self.inner.send(peer, message)
    }

    async fn send_stream(
        &self,
        peer: &Peer,
        head: Message,
        body: ByteReader,
    ) -> Result<(), TransportError> {
        self.reach(peer)?;
        self.inner.send_stream(peer, head, body).await
    }

    async fn detach(&self, group: GroupId) {
        self.inner.detach(group).await;
    }
}
