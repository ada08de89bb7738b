//! Peer messages of kontiki over TCP, on any runtime: it knows [`Runtime`] and [`Net`], nothing
//! else.
//!
//! Messages to a peer share one connection; each stream (a snapshot) has its own. A connection
//! begins with a handshake that names versions, cluster, group and both servers, so that a stranger
//! is refused before it says anything. What does not fit a peer's queue is dropped and reported:
//! the consensus engine sends it again. `docs/formats.md` of the library has the bytes.

mod accept;
mod dial;
mod frames;
mod handshake;
mod outbox;
mod signal;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use kontiki::runtime::{ByteReader, Net, Runtime};
use kontiki::transport::{Inbox, Message, Peer, Transport, TransportError};
use kontiki::{GroupId, NodeId};

use self::outbox::Outbox;
use self::signal::{Running, Signal};

/// How a [`TcpTransport`] behaves. Make one with [`TcpConfig::default`] and change what you must.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TcpConfig {
    /// The longest message in bytes. Default 16 MiB; a node does not start if its config allows
    /// longer ones.
    pub message_bytes_max: u64,
    /// How many messages wait for one peer. Default 4,096; more are dropped.
    pub queue_messages_max: usize,
    /// How many bytes of messages wait for one peer. Default 64 MiB; more are dropped.
    pub queue_bytes_max: usize,
    /// How long a connection and its handshake may take, in both directions. Default 3 s.
    pub handshake_timeout: Duration,
    /// How long a write may make no progress, and how long nothing may come of a message or stream
    /// that has begun. Default 10 s. Between two messages a peer may be silent.
    pub stall_timeout: Duration,
    /// How long the receiver of a stream may take to store it after its end. Default 60 s.
    pub verdict_timeout: Duration,
    /// How many connections are held open for others. Default 1,024; more are closed at once.
    pub connections_max: usize,
    /// How many of them may still be shaking hands. Default 64; more are closed at once, so that
    /// strangers that say nothing take neither memory nor the places of peers.
    pub handshakes_max: usize,
}

impl Default for TcpConfig {
    fn default() -> Self {
        Self {
            message_bytes_max: 16 << 20,
            queue_messages_max: 4_096,
            queue_bytes_max: 64 << 20,
            handshake_timeout: Duration::from_secs(3),
            stall_timeout: Duration::from_secs(10),
            verdict_timeout: Duration::from_secs(60),
            connections_max: 1_024,
            handshakes_max: 64,
        }
    }
}

/// What was refused or dropped since the transport began.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Stats {
    /// Connections that never got through a handshake in time, or spoke something else.
    pub bad_handshakes: u64,
    /// Handshakes of another cluster, for another server, for a group that is not here, or of
    /// another version.
    pub refused_handshakes: u64,
    /// Frames that were too long, damaged, or no message.
    pub bad_frames: u64,
    /// Messages in the name of another server or group than the handshake's.
    pub forged_messages: u64,
    /// Connections closed because a message or stream that had begun did not go on.
    pub stalled: u64,
    /// Connections closed because too many were open.
    pub turned_away: u64,
    /// Messages dropped because too many waited.
    pub overflowed: u64,
    /// Connections that were made to peers.
    pub connected: u64,
}

/// Carries messages over TCP. Dropping it closes everything.
pub struct TcpTransport {
    shared: Arc<Shared>,
}

struct Shared {
    runtime: Arc<dyn Runtime>,
    net: Arc<dyn Net>,
    config: TcpConfig,
    address: String,
    state: Mutex<State>,
    closed: Signal,
    counts: Counts,
}

struct State {
    groups: BTreeMap<GroupId, Group>,
    dice: fastrand::Rng,
}

struct Group {
    inbox: Arc<dyn Inbox>,
    outboxes: BTreeMap<Peer, Arc<Outbox>>,
    /// Ends every task of the group.
    ended: Signal,
}

/// What a task of a group holds. Made under the lock under which the group is there, so that
/// whoever takes the group away knows of all its tasks.
struct Member {
    // Let go of before the task counts as ended: fields are dropped in this order.
    inbox: Arc<dyn Inbox>,
    ended: Signal,
    _running: Running,
}

impl Group {
    fn enter(&self) -> Member {
        let (inbox, ended) = (Arc::clone(&self.inbox), self.ended.clone());
        Member { inbox, _running: ended.enter(), ended }
    }
}

#[derive(Default)]
struct Counts {
    bad_handshakes: AtomicU64,
    refused_handshakes: AtomicU64,
    bad_frames: AtomicU64,
    forged_messages: AtomicU64,
    stalled: AtomicU64,
    turned_away: AtomicU64,
    overflowed: AtomicU64,
    connected: AtomicU64,
    open: AtomicU64,
    shaking: AtomicU64,
}

impl TcpTransport {
    /// Listens on `address` (port 0 takes a free one) and carries messages from there on.
    ///
    /// # Errors
    ///
    /// What the system says, such as that the port is taken.
    pub async fn bind(
        runtime: Arc<dyn Runtime>,
        net: Arc<dyn Net>,
        address: &str,
        config: TcpConfig,
    ) -> io::Result<Arc<Self>> {
        let listener = net.listen(address).await?;
        let dice = fastrand::Rng::with_seed(runtime.random());
        let shared = Arc::new(Shared {
            address: listener.local_address()?,
            runtime,
            net,
            config,
            state: Mutex::new(State { groups: BTreeMap::new(), dice }),
            closed: Signal::default(),
            counts: Counts::default(),
        });
        let closed = shared.closed.clone();
        let accepting = accept::run(Arc::downgrade(&shared), listener);
        shared.runtime.spawn(Box::pin(async move {
            closed.until(accepting).await;
        }));
        Ok(Arc::new(Self { shared }))
    }

    /// Where it listens, with the real port.
    #[must_use]
    pub fn local_address(&self) -> &str {
        &self.shared.address
    }

    /// What was refused or dropped so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let counts = &self.shared.counts;
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Stats {
            bad_handshakes: load(&counts.bad_handshakes),
            refused_handshakes: load(&counts.refused_handshakes),
            bad_frames: load(&counts.bad_frames),
            forged_messages: load(&counts.forged_messages),
            stalled: load(&counts.stalled),
            turned_away: load(&counts.turned_away),
            overflowed: load(&counts.overflowed),
            connected: load(&counts.connected),
        }
    }
}

/// Whether an address can be listened on, but not dialed from elsewhere.
fn is_nowhere(address: &str) -> bool {
    match address.parse::<SocketAddr>() {
        Ok(known) => known.ip().is_unspecified() || known.port() == 0,
        Err(_) => address.ends_with(":0"),
    }
}

impl Drop for TcpTransport {
    fn drop(&mut self) {
        self.shared.closed.set();
        self.shared.lock().groups.values().for_each(|group| group.ended.set());
    }
}

impl fmt::Debug for TcpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpTransport")
            .field("address", &self.shared.address)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Transport for TcpTransport {
    fn check(&self, address: &str, message_bytes: u64) -> Result<(), TransportError> {
        let bytes_max = self.shared.config.message_bytes_max;
        if message_bytes > bytes_max {
            return Err(TransportError::TooLarge { bytes: message_bytes, bytes_max });
        }
        if is_nowhere(address) {
            return Err(TransportError::BadAddress { address: address.to_owned() });
        }
        Ok(())
    }

    fn attach(&self, inbox: Arc<dyn Inbox>) {
        let id = inbox.local().group;
        let group = Group { inbox, outboxes: BTreeMap::new(), ended: Signal::default() };
        if let Some(before) = self.shared.lock().groups.insert(id, group) {
            before.ended.set();
        }
    }

    fn send(&self, peer: &Peer, message: Message) -> Result<(), TransportError> {
        let frame = message.encode();
        let (bytes, bytes_max) = (frame.len() as u64, self.shared.config.message_bytes_max);
        if bytes > bytes_max {
            return Err(TransportError::TooLarge { bytes, bytes_max });
        }
        let outbox = self.outbox(peer, message.group())?;
        let pushed = outbox.push(frame);
        if pushed.is_err() {
            self.shared.counts.overflowed.fetch_add(1, Ordering::Relaxed);
        }
        pushed
    }

    async fn send_stream(
        &self,
        peer: &Peer,
        head: Message,
        body: ByteReader,
    ) -> Result<(), TransportError> {
        let member = self.shared.enter(head.group()).ok_or(TransportError::Detached)?;
        let sending = dial::send_stream(&self.shared, &*member.inbox, peer, head, body);
        member.ended.until(sending).await.unwrap_or(Err(TransportError::Detached))
    }

    fn disconnect(&self, group: GroupId, peer: NodeId) {
        let mut state = self.shared.lock();
        let Some(group) = state.groups.get_mut(&group) else { return };
        group.outboxes.retain(|to, outbox| {
            let stays = to.id != Some(peer);
            if !stays {
                outbox.close();
            }
            stays
        });
    }

    async fn detach(&self, group: GroupId) {
        let gone = self.shared.lock().groups.remove(&group);
        if let Some(gone) = gone {
            gone.ended.set();
            gone.ended.all_ended().await;
        }
    }
}

impl TcpTransport {
    /// The queue to a peer; made, with the task that empties it, when it is first needed.
    fn outbox(&self, peer: &Peer, id: GroupId) -> Result<Arc<Outbox>, TransportError> {
        let mut state = self.shared.lock();
        let group = state.groups.get_mut(&id).ok_or(TransportError::Detached)?;
        if let Some(outbox) = group.outboxes.get(peer) {
            return Ok(Arc::clone(outbox));
        }
        // The same server elsewhere: nobody sends to the old address any more.
        if peer.id.is_some() {
            group.outboxes.retain(|to, outbox| {
                let stays = to.id != peer.id;
                if !stays {
                    outbox.close();
                }
                stays
            });
        }
        let outbox = Arc::new(Outbox::new(&self.shared.config));
        group.outboxes.insert(peer.clone(), Arc::clone(&outbox));
        let member = group.enter();
        let dice = state.dice.fork();
        drop(state);
        let (shared, peer, queue) = (Arc::clone(&self.shared), peer.clone(), Arc::clone(&outbox));
        self.shared.runtime.spawn(Box::pin(async move {
            // All of it: what is not named would stay behind.
            let member: Member = member;
            let task = dial::run(shared, &*member.inbox, peer, queue, dice);
            member.ended.until(task).await;
        }));
        Ok(outbox)
    }
}

impl Shared {
    fn enter(&self, id: GroupId) -> Option<Member> {
        self.lock().groups.get(&id).map(Group::enter)
    }

    fn count(count: &AtomicU64) {
        count.fetch_add(1, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code of others runs under the lock, so a poisoned one still holds a whole value.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
