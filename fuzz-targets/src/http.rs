//! F6: the HTTP server with the operator API behind it, on raw bytes of requests.
//!
//! Whatever comes is answered with an answer that can be read, and none of 500 or more but those
//! the API is specified to give; the connection ends, and the next good request is served.

use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use futures::io::{AsyncReadExt as _, AsyncWriteExt as _};
use kontiki::http::{Server, ServerConfig};
use kontiki::operator::{AllowAll, ApiConfig, Authorizer, OperatorApi, TokenList};
use kontiki::runtime::sim::{Sim, SimProcess};
use kontiki::runtime::{Net as _, Runtime as _};
use kontiki::storage::{MemoryLogStore, MemorySnapshotStore};
use kontiki::{Change, Config, GroupId, Member, Parts, Raft};

use crate::input::Input;
use crate::stub::{State, Wire};
use crate::{Target, meter};

pub(crate) const TARGET: Target = Target { name: "http", run, seeds, words: WORDS };

fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    meter::within(MEMORY_MAX, || {
        let acls = input.rarely(4);
        let scripts: Vec<Script> = (0..1 + input.below(2)).map(|_| script(&mut input)).collect();
        let sim = Sim::new(1);
        let (server, client) = (sim.process(1), sim.process(2));
        let talked = sim.run_until(LIMIT, async move {
            let _serving = serve(&server, acls).await;
            let mut answers = Vec::new();
            for script in scripts {
                answers.push(talk(&client, script).await);
            }
            let good = b"GET /v1/status/leader HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
            let script = Script { bytes: good.to_vec(), step: 1_000, pause: 0, silent: true };
            (answers, talk(&client, script).await)
        });
        let (answers, good) = talked.unwrap_or_else(|stuck| panic!("no end: {stuck}"));
        answers.iter().for_each(|answer| check(answer));
        let good = String::from_utf8_lossy(&good).into_owned();
        assert!(good.starts_with("HTTP/1.1 200 ") && good.ends_with("\"10.0.0.1:4647\""), "{good}");
    });
}

/// One server that leads a cluster of itself and a learner, and its API.
async fn serve(process: &Arc<SimProcess>, acls: bool) -> Server {
    let mut config = Config::default();
    config.id = Some(1.into());
    config.name = "n1".to_owned();
    config.address = "10.0.0.1:4647".to_owned();
    config.seed = Some(1);
    let parts = Parts {
        config,
        group: GroupId(0),
        runtime: process.clone(),
        transport: Arc::new(Wire::default()),
        log: Box::new(MemoryLogStore::new()),
        snapshots: Arc::new(MemorySnapshotStore::new()),
        state_machine: Box::new(State::default()),
    };
    let raft = Raft::start(parts).await.expect("it starts on nothing");
    let alone = vec![Member::voter(1.into(), "n1", "10.0.0.1:4647")];
    raft.bootstrap(alone).await.expect("it is blank");
    let learner = Member::learner(2.into(), "", "10.0.0.2:4647");
    raft.change_membership(Change::Add(learner)).await.expect("it elects itself");
    let authorizer: Arc<dyn Authorizer> = match acls {
        true => Arc::new(TokenList::new(["management"])),
        false => Arc::new(AllowAll::new()),
    };
    let api = OperatorApi::new(raft, authorizer, process.clone(), ApiConfig::default());
    let (api, config) = (Arc::new(api), ServerConfig::default());
    let server = Server::bind(process.clone(), process.clone(), "us:80", api, config).await;
    server.expect("the address is free")
}

/// What somebody sends, and how.
struct Script {
    bytes: Vec<u8>,
    step: usize,
    /// Between two steps, in milliseconds.
    pause: u64,
    /// Whether the connection stays open at the end.
    silent: bool,
}

/// Sends all of it and takes whatever comes, until the server ends the connection.
async fn talk(client: &Arc<SimProcess>, script: Script) -> Vec<u8> {
    let stream = client.dial("us:80").await.expect("somebody listens");
    let (mut reader, mut writer) = stream.split();
    let sending = async {
        for part in script.bytes.chunks(script.step) {
            // The server may have ended it.
            if writer.write_all(part).await.is_err() {
                return;
            }
            if script.pause > 0 {
                client.timer(client.now() + Duration::from_millis(script.pause)).await;
            }
        }
        if !script.silent {
            // As above.
            let _ = writer.close().await;
        }
    };
    let mut answer = Vec::new();
    // A connection that is cut is at its end too.
    let _ = futures::future::join(sending, reader.read_to_end(&mut answer)).await;
    answer
}

fn check(mut answers: &[u8]) {
    while !answers.is_empty() {
        let whole = String::from_utf8_lossy(answers).into_owned();
        let end = answers.windows(4).position(|part| part == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no end of the head: {whole}"));
        let head = String::from_utf8(answers[..end].to_vec()).expect("a head is ASCII");
        let mut lines = head.split("\r\n");
        let line = lines.next().unwrap_or_default();
        let status: Option<u16> = line
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.split(' ').next().and_then(|status| status.parse().ok()));
        // Hyper answers the old in the old way.
        let status = status.or_else(|| line.strip_prefix("HTTP/1.0 ")?.get(..3)?.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status: {whole}"));
        let header = |name: &str| {
            let found = head.split("\r\n").skip(1).find_map(|line| {
                let (found, value) = line.split_once(':')?;
                found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            });
            found.unwrap_or_default()
        };
        let after = &answers[end + 4..];
        let len = header("content-length").parse::<usize>().unwrap_or(0);
        // The answer to a HEAD has the length and not the body.
        let len = if after.is_empty() || after.starts_with(b"HTTP/1.") { 0 } else { len };
        assert!(len <= after.len(), "cut off: {whole}");
        let mut body = after[..len].to_vec();
        if header("content-encoding") == "gzip" && len > 0 {
            body.clear();
            let mut packed = flate2::read::GzDecoder::new(&after[..len]);
            packed.read_to_end(&mut body).expect("what is packed can be unpacked");
        }
        let body = String::from_utf8(body).expect("bodies are UTF-8");
        let specified = SPECIFIED.iter().any(|text| body.contains(text));
        assert!(status < 500 || specified, "{head}\n{body}");
        if header("content-type").starts_with("application/json") && len > 0 {
            let sound = serde_json::from_str::<serde_json::Value>(&body).is_ok();
            assert!(sound, "no JSON: {body}");
        }
        answers = &after[len..];
    }
}

fn script(input: &mut Input<'_>) -> Script {
    let step = input.pick(&[10_000, 10_000, 1, 7, 100]);
    let pause = input.pick(&[0, 0, 0, 1, 900]);
    let silent = !input.rarely(4);
    let mut bytes = Vec::new();
    for _ in 0..1 + input.below(3) {
        match input.below(16) {
            15 => bytes.extend_from_slice(input.bytes(100)),
            _ => request(&mut bytes, input),
        }
    }
    if input.rarely(24) {
        bytes.truncate(input.number() as usize % (bytes.len() + 1));
    }
    if input.rarely(24) {
        let at = input.number() as usize % bytes.len().max(1);
        bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = input.byte());
    }
    // A slow one must end in time too.
    let step = if pause > 0 { step.max(bytes.len() / 32 + 1) } else { step };
    Script { bytes, step, pause, silent }
}

/// A request of the API as it might be asked, or one that is more or less broken.
fn request(out: &mut Vec<u8>, input: &mut Input<'_>) {
    let broken = input.rarely(4);
    out.extend_from_slice(input.pick(METHODS));
    out.push(b' ');
    out.extend_from_slice(input.pick(PATHS));
    if broken && input.rarely(4) {
        out.extend_from_slice(input.bytes(20));
    }
    for n in 0..input.below(4) {
        out.push(if n == 0 { b'?' } else { b'&' });
        out.extend_from_slice(input.pick(KEYS));
        if !input.rarely(16) {
            out.push(b'=');
        }
        match input.below(8) {
            7 if broken => out.extend_from_slice(input.bytes(40)),
            _ => out.extend_from_slice(input.pick(VALUES)),
        }
    }
    let versions: [&[u8]; 5] = [b" HTTP/1.1", b" HTTP/1.0", b" HTTP/2.0", b"", b" x"];
    let version = if broken && input.rarely(4) { input.below(5) } else { 0 };
    out.extend_from_slice(versions[version]);
    let end: &[u8] = if broken && input.rarely(8) { b"\n" } else { b"\r\n" };
    out.extend_from_slice(&[end, b"Host: a", end].concat());
    for _ in 0..input.below(3) {
        let sound = if broken { HEADERS.len() } else { SOUND_HEADERS };
        out.extend_from_slice(HEADERS[input.below(sound)]);
        if broken && input.rarely(6) {
            out.extend_from_slice(input.bytes(24));
        }
        out.extend_from_slice(end);
    }
    if broken && input.rarely(16) {
        let count = input.pick(&[50, 101, 2_000]);
        (0..count).for_each(|_| out.extend_from_slice(b"a: b\r\n"));
    }
    body(out, end, broken, input);
}

fn body(out: &mut Vec<u8>, end: &[u8], broken: bool, input: &mut Input<'_>) {
    let bodies: [&[u8]; 5] =
        [b"", b"{}", b"{\"ID\":\"\\ud800\",\"ID\":1e999}", b"[[[[[[", b"\0\xff"];
    let body = if broken { input.bytes(64) } else { input.pick(&bodies) };
    match input.below(4) {
        0 | 1 => out.extend_from_slice(end),
        2 => {
            out.extend_from_slice(b"Transfer-Encoding: chunked");
            out.extend_from_slice(&[end, end].concat());
            out.extend_from_slice(format!("{:x}\r\n", body.len()).as_bytes());
            out.extend_from_slice(body);
            out.extend_from_slice(b"\r\n0\r\n\r\n");
        }
        _ => {
            let lie = if broken { input.pick(&[0, 0, 1, 100, usize::MAX >> 1]) } else { 0 };
            out.extend_from_slice(format!("Content-Length: {}", body.len() + lie).as_bytes());
            out.extend_from_slice(&[end, end].concat());
            out.extend_from_slice(body);
        }
    }
}

/// Requests as they should be, for the mutator to put together, and choices.
fn seeds() -> Vec<Vec<u8>> {
    crate::corpus::choices(&[], 64, 250)
}

const METHODS: &[&[u8]] = &[
    b"GET", b"GET", b"GET", b"PUT", b"PUT", b"POST", b"DELETE", b"DELETE", b"HEAD", b"OPTIONS",
    b"PATCH", b"get",
];
const PATHS: &[&[u8]] = &[
    b"/v1/operator/raft/configuration",
    b"/v1/operator/raft/peer",
    b"/v1/operator/raft/peer",
    b"/v1/operator/raft/transfer-leadership",
    b"/v1/operator/raft/transfer-leadership",
    b"/v1/operator/raft/transfer-leadership",
    b"/v1/status/leader",
    b"/v1/status/peers",
    b"/v1/operator/raft",
    b"/v1/operator/raft/",
    b"/",
    b"*",
    b"http://a/v1/status/leader",
    b"/v1/%2e%2e/status/leader",
    b"//v1//status/leader",
];
const KEYS: &[&[u8]] = &[
    b"id",
    b"address",
    b"stale",
    b"region",
    b"pretty",
    b"index",
    b"wait",
    b"per_page",
    b"consistent",
    b"%69d",
    b"i+d",
    b"",
];
const VALUES: &[&[u8]] = &[
    b"",
    b"true",
    b"0",
    b"00000000-0000-0001-0000-000000000000",
    b"00000000-0000-0002-0000-000000000000",
    b"0000000g-0000-0002-0000-000000000000",
    b"%C3%A90000000-0000-0002-0000-00000000000",
    b"10.0.0.1:4647",
    b"10.0.0.2:4647",
    b"[::1]:4647",
    b"[::1%25eth0]:1",
    b"::1:4647",
    b"1.2.3.4:65536",
    b"global",
    b"elsewhere",
    b"%00",
    b"%zz",
    b"%",
    b";",
    b"5m",
    b"-1.5h3.ns",
    b"18446744073709551616",
    b"%f0%9f%98%80%0a%22%5c",
];
const HEADERS: &[&[u8]] = &[
    b"X-Nomad-Token: management",
    b"X-Nomad-Token: management",
    b"Authorization: Bearer management",
    b"Authorization: Bearer",
    b"Connection: keep-alive",
    b"Accept-Encoding: gzip",
    b"Connection: close",
    b"Connection: upgrade",
    b"Upgrade: websocket",
    b"Expect: 100-continue",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Content-Length: 5",
    b"Content-Length: -1",
    b"Host: b",
    b": none",
    b" folded",
    b"a:",
];
/// So many of these, from the first, belong in a request.
const SOUND_HEADERS: usize = 6;
const WORDS: &[&[u8]] = &[b"GET ", b" HTTP/1.1\r\n", b"\r\n\r\n", b"Host: a\r\n", b"%00", b"?id="];
/// What the API says with a status of 500 or more, as Nomad does.
const SPECIFIED: &[&str] = &[
    "No path to region",
    "need at least one voter in configuration",
    "was not found in the Raft configuration",
];
const LIMIT: Duration = Duration::from_secs(600);
const MEMORY_MAX: usize = 16 << 20;
