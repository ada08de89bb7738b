use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kontiki::{NoLeader, ProposeError};
use kontiki_transport_memory::Faults;

use crate::harness::Cluster;

pub(crate) async fn any_server_takes_a_command_and_answers_it(mut cluster: Cluster) {
    cluster.form(3).await;
    for (count, n) in [(1, 1), (2, 2), (3, 3)] {
        assert_eq!(cluster.write(n, "x").await, count);
        assert_eq!(cluster.lines(n).len(), count, "whoever asked reads its own write here");
    }
}

pub(crate) async fn many_commands_at_once_are_all_applied_once(mut cluster: Cluster) {
    let leader = cluster.form(3).await;
    let answered = Arc::new(AtomicU64::new(0));
    for number in 0..300 {
        let client = cluster.client(1 + number % 3);
        let answered = Arc::clone(&answered);
        cluster.spawn(async move {
            client.propose(&number.to_string()).await.unwrap();
            answered.fetch_add(1, Ordering::SeqCst);
        });
    }
    cluster.until("all are answered", |_| answered.load(Ordering::SeqCst) == 300).await;
    cluster.until("all have all", |c| (1..=3).all(|n| c.lines(n).len() == 300)).await;
    let mut numbers: Vec<u64> =
        cluster.lines(leader).iter().map(|line| line.parse().unwrap()).collect();
    assert_eq!(cluster.lines(1), cluster.lines(2));
    assert_eq!(cluster.lines(1), cluster.lines(3));
    numbers.sort_unstable();
    assert_eq!(numbers, (0..300).collect::<Vec<_>>());
}

pub(crate) async fn what_arrives_twice_and_out_of_order_is_applied_once(mut cluster: Cluster) {
    let leader = cluster.form(3).await;
    let delay = std::time::Duration::ZERO..std::time::Duration::from_millis(5);
    cluster.network.set_faults(Faults { duplication: 0.5, delay, ..Faults::default() });
    let asked = cluster.others(leader)[0];
    for number in 0..50 {
        cluster.write(asked, &number.to_string()).await;
    }
    let numbers: Vec<String> = (0..50).map(|number| number.to_string()).collect();
    assert_eq!(cluster.lines(asked), numbers);
}

pub(crate) async fn a_command_that_is_too_long_is_refused(mut cluster: Cluster) {
    cluster.config.command_bytes_max = 10;
    cluster.form(1).await;
    let raft = cluster.raft(1);
    let error = raft.propose(vec![b'1'; 11]).await.unwrap_err();
    assert_eq!(error, ProposeError::TooLarge { bytes: 11, bytes_max: 10 });
    raft.propose("\"12345678\"").await.unwrap();
}

pub(crate) async fn without_a_majority_the_outcome_is_not_known(mut cluster: Cluster) {
    let leader = cluster.form(3).await;
    cluster.network.isolate(&crate::harness::address(leader));
    let error = cluster.raft(leader).propose("\"x\"").await.unwrap_err();
    assert!(matches!(error, ProposeError::Unknown | ProposeError::NoLeader(_)), "{error}");
    assert_eq!(error.is_not_applied(), error != ProposeError::Unknown);
}

pub(crate) async fn without_a_leader_nothing_is_applied(mut cluster: Cluster) {
    let leader = cluster.form(3).await;
    let follower = cluster.others(leader)[0];
    for n in cluster.others(follower) {
        cluster.servers.remove(&n);
    }
    let raft = cluster.raft(follower);
    cluster.until("the leader is missed", |_| raft.status().leader.is_none()).await;
    assert_eq!(raft.propose("\"x\"").await, Err(ProposeError::NoLeader(NoLeader)));
}

pub(crate) async fn more_than_may_wait_is_refused(mut cluster: Cluster) {
    cluster.config.command_bytes_max = 1_000;
    cluster.config.waiting_bytes_max = 3_000;
    cluster.start(1).await;
    // A blank server keeps what it is given until the deadline.
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let raft = cluster.raft(1);
            cluster.spawn(async move {
                let result = raft.propose(vec![b'1'; 1_000]).await;
                assert_eq!(result, Err(ProposeError::NoLeader(NoLeader)));
            })
        })
        .collect();
    cluster.pause(100).await;
    let error = cluster.raft(1).propose(vec![b'1'; 1_000]).await.unwrap_err();
    assert_eq!(error, ProposeError::Overloaded { limit: 3_000 });
    cluster.until("they have ended", |_| waiting.iter().all(|w| w.load(Ordering::SeqCst))).await;
    let error = cluster.raft(1).propose(vec![b'1'; 1_000]).await.unwrap_err();
    assert_eq!(error, ProposeError::NoLeader(NoLeader), "there is room again");
}
