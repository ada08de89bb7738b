//! Changing who is in the cluster: what is asked, what the engine is told, and what comes out.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use super::{Member, Membership, Role, put_text, read_id, read_text};
use crate::error::{Fatal, NoLeader};
use crate::id::NodeId;
use crate::mutant::Mutant;
use crate::transport::DecodeError;

/// One change of the membership.
///
/// A server is added as a learner and promoted when it has caught up (thesis 4.2.1): a voter that
/// has nothing yet would count for commit and hold it up.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Change {
    /// Add a server. One that is to vote comes in as a learner, and the leader promotes it when it
    /// has caught up. Adding one that is there already, as it is, changes nothing.
    Add(Member),
    /// Make a voter a learner.
    Demote(NodeId),
    /// Make a learner a voter, once it has acknowledged something to the leader.
    Promote(NodeId),
    /// Change where a member is reached. Who has not heard of it yet answers the member where it
    /// says that it is.
    Readdress {
        /// The member.
        id: NodeId,
        /// Its new address.
        address: String,
    },
    /// Take a member out; its id cannot come back, as long as it is one of the last 1,024 that were
    /// removed.
    ///
    /// A leader hands leadership over first. If nobody takes it over, it removes itself: then do
    /// not stop it before another server leads. In a cluster of two voters the other one cannot be
    /// elected without it, until it has heard of the change.
    Remove(NodeId),
    /// Take a member out and put another in, in one step (joint consensus, thesis 4.3). One that is
    /// to vote must be a member already, which has acknowledged something to the leader.
    Replace {
        /// Who leaves.
        old: NodeId,
        /// Who comes.
        new: Member,
    },
}

impl Change {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        let (tag, id) = match self {
            Self::Add(member) => (0, member.id),
            Self::Demote(id) => (1, *id),
            Self::Promote(id) => (2, *id),
            Self::Readdress { id, .. } => (3, *id),
            Self::Remove(id) => (4, *id),
            Self::Replace { old, .. } => (5, *old),
        };
        out.put_u8(tag);
        out.put_slice(&id.to_bytes());
        match self {
            Self::Add(member) | Self::Replace { new: member, .. } => member.write(&mut out),
            Self::Readdress { address, .. } => put_text(&mut out, address),
            Self::Demote(_) | Self::Promote(_) | Self::Remove(_) => {}
        }
        out.freeze()
    }

    pub(crate) fn decode(mut bytes: Bytes) -> Result<Self, DecodeError> {
        let tag = bytes.try_get_u8()?;
        let id = read_id(&mut bytes)?;
        let change = match tag {
            0 => match Member::decode(&mut bytes)? {
                member if member.id == id => Self::Add(member),
                _ => return Err(DecodeError::Invalid { field: "id of a member" }),
            },
            1 => Self::Demote(id),
            2 => Self::Promote(id),
            3 => Self::Readdress { id, address: read_text(&mut bytes)? },
            4 => Self::Remove(id),
            5 => Self::Replace { old: id, new: Member::decode(&mut bytes)? },
            _ => return Err(DecodeError::Invalid { field: "change" }),
        };
        if !bytes.is_empty() {
            return Err(DecodeError::TrailingBytes { bytes: bytes.len() });
        }
        Ok(change)
    }
}

/// Why the membership was not changed. All but [`Unknown`](Self::Unknown) promise that it was not.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MembershipError {
    /// The address belongs to another member.
    #[error("address {address:?} belongs to member {id}")]
    AddressTaken {
        /// The address.
        address: String,
        /// Whose it is.
        id: NodeId,
    },
    /// Another change is not finished yet; try again.
    #[error("another membership change is in progress")]
    InProgress,
    /// No voter would be left.
    #[error("need at least one voter in configuration")]
    LastVoter,
    /// There is nobody to ask.
    #[error(transparent)]
    NoLeader(#[from] NoLeader),
    /// A name or address is longer than 1,024 bytes, or the address is empty.
    #[error("the name or address of a member has an impossible length")]
    BadMember,
    /// There is no such member.
    #[error("id {id} was not found in the membership")]
    NotFound {
        /// Who was looked for.
        id: NodeId,
    },
    /// The server that is to vote has acknowledged nothing to this leader yet: as a voter it would
    /// only be missed. Try again later.
    #[error("member {id} has acknowledged nothing yet")]
    NotReady {
        /// Which member.
        id: NodeId,
    },
    /// The member is not what the change takes for granted.
    #[error("member {id} is already a {role:?}")]
    RoleTaken {
        /// Which member.
        id: NodeId,
        /// What it is.
        role: Role,
    },
    /// The node has stopped.
    #[error(transparent)]
    Stopped(#[from] Fatal),
    /// The membership is not the one that the change was planned on.
    #[error("the membership changed meanwhile: it is now of index {now}")]
    Superseded {
        /// The index of the membership in force.
        now: u64,
    },
    /// All members together, with their names and addresses, would take more than 64 KiB.
    #[error("the members would take more than 64 KiB with their names and addresses")]
    TooLarge,
    /// The server was removed once, or its id is too like a known one; it needs a new id.
    #[error("id {id} was used before; a server that lost its log needs a new id")]
    UsedId {
        /// The id.
        id: NodeId,
    },
    /// Not known whether it happened: look at the membership before doing anything else.
    #[error("the outcome of the membership change is not known")]
    Unknown,
}

/// What a configuration entry says: the engine's steps, and the membership when they are done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ChangeRecord {
    pub(crate) steps: Vec<Step>,
    /// The members at the end; the entry that leaves the joint configuration carries nothing.
    pub(crate) members: BTreeMap<NodeId, Member>,
    pub(crate) staging: BTreeSet<NodeId>,
    pub(crate) tombstones: Vec<u64>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Step {
    pub(crate) kind: StepKind,
    /// The engine's name of the server.
    pub(crate) id: u64,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum StepKind {
    Learner = 0,
    Remove = 1,
    Voter = 2,
}

impl ChangeRecord {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(u8::try_from(self.steps.len()).expect("a change has at most two steps"));
        for step in &self.steps {
            out.put_u8(step.kind as u8);
            out.put_u64_le(step.id);
        }
        let after = Membership {
            members: self.members.clone(),
            staging: self.staging.clone(),
            tombstones: self.tombstones.clone(),
            ..Membership::default()
        };
        out.put_slice(&after.encode());
        out.freeze()
    }

    pub(crate) fn decode(mut bytes: Bytes) -> Result<Self, DecodeError> {
        let mut steps = Vec::new();
        for _ in 0..bytes.try_get_u8()? {
            let kind = match bytes.try_get_u8()? {
                0 => StepKind::Learner,
                1 => StepKind::Remove,
                2 => StepKind::Voter,
                _ => return Err(DecodeError::Invalid { field: "step of a change" }),
            };
            steps.push(Step { kind, id: bytes.try_get_u64_le()? });
        }
        if bytes.is_empty() {
            return Err(DecodeError::Truncated);
        }
        let after = Membership::decode(bytes)?;
        if after.index != 0 || !after.outgoing.is_empty() {
            return Err(DecodeError::Invalid { field: "members of a change" });
        }
        let Membership { members, staging, tombstones, .. } = after;
        Ok(Self { steps, members, staging, tombstones })
    }

    /// Whether the engine goes through a joint configuration.
    pub(crate) fn is_joint(&self) -> bool {
        self.steps.len() > 1
    }
}

impl Membership {
    /// Plans a change: what the engine must be told, or why not. `None` if there is nothing to do.
    pub(crate) fn plan(&self, change: &Change) -> Result<Option<ChangeRecord>, MembershipError> {
        if self.is_joint() {
            return Err(MembershipError::InProgress);
        }
        let mut after = self.clone();
        let steps = match change {
            Change::Add(member) => vec![after.add(member)?],
            Change::Demote(id) => vec![after.set_role(*id, Role::Learner)?],
            Change::Promote(id) => vec![after.set_role(*id, Role::Voter)?],
            Change::Readdress { id, address } => {
                let member = self.found(*id)?;
                vec![after.put(Member { address: address.clone(), ..member.clone() })?]
            }
            Change::Remove(id) => vec![after.take(*id)?],
            Change::Replace { old, new } => {
                let leave = after.take(*old)?;
                vec![after.put(new.clone())?, leave]
            }
        };
        if after.voters().next().is_none() {
            return Err(MembershipError::LastVoter);
        }
        after.staging.retain(|id| after.members.get(id).is_some_and(|m| m.role == Role::Learner));
        if after == *self {
            return Ok(None);
        }
        if !after.fits_messages() {
            return Err(MembershipError::TooLarge);
        }
        let Self { members, staging, tombstones, .. } = after;
        Ok(Some(ChangeRecord { steps, members, staging, tombstones }))
    }

    /// The membership after the entry at `index` with this record; no record is the entry that
    /// leaves a joint one. Nothing if it does not follow on this one: such an entry changes
    /// nothing, on every server alike.
    pub(crate) fn after(&self, record: Option<&ChangeRecord>, index: u64) -> Option<Self> {
        let follows = record.map_or_else(|| self.is_joint(), |record| self.leads_to(record));
        if !follows {
            return None;
        }
        let mut after = self.clone();
        after.index = index;
        after.outgoing.clear();
        if let Some(record) = record {
            if record.is_joint() {
                after.outgoing = self.voters().map(|old| (old.id, old.clone())).collect();
            }
            after.members.clone_from(&record.members);
            after.staging.clone_from(&record.staging);
            after.tombstones.clone_from(&record.tombstones);
        }
        Some(after)
    }

    /// Whether the steps of a record, which the engine is told, end where its members stand, which
    /// we tell everybody else.
    fn leads_to(&self, record: &ChangeRecord) -> bool {
        let role = |member: &Member| (member.id.raft_id(), member.role);
        let mut roles: BTreeMap<u64, Role> = self.members().map(role).collect();
        for step in &record.steps {
            match step.kind {
                StepKind::Learner => roles.insert(step.id, Role::Learner),
                StepKind::Remove => roles.remove(&step.id),
                StepKind::Voter => roles.insert(step.id, Role::Voter),
            };
        }
        let after: BTreeMap<u64, Role> = record.members.values().map(role).collect();
        let known = |member: &Member| self.by_raft_id(member.id.raft_id());
        let twin = |member: &Member| known(member).is_some_and(|known| known.id != member.id);
        !self.is_joint()
            && !record.steps.is_empty()
            && roles == after
            && after.len() == record.members.len()
            && after.values().any(|role| *role == Role::Voter)
            && !record.members.values().any(twin)
    }

    fn found(&self, id: NodeId) -> Result<&Member, MembershipError> {
        self.members.get(&id).ok_or(MembershipError::NotFound { id })
    }

    fn add(&mut self, member: &Member) -> Result<Step, MembershipError> {
        let mut member = member.clone();
        let known = self.members.get(&member.id).map(|known| known.role);
        match (known, member.role) {
            (Some(Role::Voter), Role::Learner) => {
                return Err(MembershipError::RoleTaken { id: member.id, role: Role::Voter });
            }
            (Some(Role::Voter), Role::Voter) => {}
            (None | Some(Role::Learner), Role::Voter) => {
                self.staging.insert(member.id);
                member.role = Role::Learner;
            }
            (None | Some(Role::Learner), Role::Learner) => {
                self.staging.remove(&member.id);
            }
        }
        self.put(member)
    }

    fn put(&mut self, member: Member) -> Result<Step, MembershipError> {
        let text_max = TEXT_BYTES_MAX;
        if member.address.is_empty() || member.address.len().max(member.name.len()) > text_max {
            return Err(MembershipError::BadMember);
        }
        let id = member.id.raft_id();
        let taken = self.members.keys().any(|known| *known != member.id && known.raft_id() == id);
        let removed = self.tombstones.contains(&id) && !Mutant::RemovedIdTakenBack.is_planted();
        if taken || removed {
            return Err(MembershipError::UsedId { id: member.id });
        }
        if let Some(other) = self.member_at(&member.address)
            && other.id != member.id
        {
            return Err(MembershipError::AddressTaken { address: member.address, id: other.id });
        }
        let kind = match member.role {
            Role::Learner => StepKind::Learner,
            Role::Voter => StepKind::Voter,
        };
        self.members.insert(member.id, member);
        Ok(Step { kind, id })
    }

    fn set_role(&mut self, id: NodeId, role: Role) -> Result<Step, MembershipError> {
        let member = self.found(id)?;
        if member.role == role {
            return Err(MembershipError::RoleTaken { id, role });
        }
        let member = Member { role, ..member.clone() };
        self.put(member)
    }

    fn take(&mut self, id: NodeId) -> Result<Step, MembershipError> {
        self.found(id)?;
        self.members.remove(&id);
        self.tombstones.push(id.raft_id());
        if self.tombstones.len() > TOMBSTONES_MAX {
            self.tombstones.remove(0);
        }
        Ok(Step { kind: StepKind::Remove, id: id.raft_id() })
    }
}

/// The longest name or address of a member, in bytes.
const TEXT_BYTES_MAX: usize = 1024;
/// How many removed servers are remembered; the oldest is forgotten first. [`Change::Remove`] says
/// so.
const TOMBSTONES_MAX: usize = 1024;

#[cfg(test)]
mod tests;
