//! The examples as what they are: programs that one starts. Cargo builds them with the tests.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bad_starts;
mod kv;
mod ports;
mod three_nodes;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use futures::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use smol::process::{Child, ChildStdout, Command};

/// Where the program is: beside the tests.
fn example(name: &str) -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let path = this.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(path.exists(), "{} is missing: cargo build --examples", path.display());
    path
}

/// A program that runs; it is killed with the test.
pub(crate) struct Program {
    child: Child,
    lines: BufReader<ChildStdout>,
    seen: String,
}

pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) errors: String,
}

impl Program {
    pub(crate) fn start(name: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(example(name));
        command.args(arguments).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines, seen: String::new() }
    }

    /// The next line that contains this.
    pub(crate) async fn line(&mut self, text: &str) -> String {
        loop {
            let mut line = String::new();
            let read = self.lines.read_line(&mut line).await.unwrap();
            self.seen.push_str(&line);
            if read == 0 {
                let ended = self.ended().await;
                panic!("ended without {text:?}: {}{}", ended.out, ended.errors);
            }
            if line.contains(text) {
                return line.trim_end().to_owned();
            }
        }
    }

    pub(crate) async fn ended(&mut self) -> Ended {
        let (mut out, mut errors) = (std::mem::take(&mut self.seen), String::new());
        self.lines.read_to_string(&mut out).await.unwrap();
        if let Some(mut stderr) = self.child.stderr.take() {
            stderr.read_to_string(&mut errors).await.unwrap();
        }
        Ended { code: self.child.status().await.unwrap().code(), out, errors }
    }

    /// As Ctrl-C does.
    pub(crate) async fn interrupt(&self) {
        let number = self.child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &number]).status().await.unwrap().success());
    }

    /// With no chance to do anything about it.
    pub(crate) async fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.status().await.unwrap();
    }
}

/// A request to a server of this machine: status, whole head, body.
pub(crate) async fn ask(
    address: &str,
    method: &str,
    path: &str,
    body: &[u8],
) -> (u16, String, Vec<u8>) {
    let mut stream = smol::net::TcpStream::connect(address).await.unwrap();
    let len = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // One that answers before it has read everything closes the connection.
    let _ = stream.write_all(body).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head");
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head, answer[end + 4..].to_vec())
}

#[test]
fn a_port_to_come_back_to_is_nobody_elses() {
    let listen = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let firsts = [(); 3].map(|()| ports::own(22).unwrap());
    let own: std::collections::BTreeSet<u16> = firsts.iter().flat_map(|n| *n..n + 22).collect();
    assert_eq!(own.len(), 66, "one was given twice");
    // Whoever asks the system for any port is given none of them, though they are free.
    let given: Vec<_> = (0..100).map(|_| listen(0)).collect();
    let given = given.iter().map(|listener| listener.local_addr().unwrap().port());
    assert!(given.min() > own.last().copied(), "the system gives such ports out");
    let _second = listen(firsts[0] + 1);
    let places = [firsts[0], firsts[0] + 2];
    assert_eq!(ports::first_free(places.into_iter(), 2), Some(firsts[0] + 2), "one is taken");
}

/// Runs a test in real time; the one guard fails it where it would hang.
pub(crate) fn guarded(test: impl Future<Output = ()>) {
    smol::block_on(smol::future::or(test, async {
        smol::Timer::after(Duration::from_secs(120)).await;
        panic!("the test hangs");
    }));
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
