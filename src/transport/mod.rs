//! How messages reach other servers: a [`Transport`] carries them out, an [`Inbox`] takes them in.

use std::sync::Arc;

use async_trait::async_trait;

use crate::id::{ClusterId, GroupId, NodeId};
use crate::runtime::ByteReader;

#[cfg(feature = "transport-stream")]
pub mod frame;
mod message;
#[cfg(test)]
mod tests;

pub(crate) use self::message::{
    Answer, MessageBody, RaftMessage, Refusal, Reply, Request, RequestId, Verb,
};
pub use self::message::{DecodeError, Frame, Glance, Message, RaftKind};

/// Carries messages to other servers: at most once, in any order, never waiting.
///
/// # To implement
///
/// `send` queues or drops, and says which; it is called by the task that also sends heartbeats, so
/// a slow peer must never hold it up. The address comes with each call; a transport keeps no
/// directory. What arrives goes into the [`Inbox`] of its group. Loss, delay, duplication and
/// reordering are all allowed; damage is not: check what you receive. Whom [`Inbox::accepts`] does
/// not accept, nothing is delivered of. `docs/writing-a-transport.md` goes through it step by step,
/// and the conformance kit of the `conformance` feature judges the outcome.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Looks, before a node starts, whether it can rely on this transport: that others can reach
    /// `address`, where it says that it is (empty if it does not say), and that messages of
    /// `message_bytes` are carried.
    ///
    /// Otherwise a command could get into the log that no follower is ever sent, nor anything
    /// behind it.
    fn check(&self, address: &str, message_bytes: u64) -> Result<(), TransportError> {
        let _ = (address, message_bytes);
        Ok(())
    }

    /// Hands over where received messages of `inbox.local().group` go. Once per group, before the
    /// first send.
    fn attach(&self, inbox: Arc<dyn Inbox>);

    /// Queues `message` for `peer`, or drops it and says so.
    ///
    /// A message that was queued and then lost together with its connection is reported by
    /// [`Inbox::unreachable`], once per lost connection.
    fn send(&self, peer: &Peer, message: Message) -> Result<(), TransportError>;

    /// Sends `head` and all of `body` to `peer`, on a path of its own; returns with the receiver's
    /// verdict. It must end, also if the peer stops reading: until then the peer gets nothing else.
    ///
    /// If `body` fails, the connection breaks, or this future is dropped, the receiver's reader
    /// fails: a beginning is never taken for the whole. No more of `body` is held than a little.
    async fn send_stream(
        &self,
        peer: &Peer,
        head: Message,
        body: ByteReader,
    ) -> Result<(), TransportError>;

    /// `peer` has left the cluster: its connection may be closed. Sending to it afterwards is not
    /// an error.
    fn disconnect(&self, group: GroupId, peer: NodeId) {
        let _ = (group, peer);
    }

    /// Ends what [`attach`](Self::attach) began, streams of the group in both directions too; when
    /// it returns, no task of this group runs, nothing holds its inbox, and nothing is delivered
    /// any more.
    async fn detach(&self, group: GroupId);
}

/// Where a transport delivers what it receives. The library implements it, transports call it.
#[async_trait]
pub trait Inbox: Send + Sync + 'static {
    /// Who we are, for handshakes. Ask each time: the cluster changes when a blank server joins.
    fn local(&self) -> Local;

    /// Delivers a message. One for another cluster, group or server is dropped and counted, and so
    /// is any while the node is too busy, as on a lossy wire.
    fn deliver(&self, message: Message);

    /// Reports that what was last sent to `peer` may not have arrived.
    fn unreachable(&self, peer: NodeId);

    /// Delivers a stream; returns when all of it has been taken, or why it was not.
    async fn receive_stream(&self, head: Message, body: ByteReader) -> Result<(), StreamRefused>;

    /// Whether a server of this cluster may talk to us: the same cluster, or one of the two is
    /// blank.
    ///
    /// For handshakes, so that a wrong peer is refused before it sends anything.
    fn accepts(&self, cluster: ClusterId, node: NodeId) -> bool;
}

/// Who a group's server is, and where others find it.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "tests of transports build it by literal")]
pub struct Local {
    /// The cluster; [`ClusterId::NIL`] while the server is blank.
    pub cluster: ClusterId,
    /// The group.
    pub group: GroupId,
    /// The server.
    pub node: NodeId,
}

/// Whom to send to.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_structs, reason = "tests of transports build it by literal")]
pub struct Peer {
    /// The server that must answer there; `None` for whoever does, which only a joining server asks
    /// for.
    pub id: Option<NodeId>,
    /// Where it is, in the transport's own terms.
    pub address: String,
}

/// Why a message or stream was not sent.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// Other servers cannot reach this one there.
    #[error("other servers cannot reach {address}")]
    BadAddress {
        /// Where it was said to be.
        address: String,
    },
    /// The group was never attached, or is detached.
    #[error("the transport is not attached to this group")]
    Detached,
    /// The queue to the peer is full; the message was dropped.
    #[error("the queue to the peer is full")]
    Full,
    /// The peer refused it.
    #[error("the peer refused: {0}")]
    Refused(StreamRefused),
    /// No message of this size is carried; the message was dropped.
    #[error("a message of {bytes} bytes is over the limit of {bytes_max}")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// The peer cannot be reached.
    #[error("the peer cannot be reached: {reason}")]
    Unreachable {
        /// Why, for people.
        reason: String,
    },
}

/// Why a stream was not taken.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamRefused {
    /// Another stream is being taken; try again later.
    #[error("busy with another stream")]
    Busy,
    /// It was not needed, or came too late; do not repeat it.
    #[error("not needed")]
    NotNeeded,
    /// The receiver has stopped.
    #[error("the receiver has stopped")]
    Stopped,
    /// It was broken off, damaged, or could not be stored.
    #[error("{0}")]
    Failed(String),
}
