//! The kit for [`Transport`]: messages, streams, and the wire below.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Broken, Fixture, Outcome, pattern, within};
use crate::id::{ClusterId, GroupId, NodeId};
use crate::runtime::{Net, Runtime};
use crate::transport::{Local, Message, Peer, Transport, TransportError};

mod ending;
mod messages;
mod proxy;
mod recorder;
mod streams;
mod wire;

use self::recorder::Recorder;

/// Makes transports to be judged.
///
/// A fixture stands for one network, with nobody on it at first. What the transports do about time
/// is up to their configuration: take short time-outs on a runtime in real time, because the kit
/// waits for them.
#[async_trait]
pub trait TransportFixture: Fixture {
    /// A runtime for the tasks of the kit, for its guards against hanging, and in whose time it
    /// waits.
    fn runtime(&self) -> Arc<dyn Runtime>;

    /// The transport of another server on the network.
    async fn server(&self) -> Server;

    /// An address at which there never is anybody.
    fn nowhere(&self) -> String;

    /// The sockets that the transports use, if they carry everything over such connections. Then
    /// the kit listens and dials too: it says nothing or nonsense, flips bits, cuts connections
    /// off. Default: none.
    fn net(&self) -> Option<Arc<dyn Net>> {
        None
    }

    /// An address for the kit to listen on, at which a free port is picked each time.
    fn any_address(&self) -> String {
        "127.0.0.1:0".to_owned()
    }
}

/// A server on the network of a fixture.
#[expect(clippy::exhaustive_structs, reason = "fixtures build it by literal")]
pub struct Server {
    /// Its transport; nothing is attached to it yet.
    pub transport: Arc<dyn Transport>,
    /// Where others reach it.
    pub address: String,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

kit! {
    ($)
    /// Mounts one test for each promise of a [`Transport`](crate::transport::Transport); takes an
    /// expression that makes a [`TransportFixture`](crate::conformance::TransportFixture).
    transport_conformance, transport, TransportFixture;

    messages {
        /// A message arrives as it was sent, in both directions.
        a_message_arrives_as_it_was_sent,
        /// A message as long as the default configuration makes them arrives.
        a_long_message_arrives,
        /// A message as long as `check` says yes to arrives, and one that it says no to is refused.
        what_is_carried_is_said_before,
        /// A message that is too long is refused with its length and the limit, and those behind it
        /// arrive.
        a_message_that_is_too_long_is_refused,
        /// A message arrives at most once.
        a_message_arrives_at_most_once,
        /// Groups share a transport, and nothing gets from one into another.
        groups_do_not_mix,
        /// A message for a group that is not there is delivered to nobody.
        a_group_that_is_not_there_gets_nothing,
        /// A server of another cluster is refused: nothing that it sends is delivered.
        another_cluster_is_refused,
        /// A server that belongs to no cluster yet is let in, and stays so when it has joined.
        a_blank_server_is_let_in,
        /// Where another server answers than the one that is wanted, nothing is delivered, and the
        /// sender is told.
        another_server_gets_nothing,
        /// A message for whoever answers is delivered to whoever answers.
        whoever_answers_gets_what_is_for_anybody,
        /// A sender is told that a server cannot be reached.
        nobody_there_is_said,
        /// A server that has been disconnected can be sent to again.
        a_disconnected_server_can_be_sent_to_again,
    }
    streams {
        /// A stream arrives whole and in order, with its head, and its sender hears that it was
        /// taken.
        a_stream_arrives_whole_and_in_order,
        /// The sender of a stream hears the receiver's verdict, whichever it is and however much
        /// was read.
        the_verdict_comes_back,
        /// A stream is not held in memory: no more of it is taken in than a little ahead of its
        /// receiver.
        a_stream_is_not_held_in_memory,
        /// Two streams at once do not mix.
        streams_do_not_mix,
        /// Messages arrive while a stream is under way that makes no progress.
        messages_pass_a_stream_that_stands_still,
        /// A stream whose source fails is an error at both ends, never a shorter stream.
        a_stream_whose_source_fails_is_no_stream,
        /// A stream whose sender lets go of it is no stream.
        a_stream_that_is_let_go_of_is_no_stream,
        /// A stream to nobody, to another server, or from another cluster, is refused, and nothing
        /// of it is delivered.
        a_stream_to_the_wrong_one_is_refused,
    }
    ending {
        /// When `detach` returns, nothing holds the inbox any more, and nothing is delivered.
        detaching_lets_go_of_the_inbox,
        /// `detach` of one group leaves the others alone.
        detaching_leaves_other_groups_alone,
        /// `detach` ends streams that stand still, in both directions.
        detaching_ends_streams,
        /// A group can be attached again after it was detached.
        a_group_can_be_attached_again,
    }
    wire {
        /// Bytes that are no messages deliver nothing, and others are served as before.
        garbage_delivers_nothing,
        /// A message in another's name than that of whoever made the connection is not delivered.
        a_message_in_anothers_name_is_refused,
        /// A stream in another's name than that of whoever made the connection is not delivered.
        a_stream_in_anothers_name_is_refused,
        /// A connection that says nothing is closed.
        a_silent_connection_is_closed,
        /// A bit that is flipped under way is never delivered, neither in a message nor in a
        /// stream.
        flipped_bits_are_never_delivered,
        /// A verdict that is damaged under way is never success.
        a_damaged_verdict_is_not_success,
        /// A connection that breaks is reported, once, and made anew.
        a_broken_connection_is_reported_and_made_anew,
        /// A stream whose connection breaks is an error at both ends, never a shorter stream.
        a_stream_that_is_cut_off_is_no_stream,
        /// A server that takes connections and never answers is reported.
        a_server_that_never_answers_is_reported,
        /// A connection on which nothing gets through any more is given up, and reported.
        a_connection_that_stands_still_is_given_up,
        /// A slow server holds up neither `send` nor the messages to others, and what does not fit
        /// its queue is refused as `Full`.
        a_slow_server_holds_up_nobody,
    }
}

async fn guarded(
    fixture: Arc<dyn TransportFixture>,
    case: impl Future<Output = Outcome> + Send,
) -> Outcome {
    within(&*fixture.runtime(), CASE_MAX, "the end of the case", case).await?
}

/// A server with one group attached.
struct Seat {
    runtime: Arc<dyn Runtime>,
    transport: Arc<dyn Transport>,
    address: String,
    inbox: Arc<Recorder>,
    local: Local,
}

impl Seat {
    /// Server `n` of the cluster and group that everybody is in unless a case says otherwise.
    async fn new(fixture: &Arc<dyn TransportFixture>, n: u64) -> Self {
        Self::of(fixture, local(n)).await
    }

    async fn of(fixture: &Arc<dyn TransportFixture>, local: Local) -> Self {
        let Server { transport, address } = fixture.server().await;
        Self::at(fixture.runtime(), transport, address, local)
    }

    fn at(
        runtime: Arc<dyn Runtime>,
        transport: Arc<dyn Transport>,
        address: String,
        local: Local,
    ) -> Self {
        let inbox = Recorder::new(local.clone());
        transport.attach(Arc::clone(&inbox) as _);
        Self { runtime, transport, address, inbox, local }
    }

    /// The same server with another group.
    fn with_group(&self, group: GroupId) -> Self {
        let local = Local { group, ..self.local.clone() };
        Self::at(
            Arc::clone(&self.runtime),
            Arc::clone(&self.transport),
            self.address.clone(),
            local,
        )
    }

    fn peer(&self) -> Peer {
        Peer { id: Some(self.local.node), address: self.address.clone() }
    }

    /// The same server as others see it who know it by another address.
    fn peer_at(&self, address: &str) -> Peer {
        Peer { id: Some(self.local.node), address: address.to_owned() }
    }

    fn message(&self, to: NodeId, payload: impl Into<Bytes>) -> Message {
        let Local { cluster, group, node } = self.local;
        Message::probe(cluster, group, node, to, payload.into())
    }

    /// A payload that makes a message of this length.
    fn payload_of(&self, message_bytes: u64) -> Bytes {
        let around = self.message(somebody(), Bytes::new()).encode().len();
        let len = usize::try_from(message_bytes).unwrap_or(usize::MAX).saturating_sub(around);
        pattern(message_bytes, len).into()
    }

    fn send(&self, to: &Peer, payload: impl Into<Bytes>) -> Result<(), TransportError> {
        let node = to.id.unwrap_or_else(somebody);
        self.transport.send(to, self.message(node, payload))
    }

    /// Sends a message until it has arrived: a network may lose one.
    async fn send_until_it_arrives(
        &self,
        to: &Peer,
        inbox: &Recorder,
        payload: impl Into<Bytes>,
    ) -> Result<(), Broken> {
        let payload = payload.into();
        let arrived = || inbox.with(|got| got.payloads().any(|found| *found == payload));
        self.repeat(&format!("the arrival of a message of {} bytes", payload.len()), || {
            // Whoever refuses it may take the next one.
            let _ = self.send(to, payload.clone());
            arrived()
        })
        .await
    }

    /// Does something again and again, soon every ten milliseconds, until it says that it is done.
    async fn repeat(&self, what: &str, mut act: impl FnMut() -> bool) -> Result<(), Broken> {
        within(&*self.runtime, WAIT_MAX, what, async {
            let mut pause = Duration::from_millis(2);
            while !act() {
                self.runtime.timer(self.runtime.now() + pause).await;
                pause = (pause * 5 / 4).min(Duration::from_millis(10));
            }
        })
        .await
    }

    /// Waits until what an inbox got is as it should be.
    async fn until(
        &self,
        inbox: &Recorder,
        what: &str,
        mut holds: impl FnMut(&recorder::Got) -> bool,
    ) -> Result<(), Broken> {
        within(&*self.runtime, WAIT_MAX, what, inbox.until(&mut holds)).await
    }

    /// Sends to a peer until it is said that it cannot be reached.
    async fn send_until_it_is_said(&self, to: &Peer, what: &str) -> Result<(), Broken> {
        let id = to.id.unwrap_or_else(somebody);
        self.repeat(&format!("the report that {what}"), || {
            let refused = self.send(to, "is anybody there?");
            let reported = self.inbox.with(|got| got.unreachable.contains(&id));
            reported || matches!(refused, Err(TransportError::Unreachable { .. }))
        })
        .await
    }
}

fn local(n: u64) -> Local {
    Local { cluster: cluster(1), group: GroupId(0), node: n.into() }
}

fn cluster(n: u64) -> ClusterId {
    ClusterId::from_random(n, n)
}

/// Whom a message names that is for anybody.
fn somebody() -> NodeId {
    NodeId::from(77)
}

/// Fails if something was delivered more than once, or was never sent.
fn only_these(got: &recorder::Got, sent: &BTreeSet<Bytes>) -> Result<(), Broken> {
    let mut seen = BTreeSet::new();
    for payload in got.payloads() {
        ensure!(sent.contains(payload), "a message was delivered that nobody sent");
        ensure!(seen.insert(payload.clone()), "a message was delivered twice");
    }
    Ok(())
}

/// How long the kit waits for one thing to happen.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(120);
/// How long a whole case may take.
const CASE_MAX: Duration = Duration::from_secs(1_800);
