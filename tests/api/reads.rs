use kontiki::{Consistency, NoLeader, ReadError};

use crate::harness::{Cluster, address};

pub(crate) async fn a_read_sees_what_was_acknowledged_before(mut cluster: Cluster) {
    let leader = cluster.form(3).await;
    for round in 1..=20 {
        let writer = 1 + round as u64 % 3;
        let reader = 1 + (round as u64 + 1) % 3;
        cluster.write(writer, "x").await;
        cluster.raft(reader).read(Consistency::Linearizable).await.unwrap();
        assert_eq!(cluster.lines(reader).len(), round);
    }
    let stale = cluster.raft(leader).read(Consistency::Stale).await.unwrap();
    assert_eq!(stale.index, cluster.raft(leader).status().applied);
}

/// P27.
pub(crate) async fn a_leader_that_is_cut_off_confirms_nothing(mut cluster: Cluster) {
    let old = cluster.form(3).await;
    cluster.write(old, "a").await;
    cluster.network.isolate(&address(old));
    let read = cluster.raft(old);
    let reading = cluster.spawn(async move {
        let error = read.read(Consistency::Linearizable).await.unwrap_err();
        assert_eq!(error, ReadError::NoLeader(NoLeader));
    });
    cluster
        .until("the read has ended", |_| reading.load(std::sync::atomic::Ordering::SeqCst))
        .await;
    cluster.network.heal();
    let leader = cluster.leader().await;
    cluster.write(leader, "b").await;
    cluster.raft(old).read(Consistency::Linearizable).await.unwrap();
    assert_eq!(cluster.lines(old), ["a", "b"]);
}
