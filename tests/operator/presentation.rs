use std::io::Read as _;
use std::sync::Arc;

use flate2::read::{DeflateDecoder, GzDecoder};
use http::Request;
use kontiki::http::Body;
use kontiki::operator::{AllowAll, ApiConfig};

use crate::{Answer, Cluster, answer, on_cluster};

const CONFIGURATION: &str = "/v1/operator/raft/configuration";

async fn accepting(cluster: &Cluster, method: &str, encoding: &str, upgrade: bool) -> Answer {
    let api = cluster.api(2, Arc::new(AllowAll::new()), ApiConfig::default());
    let request = Request::builder().method(method).uri(CONFIGURATION);
    let mut request = request.header("accept-encoding", encoding);
    if upgrade {
        request = request.header("upgrade", "x");
    }
    answer(&api, request.body(Body::empty()).unwrap()).await
}

#[test]
fn whoever_asks_for_gzip_or_deflate_gets_it() {
    on_cluster(|cluster| async move {
        let plain = cluster.ask(2, "GET", CONFIGURATION).await;
        let mut text = String::new();
        let gzip = accepting(&cluster, "GET", "br, gzip, deflate", false).await;
        assert_eq!(gzip.headers["content-encoding"], "gzip");
        assert_eq!(gzip.content_type.as_deref(), Some("application/json"));
        GzDecoder::new(&gzip.bytes[..]).read_to_string(&mut text).unwrap();
        assert_eq!(text, plain.body);
        text.clear();
        let deflate = accepting(&cluster, "GET", "deflate,gzip", false).await;
        assert_eq!(deflate.headers["content-encoding"], "deflate");
        DeflateDecoder::new(&deflate.bytes[..]).read_to_string(&mut text).unwrap();
        assert_eq!(text, plain.body);
        // Also what is empty, and what went wrong.
        text.clear();
        let empty = accepting(&cluster, "POST", "gzip", false).await;
        assert_eq!((empty.status, empty.content_type.as_deref()), (405, None));
        GzDecoder::new(&empty.bytes[..]).read_to_string(&mut text).unwrap();
        assert!(!empty.bytes.is_empty() && text.is_empty());
    });
}

#[test]
fn nothing_else_is_compressed() {
    on_cluster(|cluster| async move {
        let plain = cluster.ask(2, "GET", CONFIGURATION).await;
        for (encoding, upgrade) in
            [("gzip;q=0.5", false), ("GZIP", false), ("br", false), ("*", false), ("gzip", true)]
        {
            let answer = accepting(&cluster, "GET", encoding, upgrade).await;
            assert_eq!(answer.body, plain.body, "{encoding}");
            assert!(!answer.headers.contains_key("content-encoding"), "{encoding}");
        }
    });
}

#[test]
fn paths_are_read_as_go_reads_them() {
    on_cluster(|cluster| async move {
        for (path, to) in [
            ("/v1/operator/raft", "/v1/operator/raft/"),
            ("/v1//operator/raft/configuration", "/v1/operator/raft/configuration"),
            ("/v1/x/../operator/./raft/peer", "/v1/operator/raft/peer"),
            ("/v1/operator/raft/peer/..", "/v1/operator/raft"),
            ("//", "/"),
            ("/../../v1/", "/v1/"),
        ] {
            for (query, method) in [("", "GET"), ("?a=b", "DELETE")] {
                let redirect = cluster.ask(2, method, &format!("{path}{query}")).await;
                assert_eq!((redirect.status, redirect.content_type), (307, None), "{path}");
                assert_eq!(redirect.headers["location"], format!("{to}{query}"));
            }
        }
        let escaped = cluster.ask(2, "GET", "/v1/operator/raft/%63onfiguration").await;
        assert_eq!(escaped.status, 200);
        let star = cluster.ask(2, "OPTIONS", "*").await;
        assert_eq!((star.status, &*star.body, star.content_type), (200, "", None));
        assert_eq!(cluster.ask(2, "GET", "*").await.status, 404);
    });
}

#[test]
fn an_empty_membership_is_null() {
    on_cluster(|mut cluster| async move {
        cluster.add_blank().await;
        let blank = cluster.ask(4, "GET", &format!("{CONFIGURATION}?stale")).await;
        assert_eq!((blank.status, &*blank.body), (200, "{\"Index\":0,\"Servers\":null}"));
        let peers = cluster.ask(4, "GET", "/v1/status/peers?stale").await;
        assert_eq!(peers.body, "[]");
    });
}
