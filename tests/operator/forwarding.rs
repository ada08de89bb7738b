use std::time::Duration;

use kontiki::operator::ApiConfig;
use kontiki::runtime::Runtime as _;
use kontiki::{Change, Member, RaftRole};
use kontiki_transport_memory::Faults;

use crate::{Cluster, acls, address, answer, get, id, on_cluster};

const CONFIGURATION: &str = "/v1/operator/raft/configuration";

/// Servers 1 and 3 take a member in while 2 cannot hear it; then 2 can be asked, and does not know
/// yet.
async fn behind(cluster: &Cluster) {
    cluster.network.isolate(&address(2));
    let fifth = Change::Add(Member::learner(id(5), "n5", address(5)));
    cluster.rafts[0].change_membership(fifth).await.unwrap();
    let known = |n: usize| cluster.rafts[n].status().membership.member(id(5)).is_some();
    assert!(known(0) && !known(1), "server 2 is behind");
    cluster.network.heal();
    assert_eq!(cluster.rafts[1].status().leader, Some(id(1)), "and has not noticed");
}

#[test]
fn a_server_that_is_behind_asks_the_leader_before_it_looks_for_a_member() {
    on_cluster(|cluster| async move {
        behind(&cluster).await;
        let uri = format!("/v1/operator/raft/peer?id={}", id(5));
        let removed = cluster.ask(2, "DELETE", &uri).await;
        assert_eq!((removed.status, &*removed.body), (200, ""));
    });
    on_cluster(|cluster| async move {
        behind(&cluster).await;
        let uri = format!("/v1/operator/raft/transfer-leadership?address={}", address(5));
        let refused = cluster.ask(2, "PUT", &uri).await;
        assert_eq!(refused.body, format!("server \"{}\" is not a voter", id(5)));
    });
    on_cluster(|cluster| async move {
        behind(&cluster).await;
        assert!(cluster.ask(2, "GET", "/v1/status/peers").await.body.contains(&address(5)));
        behind_no_more(&cluster).await;
    });
}

async fn behind_no_more(cluster: &Cluster) {
    let stale = cluster.ask(2, "GET", "/v1/status/peers?stale").await;
    assert!(stale.body.contains(&address(5)), "{}", stale.body);
}

#[test]
fn a_held_request_is_answered_as_soon_as_somebody_leads() {
    on_cluster(|cluster| async move {
        (1..=3).for_each(|n| cluster.network.isolate(&address(n)));
        cluster.pause(10_000).await;
        let began = cluster.process.now();
        let (network, process) = (cluster.network.clone(), cluster.process.clone());
        cluster.process.spawn(Box::pin(async move {
            process.timer(process.now() + Duration::from_secs(2)).await;
            network.heal();
        }));
        assert_eq!(cluster.ask(2, "GET", CONFIGURATION).await.status, 200);
        let held = cluster.process.now() - began;
        assert!((2_000..5_000).contains(&held.as_millis()), "{held:?}");
    });
}

#[test]
fn a_leader_that_cannot_serve_yet_says_so() {
    on_cluster(|cluster| async move {
        let delay = Duration::from_millis(200)..Duration::from_millis(201);
        cluster.network.set_faults(Faults { delay, ..Faults::default() });
        cluster.network.isolate(&address(1));
        let new = loop {
            let leads = |n: &usize| {
                let status = cluster.rafts[*n].status();
                status.role == RaftRole::Leader && !status.established
            };
            match [1, 2].into_iter().find(leads) {
                Some(new) => break new,
                None => cluster.pause(10).await,
            }
        };
        let mut config = ApiConfig::default();
        config.hold = Duration::from_millis(20);
        let api = cluster.api(new + 1, acls(), config);
        let refused = answer(&api, get(CONFIGURATION)).await;
        let text = "Not ready to serve consistent reads";
        assert_eq!((refused.status, &*refused.body), (500, text));
    });
}

#[test]
fn a_node_that_has_stopped_says_so_at_once() {
    on_cluster(|cluster| async move {
        cluster.rafts[1].clone().shutdown().await.unwrap();
        let began = cluster.process.now();
        for (method, uri) in [
            ("GET", CONFIGURATION.to_owned()),
            ("DELETE", format!("/v1/operator/raft/peer?id={}", id(4))),
            ("PUT", format!("/v1/operator/raft/transfer-leadership?id={}", id(1))),
        ] {
            let refused = cluster.ask(2, method, &uri).await;
            assert_eq!((refused.status, &*refused.body), (500, "raft is already shutdown"));
        }
        assert_eq!(cluster.process.now(), began);
    });
}
