use crate::{Answer, Cluster, on_cluster};

fn index(answer: &Answer) -> u64 {
    let json: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    json["index"].as_u64().unwrap()
}

async fn assert(cluster: &Cluster, n: usize, method: &str, uri: &str, status: u16, text: &str) {
    let answer = cluster.ask(n, method, uri, "").await;
    assert_eq!((answer.status, answer.text()), (status, text), "{method} {uri} on {n}");
}

#[test]
fn any_server_takes_any_request() {
    on_cluster(|cluster| async move {
        for n in 1..=3 {
            let uri = format!("/kv/key-{n}");
            let put = cluster.ask(n, "PUT", &uri, "value").await;
            assert_eq!((put.status, &put.headers["content-type"]), (200, &json()));
            for reader in 1..=3 {
                let got = cluster.ask(reader, "GET", &uri, "").await;
                assert_eq!((got.status, got.text()), (200, "value"));
                assert_eq!(got.headers["x-kv-index"], index(&put).to_string());
            }
            let deleted = cluster.ask(n, "DELETE", &uri, "").await;
            assert!(deleted.status == 200 && index(&deleted) > index(&put));
            assert_eq!(cluster.ask(1 + n % 3, "GET", &uri, "").await.status, 404);
            // What is not there can be deleted too.
            assert_eq!(cluster.ask(n, "DELETE", &uri, "").await.status, 200);
        }
        assert_eq!(cluster.ask(2, "GET", "/v1/operator/raft/configuration", "").await.status, 200);
    });
}

fn json() -> http::HeaderValue {
    http::HeaderValue::from_static("application/json")
}

#[test]
fn a_comparison_that_fails_changes_nothing_and_tells_the_index() {
    on_cluster(|cluster| async move {
        let refused = |answer: &Answer, at: u64| {
            assert_eq!(answer.status, 409, "{}", answer.text());
            assert_eq!(index(answer), at);
            assert!(answer.text().contains("\"error\":"));
        };
        // Index 0: it must not exist. A value: it must.
        let absent = cluster.ask(2, "PUT", "/kv/a?cas=x", "1").await;
        refused(&absent, 0);
        refused(&cluster.ask(2, "PUT", "/kv/a?cas_index=5", "1").await, 0);
        let first = index(&cluster.ask(2, "PUT", "/kv/a?cas_index=0", "1").await);
        refused(&cluster.ask(3, "PUT", "/kv/a?cas_index=0", "2").await, first);
        refused(&cluster.ask(3, "PUT", "/kv/a?cas=2", "2").await, first);
        refused(
            &cluster.ask(3, "PUT", &format!("/kv/a?cas_index={}", first + 1), "2").await,
            first,
        );
        assert(&cluster, 1, "GET", "/kv/a", 200, "1").await;
        let second = cluster.ask(3, "PUT", &format!("/kv/a?cas_index={first}"), "2 +").await;
        assert!(second.status == 200 && index(&second) > first);
        // In a query a plus sign is a space, as in a form; escaped it is one.
        let third = cluster.ask(3, "PUT", "/kv/a?cas=2+%2B", "").await;
        assert_eq!(third.status, 200, "{}", third.text());
        assert_eq!(cluster.ask(3, "PUT", "/kv/a?cas=", "3").await.status, 200, "an empty value");
    });
}

#[test]
fn reads_are_as_fresh_as_is_asked() {
    on_cluster(|cluster| async move {
        cluster.ask(1, "PUT", "/kv/a", "old").await;
        cluster.pause(1_000).await;
        cluster.network.isolate("kv-3");
        cluster.ask(1, "PUT", "/kv/a", "new").await;
        assert(&cluster, 3, "GET", "/kv/a?consistency=stale", 200, "old").await;
        cluster.network.heal();
        for consistency in ["", "?consistency=linearizable", "?consistency=lease"] {
            assert(&cluster, 3, "GET", &format!("/kv/a{consistency}"), 200, "new").await;
        }
        assert(&cluster, 3, "GET", "/kv?prefix=a&consistency=stale", 200, "[\"a\"]").await;
        for bad in ["", "Stale", "quorum"] {
            let answer = cluster.ask(3, "GET", &format!("/kv/a?consistency={bad}"), "").await;
            assert_eq!(answer.status, 400);
        }
    });
}

#[test]
fn keys_and_values_are_bytes() {
    on_cluster(|cluster| async move {
        let all: Vec<u8> = (0..=255).collect();
        let escaped: String = all.iter().map(|byte| format!("%{byte:02x}")).collect();
        let uri = format!("/kv/{escaped}");
        assert_eq!(cluster.ask(2, "PUT", &uri, all.clone()).await.status, 200);
        assert_eq!(cluster.ask(3, "GET", &uri, "").await.body, all);
        let prefix = format!("/kv?prefix={}", &escaped[..6]);
        assert!(cluster.ask(1, "GET", &prefix, "").await.text().starts_with("[\"%00%01"));
        let cas = cluster.ask(1, "PUT", &format!("{uri}?cas={escaped}"), "x").await;
        assert_eq!(cas.status, 200, "{}", cas.text());
        // A path is no form: a plus sign is one, and a slash is part of the key.
        cluster.ask(1, "PUT", "/kv/a+b/c", "y").await;
        assert(&cluster, 2, "GET", "/kv/a%2Bb%2Fc", 200, "y").await;
    });
}

#[test]
fn a_list_has_the_keys_of_a_prefix_in_order() {
    on_cluster(|cluster| async move {
        assert(&cluster, 2, "GET", "/kv?prefix=", 200, "[]").await;
        for key in ["b", "a/2", "a/1", "a", "a%20b", "%ff%41", "%fe"] {
            assert_eq!(cluster.ask(1, "PUT", &format!("/kv/{key}"), "").await.status, 200);
        }
        // What is no text is listed with escapes, so that two keys never look alike.
        let all = "[\"a\",\"a b\",\"a/1\",\"a/2\",\"b\",\"%FE\",\"%FFA\"]";
        assert(&cluster, 2, "GET", "/kv?prefix=", 200, all).await;
        assert(&cluster, 3, "GET", "/kv", 200, all).await;
        assert(&cluster, 3, "GET", "/kv?prefix=a%2f", 200, "[\"a/1\",\"a/2\"]").await;
        assert(&cluster, 3, "GET", "/kv?prefix=a+", 200, "[\"a b\"]").await;
        assert(&cluster, 3, "GET", "/kv?prefix=%ff", 200, "[\"%FFA\"]").await;
        assert(&cluster, 3, "GET", "/kv?prefix=c", 200, "[]").await;
    });
}

#[test]
fn a_value_may_have_a_mebibyte_and_no_more() {
    on_cluster(|cluster| async move {
        let most = vec![0xab; 1 << 20];
        let key = "%ff".repeat(4_000);
        let put = cluster.ask(2, "PUT", &format!("/kv/{key}"), most.clone()).await;
        assert_eq!(put.status, 200, "{}", put.text());
        assert_eq!(cluster.ask(3, "GET", &format!("/kv/{key}"), "").await.body, most);
        let over = cluster.ask(2, "PUT", "/kv/a", vec![0; (1 << 20) + 1]).await;
        assert_eq!(over.status, 413);
        assert!(over.text().contains("\"error\":"), "{}", over.text());
        assert_eq!(cluster.ask(3, "GET", "/kv/a", "").await.status, 404);
    });
}

#[test]
fn what_cannot_be_meant_is_refused() {
    on_cluster(|cluster| async move {
        for (method, uri, status) in [
            ("PUT", "/kv/a?cas=x&cas_index=1", 400),
            ("PUT", "/kv/a?cas_index=", 400),
            ("PUT", "/kv/a?cas_index=-1", 400),
            ("PUT", "/kv/a?cas_index=x", 400),
            ("PUT", "/kv/a?cas_index=18446744073709551616", 400),
            ("PUT", "/kv", 405),
            ("DELETE", "/kv?prefix=a", 405),
            ("POST", "/kv/a", 405),
            ("HEAD", "/kv/a", 405),
            ("GET", "/kvx", 404),
        ] {
            let answer = cluster.ask(1, method, uri, "x").await;
            assert_eq!(answer.status, status, "{method} {uri}");
            assert_eq!(answer.headers.contains_key("allow"), status == 405, "{method} {uri}");
        }
        assert(&cluster, 1, "GET", "/kv", 200, "[]").await;
    });
}
