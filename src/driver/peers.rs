//! Where other servers are: the membership says, and a short list of what senders say themselves.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Driver;
use crate::id::NodeId;
use crate::membership::Membership;
use crate::mutant::Mutant;
use crate::node::Outgoing;
use crate::transport::{Message, MessageBody, Peer, TransportError};

/// Senders that say another address than the membership, or that it does not name: a lagging
/// member does not know its new leader, or where that has moved, and must be able to answer it
/// (D7).
#[derive(Debug, Default)]
pub(super) struct Peers {
    told: VecDeque<Told>,
}

#[derive(Debug)]
struct Told {
    id: NodeId,
    address: Arc<str>,
    /// Whether a member is tried there, and not where the membership says: the two take turns, as
    /// either may be wrong.
    in_use: bool,
}

impl Peers {
    /// Remembers where a sender is, if the membership does not say so; `false` if its id is that of
    /// another server but for the part the engine sees.
    pub(super) fn note_sender(
        &mut self,
        membership: &Membership,
        from: NodeId,
        address: &Arc<str>,
    ) -> bool {
        match membership.by_raft_id(from.raft_id()) {
            Some(member) if member.id != from => return false,
            Some(member) if *member.address == **address => {
                self.told.retain(|told| told.id != from);
            }
            _ if address.is_empty() => {}
            _ => self.remember(from, address),
        }
        true
    }

    fn remember(&mut self, from: NodeId, address: &Arc<str>) {
        if let Some(known) = self.told.iter_mut().find(|told| told.id == from) {
            if known.address != *address {
                known.address = Arc::clone(address);
            }
            return;
        }
        if self.told.len() == TOLD_MAX {
            self.told.pop_front();
        }
        self.told.push_back(Told { id: from, address: Arc::clone(address), in_use: false });
    }

    fn told(&self, raft_id: u64) -> Option<&Told> {
        self.told.iter().find(|told| told.id.raft_id() == raft_id)
    }

    /// A server could not be reached where [`find`](Self::find) said; now it is tried elsewhere, if
    /// it has told where.
    pub(super) fn unreachable(&mut self, raft_id: u64) {
        let tried = self.told.iter_mut().filter(|told| told.id.raft_id() == raft_id);
        tried.for_each(|told| told.in_use = !told.in_use);
    }

    pub(super) fn find(&self, membership: &Membership, raft_id: u64) -> Option<Peer> {
        let told = self.told(raft_id);
        match (membership.by_raft_id(raft_id), told) {
            (Some(member), Some(told)) if told.in_use && !Mutant::MovedNotAnswered.is_planted() => {
                Some(Peer { id: Some(member.id), address: told.address.to_string() })
            }
            (Some(member), _) => {
                Some(Peer { id: Some(member.id), address: member.address.clone() })
            }
            (None, told) => {
                told.map(|told| Peer { id: Some(told.id), address: told.address.to_string() })
            }
        }
    }
}

impl Driver {
    /// Keeps the addresses of members that leave: one may have asked for that, and waits for the
    /// answer.
    pub(super) fn remember_leavers(&mut self) {
        let before = self.shared.status().membership;
        let now = self.node.membership();
        for gone in before.everyone().filter(|one| now.by_raft_id(one.id.raft_id()).is_none()) {
            if self.peers.told(gone.id.raft_id()).is_none() {
                self.peers.remember(gone.id, &gone.address.as_str().into());
            }
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
            if let (TransportError::Unreachable { .. }, Some(id)) = (error, peer.id) {
                self.peers.unreachable(id.raft_id());
            }
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

/// How many senders are remembered that the membership does not name, or has elsewhere; the oldest
/// is forgotten first.
const TOLD_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::Member;

    fn peer(n: u64, address: &str) -> Option<Peer> {
        Some(Peer { id: Some(n.into()), address: address.into() })
    }

    #[test]
    fn only_the_last_sixteen_strangers_are_remembered_and_no_twin_of_a_member() {
        let membership = Membership::first([Member::voter(1.into(), "", "one")]);
        let mut peers = Peers::default();
        for n in 2..=18 {
            assert!(peers.note_sender(&membership, n.into(), &format!("at {n}").into()));
        }
        assert_eq!(peers.find(&membership, 2), None);
        assert!(peers.note_sender(&membership, 18.into(), &"new".into()));
        assert_eq!(peers.find(&membership, 18), peer(18, "new"));
        let mut twin = NodeId::from(1).to_bytes();
        twin[15] = 1;
        let twin = NodeId::from_bytes(twin).unwrap();
        assert!(!peers.note_sender(&membership, twin, &"elsewhere".into()));
        peers.unreachable(1);
        assert_eq!(peers.find(&membership, 1), peer(1, "one"));
    }

    #[test]
    fn a_member_is_tried_where_the_membership_and_where_it_says_itself_in_turns() {
        let membership = Membership::first([Member::voter(1.into(), "", "old")]);
        let mut peers = Peers::default();
        peers.unreachable(1);
        assert!(peers.note_sender(&membership, 1.into(), &"".into()));
        assert!(peers.note_sender(&membership, 1.into(), &"new".into()));
        for address in ["old", "new", "old", "new"] {
            assert_eq!(peers.find(&membership, 1), peer(1, address));
            peers.unreachable(1);
            assert!(peers.note_sender(&membership, 1.into(), &"new".into()));
        }
        // It has gone back, or the membership has followed.
        assert!(peers.note_sender(&membership, 1.into(), &"old".into()));
        peers.unreachable(1);
        assert_eq!(peers.find(&membership, 1), peer(1, "old"));
    }
}
