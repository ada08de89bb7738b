use std::path::Path;

use crate::{Program, ask, guarded, ports, text};

/// One server, as its own process.
pub(crate) struct Server {
    pub(crate) program: Program,
    pub(crate) http: String,
    pub(crate) peer: String,
}

/// Starts a server; for HTTP it is at any port, for its peers where `more` says, or at one to which
/// it can come back.
pub(crate) async fn start(name: &str, data: &Path, more: &[&str]) -> Server {
    let mut arguments = vec!["--name", name, "--data", text(data), "--http", "127.0.0.1:0"];
    let own = ports::own_address().unwrap();
    if !more.contains(&"--peer") {
        arguments.extend(["--peer", &own]);
    }
    arguments.extend(more);
    let mut program = Program::start("kv", &arguments);
    let ready = program.line("HTTP on ").await;
    let (_, addresses) = ready.split_once("HTTP on ").unwrap();
    let (http, peer) = addresses.split_once(", peers on ").unwrap();
    Server { http: http.to_owned(), peer: peer.to_owned(), program }
}

#[test]
fn three_processes_on_three_runtimes_are_one_store() {
    guarded(async {
        let data = tempfile::tempdir().unwrap();
        let at = |name: &str| data.path().join(name);
        let mut n1 = start("n1", &at("n1"), &["--bootstrap"]).await;
        let join = n1.peer.clone();
        let n2 = start("n2", &at("n2"), &["--join", &join, "--runtime", "tokio"]).await;
        let joins = format!("127.0.0.1:1,{}", n2.peer);
        let n3 = start("n3", &at("n3"), &["--join", &joins, "--runtime", "async-std"]).await;
        n1.program.line("leads 3 members, 3 vote").await;

        let most: Vec<u8> = (0..1 << 20).map(|n: u32| n.to_le_bytes()[0]).collect();
        for (writer, reader) in [(&n1, &n2), (&n2, &n3), (&n3, &n1)] {
            let (status, _, body) = ask(&writer.http, "PUT", "/kv/%ff%00", &most).await;
            assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
            let (status, head, body) = ask(&reader.http, "GET", "/kv/%ff%00", b"").await;
            assert!(status == 200 && head.contains("\r\nx-kv-index: "), "{head}");
            assert!(body == most);
        }
        let mut over = most.clone();
        over.push(0);
        assert_eq!(ask(&n2.http, "PUT", "/kv/over", &over).await.0, 413);
        let configuration = ask(&n3.http, "GET", "/v1/operator/raft/configuration", b"").await;
        let members = String::from_utf8(configuration.2).unwrap();
        for name in ["n1.global", "n2.global", "n3.global"] {
            assert!(members.contains(name), "{members}");
        }

        // Two of three go on; the third comes back with what it missed.
        n1.program.kill().await;
        // What went to the lost leader has an outcome that nobody knows; this may be repeated.
        while ask(&n2.http, "PUT", "/kv/a", b"without n1").await.0 != 200 {}
        let known = ["--peer", &n1.peer];
        let n1 = start("n1", &at("n1"), &known).await;
        assert_eq!(ask(&n1.http, "GET", "/kv/a", b"").await.2, b"without n1");
    });
}

#[test]
fn a_server_comes_back_with_its_data_whether_told_again_to_form_its_cluster_or_not() {
    guarded(async {
        let data = tempfile::tempdir().unwrap();
        let first = start("n1", data.path(), &["--bootstrap", "--region", "north"]).await;
        assert_eq!(ask(&first.http, "PUT", "/kv/a", b"kept").await.0, 200);
        let peer = first.peer.clone();
        first.program.kill().await;
        for more in [&["--peer", &peer][..], &["--peer", &peer, "--bootstrap"]] {
            let again = start("n1", data.path(), more).await;
            assert_eq!(ask(&again.http, "GET", "/kv/a", b"").await.2, b"kept");
            again.program.kill().await;
        }
    });
}

#[test]
fn a_token_file_turns_acls_on() {
    guarded(async {
        let data = tempfile::tempdir().unwrap();
        let tokens = data.path().join("tokens");
        std::fs::write(&tokens, "secret\n\nother\n").unwrap();
        let more = ["--bootstrap", "--token-file", text(&tokens), "--region", "north"];
        let more = [&more[..], &["--peer", "127.0.0.1:0"]].concat();
        let server = start("n1", &data.path().join("n1"), &more).await;
        let path = "/v1/operator/raft/configuration";
        assert_eq!(ask(&server.http, "GET", path, b"").await.0, 403);
        assert_eq!(ask(&server.http, "GET", "/v1/status/leader?region=north", b"").await.0, 200);
        assert_eq!(ask(&server.http, "GET", "/v1/status/leader?region=global", b"").await.0, 500);
        for token in ["X-Nomad-Token: other", "Authorization: Bearer secret"] {
            let path = format!("{path} HTTP/1.1\r\n{token}\r\nX:");
            assert_eq!(ask(&server.http, "GET", &path, b"").await.0, 200);
        }
    });
}
