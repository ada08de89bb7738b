use kontiki::{Change, Member};

use crate::{Answer, Cluster, acls, address, id, on_cluster};

const TEXT: Option<&str> = Some("text/plain; charset=utf-8");
const JSON: Option<&str> = Some("application/json");

fn assert(answer: &Answer, status: u16, content_type: Option<&str>, body: &str) {
    let found = (answer.status, answer.content_type.as_deref(), answer.body.as_str());
    assert_eq!(found, (status, content_type, body));
}

async fn table(cluster: &Cluster, rows: &[(&str, &str, u16, Option<&str>, &str)]) {
    // The same from the leader and from a follower.
    for n in [1, 2] {
        for (method, uri, status, content_type, body) in rows {
            let answer = cluster.ask(n, method, uri).await;
            let found = (answer.status, answer.content_type.as_deref(), answer.body.as_str());
            assert_eq!(found, (*status, *content_type, *body), "{method} {uri} on server {n}");
        }
    }
}

const CONFIGURATION: &str = "/v1/operator/raft/configuration";
const PEER: &str = "/v1/operator/raft/peer";
const TRANSFER: &str = "/v1/operator/raft/transfer-leadership";

#[test]
fn paths_and_methods_are_nomads() {
    on_cluster(|cluster| async move {
        table(
            &cluster,
            &[
                ("POST", CONFIGURATION, 405, None, ""),
                ("HEAD", CONFIGURATION, 405, None, ""),
                ("DELETE", CONFIGURATION, 405, None, ""),
                ("OPTIONS", CONFIGURATION, 405, None, ""),
                ("GET", PEER, 404, TEXT, "Invalid method"),
                ("PUT", "/v1/operator/raft/peer?id=x", 404, TEXT, "Invalid method"),
                ("POST", "/v1/operator/raft/peer?id=x", 404, TEXT, "Invalid method"),
                ("OPTIONS", PEER, 404, TEXT, "Invalid method"),
                ("GET", TRANSFER, 405, TEXT, "Invalid method"),
                ("DELETE", TRANSFER, 405, TEXT, "Invalid method"),
                ("HEAD", TRANSFER, 405, TEXT, "Invalid method"),
                ("OPTIONS", TRANSFER, 405, TEXT, "Invalid method"),
                ("PATCH", TRANSFER, 405, TEXT, "Invalid method"),
                ("TRACE", TRANSFER, 405, TEXT, "Invalid method"),
                // The method comes before every parameter, and the region.
                ("GET", "/v1/operator/raft/peer?region=x", 404, TEXT, "Invalid method"),
                ("GET", "/v1/operator/raft/transferX?id=x", 404, TEXT, "Invalid method"),
                ("GET", "/v1/operator/raft/other", 404, TEXT, "Invalid method"),
                ("GET", "/v1/other", 404, None, ""),
                ("GET", "/v1/status/leader/", 404, None, ""),
                ("PUT", "/v1/status/leader", 405, TEXT, "Invalid method"),
                (
                    "DELETE",
                    "/v1/operator/raft/peers",
                    400,
                    TEXT,
                    "Must specify the peer's ID to remove",
                ),
                ("GET", "/v1/operator/raft", 307, None, ""),
            ],
        )
        .await;
        let redirect = cluster.ask(1, "GET", "/v1/operator/raft?a=b").await;
        assert_eq!(redirect.headers["location"], "/v1/operator/raft/?a=b");
        let found = cluster.ask(1, "GET", "/v1/operator/raft/configuration/anything").await;
        assert_eq!(found.status, 200);
        assert_eq!(found.headers["vary"], "Accept-Encoding");
    });
}

#[test]
fn the_configuration_is_nomads_to_the_byte() {
    on_cluster(|cluster| async move {
        let index = cluster.rafts[0].status().membership.index();
        let server = |n: u64, leader: bool, node: &str, voter: bool| {
            format!(
                "{{\"Address\":\"{}\",\"ID\":\"{}\",\"Leader\":{leader},\"Node\":\"{node}\",\
                 \"RaftProtocol\":\"3\",\"Voter\":{voter}}}",
                address(n),
                id(n)
            )
        };
        let servers = [
            server(1, true, "n1.global", true),
            server(2, false, "n2.global", true),
            server(3, false, "n3.global", true),
            server(4, false, "(unknown)", false),
        ];
        let body = format!("{{\"Index\":{index},\"Servers\":[{}]}}", servers.join(","));
        let queries = [
            "",
            "X",
            "?stale",
            "?stale=",
            "?stale=1",
            "?stale=true",
            "?stale=True",
            "?stale=0",
            "?stale=False",
            "?stale=true&stale=no",
            "?pretty=0",
            "?pretty=0&pretty",
            "?wait=1m30s&index=7",
            "?wait=-1.5h.5ms&per_page=-3",
            "?foo=bar&namespace=x&consistent",
            "?region=",
        ];
        for uri in queries {
            let uri = format!("{CONFIGURATION}{uri}");
            table(&cluster, &[("GET", &uri, 200, JSON, &body)]).await;
        }
        let pretty = cluster.ask(2, "GET", &format!("{CONFIGURATION}?pretty")).await.body;
        assert!(pretty.starts_with("{\n    \"Index\": ") && pretty.ends_with("]\n}\n"), "{pretty}");
        let leader = format!("\"{}\"", address(1));
        table(&cluster, &[("GET", "/v1/status/leader", 200, JSON, &leader)]).await;
        let peers: Vec<String> = (1..=4).map(|n| format!("\"{}\"", address(n))).collect();
        let peers = format!("[{}]", peers.join(","));
        table(&cluster, &[("GET", "/v1/status/peers", 200, JSON, &peers)]).await;
    });
}

#[test]
fn bad_parameters_are_refused_in_nomads_words() {
    on_cluster(|cluster| async move {
        let stale = "Expect `true` or `false` for `stale` query string parameter";
        let page = "Expect a number for `per_page` query string parameter";
        for (query, text) in [
            ("stale=yes", stale),
            ("stale=tRUE", stale),
            ("per_page=x", page),
            ("wait=5", "Invalid wait time"),
            ("wait=5x", "Invalid wait time"),
            ("wait=60foo", "Invalid wait time"),
            ("wait=.s", "Invalid wait time"),
            ("wait=2562048h", "Invalid wait time"),
            ("per_page=2147483648", page),
            ("index=foo", "Invalid index"),
            ("index=%2B7", "Invalid index"),
            ("stale=%20true", stale),
            ("stale=no&stale=true", stale),
            ("per_page=x&wait=5x&index=x", page),
            ("wait=5x&index=x", "Invalid wait time"),
            ("index=-1", "Invalid index"),
            ("index=99999999999999999999", "Invalid index"),
            ("stale=yes&index=x", stale),
        ] {
            let uri = format!("{CONFIGURATION}?{query}");
            table(&cluster, &[("GET", &uri, 400, TEXT, text)]).await;
        }
        let dropped = format!("{CONFIGURATION}?stale=%zz&index=1;2");
        assert_eq!(cluster.ask(1, "GET", &dropped).await.status, 200, "bad pairs are no pairs");
        let region = format!("{CONFIGURATION}?region=elsewhere");
        table(&cluster, &[("GET", &region, 500, TEXT, "No path to region")]).await;
        let region = cluster.ask(1, "GET", &format!("{CONFIGURATION}?region=global")).await;
        assert_eq!(region.status, 200);
    });
}

#[test]
fn removing_checks_in_nomads_order() {
    on_cluster(|cluster| async move {
        let not_found = |what: &str| format!("{what} was not found in the Raft configuration");
        let rows = [
            ("", 400, "Must specify the peer's ID to remove".to_owned()),
            ("?id=a&address=b", 400, "must specify either id or address".to_owned()),
            ("?id&address", 400, "must specify either id or address".to_owned()),
            ("?address=", 400, "address must be non-empty".to_owned()),
            ("?address=a&address=b", 400, "must specify only one address".to_owned()),
            ("?id=nope", 500, not_found("id \"nope\"")),
            ("?id", 500, not_found("id \"\"")),
            ("?id=no%22pe%0a", 500, not_found("id \"no\\\"pe\\n\"")),
            ("?address=1.2.3.4:5", 500, not_found("address \"1.2.3.4:5\"")),
            // The first of several ids, and no more of the query than that.
            ("?id=nope&id=00000000-0000-0003-0000-000000000000", 500, not_found("id \"nope\"")),
            ("?id=x&stale=banana&index=x", 500, not_found("id \"x\"")),
            ("?id=a+b", 500, not_found("id \"a b\"")),
            ("?id=a%7f%c2%85%e2%80%8b", 500, not_found("id \"a\\x7f\\u0085\\u200b\"")),
            ("?region=elsewhere", 400, "Must specify the peer's ID to remove".to_owned()),
            ("?id=x&region=elsewhere", 500, "No path to region".to_owned()),
        ];
        for (query, status, text) in &rows {
            let uri = format!("{PEER}{query}");
            table(&cluster, &[("DELETE", &uri, *status, TEXT, text)]).await;
        }
        let by_address = cluster.ask(2, "DELETE", &format!("{PEER}?address={}", address(4))).await;
        assert(&by_address, 200, None, "");
        let by_id = cluster.ask(2, "DELETE", &format!("{PEER}?id={}", id(3))).await;
        assert(&by_id, 200, None, "");
        let again = cluster.ask(1, "DELETE", &format!("{PEER}?id={}", id(3))).await;
        assert(&again, 500, TEXT, &not_found(&format!("id \"{}\"", id(3))));
        // The leader too; then the last voter, which stays.
        let leader = cluster.ask(1, "DELETE", &format!("{PEER}?id={}", id(1))).await;
        assert(&leader, 200, None, "");
        cluster.pause(3_000).await;
        let last = cluster.ask(2, "DELETE", &format!("{PEER}?id={}", id(2))).await;
        assert(&last, 500, TEXT, "need at least one voter in configuration: {[]}");
    });
}

/// Each of these transfers is refused with 400 and this text, by both methods.
async fn refused(cluster: &Cluster, rows: &[(&str, &str)]) {
    for (query, text) in rows {
        let uri = format!("{TRANSFER}?{query}");
        table(cluster, &[("PUT", &uri, 400, TEXT, text), ("POST", &uri, 400, TEXT, text)]).await;
    }
}

#[test]
fn transferring_checks_in_nomads_order() {
    on_cluster(|cluster| async move {
        let rows = [
            ("", "must specify id or address"),
            ("id=&address=", "must specify either id or address"),
            ("id=", "id must be non-empty"),
            ("id=&id=b", "id must be non-empty"),
            ("id=a&id=b", "must specify only one id"),
            ("address=", "address must be non-empty"),
            ("address=a&address=b", "must specify only one address"),
            // The agent looks at the form before anybody looks for the region.
            ("address=nope&region=elsewhere", "address must be in IP:port format: not an ip:port"),
        ];
        refused(&cluster, &rows).await;
        let region = format!("{TRANSFER}?id={}&region=elsewhere", id(1));
        table(&cluster, &[("PUT", &region, 500, TEXT, "No path to region")]).await;
    });
}

#[test]
fn ids_and_addresses_must_have_the_form_that_go_wants() {
    on_cluster(|cluster| async move {
        let ids = [
            ("7", "uuid string is wrong length"),
            ("000000000000000000000000000000000000", "uuid is improperly formatted"),
            ("gggggggg-0000-0000-0000-000000000000", "encoding/hex: invalid byte: U+0067 'g'"),
            // Go names the first byte of a character, and quotes what can be printed.
            ("%c3%a9gggggg-0000-0000-0000-000000000000", "encoding/hex: invalid byte: U+00C3 'Ã'"),
            ("%00ggggggg-0000-0000-0000-000000000000", "encoding/hex: invalid byte: U+0000"),
        ];
        for (id, text) in ids {
            let text = format!("id must be a uuid: {text}");
            refused(&cluster, &[(&format!("id={id}"), &text)]).await;
        }
        let addresses = [
            ("nope", "not an ip:port"),
            (":1", "no IP"),
            ("1.2.3.4:", "no port"),
            ("[::1:9", "missing ]"),
            ("1.2.3.4:99999", "invalid port \"99999\" parsing \"1.2.3.4:99999\""),
            ("1.2.3.4:%2B5", "invalid port \"+5\" parsing \"1.2.3.4:+5\""),
            ("localhost:1", "ParseAddr(\"localhost\"): unable to parse IP"),
            ("[fe80::1%25]:9", "ParseAddr(\"fe80::1%\"): zone must be a non-empty string"),
            (
                "::1:4647",
                "invalid ip:port \"::1:4647\", \
                 IPv6 addresses must be surrounded by square brackets",
            ),
            (
                "[1.2.3.4]:9",
                "invalid ip:port \"[1.2.3.4]:9\", \
                 square brackets can only be used with IPv6 addresses",
            ),
        ];
        for (address, text) in addresses {
            let text = format!("address must be in IP:port format: {text}");
            refused(&cluster, &[(&format!("address={address}"), &text)]).await;
        }
    });
}

#[test]
fn a_transfer_to_nobody_or_to_who_does_not_vote_is_refused() {
    on_cluster(|cluster| async move {
        let lettered = id(0x00ab_cdef);
        let learner = Change::Add(Member::learner(lettered, "", "node-x"));
        cluster.rafts[0].change_membership(learner).await.unwrap();
        let missing = "0e0e0e0e-0000-0000-0000-000000000000";
        // Looked up as it is written, and ours are in lower case.
        let upper = lettered.to_string().to_uppercase();
        let ids = [missing, upper.as_str()].map(|id| (format!("id={id}"), format!("id \"{id}\"")));
        let addresses = ["9.9.9.9:0", "[::1]:9", "1.2.3.4:08"]
            .map(|address| (format!("address={address}"), format!("address \"{address}\"")));
        for (query, who) in ids.into_iter().chain(addresses) {
            let text = format!("{who} was not found in the Raft configuration");
            refused(&cluster, &[(&query, &text)]).await;
        }
        // A member's address is one, whatever its form.
        for (query, who) in [
            (format!("id={}", id(4)), id(4)),
            (format!("address={}", address(4)), id(4)),
            ("address=node-x".to_owned(), lettered),
        ] {
            refused(&cluster, &[(&query, &format!("server \"{who}\" is not a voter"))]).await;
        }
    });
}

#[test]
fn a_transfer_answers_when_the_target_leads_or_says_why_it_does_not() {
    on_cluster(|cluster| async move {
        let place = |n: u64| format!("{{\"Address\":\"{}\",\"ID\":\"{}\"}}", address(n), id(n));
        let body = |from: u64, to: u64, noop: bool| {
            format!(
                "{{\"Err\":null,\"From\":{},\"Noop\":{noop},\"To\":{}}}",
                place(from),
                place(to)
            )
        };
        let noop = cluster.ask(2, "PUT", &format!("{TRANSFER}?id={}", id(1))).await;
        assert(&noop, 200, JSON, &body(1, 1, true));
        let by_id = cluster.ask(2, "PUT", &format!("{TRANSFER}?id={}", id(3))).await;
        assert(&by_id, 200, JSON, &body(1, 3, false));
        assert!(cluster.rafts[2].status().leader == Some(id(3)));
        let by_address =
            cluster.ask(2, "POST", &format!("{TRANSFER}?address={}", address(1))).await;
        assert(&by_address, 200, JSON, &body(3, 1, false));
        // A target that cannot take over: the old leader serves again, and says why.
        cluster.network.isolate(&address(3));
        let failed = cluster.ask(1, "PUT", &format!("{TRANSFER}?id={}", id(3))).await;
        let text = "failed to transfer leadership in 3 attempts. last error: ";
        assert!(failed.status == 500 && failed.body.starts_with(text), "{}", failed.body);
        assert_eq!(cluster.ask(2, "GET", CONFIGURATION).await.status, 200);
    });
}

#[test]
fn without_a_leader_requests_are_held_and_only_stale_ones_are_answered() {
    on_cluster(|cluster| async move {
        for n in 1..=3 {
            cluster.network.isolate(&address(n));
        }
        cluster.pause(10_000).await;
        for (method, uri) in [
            ("GET", CONFIGURATION.to_owned()),
            ("DELETE", format!("{PEER}?id=nope")),
            ("PUT", format!("{TRANSFER}?id={}", id(2))),
            ("GET", "/v1/status/leader".to_owned()),
        ] {
            let began = kontiki::runtime::Runtime::now(&*cluster.process);
            let answer = cluster.ask_as(1, method, &uri, acls(), &[]).await;
            assert(&answer, 500, TEXT, "No cluster leader");
            let held = kontiki::runtime::Runtime::now(&*cluster.process) - began;
            assert!((4_900..6_000).contains(&held.as_millis()), "{uri} was held {held:?}");
        }
        let stale = cluster.ask(1, "GET", &format!("{CONFIGURATION}?stale")).await;
        assert!(stale.status == 200 && !stale.body.contains("\"Leader\":true"), "{}", stale.body);
        let leader = cluster.ask(1, "GET", "/v1/status/leader?stale").await;
        assert(&leader, 200, JSON, "\"\"");
        // Parameters are looked at before anything is held.
        assert_eq!(cluster.ask(1, "PUT", TRANSFER).await.status, 400);
    });
}

#[test]
fn with_acls_only_a_management_token_opens_the_raft_endpoints() {
    on_cluster(|cluster| async move {
        let denied: [&[(&str, &str)]; 4] = [
            &[],
            &[("x-nomad-token", "wrong")],
            &[("authorization", "Basic management")],
            &[("x-nomad-token", "wrong"), ("authorization", "Bearer management")],
        ];
        let remove = format!("{PEER}?id=nope");
        let transfer = format!("{TRANSFER}?id={}", id(1));
        let calls = [("GET", CONFIGURATION), ("DELETE", &remove), ("PUT", &transfer)];
        for n in [1, 2] {
            for (method, uri) in calls {
                for headers in denied {
                    let answer = cluster.ask_as(n, method, uri, acls(), headers).await;
                    assert(&answer, 403, TEXT, "Permission denied");
                }
            }
            for headers in
                [("x-nomad-token", " management "), ("authorization", "bearer management")]
            {
                let answer = cluster.ask_as(n, "GET", CONFIGURATION, acls(), &[headers]).await;
                assert_eq!(answer.status, 200);
            }
            let stale = format!("{CONFIGURATION}?stale");
            assert_eq!(cluster.ask_as(n, "GET", &stale, acls(), &[]).await.status, 403);
            let open = cluster.ask_as(n, "GET", "/v1/status/leader", acls(), &[]).await;
            assert_eq!(open.status, 200, "needs no token");
            let wrong = cluster.ask_as(n, "PUT", TRANSFER, acls(), &[]).await;
            assert_eq!(wrong.status, 400, "parameters come before the token");
        }
    });
}
