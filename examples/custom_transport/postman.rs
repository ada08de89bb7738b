//! A transport in one process: a table of households, and letters that are put in at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::channel::{mpsc, oneshot};
use futures::future::{Either, FutureExt as _, Shared, select};
use kontiki::GroupId;
use kontiki::runtime::ByteReader;
use kontiki::transport::{Inbox, Message, Peer, Transport, TransportError};

/// Who lives where. An address is whatever the transport makes of it; here, a name.
#[derive(Clone, Default)]
pub(crate) struct Postman {
    households: Arc<Mutex<Households>>,
}

/// By address and group: several groups may share one transport.
type Households = BTreeMap<(String, GroupId), Household>;

struct Household {
    inbox: Arc<dyn Inbox>,
    visit: Visit,
    /// Dropped when they move out, which everybody hears.
    at_home: oneshot::Sender<()>,
    /// Ends when the last visitor has given the key back.
    keys: mpsc::Receiver<()>,
}

/// What a stream holds of a household for as long as it takes.
#[derive(Clone)]
struct Visit {
    moved_out: Shared<oneshot::Receiver<()>>,
    _key: mpsc::Sender<()>,
}

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

    fn households(&self) -> MutexGuard<'_, Households> {
        self.households.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds who is to have a message, if the right ones live at the address.
    fn find(
        &self,
        peer: &Peer,
        message: &Message,
    ) -> Result<(Arc<dyn Inbox>, Visit), TransportError> {
        let households = self.households();
        let found = households.get(&(peer.address.clone(), message.group()));
        // No id is only asked for by a server that joins: it takes whoever answers.
        let wanted = |there: &&Household| {
            peer.id.is_none_or(|id| id == there.inbox.local().node)
                && there.inbox.accepts(message.cluster(), message.from())
        };
        let found = found.filter(wanted).ok_or_else(|| TransportError::Unreachable {
            reason: format!("nobody wanted is at {}", peer.address),
        })?;
        Ok((Arc::clone(&found.inbox), found.visit.clone()))
    }
}

#[async_trait]
impl Transport for Letterbox {
    /// The node hands over its inbox; from here on others can reach it.
    fn attach(&self, inbox: Arc<dyn Inbox>) {
        let address = (self.address.clone(), inbox.local().group);
        let (at_home, moved_out) = oneshot::channel();
        let (key, keys) = mpsc::channel(0);
        let visit = Visit { moved_out: moved_out.shared(), _key: key };
        let household = Household { inbox, visit, at_home, keys };
        self.postman.households().insert(address, household);
    }

    /// Delivers, or says why not; never waits. `deliver` queues and returns at once.
    fn send(&self, peer: &Peer, message: Message) -> Result<(), TransportError> {
        let (inbox, _) = self.postman.find(peer, &message)?;
        // Over a wire, these bytes would travel: `encode` here, `decode` there.
        let bytes = message.encode().into_bytes();
        let message = Message::decode(bytes)
            .map_err(|error| TransportError::Unreachable { reason: error.to_string() })?;
        inbox.deliver(message);
        Ok(())
    }

    /// Hands a stream over and waits for the receiver's verdict, which may take its time: unless
    /// one of the two moves out meanwhile.
    async fn send_stream(
        &self,
        peer: &Peer,
        head: Message,
        body: ByteReader,
    ) -> Result<(), TransportError> {
        let own = (self.address.clone(), head.group());
        let here = self.postman.households().get(&own).map(|own| own.visit.clone());
        let here = here.ok_or(TransportError::Detached)?;
        let (inbox, there) = self.postman.find(peer, &head)?;
        let moved_out = select(here.moved_out.clone(), there.moved_out.clone());
        let receiving = Box::pin(async move { inbox.receive_stream(head, body).await });
        let verdict = match select(receiving, moved_out).await {
            Either::Left((verdict, _)) => verdict.map_err(TransportError::Refused),
            Either::Right(_) => Err(TransportError::Detached),
        };
        // The keys go back last, when nothing is held of the households any more.
        drop((here, there));
        verdict
    }

    /// The node is ending: nobody reaches it any more, and when this returns, nobody is there.
    async fn detach(&self, group: GroupId) {
        let gone = self.postman.households().remove(&(self.address.clone(), group));
        let Some(Household { inbox, visit, at_home, mut keys }) = gone else { return };
        drop((inbox, visit, at_home));
        keys.next().await;
    }
}
