//! What carries messages inside a run: a transport around the real one that tells the judge, and,
//! where whole messages travel, loses and misleads some.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use fastrand::Rng;
use kontiki::runtime::sim::SimProcess;
use kontiki::runtime::{ByteReader, Runtime as _};
use kontiki::transport::{Inbox, Message, Peer, RaftKind, Transport, TransportError};
use kontiki::{GroupId, NodeId};

use crate::judge::Judge;
use crate::options::{Options, Stream, stream};
use crate::plan::{Moment, Speech};
use kontiki::runtime::sim::Sim;

/// The way between servers, as far as it is not the real transport's.
pub(crate) struct Links {
    sim: Sim,
    judge: Judge,
    state: Mutex<State>,
}

struct State {
    dice: Rng,
    misdelivery_ppm: u32,
    echo_ppm: u32,
    cuts: BTreeSet<(u64, u64)>,
    aims: BTreeMap<u64, Moment>,
    /// Ways on which everything waits until then.
    clogs: BTreeMap<(u64, u64), Duration>,
    mutes: BTreeSet<(u64, Speech)>,
    /// Messages of the past, which may come again.
    past: VecDeque<(Peer, Message)>,
}

impl Links {
    pub(crate) fn new(options: &Options, sim: Sim, judge: Judge) -> Self {
        let state = State {
            dice: stream(options.seed, Stream::Wire),
            misdelivery_ppm: options.misdelivery_ppm,
            echo_ppm: options.echo_ppm,
            cuts: BTreeSet::new(),
            aims: BTreeMap::new(),
            clogs: BTreeMap::new(),
            mutes: BTreeSet::new(),
            past: VecDeque::new(),
        };
        Self { sim, judge, state: Mutex::new(state) }
    }

    pub(crate) fn cut(&self, from: u64, to: u64) {
        self.lock().cuts.insert((from, to));
    }

    pub(crate) fn mend(&self, from: u64, to: u64) {
        self.lock().cuts.remove(&(from, to));
    }

    pub(crate) fn heal(&self) {
        let mut state = self.lock();
        state.cuts.clear();
        state.aims.clear();
        state.clogs.clear();
        state.mutes.clear();
        (state.misdelivery_ppm, state.echo_ppm) = (0, 0);
    }

    /// What is sent on this way waits until that moment of virtual time.
    pub(crate) fn clog(&self, from: u64, to: u64, until: Duration) {
        self.lock().clogs.insert((from, to), until);
    }

    /// Nothing of this kind that the server says arrives, until it may speak again.
    pub(crate) fn mute(&self, server: u64, speech: Speech) {
        self.lock().mutes.insert((server, speech));
    }

    pub(crate) fn speak(&self, server: u64, speech: Speech) {
        self.lock().mutes.remove(&(server, speech));
    }

    fn is_mute(&self, server: u64, kind: RaftKind) -> bool {
        let speech = Speech::of(kind);
        speech.is_some_and(|speech| self.lock().mutes.contains(&(server, speech)))
    }

    /// How long what is sent now has to wait.
    fn waits(&self, from: u64, to: u64, now: Duration) -> Option<Duration> {
        self.lock().clogs.get(&(from, to)).and_then(|until| until.checked_sub(now))
    }

    /// The server dies the next time it does this.
    pub(crate) fn aim(&self, server: u64, moment: Moment) {
        self.lock().aims.insert(server, moment);
    }

    /// The server dies now if it was to die at this moment; `true` if it did.
    pub(crate) fn strike(&self, server: u64, moment: Moment) -> bool {
        let mut state = self.lock();
        let hit = state.aims.get(&server) == Some(&moment);
        if hit {
            state.aims.remove(&server);
            drop(state);
            self.judge.sometimes("a server died at an aimed moment");
            self.sim.kill(server);
        }
        hit
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn chance(&mut self, ppm: u32) -> bool {
        ppm > 0 && self.dice.u32(..1_000_000) < ppm
    }
}

/// A server's transport.
pub(crate) struct Wire {
    pub(crate) inner: Arc<dyn Transport>,
    pub(crate) sim: Sim,
    pub(crate) process: Arc<SimProcess>,
    pub(crate) id: NodeId,
    pub(crate) links: Arc<Links>,
    pub(crate) judge: Judge,
    /// Whether whole messages travel, which then are subject to what [`Links`] does.
    pub(crate) messages: bool,
}

/// Where a server is reached that has moved so many times.
pub(crate) fn address(server: u64, moves: u64) -> String {
    format!("server-{server}:{}", 1_000 + moves)
}

fn server_at(address: &str) -> Option<u64> {
    let (server, _) = address.strip_prefix("server-")?.split_once(':')?;
    server.parse().ok()
}

impl Wire {
    /// What happens to a message that whole leaves this server; `None`: it is lost.
    fn mislead(&self, peer: &Peer, message: &Message) -> Option<Peer> {
        let from = self.process.id();
        let mut state = self.links.lock();
        let to = server_at(&peer.address)?;
        if state.cuts.contains(&(from, to)) {
            return None;
        }
        let echo_ppm = state.echo_ppm;
        if state.chance(echo_ppm) {
            state.past.push_back((peer.clone(), message.clone()));
            if state.past.len() > PAST_MAX {
                state.past.pop_front();
            }
            let late = Duration::from_millis(state.dice.u64(10..8_000));
            let count = state.past.len();
            let pick = state.dice.usize(..count);
            let peer_now = peer.clone();
            let (peer, message) = state.past[pick].clone();
            drop(state);
            // To whoever is there by now.
            self.later(late, Peer { id: None, ..peer }, message);
            self.judge.sometimes("a message of the past came again");
            return Some(Peer { id: None, ..peer_now });
        }
        let misdelivery_ppm = state.misdelivery_ppm;
        if state.chance(misdelivery_ppm) {
            let other = 1 + state.dice.u64(..7);
            drop(state);
            self.judge.sometimes("a message went to another server");
            return Some(peer_of(other));
        }
        Some(peer.clone())
    }

    fn later(&self, late: Duration, peer: Peer, message: Message) {
        let nobody = self.sim.process(0);
        let inner = Arc::clone(&self.inner);
        let timer = nobody.timer(nobody.now() + late);
        nobody.spawn(Box::pin(async move {
            timer.await;
            // The sender may be gone.
            let _ = inner.send(&peer, message);
        }));
    }

    fn strike(&self, moment: Option<Moment>) {
        if let Some(moment) = moment {
            self.links.strike(self.process.id(), moment);
        }
    }
}

fn peer_of(server: u64) -> Peer {
    Peer { id: None, address: address(server, 0) }
}

#[async_trait]
impl Transport for Wire {
    fn check(&self, address: &str, message_bytes: u64) -> Result<(), TransportError> {
        self.inner.check(address, message_bytes)
    }

    fn attach(&self, inbox: Arc<dyn Inbox>) {
        self.inner.attach(inbox);
    }

    fn send(&self, peer: &Peer, message: Message) -> Result<(), TransportError> {
        if !self.process.lives() {
            return Err(TransportError::Detached);
        }
        let glance = message.glance();
        let moment = glance.and_then(|glance| self.judge.sending(self.id, message.to(), &glance));
        if glance.is_some_and(|glance| self.links.is_mute(self.process.id(), glance.kind)) {
            self.judge.sometimes("messages of one kind were lost");
            self.strike(moment);
            return Ok(());
        }
        let to = server_at(&peer.address).unwrap_or_default();
        if let Some(late) = self.links.waits(self.process.id(), to, self.sim.elapsed()) {
            self.judge.sometimes("messages were held and came at once");
            self.later(late, peer.clone(), message);
            self.strike(moment);
            return Ok(());
        }
        if !self.messages {
            let sent = self.inner.send(peer, message);
            self.strike(moment);
            return sent;
        }
        let Some(peer) = self.mislead(peer, &message) else {
            self.strike(moment);
            return Ok(());
        };
        let sent = self.inner.send(&peer, message);
        self.strike(moment);
        sent
    }

    async fn send_stream(
        &self,
        peer: &Peer,
        head: Message,
        body: ByteReader,
    ) -> Result<(), TransportError> {
        let reason = || "the way is cut".to_owned();
        let to = server_at(&peer.address).unwrap_or_default();
        let from = self.process.id();
        if self.messages && self.links.lock().cuts.contains(&(from, to)) {
            return Err(TransportError::Unreachable { reason: reason() });
        }
        self.judge.sometimes("a snapshot was sent");
        self.sim.record_event("snapshot", &[from, to]);
        let sent = self.inner.send_stream(peer, head, body).await;
        self.sim.record_event("snapshot done", &[from, to, u64::from(sent.is_ok())]);
        if sent.is_err() {
            self.judge.sometimes("a snapshot was not taken");
        }
        sent
    }

    fn disconnect(&self, group: GroupId, peer: NodeId) {
        self.inner.disconnect(group, peer);
    }

    async fn detach(&self, group: GroupId) {
        self.inner.detach(group).await;
    }
}

/// How many messages of the past are kept.
const PAST_MAX: usize = 64;
