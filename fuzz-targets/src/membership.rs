//! F8: sequences of membership changes on a leader, against a list of members kept by a simple
//! model. Every other server takes whatever it is sent.

use std::collections::{BTreeMap, BTreeSet};

use kontiki::{Change, Member, MembershipError, NodeId, Role, fuzzing};

use crate::input::Input;
use crate::server::{Server, agree};
use crate::{Target, meter};

pub(crate) const TARGET: Target = Target { name: "membership", run, seeds, words: &[] };

fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    meter::within(MEMORY_MAX, || {
        let mut model = Model::new(1 + input.below(4) as u64);
        let mut server = Server::new(1, model.list());
        for _ in 0..CHANGES_MAX {
            if input.is_empty() || !lead(&mut server) {
                return;
            }
            let change = change(&mut input);
            let expected = model.after(&change);
            let proposed = server.core.change(&change);
            let refused = proposed.as_ref().err().map(reason);
            assert_eq!(refused, expected.as_ref().err().copied(), "{change:?} of {model:?}");
            let Ok(next) = expected else { continue };
            let nothing = next == model;
            assert_eq!(proposed == Ok(None), nothing, "{change:?} of {model:?}: {proposed:?}");
            model = next;
            // Before it is done, another is refused, and a crash does not take it back for ever.
            if proposed != Ok(None) && input.flag() {
                let second = server.core.change(&Change::Demote(1.into()));
                assert_eq!(second, Err(MembershipError::InProgress));
            }
            follow(&mut server);
            // Whoever leads no more may not know the end of it.
            let joint = server.core.membership().is_joint();
            assert!(!joint || !server.core.is_leader(), "the joint configuration is never left");
            if !joint {
                model.check(&server);
            }
            if input.rarely(8) {
                server.crash(true);
            }
        }
    });
}

/// Ticks until it leads; `false` if it does not vote any more.
fn lead(server: &mut Server) -> bool {
    for _ in 0..200 {
        if server.core.is_established() {
            return true;
        }
        server.core.tick();
        follow(server);
    }
    let voters: Vec<_> = server.core.membership().voters().map(|voter| voter.id).collect();
    assert!(!voters.contains(&1.into()), "all votes are given, and {voters:?} elect nobody");
    false
}

/// Everything is written and applied here, and acknowledged everywhere else.
fn follow(server: &mut Server) {
    for _ in 0..200 {
        server.settle();
        let sent = std::mem::take(&mut server.sent);
        let snapshots = std::mem::take(&mut server.snapshot_sends);
        if sent.is_empty() && snapshots.is_empty() {
            return;
        }
        for (to, _) in snapshots {
            server.core.snapshot_sent(to, true);
        }
        for (to, message) in sent {
            if let Some(answer) = agree(&message) {
                server.message(to, answer);
            }
        }
    }
    panic!("there is no end to what is sent");
}

/// Who is in the cluster, as a list.
#[derive(Clone, Debug, PartialEq)]
struct Model {
    members: BTreeMap<NodeId, Member>,
    /// Learners that become voters by themselves.
    staging: BTreeSet<NodeId>,
    /// The first halves of those that left.
    gone: Vec<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Reason {
    AddressTaken,
    BadMember,
    LastVoter,
    NotFound,
    NotReady,
    RoleTaken,
    UsedId,
}

fn reason(error: &MembershipError) -> Reason {
    match error {
        MembershipError::AddressTaken { .. } => Reason::AddressTaken,
        MembershipError::BadMember => Reason::BadMember,
        MembershipError::LastVoter => Reason::LastVoter,
        MembershipError::NotFound { .. } => Reason::NotFound,
        MembershipError::NotReady { .. } => Reason::NotReady,
        MembershipError::RoleTaken { .. } => Reason::RoleTaken,
        MembershipError::UsedId { .. } => Reason::UsedId,
        other => panic!("a leader with nothing under way does not say {other:?}"),
    }
}

impl Model {
    fn new(voters: u64) -> Self {
        let members =
            (1..=voters).map(|number| (number.into(), member(number, number, Role::Voter)));
        Self { members: members.collect(), staging: BTreeSet::new(), gone: Vec::new() }
    }

    fn list(&self) -> Vec<Member> {
        self.members.values().cloned().collect()
    }

    /// What a change makes of it, or why it cannot be.
    fn after(&self, change: &Change) -> Result<Self, Reason> {
        let mut after = self.clone();
        match change {
            Change::Add(new) => after.add(new)?,
            Change::Demote(id) => after.set_role(id, Role::Learner)?,
            Change::Promote(id) => after.set_role(id, Role::Voter)?,
            Change::Readdress { id, address } => {
                let known = after.members.get(id).ok_or(Reason::NotFound)?;
                after.put(Member { address: address.clone(), ..known.clone() })?;
            }
            Change::Remove(id) => after.remove(id)?,
            Change::Replace { old, new } => {
                after.remove(old)?;
                after.put(new.clone())?;
            }
            other => panic!("the model knows nothing of {other:?}"),
        }
        if !after.members.values().any(|member| member.role == Role::Voter) {
            return Err(Reason::LastVoter);
        }
        // Every member has acknowledged something, and nobody else has.
        let new = |member: &Member| !self.members.contains_key(&member.id);
        if after.members.values().any(|member| member.role == Role::Voter && new(member)) {
            return Err(Reason::NotReady);
        }
        let learns = |id: &NodeId| after.members.get(id).is_some_and(|m| m.role == Role::Learner);
        after.staging.retain(learns);
        Ok(after)
    }

    fn add(&mut self, new: &Member) -> Result<(), Reason> {
        let id = new.id;
        let role = self.members.get(&id).map(|known| known.role);
        if (role, new.role) == (Some(Role::Voter), Role::Learner) {
            return Err(Reason::RoleTaken);
        }
        self.staging.remove(&id);
        let mut new = new.clone();
        if role != Some(Role::Voter) && new.role == Role::Voter {
            self.staging.insert(id);
            new.role = Role::Learner;
        }
        if self.members.get(&id) == Some(&new) { Ok(()) } else { self.put(new) }
    }

    fn put(&mut self, new: Member) -> Result<(), Reason> {
        let id = new.id.raft_id();
        if new.address.is_empty() {
            return Err(Reason::BadMember);
        }
        let twin = |known: &NodeId| known.raft_id() == id && *known != new.id;
        if self.gone.contains(&id) || self.members.keys().any(twin) {
            return Err(Reason::UsedId);
        }
        if self.members.values().any(|other| other.id != new.id && other.address == new.address) {
            return Err(Reason::AddressTaken);
        }
        self.members.insert(new.id, new);
        Ok(())
    }

    fn set_role(&mut self, id: &NodeId, role: Role) -> Result<(), Reason> {
        let member = self.members.get_mut(id).ok_or(Reason::NotFound)?;
        if member.role == role {
            return Err(Reason::RoleTaken);
        }
        member.role = role;
        Ok(())
    }

    fn remove(&mut self, id: &NodeId) -> Result<(), Reason> {
        self.members.remove(id).ok_or(Reason::NotFound)?;
        self.gone.push(id.raft_id());
        Ok(())
    }

    fn check(&self, server: &Server) {
        let found = server.core.membership();
        assert!(found.members().eq(self.members.values()), "{found:?} is not {self:?}");
        let staged = found.members().filter(|member| found.is_staging(member.id));
        let staged: BTreeSet<NodeId> = staged.map(|member| member.id).collect();
        assert_eq!(staged, self.staging, "{found:?} is not {self:?}");
        let bytes = fuzzing::encode_membership(found);
        assert_eq!(fuzzing::decode_membership(bytes).as_ref(), Ok(found));
    }
}

fn change(input: &mut Input<'_>) -> Change {
    let one = 1 + input.below(6) as u64;
    let role = if input.flag() { Role::Voter } else { Role::Learner };
    let address = if input.rarely(4) { input.below(7) as u64 } else { one };
    match input.below(8) {
        0 | 1 => Change::Add(twin(member(one, address, role), input)),
        2 => Change::Demote(one.into()),
        3 => Change::Promote(one.into()),
        4 => Change::Remove(one.into()),
        5 => {
            let at = if address == 0 { String::new() } else { format!("a{address}") };
            Change::Readdress { id: one.into(), address: at }
        }
        _ => {
            let new = 1 + input.below(12) as u64;
            let at = if input.rarely(4) { one } else { new };
            Change::Replace { old: one.into(), new: twin(member(new, at, role), input) }
        }
    }
}

fn member(number: u64, address: u64, role: Role) -> Member {
    let address = if address == 0 { String::new() } else { format!("a{address}") };
    Member { role, ..Member::voter(number.into(), format!("n{number}"), address) }
}

/// Now and then one whose id differs only in what the engine does not see.
fn twin(mut member: Member, input: &mut Input<'_>) -> Member {
    if input.rarely(16) {
        let mut id = member.id.to_bytes();
        id[15] = 1;
        member.id = NodeId::from_bytes(id).expect("its first half is not zero");
    }
    member
}

fn seeds() -> Vec<Vec<u8>> {
    crate::corpus::choices(&[], 32, 120)
}

const CHANGES_MAX: usize = 24;
const MEMORY_MAX: usize = 8 << 20;
