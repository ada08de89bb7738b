use kontiki::{Change, Member, TransferError};

use crate::harness::{Cluster, address, id};

pub(crate) async fn a_lost_leader_is_replaced(mut cluster: Cluster) {
    let first = cluster.form(3).await;
    cluster.write(first, "before").await;
    cluster.servers.remove(&first);
    let second = cluster.leader().await;
    assert_ne!(first, second);
    assert_eq!(cluster.write(second, "after").await, 2);
    assert_eq!(cluster.lines(second), ["before", "after"]);
}

pub(crate) async fn leadership_goes_where_it_is_sent(mut cluster: Cluster) {
    let mut leader = cluster.form(3).await;
    for target in cluster.others(leader) {
        // Whoever is asked: the leader, or a server that passes it on.
        let asked = cluster.others(target)[0];
        cluster.raft(asked).transfer_leadership(id(target)).await.unwrap();
        leader = cluster.leader().await;
        assert_eq!(leader, target);
        cluster.raft(leader).transfer_leadership(id(target)).await.unwrap();
    }
    cluster.write(leader, "served").await;
}

/// The heir has the change still to take in when it is asked to lead.
pub(crate) async fn leadership_goes_right_behind_a_change_of_the_membership(mut cluster: Cluster) {
    let leader = cluster.form(3).await;
    let heir = cluster.others(leader)[0];
    let learner = Member::learner(id(4), "", address(4));
    cluster.raft(leader).change_membership(Change::Add(learner)).await.unwrap();
    cluster.raft(leader).transfer_leadership(id(heir)).await.unwrap();
    assert_eq!(cluster.leader().await, heir);
}

/// P11.
pub(crate) async fn leadership_cannot_go_to_who_cannot_lead(mut cluster: Cluster) {
    let leader = cluster.form(3).await;
    let follower = cluster.others(leader)[0];
    for asked in [leader, follower] {
        let error = cluster.raft(asked).transfer_leadership(id(9)).await.unwrap_err();
        assert_eq!(error, TransferError::NotFound { id: id(9) });
    }
    let learner = Member::learner(id(4), "n4", address(4));
    cluster.raft(leader).change_membership(Change::Add(learner)).await.unwrap();
    let error = cluster.raft(follower).transfer_leadership(id(4)).await.unwrap_err();
    assert_eq!(error, TransferError::NotVoter { id: id(4) });
    // One that is down does not take over, and the old leader serves again.
    cluster.servers.remove(&follower);
    let error = cluster.raft(leader).transfer_leadership(id(follower)).await.unwrap_err();
    assert_eq!(error, TransferError::TimedOut);
    cluster.write(leader, "served").await;
}
