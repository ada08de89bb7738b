use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kontiki::runtime::ByteReader;
use kontiki::storage::{MemoryLogStore, MemorySnapshotStore, SnapshotMeta};
use kontiki::{
    BootstrapError, BoxError, Change, Command, Consistency, Fatal, JoinError, Member,
    MembershipError, Parts, ProposeError, Raft, ReadError, Snapshot, StartError, StateMachine,
    TransferError,
};

use crate::harness::{Cluster, address, id, member};

pub(crate) async fn a_cluster_is_formed_on_empty_stores_only(mut cluster: Cluster) {
    cluster.start(1).await;
    let raft = cluster.raft(1);
    let error = raft.bootstrap(vec![member(2)]).await.unwrap_err();
    assert!(matches!(error, BootstrapError::Membership(_)), "{error}");
    let error = raft.bootstrap(vec![member(1), member(1)]).await.unwrap_err();
    assert!(matches!(error, BootstrapError::Membership(_)), "{error}");
    let long = Member { name: "x".repeat(64 << 10), ..member(1) };
    let error = raft.bootstrap(vec![long]).await.unwrap_err();
    assert!(matches!(error, BootstrapError::Membership(_)), "{error}");
    let formed = raft.bootstrap(vec![member(1)]).await.unwrap();
    assert_eq!(raft.status().cluster, formed);
    assert_eq!(raft.bootstrap(vec![member(1)]).await, Err(BootstrapError::NotBlank));
    assert_eq!(raft.join(&[address(2)]).await, Err(JoinError::NotBlank));
    cluster.start(1).await;
    let raft = cluster.raft(1);
    assert_eq!(raft.bootstrap(vec![member(1)]).await, Err(BootstrapError::NotBlank));
    assert_eq!(raft.status().cluster, formed);
}

/// P57.
pub(crate) async fn a_restart_finds_everything_again(mut cluster: Cluster) {
    let leader = cluster.form(3).await;
    for line in ["a", "b", "c"] {
        cluster.write(leader, line).await;
    }
    let before = cluster.raft(leader).status();
    for n in 1..=3 {
        cluster.start(n).await;
    }
    let leader = cluster.leader().await;
    assert_eq!(cluster.write(leader, "d").await, 4);
    let after = cluster.raft(leader).status();
    assert_eq!(after.cluster, before.cluster);
    assert_eq!(after.membership, before.membership);
    assert!(after.term > before.term);
    cluster.until("all have everything", |c| (1..=3).all(|n| c.lines(n).len() == 4)).await;
}

pub(crate) async fn after_a_shutdown_every_verb_says_so(mut cluster: Cluster) {
    cluster.form(1).await;
    let raft = cluster.raft(1);
    raft.clone().shutdown().await.unwrap();
    let stopped = Fatal::Shutdown;
    assert_eq!(raft.status().stopped, Some(stopped.clone()));
    assert_eq!(raft.propose("x").await, Err(ProposeError::Stopped(stopped.clone())));
    let read = raft.read(Consistency::Linearizable).await;
    assert_eq!(read, Err(ReadError::Stopped(stopped.clone())));
    let change = raft.change_membership(Change::Remove(id(1))).await;
    assert_eq!(change, Err(MembershipError::Stopped(stopped.clone())));
    let transfer = raft.transfer_leadership(id(1)).await;
    assert_eq!(transfer, Err(TransferError::Stopped(stopped)));
    raft.shutdown().await.unwrap();
}

/// P19.
pub(crate) async fn everyone_who_waits_is_told_of_a_shutdown(mut cluster: Cluster) {
    let leader = cluster.form(3).await;
    cluster.network.isolate(&address(leader));
    let waiting: Vec<_> = (0..300)
        .map(|n| {
            let raft = cluster.raft(leader);
            cluster.spawn(async move {
                match n % 3 {
                    0 => drop(raft.propose("\"x\"").await.unwrap_err()),
                    1 => drop(raft.read(Consistency::Linearizable).await.unwrap_err()),
                    _ => drop(raft.change_membership(Change::Remove(id(2))).await.unwrap_err()),
                }
            })
        })
        .collect();
    cluster.pause(20).await;
    cluster.raft(leader).shutdown().await.unwrap();
    cluster.until("all have ended", |_| waiting.iter().all(|w| w.load(Ordering::SeqCst))).await;
}

pub(crate) async fn a_node_without_a_handle_ends(mut cluster: Cluster) {
    let leader = cluster.form(3).await;
    let gone = cluster.others(leader)[0];
    let mut watch = cluster.raft(gone).watch();
    let clone = cluster.raft(gone);
    cluster.servers.remove(&gone);
    assert_eq!(clone.status().stopped, None, "there is one handle left");
    drop(clone);
    while watch.changed().await.stopped != Some(Fatal::Shutdown) {}
    // Its address and its stores are free again.
    cluster.start(gone).await;
}

/// P21.
pub(crate) async fn a_failing_store_stops_its_node_with_the_reason(mut cluster: Cluster) {
    let leader = cluster.form(3).await;
    cluster.write(leader, "a").await;
    cluster.servers[&leader].log.fail_next_write();
    let error = cluster.client(leader).propose(&"b".to_owned()).await.unwrap_err();
    assert!(error.to_string().contains("outcome is not known"), "{error}");
    let raft = cluster.raft(leader);
    cluster.until("it has stopped", |_| raft.status().stopped.is_some()).await;
    assert!(matches!(raft.status().stopped, Some(Fatal::Storage(_))));
    assert!(matches!(raft.propose("c").await, Err(ProposeError::Stopped(Fatal::Storage(_)))));
    let other = cluster.others(leader)[0];
    cluster.write(other, "d").await;
}

enum Broken {
    Fails,
    Panics,
}

#[async_trait]
impl StateMachine for Broken {
    async fn apply(&mut self, _: Vec<Command>) -> Result<Vec<Bytes>, BoxError> {
        match self {
            Self::Fails => Err("planted".into()),
            Self::Panics => panic!("planted"),
        }
    }

    async fn snapshot(&mut self) -> Result<Box<dyn Snapshot>, BoxError> {
        Ok(Box::new(Nothing))
    }

    async fn restore(&mut self, _: &SnapshotMeta, _: ByteReader) -> Result<(), BoxError> {
        Ok(())
    }
}

struct Nothing;

#[async_trait]
impl Snapshot for Nothing {
    async fn write_to(
        self: Box<Self>,
        _: &mut (dyn futures::io::AsyncWrite + Send + Unpin),
    ) -> Result<(), BoxError> {
        Ok(())
    }
}

pub(crate) async fn a_failing_state_machine_stops_its_node_with_the_reason(cluster: Cluster) {
    let reason = stopped_by(&cluster, Broken::Fails).await;
    assert_eq!(reason, "the state machine failed: planted");
}

pub(crate) async fn a_panicking_state_machine_stops_its_node_and_not_the_process(cluster: Cluster) {
    let reason = stopped_by(&cluster, Broken::Panics).await;
    assert_eq!(reason, "the state machine failed: it panicked: planted");
}

async fn stopped_by(cluster: &Cluster, broken: Broken) -> String {
    let (log, snapshots) = (MemoryLogStore::new(), MemorySnapshotStore::new());
    let parts = Parts { state_machine: Box::new(broken), ..cluster.parts(1, &log, &snapshots) };
    let raft = Raft::start(parts).await.unwrap();
    raft.bootstrap(vec![member(1)]).await.unwrap();
    assert_eq!(raft.propose("x").await, Err(ProposeError::Unknown));
    cluster.until("it has stopped", |_| raft.status().stopped.is_some()).await;
    raft.status().stopped.unwrap().to_string()
}

pub(crate) async fn a_config_that_cannot_work_is_refused(mut cluster: Cluster) {
    cluster.config.election_timeout = Duration::from_millis(1);
    let (log, snapshots) = (MemoryLogStore::new(), MemorySnapshotStore::new());
    let error = Raft::start(cluster.parts(1, &log, &snapshots)).await.unwrap_err();
    let StartError::Config(error) = error else { panic!("{error}") };
    assert_eq!(error.field, "election_timeout");
}
