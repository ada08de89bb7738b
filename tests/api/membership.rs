use std::time::Duration;

use kontiki::{Change, JoinError, Member, MembershipError, NoLeader, Role};
use kontiki_transport_memory::Faults;

use crate::harness::{Cluster, address, id, member};

pub(crate) async fn a_server_joins_and_becomes_a_voter(mut cluster: Cluster) {
    let leader = cluster.form(1).await;
    cluster.write(leader, "before").await;
    for n in 2..=3 {
        cluster.start(n).await;
        // Any member can be asked; one that does not lead passes it on. An address where nobody is
        // does no harm.
        let asked = [address(77), address(n - 1)];
        cluster.raft(n).join(&asked).await.unwrap();
        cluster
            .until("it votes", |c| {
                let membership = c.raft(n).status().membership;
                membership.member(id(n)).is_some_and(|member| member.role == Role::Voter)
            })
            .await;
    }
    let leader = cluster.leader().await;
    assert_eq!(cluster.raft(leader).status().membership.voters().count(), 3);
    assert_eq!(cluster.raft(3).status().cluster, cluster.raft(1).status().cluster);
    assert_eq!(cluster.write(3, "after").await, 2);
    assert_eq!(cluster.lines(3), ["before", "after"]);
    // It is a member for good: after a restart it is in no need of joining again.
    cluster.start(3).await;
    cluster.until("it has caught up", |c| c.lines(3).len() == 2).await;
}

pub(crate) async fn a_server_joins_over_a_bad_network(mut cluster: Cluster) {
    cluster.config.snapshot_after_entries = 5;
    cluster.config.trailing_entries = 1;
    cluster.config.verb_timeout = Duration::from_secs(30);
    let leader = cluster.form(1).await;
    for _ in 0..20 {
        cluster.write(leader, "x").await;
    }
    let delay = Duration::ZERO..Duration::from_millis(20);
    cluster.network.set_faults(Faults { loss: 0.2, duplication: 0.2, delay });
    cluster.start(2).await;
    cluster.raft(2).join(&[address(1)]).await.unwrap();
    let votes = |c: &Cluster| c.raft(1).status().membership.voters().count() == 2;
    cluster.until("it votes", votes).await;
    cluster.until("it has all", |c| c.lines(2).len() == 20).await;
}

/// P37.
pub(crate) async fn a_removed_server_cannot_come_back(mut cluster: Cluster) {
    let leader = cluster.form(3).await;
    let gone = cluster.others(leader)[0];
    let asked = cluster.others(leader)[1];
    let after = cluster.raft(asked).change_membership(Change::Remove(id(gone))).await.unwrap();
    assert_eq!(after.members().count(), 2);
    let again = cluster.raft(leader).change_membership(Change::Remove(id(gone))).await;
    assert_eq!(again, Err(MembershipError::NotFound { id: id(gone) }));
    let back = cluster.raft(asked).change_membership(Change::Add(member(gone))).await;
    assert_eq!(back, Err(MembershipError::UsedId { id: id(gone) }));
    cluster.write(leader, "still serving").await;
}

/// P26: it has forgotten what it acknowledged under that id, and must not count for it again.
pub(crate) async fn a_server_that_lost_everything_needs_a_new_id(mut cluster: Cluster) {
    let leader = cluster.form(3).await;
    let wiped = cluster.others(leader)[0];
    cluster.write(leader, "a").await;
    cluster.raft(wiped).shutdown().await.unwrap();
    cluster.servers.remove(&wiped);
    cluster.start(wiped).await;
    for asked in cluster.others(wiped) {
        let refused = cluster.raft(wiped).join(&[address(asked)]).await.unwrap_err();
        let source = MembershipError::UsedId { id: id(wiped) };
        assert_eq!(refused, JoinError::Refused { id: id(wiped), source });
        assert!(cluster.raft(wiped).status().cluster.is_nil());
    }
    let remove = Change::Remove(id(wiped));
    cluster.raft(leader).change_membership(remove).await.unwrap();
    cluster.start(4).await;
    cluster.raft(4).join(&[address(leader)]).await.unwrap();
    cluster.until("it votes", |c| c.raft(leader).status().membership.voters().count() == 3).await;
    cluster.until("it has all", |c| c.lines(4) == ["a"]).await;
}

/// P36.
pub(crate) async fn a_leader_that_is_removed_hands_over_first(mut cluster: Cluster) {
    let leader = cluster.form(3).await;
    cluster.write(leader, "a").await;
    let after = cluster.raft(leader).change_membership(Change::Remove(id(leader))).await.unwrap();
    assert!(after.member(id(leader)).is_none());
    cluster.servers.remove(&leader);
    let heir = cluster.leader().await;
    assert_eq!(cluster.write(heir, "b").await, 2);
    // The last voter cannot go.
    let other = cluster.others(heir)[0];
    cluster.raft(heir).change_membership(Change::Remove(id(other))).await.unwrap();
    let last = cluster.raft(heir).change_membership(Change::Remove(id(heir))).await;
    assert_eq!(last, Err(MembershipError::LastVoter));
}

pub(crate) async fn a_change_planned_on_an_old_membership_is_refused(mut cluster: Cluster) {
    let leader = cluster.form(3).await;
    let follower = cluster.others(leader)[0];
    let planned = cluster.raft(follower).status().membership.index();
    let learner = |n| Change::Add(Member::learner(id(n), "", address(n)));
    let raft = cluster.raft(follower);
    let after = raft.change_membership_from(planned, learner(4)).await.unwrap();
    let refused = raft.change_membership_from(planned, learner(5)).await;
    assert_eq!(refused, Err(MembershipError::Superseded { now: after.index() }));
    let taken = raft.change_membership(Change::Add(Member::learner(id(6), "", address(4)))).await;
    assert_eq!(taken, Err(MembershipError::AddressTaken { address: address(4), id: id(4) }));
}

pub(crate) async fn a_replacement_is_one_step(mut cluster: Cluster) {
    let leader = cluster.form(3).await;
    let old = cluster.others(leader)[0];
    cluster.start(4).await;
    cluster.raft(4).join(&[address(leader)]).await.unwrap();
    cluster.until("it votes", |c| c.raft(leader).status().membership.voters().count() == 4).await;
    cluster.raft(leader).change_membership(Change::Demote(id(4))).await.unwrap();
    let change = Change::Replace { old: id(old), new: member(4) };
    let after = cluster.raft(leader).change_membership(change).await.unwrap();
    assert!(!after.is_joint());
    let voters: Vec<_> = after.voters().map(|voter| voter.id).collect();
    assert_eq!(voters.len(), 3);
    assert!(voters.contains(&id(4)) && !voters.contains(&id(old)));
}

pub(crate) async fn a_leader_that_is_cut_off_denies_nothing(mut c: Cluster) {
    let old = c.form(3).await;
    c.network.isolate(&address(old));
    let nobody = Change::Remove(id(77));
    let denied = c.raft(old).change_membership(nobody.clone()).await;
    assert_eq!(denied, Err(NoLeader.into()));
    c.network.heal();
    let denied = c.raft(old).change_membership(nobody).await;
    assert_eq!(denied, Err(MembershipError::NotFound { id: id(77) }));
}

pub(crate) async fn a_leader_that_moved_is_answered_by_who_has_not_heard_of_it(mut c: Cluster) {
    let leader = c.form(3).await;
    let (late, mover) = (c.others(leader)[0], c.others(leader)[1]);
    c.write(leader, "a").await;
    c.raft(late).shutdown().await.unwrap();
    c.start_at(mover, "elsewhere".into()).await;
    // The two reach each other before the membership says where.
    let change = Change::Readdress { id: id(mover), address: "elsewhere".into() };
    c.raft(leader).change_membership(change).await.unwrap();
    c.raft(leader).transfer_leadership(id(mover)).await.unwrap();
    c.raft(leader).shutdown().await.unwrap();
    c.start(late).await;
    c.until("who was away follows", |c| {
        c.raft(late).status().leader.is_some_and(|leader| leader == id(mover))
    })
    .await;
    assert_eq!(c.write(late, "b").await, 2);
}

pub(crate) async fn joining_where_nobody_is_ends_with_an_error(mut cluster: Cluster) {
    cluster.start(1).await;
    let addresses = vec![address(77)];
    let error = cluster.raft(1).join(&addresses).await.unwrap_err();
    assert_eq!(error, JoinError::NoAnswer { addresses });
}
