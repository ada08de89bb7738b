use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::io::AsyncRead;
use kontiki::http::Body;

use crate::{Answer, Cluster, address, on_cluster};

fn outcome(answer: &Answer) -> (u16, String) {
    let json: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert!(json["error"].is_string(), "{json}");
    (answer.status, json["outcome"].as_str().unwrap_or("none").to_owned())
}

#[test]
fn a_command_that_was_under_way_when_the_majority_was_lost_is_unknown() {
    on_cluster(|cluster| async move {
        (2..=3).for_each(|n| cluster.network.isolate(&address(n)));
        let put = cluster.ask(1, "PUT", "/kv/a", "x").await;
        assert_eq!(outcome(&put), (504, "unknown".to_owned()));
    });
}

#[test]
fn without_a_leader_nothing_was_applied_and_only_stale_reads_are_answered() {
    on_cluster(|cluster| async move {
        cluster.ask(1, "PUT", "/kv/a", "x").await;
        cluster.pause(1_000).await;
        (1..=3).for_each(|n| cluster.network.isolate(&address(n)));
        cluster.pause(10_000).await;
        for (method, uri) in
            [("PUT", "/kv/a"), ("DELETE", "/kv/a"), ("GET", "/kv/a"), ("GET", "/kv?prefix=")]
        {
            let answer = cluster.ask(2, method, uri, "y").await;
            assert_eq!(outcome(&answer), (503, "not_applied".to_owned()), "{method} {uri}");
        }
        let stale = cluster.ask(2, "GET", "/kv/a?consistency=stale", "").await;
        assert_eq!((stale.status, stale.text()), (200, "x"));
        // The promise is kept: nothing of it turns up later.
        cluster.network.heal();
        cluster.pause(10_000).await;
        assert_eq!(cluster.ask(3, "GET", "/kv/a", "").await.text(), "x");
    });
}

#[test]
fn a_server_that_has_stopped_applies_nothing() {
    on_cluster(|cluster: Cluster| async move {
        cluster.raft(2).shutdown().await.unwrap();
        for method in ["PUT", "DELETE", "GET"] {
            let answer = cluster.ask(2, method, "/kv/a", "x").await;
            assert_eq!(outcome(&answer), (503, "not_applied".to_owned()));
        }
        assert_eq!(cluster.ask(1, "GET", "/kv/a", "").await.status, 404);
    });
}

struct Broken(io::ErrorKind);

impl AsyncRead for Broken {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(self.0.into()))
    }
}

#[test]
fn a_body_that_breaks_off_changes_nothing() {
    on_cluster(|cluster| async move {
        for (kind, status) in [(io::ErrorKind::UnexpectedEof, 400), (io::ErrorKind::TimedOut, 408)]
        {
            let body = futures::io::AsyncReadExt::chain(&b"begun"[..], Broken(kind));
            let put = cluster.ask(1, "PUT", "/kv/a", Body::Stream(Box::pin(body))).await;
            assert_eq!(put.status, status, "{}", put.text());
        }
        assert_eq!(cluster.ask(1, "GET", "/kv/a", "").await.status, 404);
    });
}
