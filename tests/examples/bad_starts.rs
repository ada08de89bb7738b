//! Every bad start ends with one clear line, and not with 0.

use std::path::Path;

use crate::kv::start;
use crate::{Program, guarded, text};

async fn refused(arguments: &[&str], expected: &str) {
    let ended = Program::start("kv", arguments).ended().await;
    assert!(ended.code.is_some_and(|code| code != 0), "{arguments:?}: {:?}", ended.code);
    let lines: Vec<&str> = ended.errors.lines().collect();
    assert_eq!(lines.len(), 1, "{arguments:?}: {}", ended.errors);
    assert!(lines[0].starts_with("kv: ") && lines[0].contains(expected), "{}", lines[0]);
}

/// The flags that every start needs, with these two changed.
fn flags<'a>(data: &'a Path, peer: &'a str, http: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec!["--name", "n1", "--data", text(data), "--peer", peer, "--http", http];
    all.extend(more);
    all
}

const FREE: &str = "127.0.0.1:0";

#[test]
fn a_bad_flag() {
    guarded(async {
        let data = tempfile::tempdir().unwrap();
        let data = data.path();
        refused(&["--bogus"], "unexpected argument '--bogus' found").await;
        refused(&["--name", "n1"], "--data <DATA> --peer <PEER> --http <HTTP>").await;
        let both = ["--bootstrap", "--join", "127.0.0.1:1"];
        refused(&flags(data, FREE, FREE, &both), "cannot be used with").await;
        let runtime = ["--bootstrap", "--runtime", "glommio"];
        refused(&flags(data, FREE, FREE, &runtime), "[possible values: async-std, smol, tokio]")
            .await;
        refused(&flags(data, FREE, FREE, &[]), "is empty: pass --bootstrap or --join").await;
        let bootstrap = ["--bootstrap"];
        refused(&flags(data, "nonsense", FREE, &bootstrap), "cannot listen on nonsense").await;
        refused(&flags(data, FREE, "nonsense", &bootstrap), "cannot listen on nonsense").await;
        let tokens = data.join("tokens");
        let with_tokens = ["--bootstrap", "--token-file", text(&tokens)];
        refused(&flags(data, FREE, FREE, &with_tokens), "No such file").await;
        std::fs::write(&tokens, "\n \n").unwrap();
        refused(&flags(data, FREE, FREE, &with_tokens), "holds no token").await;
        let file = flags(&tokens, FREE, FREE, &bootstrap);
        refused(&file, text(&tokens)).await;
        // None of them left anything behind that keeps a good start from being one.
        start("n1", data, &bootstrap).await;
    });
}

#[test]
fn a_taken_port_or_a_directory_in_use() {
    guarded(async {
        let data = tempfile::tempdir().unwrap();
        let at = |name: &str| data.path().join(name);
        let server = start("n1", &at("n1"), &["--bootstrap"]).await;
        let more = ["--bootstrap"];
        let in_use = format!("{} is in use by another process", at("n1").display());
        refused(&flags(&at("n1"), FREE, FREE, &more), &in_use).await;
        refused(&flags(&at("n1"), &server.peer, FREE, &more), &in_use).await;
        for (peer, http, taken) in
            [(server.peer.as_str(), FREE, &server.peer), (FREE, server.http.as_str(), &server.http)]
        {
            let expected = format!("cannot listen on {taken}: Address already in use");
            refused(&flags(&at("n2"), peer, http, &more), &expected).await;
        }
    });
}

#[test]
fn a_directory_with_state_that_the_flags_do_not_fit() {
    guarded(async {
        let data = tempfile::tempdir().unwrap();
        let at = |name: &str| data.path().join(name);
        let one = start("n1", &at("one"), &["--bootstrap"]).await;
        let mut two = start("n2", &at("two"), &["--join", &one.peer]).await;
        let other = start("m1", &at("other"), &["--bootstrap"]).await;
        let (peer, elsewhere) = (two.peer.clone(), other.peer.clone());
        // Once it has been in the cluster, it knows who is.
        two.program.line("2 members, 2 vote").await;
        two.program.kill().await;

        let data = at("two");
        let foreign = flags(&data, &peer, FREE, &["--join", &elsewhere]);
        refused(&foreign, "which none of --join is in").await;
        let itself = flags(&data, &peer, FREE, &["--join", &peer]);
        refused(&itself, "which none of --join is in").await;
        let founder = flags(&data, &peer, FREE, &["--bootstrap"]);
        refused(&founder, "which this server did not form").await;
        let moved = flags(&data, FREE, FREE, &[]);
        refused(&moved, &format!("pass --peer {peer}")).await;
        // What fits is accepted.
        start("n2", &data, &["--peer", &peer, "--join", &one.peer]).await;
        // A cluster that was formed by another one is not this one's.
        let (peer, data) = (one.peer.clone(), at("one"));
        one.program.kill().await;
        let renamed = ["--name", "x", "--data", text(&data), "--peer", &peer, "--http", FREE];
        let renamed = [&renamed[..], &["--bootstrap"]].concat();
        refused(&renamed, "which this server did not form").await;
    });
}

#[test]
fn a_cluster_that_does_not_answer() {
    guarded(async {
        let data = tempfile::tempdir().unwrap();
        let nobody = flags(data.path(), FREE, FREE, &["--join", "127.0.0.1:1"]);
        refused(&nobody, "no server answered at").await;
    });
}
