//! Who is in the cluster. Pure: no clock, no I/O, no task.
//!
//! The consensus engine knows numbers only. The records of the members travel in the configuration
//! changes and in the metadata of snapshots, so a membership is always exactly as old as the place
//! in the log it belongs to.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use crate::id::NodeId;
use crate::transport::DecodeError;

mod change;

pub use self::change::{Change, MembershipError};
pub(crate) use self::change::{ChangeRecord, StepKind};

/// The members of a cluster, as of one place in the log.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Membership {
    /// The index of the entry that made it so.
    pub(crate) index: u64,
    pub(crate) members: BTreeMap<NodeId, Member>,
    /// While two configurations are in force at once (joint consensus): the voters of the old one.
    pub(crate) outgoing: BTreeMap<NodeId, Member>,
    /// Learners that are to become voters once they have caught up.
    pub(crate) staging: BTreeSet<NodeId>,
    /// The engine's names of servers that were removed; none may come back.
    pub(crate) tombstones: Vec<u64>,
}

impl Membership {
    /// The first membership of a cluster.
    pub(crate) fn first(members: impl IntoIterator<Item = Member>) -> Self {
        let members = members.into_iter().map(|member| (member.id, member)).collect();
        Self { index: 1, members, ..Self::default() }
    }

    /// The index of the log entry that made it so.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.index
    }

    /// All members, in order of id. In a joint configuration this is the new one.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// The member with this id.
    #[must_use]
    pub fn member(&self, id: NodeId) -> Option<&Member> {
        self.members.get(&id)
    }

    /// The member with this address.
    #[must_use]
    pub fn member_at(&self, address: &str) -> Option<&Member> {
        self.members().find(|member| member.address == address)
    }

    /// The members that vote.
    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members().filter(|member| member.role == Role::Voter)
    }

    /// Whether two configurations are in force at once.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// The voters of the old configuration, while [`is_joint`](Self::is_joint).
    pub fn outgoing_voters(&self) -> impl Iterator<Item = &Member> {
        self.outgoing.values()
    }

    /// Whether the member is a learner that becomes a voter by itself, as soon as it has caught up.
    #[must_use]
    pub fn is_staging(&self, id: NodeId) -> bool {
        self.staging.contains(&id)
    }

    /// Everyone who takes part, also the voters that are on their way out.
    pub(crate) fn everyone(&self) -> impl Iterator<Item = &Member> {
        let leaving = self.outgoing.values().filter(|old| !self.members.contains_key(&old.id));
        self.members.values().chain(leaving)
    }

    pub(crate) fn by_raft_id(&self, id: u64) -> Option<&Member> {
        self.everyone().find(|member| member.id.raft_id() == id)
    }

    /// Whether it can be the membership of a cluster: somebody votes, the engine can tell all
    /// servers apart, and none is two at once.
    pub(crate) fn holds_together(&self) -> bool {
        let mut known = BTreeMap::new();
        let mut all = self.members.keys().chain(self.outgoing.keys());
        all.all(|id| *known.entry(id.raft_id()).or_insert(*id) == *id)
            && self.voters().next().is_some()
    }

    /// Whether it can be sent, and one behind it that goes through a joint configuration.
    pub(crate) fn fits_messages(&self) -> bool {
        self.encode().len() <= MEMBERSHIP_BYTES_MAX
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(VERSION);
        out.put_u64_le(self.index);
        for group in [&self.members, &self.outgoing] {
            put_count(&mut out, group.len());
            group.values().for_each(|member| member.write(&mut out));
        }
        put_count(&mut out, self.staging.len());
        self.staging.iter().for_each(|id| out.put_slice(&id.to_bytes()));
        put_count(&mut out, self.tombstones.len());
        self.tombstones.iter().for_each(|&id| out.put_u64_le(id));
        out.freeze()
    }

    /// Reads what `encode` wrote. Empty bytes are the membership of a server that is in no cluster.
    pub(crate) fn decode(mut bytes: Bytes) -> Result<Self, DecodeError> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let membership = Self::read(&mut bytes)?;
        if !bytes.is_empty() {
            return Err(DecodeError::TrailingBytes { bytes: bytes.len() });
        }
        Ok(membership)
    }

    fn read(bytes: &mut Bytes) -> Result<Self, DecodeError> {
        let version = bytes.try_get_u8()?;
        if version != VERSION {
            return Err(DecodeError::Version { found: version });
        }
        let mut membership = Self { index: bytes.try_get_u64_le()?, ..Self::default() };
        for group in [&mut membership.members, &mut membership.outgoing] {
            for _ in 0..bytes.try_get_u32_le()? {
                let member = Member::decode(bytes)?;
                in_order(group.last_key_value().map(|(last, _)| *last), member.id)?;
                group.insert(member.id, member);
            }
        }
        for _ in 0..bytes.try_get_u32_le()? {
            let id = read_id(bytes)?;
            in_order(membership.staging.last().copied(), id)?;
            membership.staging.insert(id);
        }
        for _ in 0..bytes.try_get_u32_le()? {
            membership.tombstones.push(bytes.try_get_u64_le()?);
        }
        Ok(membership)
    }
}

/// A server of the cluster.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "users build it by literal")]
pub struct Member {
    /// Who it is.
    pub id: NodeId,
    /// What people call it; may be empty, need not be unique.
    pub name: String,
    /// Where its transport is reached.
    pub address: String,
    /// Whether it votes.
    pub role: Role,
}

impl Member {
    /// A member that votes.
    pub fn voter(id: NodeId, name: impl Into<String>, address: impl Into<String>) -> Self {
        Self { id, name: name.into(), address: address.into(), role: Role::Voter }
    }

    /// A member that only receives.
    pub fn learner(id: NodeId, name: impl Into<String>, address: impl Into<String>) -> Self {
        Self { role: Role::Learner, ..Self::voter(id, name, address) }
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        self.write(&mut out);
        out.freeze()
    }

    pub(crate) fn write(&self, out: &mut BytesMut) {
        out.put_slice(&self.id.to_bytes());
        out.put_u8(u8::from(self.role == Role::Voter));
        put_text(out, &self.name);
        put_text(out, &self.address);
    }

    pub(crate) fn decode(bytes: &mut Bytes) -> Result<Self, DecodeError> {
        let id = read_id(bytes)?;
        let role = match bytes.try_get_u8()? {
            0 => Role::Learner,
            1 => Role::Voter,
            _ => return Err(DecodeError::Invalid { field: "role" }),
        };
        Ok(Self { id, name: read_text(bytes)?, address: read_text(bytes)?, role })
    }
}

/// What a member does.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_enums, reason = "the field has no third role")]
pub enum Role {
    /// Receives the log and serves, but counts for nothing.
    Learner,
    /// Counts for elections and for commit.
    Voter,
}

pub(crate) fn read_id(bytes: &mut Bytes) -> Result<NodeId, DecodeError> {
    let mut id = [0; 16];
    bytes.try_copy_to_slice(&mut id)?;
    NodeId::from_bytes(id).map_err(|_| DecodeError::Invalid { field: "id of a member" })
}

/// One membership has one encoding: nobody twice, and each in its place.
fn in_order(last: Option<NodeId>, next: NodeId) -> Result<(), DecodeError> {
    match last.is_none_or(|last| last < next) {
        true => Ok(()),
        false => Err(DecodeError::Invalid { field: "order of members" }),
    }
}

pub(crate) fn put_text(out: &mut BytesMut, text: &str) {
    put_count(out, text.len());
    out.put_slice(text.as_bytes());
}

pub(crate) fn read_text(bytes: &mut Bytes) -> Result<String, DecodeError> {
    let len = bytes.try_get_u32_le()? as usize;
    if len > bytes.len() {
        return Err(DecodeError::Truncated);
    }
    let text = bytes.split_to(len);
    String::from_utf8(text.into()).map_err(|_| DecodeError::Invalid { field: "text" })
}

fn put_count(out: &mut BytesMut, count: usize) {
    out.put_u32_le(u32::try_from(count).expect("names and members are limited far below 4 GiB"));
}

/// The most that the members of one configuration take, encoded, with those who were removed: more
/// would not fit the messages that carry them.
pub(crate) const MEMBERSHIP_BYTES_MAX: usize = 64 << 10;
const VERSION: u8 = 1;
