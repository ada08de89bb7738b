use crate::harness::{Cluster, address};

pub(crate) async fn a_server_far_behind_catches_up_by_a_snapshot(mut cluster: Cluster) {
    cluster.config.snapshot_after_entries = 20;
    cluster.config.trailing_entries = 5;
    let leader = cluster.form(3).await;
    let behind = cluster.others(leader)[0];
    cluster.network.isolate(&address(behind));
    for _ in 0..60 {
        cluster.write(leader, "x").await;
    }
    let raft = cluster.raft(leader);
    cluster.until("a snapshot is taken", |_| raft.status().counters.snapshots_taken >= 2).await;
    cluster.network.heal();
    cluster.until("it has caught up", |c| c.lines(behind).len() == 60).await;
    assert!(cluster.raft(behind).status().counters.snapshots_installed >= 1);
    let now = cluster.leader().await;
    assert_eq!(cluster.write(behind, "y").await, 61);
    assert_eq!(cluster.write(now, "z").await, 62);
}

pub(crate) async fn a_server_behind_memory_catches_up_from_the_log(mut cluster: Cluster) {
    cluster.config.log_cache_bytes_max = 0;
    cluster.config.snapshot_after_entries = 0;
    let leader = cluster.form(3).await;
    let behind = cluster.others(leader)[0];
    cluster.network.isolate(&address(behind));
    for _ in 0..60 {
        cluster.write(leader, "x").await;
    }
    cluster.network.heal();
    cluster.until("it has caught up", |c| c.lines(behind).len() == 60).await;
    assert_eq!(cluster.raft(behind).status().counters.snapshots_installed, 0);
}

pub(crate) async fn a_restart_begins_at_the_last_snapshot(mut cluster: Cluster) {
    cluster.config.snapshot_after_entries = 10;
    cluster.config.trailing_entries = 0;
    cluster.form(1).await;
    for _ in 0..35 {
        cluster.write(1, "x").await;
    }
    let raft = cluster.raft(1);
    cluster.until("snapshots are taken", |_| raft.status().snapshot.index >= 30).await;
    drop(raft);
    cluster.start(1).await;
    cluster.leader().await;
    assert!(cluster.raft(1).status().snapshot.index >= 30);
    assert_eq!(cluster.write(1, "y").await, 36);
}
