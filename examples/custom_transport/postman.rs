//! A transport in one process: a table of letterboxes, and letters that are put in at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use kontiki::GroupId;
use kontiki::runtime::ByteReader;
use kontiki::transport::{Inbox, Message, Peer, Transport, TransportError};

/// Who lives where. An address is whatever the transport makes of it; here, a name.
#[derive(Clone, Default)]
pub(crate) struct Postman {
    inboxes: Arc<Mutex<Inboxes>>,
}

/// By address and group: several groups may share one transport.
type Inboxes = BTreeMap<(String, GroupId), Arc<dyn Inbox>>;

/// One server's access to the post.
pub(crate) struct Letterbox {
    postman: Postman,
    address: String,
}

impl Postman {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn letterbox(&self, address: &str) -> Arc<Letterbox> {
        Arc::new(Letterbox { postman: self.clone(), address: address.to_owned() })
    }

    /// The inbox at an address, if the server that is wanted lives there.
    fn find(&self, peer: &Peer, group: GroupId) -> Result<Arc<dyn Inbox>, TransportError> {
        let inboxes = self.inboxes.lock().unwrap_or_else(PoisonError::into_inner);
        let inbox = inboxes.get(&(peer.address.clone(), group));
        // No id is only asked for by a server that joins: it takes whoever answers.
        let wanted = |inbox: &&Arc<dyn Inbox>| peer.id.is_none_or(|id| id == inbox.local().node);
        inbox.filter(wanted).cloned().ok_or_else(|| TransportError::Unreachable {
            reason: format!("nobody wanted is at {}", peer.address),
        })
    }
}

#[async_trait]
impl Transport for Letterbox {
    /// The node hands over its inbox; from here on others can reach it.
    fn attach(&self, inbox: Arc<dyn Inbox>) {
        let key = (self.address.clone(), inbox.local().group);
        let mut inboxes = self.postman.inboxes.lock().unwrap_or_else(PoisonError::into_inner);
        inboxes.insert(key, inbox);
    }

    /// Delivers, or says why not; never waits. `deliver` queues and returns at once.
    fn send(&self, peer: &Peer, message: Message) -> Result<(), TransportError> {
        let inbox = self.postman.find(peer, message.group())?;
        // Over a wire, these bytes would travel: `encode` here, `decode` there.
        let bytes = message.encode().into_bytes();
        let message = Message::decode(bytes)
            .map_err(|error| TransportError::Unreachable { reason: error.to_string() })?;
        inbox.deliver(message);
        Ok(())
    }

    /// Hands a snapshot over and waits for the receiver's verdict; this one may take its time.
    async fn send_stream(
        &self,
        peer: &Peer,
        head: Message,
        body: ByteReader,
    ) -> Result<(), TransportError> {
        let inbox = self.postman.find(peer, head.group())?;
        inbox.receive_stream(head, body).await.map_err(TransportError::Refused)
    }

    /// The node is ending: nobody reaches it any more. There are no tasks to wait for.
    async fn detach(&self, group: GroupId) {
        let mut inboxes = self.postman.inboxes.lock().unwrap_or_else(PoisonError::into_inner);
        inboxes.remove(&(self.address.clone(), group));
    }
}
