//! An in-process network for kontiki: no sockets, and as much bad luck as a test asks for.
//!
//! Time and chance are those of the [`Runtime`] the network was made with, so on a simulated
//! runtime every fault is repeatable. Without faults a message is delivered inside `send`, by the
//! task of the sender.
//!
//! ```
//! # fn demo(runtime: std::sync::Arc<dyn kontiki::runtime::Runtime>) {
//! use std::time::Duration;
//! use kontiki_transport_memory::{Faults, Network};
//!
//! let network = Network::new(runtime);
//! let one = network.endpoint("one");
//! let delay = Duration::ZERO..Duration::from_millis(5);
//! network.set_faults(Faults { loss: 0.05, delay, ..Faults::default() });
//! network.isolate("one");
//! network.heal();
//! # }
//! ```

mod queue;
mod streams;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::{AbortHandle, Abortable, Aborted, join_all};
use kontiki::GroupId;
use kontiki::runtime::{ByteReader, Runtime};
use kontiki::transport::{Inbox, Message, Peer, Transport, TransportError};

use self::queue::Queue;
use self::streams::{Streams, UnderWay};

/// What goes wrong on the way. Applies to messages, and `loss` to the beginning of streams too.
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "tests build it by literal")]
pub struct Faults {
    /// How likely a message is lost, from 0 to 1.
    pub loss: f64,
    /// How likely it arrives twice, from 0 to 1.
    pub duplication: f64,
    /// How long it is under way, drawn for each anew, so that messages overtake each other. Empty:
    /// not at all.
    pub delay: Range<Duration>,
}

/// What has passed through a network.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Counters {
    /// Messages delivered, or on their way.
    pub delivered: u64,
    /// Messages lost by chance, and those that were one too many on the way.
    pub lost: u64,
    /// Messages to nobody, or across a cut.
    pub undeliverable: u64,
}

/// A network in this process; clones are the same network.
#[derive(Clone)]
pub struct Network {
    shared: Arc<Shared>,
}

struct Shared {
    runtime: Arc<dyn Runtime>,
    state: Mutex<State>,
    queue: Arc<Queue>,
}

/// An address and a group.
type Place = (String, GroupId);

struct State {
    inboxes: BTreeMap<Place, Arc<dyn Inbox>>,
    streams: Streams,
    faults: Faults,
    encoded: bool,
    cuts: BTreeSet<(String, String)>,
    isolated: BTreeSet<String>,
    dice: fastrand::Rng,
    counters: Counters,
}

impl Network {
    /// A network without faults.
    #[must_use]
    pub fn new(runtime: Arc<dyn Runtime>) -> Self {
        let state = State {
            inboxes: BTreeMap::new(),
            streams: Streams::default(),
            faults: Faults::default(),
            encoded: cfg!(debug_assertions),
            cuts: BTreeSet::new(),
            isolated: BTreeSet::new(),
            dice: fastrand::Rng::with_seed(runtime.random()),
            counters: Counters::default(),
        };
        let queue = Queue::start(&runtime);
        Self { shared: Arc::new(Shared { runtime, state: Mutex::new(state), queue }) }
    }

    /// The transport of the server at `address`.
    #[must_use]
    pub fn endpoint(&self, address: impl Into<String>) -> Arc<MemoryTransport> {
        Arc::new(MemoryTransport { network: self.clone(), address: address.into() })
    }

    /// Sets what goes wrong from here on.
    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// Whether every message goes through its encoded form. Default: in debug builds, so that tests
    /// exercise it.
    pub fn set_encoded(&self, encoded: bool) {
        self.lock().encoded = encoded;
    }

    /// Cuts `a` and `b` off from each other.
    pub fn partition(&self, a: &str, b: &str) {
        let mut state = self.lock();
        state.cuts.insert((a.to_owned(), b.to_owned()));
        state.cuts.insert((b.to_owned(), a.to_owned()));
    }

    /// Cuts one server off from everyone.
    pub fn isolate(&self, address: &str) {
        self.lock().isolated.insert(address.to_owned());
    }

    /// Mends every cut. [`Faults`] stay.
    pub fn heal(&self) {
        let mut state = self.lock();
        state.cuts.clear();
        state.isolated.clear();
    }

    /// What has passed so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.lock().counters
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code of others runs under the lock, so a poisoned one still holds a whole value.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").finish_non_exhaustive()
    }
}

impl State {
    fn route(&self, from: &str, peer: &Peer, message: &Message) -> Result<Arc<dyn Inbox>, String> {
        let cut =
            !self.cuts.is_empty() && self.cuts.contains(&(from.to_owned(), peer.address.clone()));
        if cut || self.isolated.contains(from) || self.isolated.contains(&peer.address) {
            return Err(format!("{from} is cut off from {}", peer.address));
        }
        let key = (peer.address.clone(), message.group());
        let Some(inbox) = self.inboxes.get(&key) else {
            return Err(format!("nobody is at {}", peer.address));
        };
        let there = inbox.local().node;
        if peer.id.is_some_and(|id| id != there) {
            return Err(format!("{there} is at {}", peer.address));
        }
        if !inbox.accepts(message.cluster(), message.from()) {
            return Err(format!("{there} is of another cluster"));
        }
        Ok(Arc::clone(inbox))
    }

    fn chance(&mut self, likely: f64) -> bool {
        likely > 0.0 && self.dice.f64() < likely
    }

    fn delay(&mut self) -> Duration {
        let Range { start, end } = self.faults.delay.clone();
        let spread = end.saturating_sub(start);
        start + spread.mul_f64(if spread.is_zero() { 0.0 } else { self.dice.f64() })
    }
}

/// One server's access to a [`Network`].
///
/// A stream is carried by the task of its sender, so it ends when that is polled next, and `detach`
/// waits for it at both ends: while the sender's runtime stands still, a receiver of one of its
/// streams does not come to the end of its shutdown.
#[derive(Debug)]
pub struct MemoryTransport {
    network: Network,
    address: String,
}

#[async_trait]
impl Transport for MemoryTransport {
    fn attach(&self, inbox: Arc<dyn Inbox>) {
        let key = (self.address.clone(), inbox.local().group);
        self.network.lock().inboxes.insert(key, inbox);
    }

    fn send(&self, peer: &Peer, message: Message) -> Result<(), TransportError> {
        let mut state = self.network.lock();
        let inbox = match state.route(&self.address, peer, &message) {
            Ok(inbox) => inbox,
            Err(reason) => {
                state.counters.undeliverable += 1;
                return Err(TransportError::Unreachable { reason });
            }
        };
        let loss = state.faults.loss;
        if state.chance(loss) {
            state.counters.lost += 1;
            return Ok(());
        }
        let duplication = state.faults.duplication;
        let copies = 1 + u64::from(state.chance(duplication));
        let delays: Vec<_> = (1..copies).map(|_| state.delay()).collect();
        let delay = state.delay();
        state.counters.delivered += copies;
        let encoded = state.encoded;
        drop(state);
        let message = if encoded { recode(message) } else { message };
        let queue = &self.network.shared.queue;
        let push = |delay| queue.push(delay, Arc::clone(&inbox), message.clone());
        let mut lost = delays.into_iter().filter(|delay| !push(*delay)).count();
        if delay.is_zero() {
            inbox.deliver(message);
        } else {
            lost += usize::from(!queue.push(delay, inbox, message));
        }
        if lost > 0 {
            let counters = &mut self.network.lock().counters;
            counters.delivered -= lost as u64;
            counters.lost += lost as u64;
        }
        Ok(())
    }

    async fn send_stream(
        &self,
        peer: &Peer,
        head: Message,
        body: ByteReader,
    ) -> Result<(), TransportError> {
        let (inbox, delay, under_way, registration) = {
            let mut state = self.network.lock();
            let inbox = state.route(&self.address, peer, &head);
            let inbox = inbox.map_err(|reason| TransportError::Unreachable { reason })?;
            let loss = state.faults.loss;
            if state.chance(loss) {
                state.counters.lost += 1;
                return Err(unreachable("the stream was lost"));
            }
            let ends = [&self.address, &peer.address].map(|name| (name.clone(), head.group()));
            let (handle, registration) = AbortHandle::new_pair();
            let (number, ended) = state.streams.begin(ends, handle);
            let under_way = UnderWay { network: self.network.clone(), number, _ended: ended };
            (inbox, state.delay(), under_way, registration)
        };
        let runtime = Arc::clone(&self.network.shared.runtime);
        let carrying = async move {
            if !delay.is_zero() {
                runtime.timer(runtime.now() + delay).await;
            }
            inbox.receive_stream(recode(head), body).await
        };
        let carried = Abortable::new(carrying, registration).await;
        // Only now: what the stream holds is let go of before it counts as ended.
        drop(under_way);
        match carried {
            Ok(taken) => taken.map_err(TransportError::Refused),
            Err(Aborted) => Err(unreachable("one of the two has ended")),
        }
    }

    async fn detach(&self, group: GroupId) {
        let place = (self.address.clone(), group);
        let (gone, streams) = {
            let mut state = self.network.lock();
            (state.inboxes.remove(&place), state.streams.break_off(&place))
        };
        if let Some(inbox) = gone {
            self.network.shared.queue.forget(&inbox);
        }
        join_all(streams).await;
    }
}

fn unreachable(reason: &str) -> TransportError {
    TransportError::Unreachable { reason: reason.to_owned() }
}

fn recode(message: Message) -> Message {
    Message::decode(message.encode().into_bytes()).expect("what we encode can be decoded")
}
