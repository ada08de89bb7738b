use std::path::Path;

use crate::{Program, ask, guarded, ports, text};

#[test]
fn the_demo_ends_well_twice_on_one_directory() {
    guarded(async {
        let data = tempfile::tempdir().unwrap();
        let mut tables = Vec::new();
        // The second time at any ports for HTTP, and for peers where they know each other.
        for port in [own(), "0".to_owned()] {
            let arguments = ["--demo", "--port", &port, "--data", text(data.path())];
            let ended = Program::start("three_nodes", &arguments).ended().await;
            assert_eq!(ended.code, Some(0), "{}{}", ended.out, ended.errors);
            for step in ["1. ", "2. ", "3. ", "4. ", "5. ", "6. "] {
                assert!(ended.out.contains(&format!("\n{step}")), "{step} in {}", ended.out);
            }
            assert!(ended.out.contains("finds 100 of 100"), "{}", ended.out);
            let head = "Node       ID                                    Address          State";
            assert!(ended.out.starts_with(head), "{}", ended.out);
            let ids = ended.out.lines().skip(1).take(3).map(|line| line[..47].to_owned());
            tables.push(ids.collect::<Vec<_>>());
        }
        assert_eq!(tables[0], tables[1], "the same three servers");
        assert!(data.path().join("n3").join("log").is_dir());
    });
}

/// A first port for three that come back.
fn own() -> String {
    ports::own(22).unwrap().to_string()
}

/// Starts the three; gives the program and where they serve HTTP.
async fn serve(port: &str, data: &Path) -> (Program, Vec<String>) {
    let mut program = Program::start("three_nodes", &["--port", port, "--data", text(data)]);
    let hint = program.line("Try, on any of the three").await;
    let (_, addresses) = hint.split_once('(').unwrap();
    let addresses = addresses.trim_end_matches("):").split(", ").map(str::to_owned).collect();
    (program, addresses)
}

#[test]
fn it_serves_until_ctrl_c_which_hands_leadership_over_and_comes_back_with_its_data() {
    guarded(async {
        let data = tempfile::tempdir().unwrap();
        let (mut program, http) = serve(&own(), data.path()).await;
        program.line("n1 leads n1, n2, n3 (3 vote)").await;
        assert_eq!(ask(&http[1], "PUT", "/kv/greeting", b"hello").await.0, 200);
        let hint = "/v1/operator/raft/configuration?pretty";
        let (status, _, body) = ask(&http[2], "GET", hint, b"").await;
        let servers: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let servers = servers["Servers"].as_array().unwrap();
        assert_eq!((status, servers.len()), (200, 3));
        let id = |name: &str| {
            let server = servers.iter().find(|server| server["Node"] == name).unwrap();
            server["ID"].as_str().unwrap().to_owned()
        };
        // Each change is one line.
        let transfer = format!("/v1/operator/raft/transfer-leadership?id={}", id("n2.global"));
        assert_eq!(ask(&http[2], "PUT", &transfer, b"").await.0, 200);
        program.line("n2 leads n1, n2, n3 (3 vote)").await;
        let remove = format!("/v1/operator/raft/peer?id={}", id("n1.global"));
        assert_eq!(ask(&http[2], "DELETE", &remove, b"").await.0, 200);
        program.line("n2 leads n2, n3 (2 vote)").await;
        program.interrupt().await;
        let ended = program.ended().await;
        assert_eq!(ended.code, Some(0), "{}{}", ended.out, ended.errors);
        assert!(ended.out.ends_with("shutting down\nn2 hands leadership over\n"), "{}", ended.out);
        assert_eq!(ended.errors, "");

        // Also with one that was removed meanwhile.
        let (program, http) = serve("0", data.path()).await;
        assert_eq!(ask(&http[1], "GET", "/kv/greeting", b"").await.2, b"hello");
        program.interrupt().await;
        drop(program);
    });
}

#[test]
fn what_cannot_work_is_said_in_one_line() {
    guarded(async {
        let data = tempfile::tempdir().unwrap();
        let (mut program, _) = serve("0", data.path()).await;
        let taken = own();
        let _taker = std::net::TcpListener::bind(format!("127.0.0.1:{taken}")).unwrap();
        let at = text(data.path());
        let other = data.path().join("other");
        let in_use = format!("{} is in use by another process", data.path().join("n1").display());
        for (arguments, expected) in [
            (["--port", "65535", "--data", at], "65535 is not in 0..=65514"),
            (["--port", &taken, "--data", text(&other)], "Address already in use"),
            (["--port", "0", "--data", at], in_use.as_str()),
        ] {
            let ended = Program::start("three_nodes", &arguments).ended().await;
            assert!(ended.code.is_some_and(|code| code != 0), "{arguments:?}");
            assert_eq!(ended.errors.lines().count(), 1, "{}", ended.errors);
            assert!(ended.errors.contains(expected), "{}", ended.errors);
        }
        program.interrupt().await;
        assert_eq!(program.ended().await.code, Some(0));
        // Its peers would not find it anywhere else.
        let ended = Program::start("three_nodes", &["--port", &own(), "--data", at]).ended().await;
        assert!(ended.code.is_some_and(|code| code != 0));
        assert!(ended.errors.contains("know it at 127.0.0.1:"), "{}", ended.errors);
    });
}
