//! Who is not let in, and what is not taken. Each is refused, counted and logged.

use bytes::Bytes;
use futures::io::{AsyncReadExt as _, AsyncWriteExt as _};
use kontiki::runtime::sim::Sim;
use kontiki::runtime::{BoxStream, Net as _};
use kontiki::transport::frame::frame;
use kontiki::transport::{Message, Transport as _};
use kontiki::{ClusterId, GroupId, NodeId};
use kontiki_transport_tcp::{Stats, TcpConfig};

use crate::logs::logged;
use crate::{FakeInbox, bind, cluster, in_sim, pause, peer, probe, two};

/// The first words of a dialer.
#[derive(Clone)]
struct Hello {
    version: u8,
    purpose: u8,
    cluster: ClusterId,
    group: u64,
    from: u64,
    wanted: u64,
}

const MESSAGES: Hello = Hello::new(0);
const STREAM: Hello = Hello::new(1);

impl Hello {
    /// What server 1 says to server 2.
    const fn new(purpose: u8) -> Self {
        Self { version: 1, purpose, cluster: ClusterId::NIL, group: 0, from: 1, wanted: 2 }
    }

    fn payload(&self) -> Vec<u8> {
        let cluster = if self.cluster.is_nil() { cluster(1) } else { self.cluster };
        let id = |n: u64| if n == 0 { [0; 16] } else { NodeId::from(n).to_bytes() };
        let mut bytes = vec![self.version, self.purpose];
        bytes.extend(cluster.to_bytes());
        bytes.extend(self.group.to_le_bytes());
        bytes.extend(id(self.from));
        bytes.extend(id(self.wanted));
        bytes
    }

    fn bytes(&self) -> Vec<u8> {
        greeting(&frame(1, &self.payload()))
    }
}

fn greeting(frame: &[u8]) -> Vec<u8> {
    [b"kontiki\n", frame].concat()
}

async fn dial(sim: &Sim, bytes: &[u8]) -> BoxStream {
    let mut stream = sim.process(1).dial("host-2:1").await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

/// Connects by hand, shakes hands, and sends `bytes`.
async fn by_hand(sim: &Sim, hello: &Hello, bytes: &[u8]) -> BoxStream {
    let mut stream = dial(sim, &hello.bytes()).await;
    let mut welcome = [0; 10];
    stream.read_exact(&mut welcome).await.unwrap();
    assert_eq!(welcome[9], 0, "welcome");
    // Whoever is refused in the middle need not be able to write the rest.
    let _ = stream.write_all(bytes).await;
    stream
}

/// What still comes, up to the end of the connection; and after how many seconds that was.
async fn rest(sim: &Sim, stream: &mut BoxStream) -> (Vec<u8>, u64) {
    let (began, mut bytes) = (sim.elapsed(), Vec::new());
    // A reset is an end too.
    let _ = stream.read_to_end(&mut bytes).await;
    (bytes, (sim.elapsed() - began).as_secs())
}

fn counted(change: impl FnOnce(&mut Stats)) -> Stats {
    let mut stats = Stats::default();
    change(&mut stats);
    stats
}

#[test]
fn what_is_no_handshake_is_refused() {
    let hello = MESSAGES.payload();
    let mut damaged = frame(1, &hello).to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    let mut long = hello.clone();
    long.push(0);
    let rows: [(&str, Vec<u8>); 9] = [
        ("another protocol", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("another one like ours", [b"kontiki\0", &frame(1, &hello)[..]].concat()),
        ("a damaged frame", greeting(&damaged)),
        ("a frame of 4 GiB", greeting(&[0xff; 9])),
        ("a frame of 257 bytes", greeting(&frame(1, &[1; 257]))),
        ("too short", greeting(&frame(1, &hello[..hello.len() - 1]))),
        ("too long", greeting(&frame(1, &long))),
        ("another purpose", Hello { purpose: 2, ..MESSAGES }.bytes()),
        ("nobody's", Hello { from: 0, ..MESSAGES }.bytes()),
    ];
    for (what, bytes) in rows {
        let logs = logged(|| {
            in_sim(|sim| async move {
                let [_, (two, in_two)] = two(&sim).await;
                let mut stream = dial(&sim, &bytes).await;
                let (answer, seconds) = rest(&sim, &mut stream).await;
                assert!(answer.is_empty() && seconds == 0, "{what}");
                assert_eq!(two.stats(), counted(|stats| stats.bad_handshakes = 1), "{what}");
                assert_eq!(in_two.messages(), 0);
            });
        });
        assert!(logs.contains("a connection began with something else"), "{what}: {logs}");
    }
}

/// P12.
#[test]
fn whoever_is_of_another_cluster_wants_another_server_or_group_is_told_so() {
    let rows = [
        ("WrongCluster", 1, Hello { cluster: cluster(9), ..MESSAGES }),
        ("WrongCluster", 1, Hello { cluster: cluster(9), ..STREAM }),
        ("WrongNode", 2, Hello { wanted: 5, ..MESSAGES }),
        ("WrongNode", 2, Hello { from: 2, ..MESSAGES }),
        ("NoSuchGroup", 3, Hello { group: 7, ..MESSAGES }),
        ("Version", 4, Hello { version: 2, ..MESSAGES }),
    ];
    for (why, code, hello) in rows {
        let logs = logged(|| {
            in_sim(|sim| async move {
                let [_, (two, in_two)] = two(&sim).await;
                // Who does not wait for the answer is not heard either.
                let message = frame(3, &probe(1, 2, b"x").encode().into_bytes());
                let mut stream = dial(&sim, &[&hello.bytes()[..], &message].concat()).await;
                let (answer, seconds) = rest(&sim, &mut stream).await;
                assert_eq!((answer.last(), answer.len(), seconds), (Some(&code), 10, 0), "{why}");
                assert_eq!(two.stats(), counted(|stats| stats.refused_handshakes = 1), "{why}");
                assert_eq!(in_two.messages(), 0);
            });
        });
        assert!(logs.contains("refused a connection") && logs.contains(why), "{logs}");
    }
}

/// P12.
#[test]
fn a_dialer_that_is_refused_says_so_and_delivers_nothing() {
    let logs = logged(|| {
        in_sim(|sim| async move {
            let [_, (two, in_two)] = two(&sim).await;
            let stranger = bind(&sim.process(3), TcpConfig::default()).await;
            let inbox = FakeInbox::of(cluster(9), 3);
            stranger.attach(inbox.clone());
            stranger.send(&peer(2, "host-2:1"), probe(3, 2, b"x")).unwrap();
            pause(&*sim.process(0), 20).await;
            assert_eq!(two.stats().refused_handshakes, 1);
            assert_eq!((in_two.messages(), inbox.unreachable()), (0, 1));
        });
    });
    assert!(logs.contains("the peer refused the handshake"), "{logs}");
}

/// P43.
#[test]
fn a_frame_that_is_none_ends_the_connection() {
    let good = frame(3, &probe(1, 2, b"x").encode().into_bytes());
    let mut damaged = good.to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    let elsewhere = Message::probe(cluster(1), GroupId(7), 1.into(), 2.into(), Bytes::new());
    let bad = counted(|stats| stats.bad_frames = 1);
    let forged = counted(|stats| stats.forged_messages = 1);
    let rows: [(&str, Vec<u8>, Stats); 7] = [
        ("fails its checksum", damaged, bad),
        ("over the limit", [0xff; 9].to_vec(), bad),
        ("over the limit of 2000", frame(3, &[0; 2_001]).to_vec(), bad),
        ("a bad frame", frame(3, b"nonsense").to_vec(), bad),
        ("out of place", frame(4, b"chunk").to_vec(), bad),
        ("of another", frame(3, &probe(7, 2, b"x").encode().into_bytes()).to_vec(), forged),
        ("of another", frame(3, &elsewhere.encode().into_bytes()).to_vec(), forged),
    ];
    for (why, bytes, expected) in rows {
        let good = good.clone();
        let logs = logged(|| {
            in_sim(|sim| async move {
                let mut config = TcpConfig::default();
                config.message_bytes_max = 2_000;
                let (two, in_two) = (bind(&sim.process(2), config).await, FakeInbox::new(2));
                two.attach(in_two.clone());
                let bytes = [&good[..], &bytes, &good].concat();
                let mut stream = by_hand(&sim, &MESSAGES, &bytes).await;
                assert_eq!(rest(&sim, &mut stream).await, (vec![], 0), "{why}");
                assert_eq!(two.stats(), expected, "{why}");
                assert_eq!(in_two.messages(), 1, "what came before is good: {why}");
            });
        });
        assert!(logs.contains(why) && logs.contains("the connection is closed"), "{why}: {logs}");
    }
}

#[test]
fn a_handshake_that_does_not_go_on_is_given_up() {
    let hello = MESSAGES.bytes();
    for begun in [0, 5, 8, 20, hello.len() - 1] {
        let begun = hello[..begun].to_vec();
        let logs = logged(|| {
            in_sim(|sim| async move {
                let [_, (two, _)] = two(&sim).await;
                let mut silent = dial(&sim, &begun).await;
                let (answer, seconds) = rest(&sim, &mut silent).await;
                assert!(answer.is_empty() && (2..5).contains(&seconds), "{seconds}");
                assert_eq!(two.stats(), counted(|stats| stats.bad_handshakes = 1));
            });
        });
        assert!(logs.contains("said nothing in time"), "{logs}");
    }
}

#[test]
fn a_message_that_does_not_go_on_is_given_up_but_silence_between_two_is_not() {
    let good = frame(3, &probe(1, 2, b"x").encode().into_bytes());
    let logs = logged(|| {
        in_sim(|sim| async move {
            let [_, (two, in_two)] = two(&sim).await;
            let mut stream = by_hand(&sim, &MESSAGES, &good).await;
            pause(&*sim.process(0), 120_000).await;
            stream.write_all(&good).await.unwrap();
            stream.write_all(&good[..good.len() - 1]).await.unwrap();
            let (_, seconds) = rest(&sim, &mut stream).await;
            assert!((9..12).contains(&seconds), "{seconds}");
            assert_eq!(in_two.messages(), 2);
            assert_eq!(two.stats(), counted(|stats| stats.stalled = 1));
        });
    });
    assert!(logs.contains("brought nothing in time"), "{logs}");
}

#[test]
fn a_long_message_that_keeps_coming_may_take_its_time() {
    in_sim(|sim| async move {
        let [_, (two, in_two)] = two(&sim).await;
        let long = frame(3, &probe(1, 2, &[7; 50_000]).encode().into_bytes());
        let mut stream = by_hand(&sim, &MESSAGES, b"").await;
        for piece in long.chunks(5_000) {
            stream.write_all(piece).await.unwrap();
            pause(&*sim.process(0), 8_000).await;
        }
        assert_eq!((in_two.messages(), two.stats()), (1, Stats::default()));
    });
}

#[test]
fn too_many_connections_are_turned_away() {
    let logs = logged(|| {
        in_sim(|sim| async move {
            let mut config = TcpConfig::default();
            config.connections_max = 1;
            let two = bind(&sim.process(2), config).await;
            two.attach(FakeInbox::new(2));
            let first = by_hand(&sim, &MESSAGES, b"").await;
            let mut second = dial(&sim, b"").await;
            assert_eq!(rest(&sim, &mut second).await, (vec![], 0));
            assert_eq!(two.stats(), counted(|stats| stats.turned_away = 1));
            drop(first);
            pause(&*sim.process(0), 10).await;
            by_hand(&sim, &MESSAGES, b"").await;
        });
    });
    assert!(logs.contains("too many connections"), "{logs}");
}

#[test]
fn strangers_that_say_nothing_do_not_take_the_place_of_peers() {
    in_sim(|sim| async move {
        let mut config = TcpConfig::default();
        config.handshakes_max = 2;
        let (two, in_two) = (bind(&sim.process(2), config).await, FakeInbox::new(2));
        two.attach(in_two.clone());
        // Those that got through do not count.
        let mut peers = Vec::new();
        for _ in 0..3 {
            peers.push(by_hand(&sim, &MESSAGES, b"").await);
        }
        let _silent = (dial(&sim, b"").await, dial(&sim, b"").await);
        let mut third = dial(&sim, &MESSAGES.bytes()).await;
        assert_eq!(rest(&sim, &mut third).await, (vec![], 0));
        assert_eq!(two.stats(), counted(|stats| stats.turned_away = 1));
        let good = frame(3, &probe(1, 2, b"x").encode().into_bytes());
        peers[0].write_all(&good).await.unwrap();
        // Once the silent ones are given up, there is room again.
        pause(&*sim.process(0), 4_000).await;
        by_hand(&sim, &MESSAGES, &good).await;
        pause(&*sim.process(0), 10).await;
        assert_eq!(in_two.messages(), 2);
    });
}

/// P14.
#[test]
fn a_stream_that_breaks_the_rules_is_no_stream() {
    let head = frame(3, &probe(1, 2, b"head").encode().into_bytes());
    let chunk = frame(4, b"chunk");
    let mut damaged = chunk.to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    let bad = counted(|stats| stats.bad_frames = 1);
    let rows: [(&str, Vec<u8>, u64, Stats); 6] = [
        ("fails its checksum", damaged, 0, bad),
        ("over the limit of 65536", frame(4, &[0; 65_537]).to_vec(), 0, bad),
        ("out of place", head.to_vec(), 0, bad),
        ("out of place", frame(9, b"").to_vec(), 0, bad),
        ("brought nothing in time", vec![], 10, counted(|stats| stats.stalled = 1)),
        ("brought nothing in time", chunk[..11].to_vec(), 10, counted(|s| s.stalled = 1)),
    ];
    for (why, bytes, seconds, expected) in rows {
        let bytes = [&head[..], &chunk, &bytes].concat();
        let logs = logged(|| {
            in_sim(|sim| async move {
                let [_, (two, in_two)] = two(&sim).await;
                let mut stream = by_hand(&sim, &STREAM, &bytes).await;
                let (verdict, took) = rest(&sim, &mut stream).await;
                assert_eq!(verdict[8..10], [6, 4], "a verdict: failed, {why}");
                assert!(took.abs_diff(seconds) <= 1, "{why} after {took} s");
                assert!(in_two.received.lock().unwrap().streams.is_empty(), "{why}");
                assert_eq!(two.stats(), expected, "{why}");
            });
        });
        assert!(logs.contains(why), "{why}: {logs}");
    }
}

#[test]
fn a_stream_that_ends_before_its_end_is_no_stream() {
    in_sim(|sim| async move {
        let [_, (_two, in_two)] = two(&sim).await;
        let head = frame(3, &probe(1, 2, b"head").encode().into_bytes());
        let begun = [&head[..], &frame(4, b"chunk")].concat();
        let mut stream = by_hand(&sim, &STREAM, &begun).await;
        stream.close().await.unwrap();
        let (verdict, took) = rest(&sim, &mut stream).await;
        assert_eq!((&verdict[8..10], took), (&[6, 4][..], 0), "a verdict: failed, at once");
        assert!(in_two.received.lock().unwrap().streams.is_empty());
    });
}

#[test]
fn a_stream_without_a_head_is_given_up() {
    let head = frame(3, &probe(1, 2, b"head").encode().into_bytes());
    for begun in [0, 4, head.len() - 1] {
        let begun = head[..begun].to_vec();
        let logs = logged(|| {
            in_sim(|sim| async move {
                let [_, (two, _)] = two(&sim).await;
                let mut stream = by_hand(&sim, &STREAM, &begun).await;
                let (verdict, took) = rest(&sim, &mut stream).await;
                assert!(verdict.is_empty() && (9..12).contains(&took), "{took}");
                assert_eq!(two.stats(), counted(|stats| stats.stalled = 1));
            });
        });
        assert!(logs.contains("brought nothing in time"), "{logs}");
    }
}
