//! Where other servers are: the membership says, and a short list of those it does not name yet.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Driver;
use crate::id::NodeId;
use crate::membership::Membership;
use crate::node::Outgoing;
use crate::transport::{Message, MessageBody, Peer};

/// Senders that the membership does not name, with the address they gave: a lagging member does not
/// know its new leader, and must be able to answer it (D7).
#[derive(Debug, Default)]
pub(super) struct Peers {
    strangers: VecDeque<(NodeId, Arc<str>)>,
}

impl Peers {
    /// Remembers where a sender is; `false` if its id is that of another server but for the part
    /// the engine sees.
    pub(super) fn note_sender(
        &mut self,
        membership: &Membership,
        from: NodeId,
        address: &Arc<str>,
    ) -> bool {
        if let Some(member) = membership.by_raft_id(from.raft_id()) {
            return member.id == from;
        }
        if !address.is_empty() {
            self.remember(from, address);
        }
        true
    }

    fn remember(&mut self, from: NodeId, address: &Arc<str>) {
        if let Some(known) = self.strangers.iter_mut().find(|(id, _)| *id == from) {
            if known.1 != *address {
                known.1 = Arc::clone(address);
            }
            return;
        }
        if self.strangers.len() == STRANGERS_MAX {
            self.strangers.pop_front();
        }
        self.strangers.push_back((from, Arc::clone(address)));
    }

    pub(super) fn find(&self, membership: &Membership, raft_id: u64) -> Option<Peer> {
        if let Some(member) = membership.by_raft_id(raft_id) {
            return Some(Peer { id: Some(member.id), address: member.address.clone() });
        }
        let mut strangers = self.strangers.iter();
        let (id, address) = strangers.find(|(id, _)| id.raft_id() == raft_id)?;
        Some(Peer { id: Some(*id), address: address.to_string() })
    }
}

impl Driver {
    /// Keeps the addresses of members that leave: one may have asked for that, and waits for the
    /// answer.
    pub(super) fn remember_leavers(&mut self) {
        let before = self.shared.status().membership;
        let now = self.node.membership();
        for gone in before.everyone().filter(|one| now.by_raft_id(one.id.raft_id()).is_none()) {
            self.peers.remember(gone.id, &gone.address.as_str().into());
        }
    }

    /// Sends a message of the engine; what cannot leave is lost, and the engine told.
    pub(super) fn send(&mut self, outgoing: Outgoing) {
        let to = outgoing.to;
        let Some(peer) = self.peers.find(self.node.membership(), to) else { return };
        if !self.send_to(&peer, MessageBody::Raft(outgoing.message)) {
            self.node.handle_unreachable(to);
        }
    }

    /// Sends anything; `false` if it certainly did not leave.
    pub(super) fn send_to(&mut self, peer: &Peer, body: MessageBody) -> bool {
        let message = self.envelope(peer.id, body);
        let sent = self.transport.send(peer, message);
        if let Err(error) = &sent {
            tracing::debug!(peer = %peer.address, %error, "message dropped");
            self.shared.publish(|status| {
                status.counters.unsent += 1;
                false
            });
        }
        sent.is_ok()
    }

    pub(super) fn envelope(&self, to: Option<NodeId>, body: MessageBody) -> Message {
        let local = crate::transport::Inbox::local(&*self.shared);
        Message {
            cluster: local.cluster,
            group: local.group,
            from: local.node,
            from_address: Arc::clone(&self.address),
            to,
            body,
        }
    }

    /// Whom to ask what only a leader can do; `None` if that is this server, or nobody is known.
    pub(super) fn leader_peer(&self) -> Option<Peer> {
        let leader = self.node.leader();
        if leader == 0 || leader == self.node.raft_id() {
            return None;
        }
        self.peers.find(self.node.membership(), leader)
    }
}

/// How many senders outside the membership are remembered; the oldest is forgotten first.
const STRANGERS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::Member;

    #[test]
    fn only_the_last_sixteen_strangers_are_remembered_and_no_twin_of_a_member() {
        let membership = Membership::first([Member::voter(1.into(), "", "one")]);
        let mut peers = Peers::default();
        for n in 2..=18 {
            assert!(peers.note_sender(&membership, n.into(), &format!("at {n}").into()));
        }
        assert_eq!(peers.find(&membership, 2), None);
        let moved = Peer { id: Some(18.into()), address: "new".into() };
        assert!(peers.note_sender(&membership, 18.into(), &"new".into()));
        assert_eq!(peers.find(&membership, 18), Some(moved));
        let mut twin = NodeId::from(1).to_bytes();
        twin[15] = 1;
        let twin = NodeId::from_bytes(twin).unwrap();
        assert!(!peers.note_sender(&membership, twin, &"elsewhere".into()));
        assert_eq!(peers.find(&membership, 1).unwrap().address, "one");
    }
}
