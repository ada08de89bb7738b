//! F3: sessions of the TCP transport, against a reading of what was said by another hand.
//!
//! Nothing is delivered that a sound handshake did not announce, and all of it is; whoever is asked
//! says nothing more before it was welcomed.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::io::{AsyncReadExt as _, AsyncWriteExt as _};
use kontiki::runtime::sim::{Sim, SimProcess};
use kontiki::runtime::{BoxStream, ByteReader, Net as _, Runtime as _};
use kontiki::transport::frame::{FRAME_HEAD_LEN, frame};
use kontiki::transport::{
    Inbox, Local, Message, Peer, StreamRefused, Transport as _, TransportError,
};
use kontiki::{ClusterId, GroupId, NodeId};
use kontiki_transport_tcp::{TcpConfig, TcpTransport};

use crate::input::Input;
use crate::stub::lock;
use crate::{Target, meter};

pub(crate) const TARGET: Target = Target { name: "handshake", run, seeds, words: &[b"kontiki\n"] };

fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    meter::within(MEMORY_MAX, || match input.below(4) {
        3 => dialer(&mut input),
        _ => listener(&mut input),
    });
}

/// Keeps what is delivered.
struct Taken {
    local: Local,
    messages: Mutex<Vec<Bytes>>,
    streams: Mutex<Vec<(Bytes, Vec<u8>)>>,
}

impl Taken {
    fn new() -> Arc<Self> {
        let local = Local { cluster: cluster(1), group: GroupId(0), node: US.into() };
        Arc::new(Self { local, messages: Mutex::default(), streams: Mutex::default() })
    }
}

#[async_trait]
impl Inbox for Taken {
    fn local(&self) -> Local {
        self.local.clone()
    }

    fn deliver(&self, message: Message) {
        lock(&self.messages).push(message.encode().into_bytes());
    }

    fn unreachable(&self, _: NodeId) {}

    async fn receive_stream(
        &self,
        head: Message,
        mut body: ByteReader,
    ) -> Result<(), StreamRefused> {
        let mut all = Vec::new();
        let read = body.read_to_end(&mut all).await;
        read.map_err(|error| StreamRefused::Failed(error.to_string()))?;
        lock(&self.streams).push((head.encode().into_bytes(), all));
        Ok(())
    }

    fn accepts(&self, cluster: ClusterId, _: NodeId) -> bool {
        cluster == self.local.cluster || cluster.is_nil()
    }
}

/// Others come in, with everything they say.
fn listener(input: &mut Input<'_>) {
    let sim = Sim::new(1);
    let inbox = Taken::new();
    let scripts: Vec<Vec<u8>> = (0..1 + input.below(3)).map(|_| script(input)).collect();
    let silent = input.rarely(4);
    let (process, client) = (sim.process(1), sim.process(2));
    let (taking, sent) = (inbox.clone(), scripts.clone());
    let talked = sim.run_until(LIMIT, async move {
        let transport = bind(&process).await;
        transport.attach(taking);
        let mut answers = Vec::new();
        let sessions = sent.into_iter().map(|script| talk(&client, script, silent));
        for answer in futures::future::join_all(sessions).await {
            answers.push(answer);
        }
        (answers, transport.stats())
    });
    let (answers, stats) = talked.unwrap_or_else(|stuck| panic!("a session never ends: {stuck}"));
    let mut expected = Outcome::default();
    for (script, answer) in scripts.iter().zip(answers) {
        let (said, idle) = expected.session(script);
        // One that may still say more is waited for.
        let answer = codes(&answer);
        assert!(answer == said || silent && idle, "answered {answer:?}, not {said:?}");
    }
    let mut messages = lock(&inbox.messages).clone();
    let mut streams = lock(&inbox.streams).clone();
    for list in [&mut messages, &mut expected.messages] {
        list.sort();
    }
    for list in [&mut streams, &mut expected.streams] {
        list.sort();
    }
    assert_eq!(messages, expected.messages);
    if !silent {
        assert_eq!(streams, expected.streams);
        let counted = (stats.bad_handshakes, stats.refused_handshakes, stats.forged_messages);
        assert_eq!(counted, (expected.bad, expected.refused, expected.forged));
    }
}

/// Says all of a script, and gives what was answered; `silent` leaves the connection open and
/// waits.
async fn talk(client: &Arc<SimProcess>, script: Vec<u8>, silent: bool) -> Vec<u8> {
    let mut stream = client.dial(ADDRESS).await.expect("somebody listens");
    for part in script.chunks(PART_BYTES) {
        // The other side may have hung up.
        if stream.write_all(part).await.is_err() {
            break;
        }
    }
    if !silent {
        // It may be closed on the other side.
        let _ = stream.close().await;
    }
    let mut answer = Vec::new();
    let end = client.now() + Duration::from_secs(30);
    let reading = Box::pin(stream.read_to_end(&mut answer));
    // An error is an end too.
    let _ = futures::future::select(reading, client.timer(end)).await;
    answer
}

/// What must come of sessions.
#[derive(Debug, Default)]
struct Outcome {
    messages: Vec<Bytes>,
    streams: Vec<(Bytes, Vec<u8>)>,
    bad: u64,
    refused: u64,
    forged: u64,
}

impl Outcome {
    /// What is answered to somebody who says `script` and hangs up; and whether it would still be
    /// listened to.
    fn session(&mut self, script: &[u8]) -> (Vec<u8>, bool) {
        let mut rest = Frames { rest: script, ended: false };
        let Some((from, group, purpose)) = self.greet(&mut rest) else {
            return (Vec::new(), false);
        };
        let purpose = match purpose {
            Ok(purpose) => purpose,
            Err(refused) => {
                self.refused += 1;
                return (vec![refused], false);
            }
        };
        let mut said = vec![0];
        let mut message = |rest: &mut Frames<'_>| {
            let (3, payload) = rest.next(MESSAGE_BYTES_MAX)? else { return None };
            let message = Message::decode(payload.clone()).ok()?;
            let own = message.from().to_bytes() == from && message.group().0 == group;
            self.forged += u64::from(!own);
            own.then_some(payload)
        };
        if purpose == 0 {
            while let Some(payload) = message(&mut rest) {
                self.messages.push(payload);
            }
            return (said, rest.ended);
        }
        let Some(head) = message(&mut rest) else { return (said, false) };
        let mut body = Vec::new();
        let verdict = loop {
            match rest.next(CHUNK_BYTES_MAX) {
                Some((4, chunk)) => body.extend_from_slice(&chunk),
                Some((5, _)) => break 0,
                _ => break 4,
            }
        };
        if verdict == 0 {
            self.streams.push((head, body));
        }
        said.push(verdict);
        (said, rest.ended)
    }

    /// Who comes and what for, or why not; `None` if that cannot be told.
    fn greet(&mut self, rest: &mut Frames<'_>) -> Option<([u8; 16], u64, Result<u8, u8>)> {
        self.bad += 1;
        rest.rest = rest.rest.strip_prefix(b"kontiki\n")?;
        let (kind, hello) = rest.next(256)?;
        if kind != 1 || hello.first() != Some(&1) {
            self.bad -= 1;
            return Some(([0; 16], 0, Err(4)));
        }
        if hello.len() != 2 + 16 + 8 + 16 + 16 || hello[1] > 1 {
            return None;
        }
        let id = |at: usize| -> [u8; 16] { std::array::from_fn(|n| hello[at + n]) };
        let (cluster_id, from, wanted) = (id(2), id(26), id(42));
        let group = u64::from_le_bytes(std::array::from_fn(|n| hello[18 + n]));
        let nobody = |id: [u8; 16]| id[..8] == [0; 8];
        if nobody(from) || nobody(wanted) && wanted != [0; 16] {
            return None;
        }
        self.bad -= 1;
        let us = NodeId::from(US).to_bytes();
        let refused = if group != 0 {
            3
        } else if from == us || wanted != us && wanted != [0; 16] {
            2
        } else if cluster_id != cluster(1).to_bytes() && cluster_id != [0; 16] {
            1
        } else {
            return Some((from, group, Ok(hello[1])));
        };
        Some((from, group, Err(refused)))
    }
}

/// What an answer says: how it welcomes, and its verdict.
fn codes(answer: &[u8]) -> Vec<u8> {
    let mut rest = Frames { rest: answer, ended: false };
    let mut codes = Vec::new();
    for kind in [2, 6] {
        let Some((found, payload)) = rest.next(2_000) else { break };
        assert_eq!((found, payload.is_empty()), (kind, false), "{answer:?}");
        codes.push(payload[0]);
    }
    assert!(rest.rest.is_empty(), "more than an answer: {answer:?}");
    codes
}

/// The frames of a script.
struct Frames<'a> {
    rest: &'a [u8],
    /// Whether the bytes ran out, rather than being wrong.
    ended: bool,
}

impl Frames<'_> {
    fn next(&mut self, bytes_max: usize) -> Option<(u8, Bytes)> {
        let field = |at: usize| self.rest.get(at..at + 4).map(|f| [f[0], f[1], f[2], f[3]]);
        self.ended = self.rest.len() < FRAME_HEAD_LEN;
        if self.ended {
            return None;
        }
        let len = u32::from_le_bytes(field(0)?) as usize;
        let (checksum, kind) = (u32::from_le_bytes(field(4)?), self.rest[8]);
        if len > bytes_max {
            return None;
        }
        let Some(payload) = self.rest.get(FRAME_HEAD_LEN..FRAME_HEAD_LEN + len) else {
            self.ended = true;
            return None;
        };
        if crc32c::crc32c(&self.rest[8..FRAME_HEAD_LEN + len]) != checksum {
            return None;
        }
        self.rest = &self.rest[FRAME_HEAD_LEN + len..];
        Some((kind, Bytes::copy_from_slice(payload)))
    }
}

/// What somebody says who connects: mostly what is right.
fn script(input: &mut Input<'_>) -> Vec<u8> {
    let mut script = Vec::new();
    match input.below(16) {
        15 => script.extend_from_slice(input.bytes(40)),
        14 => script.extend_from_slice(b"kontiki\r"),
        _ => script.extend_from_slice(b"kontiki\n"),
    }
    let from = input.pick(&[2, 2, 2, 2, 3, US, 0]);
    script.extend(hello(input, from));
    for _ in 0..input.below(6) {
        let part = match input.below(8) {
            0..=2 => frame(3, &message(input, from)),
            3 => frame(4, input.bytes(64)),
            4 => frame(5, &[]),
            5 => frame(input.byte() % 8, input.bytes(32)),
            6 => Bytes::copy_from_slice(input.bytes(32)),
            _ => frame(4, &vec![7; input.pick(&[0, 1, CHUNK_BYTES_MAX, CHUNK_BYTES_MAX + 1])]),
        };
        script.extend_from_slice(&part);
    }
    damage(&mut script, input);
    script
}

fn damage(script: &mut Vec<u8>, input: &mut Input<'_>) {
    match input.below(12) {
        11 => script.truncate(input.number() as usize % (script.len() + 1)),
        10 => {
            let at = input.number() as usize % script.len().max(1);
            script.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << input.below(8));
        }
        _ => {}
    }
}

fn hello(input: &mut Input<'_>, from: u64) -> Vec<u8> {
    let mut hello = vec![if input.rarely(16) { input.byte() } else { 1 }];
    hello.push(input.pick(&[0, 0, 0, 1, 1, 1, 2]));
    hello.extend(match input.below(8) {
        6 => [0; 16],
        7 => cluster(2).to_bytes(),
        _ => cluster(1).to_bytes(),
    });
    hello.extend(u64::from(input.rarely(8)).to_le_bytes());
    hello.extend(crate::wire::id(from));
    let mut wanted = crate::wire::id(input.pick(&[US, US, US, 0, 3]));
    wanted[15] = u8::from(input.rarely(16));
    hello.extend(wanted);
    match input.below(16) {
        15 => hello.push(0),
        14 => hello.truncate(input.below(hello.len())),
        13 => hello.resize(300, 0),
        _ => {}
    }
    frame(if input.rarely(16) { input.byte() } else { 1 }, &hello).to_vec()
}

fn message(input: &mut Input<'_>, from: u64) -> Vec<u8> {
    let from = if input.rarely(8) { 9 } else { from };
    let mut envelope = crate::wire::Envelope { version: 1, ..Default::default() };
    (envelope.from, envelope.to) = (crate::wire::id(from), crate::wire::id(US));
    envelope.group = u64::from(input.rarely(16));
    let payload = input.bytes(32);
    let mut body = Vec::new();
    crate::wire::put(&mut body, payload);
    envelope.body = crate::wire::Body::Other(input.pick(&[3, 3, 3, 4]), body);
    envelope.encode()
}

/// We call somebody who answers anything.
fn dialer(input: &mut Input<'_>) {
    let sim = Sim::new(1);
    let stream = input.flag();
    let sends = input.below(4);
    let answer = answer(input);
    let hang_up = input.flag();
    let (us, other) = (sim.process(1), sim.process(2));
    let script = answer.clone();
    let talked = sim.run_until(LIMIT, async move {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let mut listener = other.listen("other:1").await.expect("the address is free");
        let (hearing, listening) = (Arc::clone(&heard), Arc::clone(&other));
        other.spawn(Box::pin(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let hearing = Arc::clone(&hearing);
                let script = script.clone();
                listening.spawn(Box::pin(async move {
                    let all = answer_all(stream, &script, hang_up).await;
                    lock(&hearing).push(all);
                }));
            }
        }));
        let transport = bind(&us).await;
        transport.attach(Taken::new());
        let peer = Peer { id: Some(2.into()), address: "other:1".to_owned() };
        for _ in 0..sends {
            // It may be dropped.
            let _ = transport.send(&peer, probe());
        }
        let body: ByteReader = Box::pin(futures::io::Cursor::new(vec![7_u8; 100_000]));
        let verdict = match stream {
            true => Some(transport.send_stream(&peer, probe(), body).await),
            false => None,
        };
        us.timer(us.now() + Duration::from_secs(5)).await;
        transport.detach(GroupId(0)).await;
        other.timer(other.now() + Duration::from_secs(1)).await;
        let heard = lock(&heard).clone();
        (verdict, heard)
    });
    let (verdict, heard) = talked.unwrap_or_else(|stuck| panic!("a call never ends: {stuck}"));
    let mut said = Frames { rest: &answer, ended: false };
    let welcome = matches!(said.next(256), Some((2, welcome)) if welcome[..] == [0]);
    for all in &heard {
        let mut rest = Frames { rest: all.strip_prefix(b"kontiki\n").unwrap_or(b""), ended: false };
        assert!(matches!(rest.next(256), Some((1, hello)) if hello.len() == 58), "{all:?}");
        assert!(welcome || rest.rest.is_empty(), "it talks to somebody who did not welcome it");
    }
    let accepted =
        welcome && matches!(said.next(1_025), Some((6, verdict)) if verdict.first() == Some(&0));
    if let Some(verdict) = verdict {
        assert_eq!(verdict.is_ok(), accepted, "{verdict:?}");
        let refused = matches!(verdict, Err(TransportError::Refused(_)));
        assert!(welcome || !refused, "a verdict without a welcome");
    }
}

/// Says the script at once and hears whatever comes.
async fn answer_all(mut stream: BoxStream, script: &[u8], hang_up: bool) -> Vec<u8> {
    // The other side may hang up at any time.
    let _ = stream.write_all(script).await;
    if hang_up {
        let _ = stream.close().await;
    }
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard).await;
    heard
}

fn answer(input: &mut Input<'_>) -> Vec<u8> {
    let mut answer = Vec::new();
    match input.below(8) {
        7 => answer.extend_from_slice(input.bytes(32)),
        6 => answer.extend_from_slice(&frame(input.byte() % 8, input.bytes(4))),
        5 => answer.extend_from_slice(&frame(2, &[input.byte() % 6])),
        _ => answer.extend_from_slice(&frame(2, &[0])),
    }
    for _ in 0..input.below(3) {
        let part = match input.below(4) {
            0 | 1 => frame(6, &[&[input.byte() % 6], input.bytes(16)].concat()),
            2 => frame(input.byte() % 8, input.bytes(16)),
            _ => Bytes::copy_from_slice(input.bytes(16)),
        };
        answer.extend_from_slice(&part);
    }
    damage(&mut answer, input);
    answer
}

fn probe() -> Message {
    let payload = Bytes::from_static(b"payload");
    Message::probe(cluster(1), GroupId(0), US.into(), 2.into(), payload)
}

async fn bind(process: &Arc<SimProcess>) -> Arc<TcpTransport> {
    let mut config = TcpConfig::default();
    config.message_bytes_max = MESSAGE_BYTES_MAX as u64;
    let bound = TcpTransport::bind(process.clone(), process.clone(), ADDRESS, config).await;
    bound.expect("the address is free")
}

fn cluster(number: u64) -> ClusterId {
    ClusterId::from_random(number, number)
}

fn seeds() -> Vec<Vec<u8>> {
    crate::corpus::choices(&[], 40, 150)
}

const US: u64 = 1;
const ADDRESS: &str = "us:1";
const MESSAGE_BYTES_MAX: usize = 4_096;
const CHUNK_BYTES_MAX: usize = 64 << 10;
/// How much is said at once.
const PART_BYTES: usize = 1_000;
const LIMIT: Duration = Duration::from_secs(300);
const MEMORY_MAX: usize = 8 << 20;
