//! Plans of changes, and what comes out.

use super::*;

fn three() -> Membership {
    let member = |n: u64| Member::voter(n.into(), format!("n{n}"), format!("a{n}"));
    Membership::first([member(1), member(2), member(3)])
}

fn learner(n: u64, address: &str) -> Member {
    Member::learner(n.into(), "new", address)
}

#[test]
fn what_cannot_be_is_refused_with_the_reason() {
    let m = three();
    let err = |change| m.plan(&change).unwrap_err();
    let seven = NodeId::from(7);
    assert_eq!(err(Change::Remove(seven)), MembershipError::NotFound { id: seven });
    assert_eq!(
        err(Change::Promote(1.into())),
        MembershipError::RoleTaken { id: 1.into(), role: Role::Voter }
    );
    assert_eq!(
        err(Change::Add(learner(4, "a1"))),
        MembershipError::AddressTaken { address: "a1".into(), id: 1.into() }
    );
    assert_eq!(err(Change::Add(learner(4, ""))), MembershipError::BadMember);
    let one = Membership::first([Member::voter(1.into(), "", "a1")]);
    assert_eq!(one.plan(&Change::Remove(1.into())), Err(MembershipError::LastVoter));
    assert_eq!(one.plan(&Change::Demote(1.into())), Err(MembershipError::LastVoter));
}

#[test]
fn what_is_so_already_is_no_change() {
    let m = three();
    let member = m.member(1.into()).unwrap().clone();
    assert_eq!(m.plan(&Change::Add(member)), Ok(None));
    let address = "a1".to_owned();
    assert_eq!(m.plan(&Change::Readdress { id: 1.into(), address }), Ok(None));
}

#[test]
fn a_learner_that_is_added_as_a_voter_is_marked_for_promotion() {
    let added = |m: &Membership, member| {
        let record = m.plan(&Change::Add(member)).unwrap();
        record.map_or_else(|| m.clone(), |record| m.after(Some(&record), 9).unwrap())
    };
    let m = added(&three(), learner(4, "a4"));
    assert!(!m.is_staging(4.into()));
    let m = added(&m, Member { role: Role::Voter, ..learner(4, "a4") });
    assert!(m.is_staging(4.into()));
    let m = added(&m, learner(4, "a4"));
    assert!(!m.is_staging(4.into()), "and not any more");
}

#[test]
fn names_and_addresses_have_a_limit() {
    let m = three();
    let long = "x".repeat(TEXT_BYTES_MAX);
    let add = |name: &str, address: &str| {
        m.plan(&Change::Add(Member::learner(4.into(), name, address))).map(|_| ())
    };
    assert_eq!(add(&long, &long), Ok(()));
    let longer = format!("{long}x");
    assert_eq!(add(&longer, "a4"), Err(MembershipError::BadMember));
    assert_eq!(add("n4", &longer), Err(MembershipError::BadMember));
}

#[test]
fn all_members_together_have_a_limit() {
    let mut m = three();
    let long = "x".repeat(TEXT_BYTES_MAX - 10);
    let mut refused = None;
    for next in 4..100 {
        let new = Member::voter(next.into(), long.clone(), format!("{long}{next}"));
        match m.plan(&Change::Add(new)) {
            Ok(record) => m = m.after(record.as_ref(), next).unwrap(),
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
        // Whoever is taken in can also be promoted.
        let promoted = m.plan(&Change::Promote(next.into())).unwrap();
        m = m.after(promoted.as_ref(), next).unwrap();
    }
    assert_eq!((refused, m.members.len()), (Some(MembershipError::TooLarge), 3 + 31));
    assert!(m.plan(&Change::Remove(1.into())).unwrap().is_some());
}

/// P37.
#[test]
fn the_last_removed_servers_are_remembered() {
    let mut m = three();
    let limit = TOMBSTONES_MAX as u64;
    for n in 10..=10 + limit {
        for change in [Change::Add(learner(n, "a4")), Change::Remove(n.into())] {
            let record = m.plan(&change).unwrap().unwrap();
            m = m.after(Some(&record), n).unwrap();
        }
    }
    assert_eq!(m.tombstones.len(), TOMBSTONES_MAX);
    let back = |n| m.plan(&Change::Add(learner(n, "a4"))).map(|_| ());
    assert_eq!(back(11), Err(MembershipError::UsedId { id: 11.into() }));
    assert_eq!(back(10), Ok(()), "forgotten");
}

/// P37.
#[test]
fn an_id_never_comes_back() {
    let m = three();
    let record = m.plan(&Change::Remove(2.into())).unwrap().unwrap();
    let after = m.after(Some(&record), 9).unwrap();
    let err = after.plan(&Change::Add(learner(2, "a9"))).unwrap_err();
    assert_eq!(err, MembershipError::UsedId { id: 2.into() });
    let mut twin = NodeId::from(1).to_bytes();
    twin[15] = 1;
    let twin = NodeId::from_bytes(twin).unwrap();
    let err = after.plan(&Change::Add(Member { id: twin, ..learner(1, "a9") })).unwrap_err();
    assert_eq!(err, MembershipError::UsedId { id: twin });
}

#[test]
fn a_replacement_goes_through_a_joint_configuration() {
    let m = three();
    let new = Member { role: Role::Voter, ..learner(4, "a4") };
    let record = m.plan(&Change::Replace { old: 3.into(), new }).unwrap().unwrap();
    assert_eq!(ChangeRecord::decode(record.encode()), Ok(record.clone()));
    let joint = m.after(Some(&record), 9).unwrap();
    assert!(joint.is_joint());
    assert_eq!(joint.everyone().count(), 4);
    assert_eq!(joint.plan(&Change::Remove(1.into())), Err(MembershipError::InProgress));
    let done = joint.after(None, 10).unwrap();
    assert_eq!((done.everyone().count(), done.index(), done.is_joint()), (3, 10, false));
    assert_eq!(Membership::decode(joint.encode()), Ok(joint));
}

#[test]
fn every_change_reads_back_what_it_wrote() {
    let changes = [
        Change::Add(learner(4, "a4")),
        Change::Demote(1.into()),
        Change::Promote(1.into()),
        Change::Readdress { id: 1.into(), address: "b".into() },
        Change::Remove(1.into()),
        Change::Replace { old: 1.into(), new: learner(4, "a4") },
    ];
    for change in changes {
        let bytes = change.encode();
        assert_eq!(Change::decode(bytes.clone()), Ok(change));
        for len in 0..bytes.len() {
            assert!(Change::decode(bytes.slice(..len)).is_err(), "cut to {len}");
        }
    }
    let mut bytes = Change::Add(learner(4, "a4")).encode().to_vec();
    bytes[1] ^= 1;
    let two = DecodeError::Invalid { field: "id of a member" };
    assert_eq!(Change::decode(bytes.into()), Err(two), "it names two servers");
}

#[test]
fn a_membership_has_one_encoding() {
    let swapped = |at: usize, with: usize, bytes: Bytes| {
        let mut bytes = bytes.to_vec();
        bytes.swap(at, with);
        Membership::decode(bytes.into()).unwrap_err()
    };
    let out_of_order = DecodeError::Invalid { field: "order of members" };
    // The first bytes of the ids that differ: of the first and the second of the members, then
    // of those who wait for their promotion.
    let (first, second) = (1 + 8 + 4 + 7, 1 + 8 + 4 + 7 + 16 + 1 + 4 + 2 + 4 + 2);
    assert_eq!(swapped(first, second, three().encode()), out_of_order);
    let mut twice = three().encode().to_vec();
    twice[second] = twice[first];
    assert_eq!(Membership::decode(twice.into()), Err(out_of_order.clone()));
    let staging = BTreeSet::from([NodeId::from(1), NodeId::from(2)]);
    let bytes = Membership { staging, ..Membership::default() }.encode();
    let first = 1 + 8 + 4 + 4 + 4 + 7;
    assert_eq!(swapped(first, first + 16, bytes), out_of_order);
}

#[test]
fn a_record_says_where_the_members_go_and_not_where_they_come_from() {
    let record = three().plan(&Change::Remove(2.into())).unwrap().unwrap();
    let with = |membership: Membership| {
        let mut bytes = record.encode()[..1 + 9].to_vec();
        bytes.extend_from_slice(&membership.encode());
        ChangeRecord::decode(bytes.into())
    };
    assert!(with(Membership { index: 0, ..three() }).is_ok());
    let invalid = Err(DecodeError::Invalid { field: "members of a change" });
    assert_eq!(with(three()), invalid, "an index");
    let outgoing = three().members;
    assert_eq!(with(Membership { index: 0, outgoing, ..three() }), invalid);
    let nobody = ChangeRecord::decode(record.encode().slice(..1 + 9));
    assert_eq!(nobody, Err(DecodeError::Truncated), "no bytes are no membership here");
}

#[test]
fn a_record_that_does_not_follow_changes_nothing() {
    let m = three();
    let new = Member { role: Role::Voter, ..learner(4, "a4") };
    let good = m.plan(&Change::Replace { old: 3.into(), new }).unwrap().unwrap();
    let joint = m.after(Some(&good), 9).unwrap();
    assert_eq!(m.after(None, 9), None, "there is nothing to leave");
    assert_eq!(joint.after(Some(&good), 10), None, "it is joint already");
    let bent = |bend: fn(&mut ChangeRecord)| {
        let mut record = good.clone();
        bend(&mut record);
        m.after(Some(&record), 9)
    };
    assert_eq!(bent(|record| record.steps.clear()), None, "no step");
    assert_eq!(bent(|record| record.steps.truncate(1)), None, "a step too few");
    assert_eq!(bent(|record| drop(record.members.pop_last())), None, "a member too few");
    assert_eq!(bent(|r| r.steps[0].kind = StepKind::Learner), None, "another role");
    let twin = |record: &mut ChangeRecord| {
        let mut member = record.members.pop_first().unwrap().1;
        let mut id = member.id.to_bytes();
        id[15] = 1;
        member.id = NodeId::from_bytes(id).unwrap();
        record.members.insert(member.id, member);
    };
    assert_eq!(bent(twin), None, "another server of the same name to the engine");
    let nobody = ChangeRecord {
        steps: (1..=3)
            .map(|id| Step { kind: StepKind::Remove, id: NodeId::from(id).raft_id() })
            .collect(),
        members: BTreeMap::new(),
        ..good.clone()
    };
    assert_eq!(m.after(Some(&nobody), 9), None, "no voter is left");
}
