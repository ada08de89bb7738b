//! The TCP transport in virtual time, and once over real sockets.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::io::{AsyncReadExt as _, AsyncWriteExt as _, Cursor};
use kontiki::runtime::sim::{Sim, SimProcess};
use kontiki::runtime::{ByteReader, Net, Runtime, Smol};
use kontiki::transport::frame::frame;
use kontiki::transport::{Inbox, Local, Message, Peer, StreamRefused, Transport, TransportError};
use kontiki::{ClusterId, GroupId, NodeId};
use kontiki_transport_tcp::{TcpConfig, TcpTransport};

const MINUTE: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Received {
    messages: Vec<Bytes>,
    streams: Vec<Vec<u8>>,
    unreachable: Vec<NodeId>,
}

struct FakeInbox {
    local: Local,
    received: Mutex<Received>,
    refuse: Option<StreamRefused>,
}

impl FakeInbox {
    fn new(node: u64) -> Arc<Self> {
        Self::of(cluster(1), GroupId(0), node, None)
    }

    fn of(
        cluster: ClusterId,
        group: GroupId,
        node: u64,
        refuse: Option<StreamRefused>,
    ) -> Arc<Self> {
        let local = Local { cluster, group, node: node.into() };
        Arc::new(Self { local, received: Mutex::default(), refuse })
    }

    fn messages(&self) -> usize {
        self.received.lock().unwrap().messages.len()
    }

    fn unreachable(&self) -> usize {
        self.received.lock().unwrap().unreachable.len()
    }
}

#[async_trait]
impl Inbox for FakeInbox {
    fn local(&self) -> Local {
        self.local.clone()
    }

    fn deliver(&self, message: Message) {
        let payload = message.probe_payload().unwrap().clone();
        self.received.lock().unwrap().messages.push(payload);
    }

    fn unreachable(&self, peer: NodeId) {
        self.received.lock().unwrap().unreachable.push(peer);
    }

    async fn receive_stream(&self, _: Message, mut body: ByteReader) -> Result<(), StreamRefused> {
        if let Some(refused) = &self.refuse {
            return Err(refused.clone());
        }
        let mut bytes = Vec::new();
        let read = body.read_to_end(&mut bytes).await;
        read.map_err(|error| StreamRefused::Failed(error.to_string()))?;
        self.received.lock().unwrap().streams.push(bytes);
        Ok(())
    }

    fn accepts(&self, cluster: ClusterId, _: NodeId) -> bool {
        cluster == self.local.cluster
    }
}

fn cluster(n: u64) -> ClusterId {
    ClusterId::from_random(n, n)
}

fn probe(from: u64, to: u64, payload: &'static [u8]) -> Message {
    Message::probe(cluster(1), GroupId(0), from.into(), to.into(), Bytes::from_static(payload))
}

fn peer(n: u64, address: &str) -> Peer {
    Peer { id: Some(n.into()), address: address.to_owned() }
}

async fn bind(process: &Arc<SimProcess>, config: TcpConfig) -> Arc<TcpTransport> {
    let address = format!("host-{}:1", process.id());
    TcpTransport::bind(process.clone(), process.clone(), &address, config).await.unwrap()
}

async fn pause(runtime: &dyn Runtime, ms: u64) {
    runtime.timer(runtime.now() + Duration::from_millis(ms)).await;
}

/// Two servers, 1 and 2, at host-1:1 and host-2:1.
async fn two(sim: &Sim) -> [(Arc<TcpTransport>, Arc<FakeInbox>); 2] {
    let mut both = Vec::new();
    for n in [1, 2] {
        let transport = bind(&sim.process(n), TcpConfig::default()).await;
        let inbox = FakeInbox::new(n);
        transport.attach(inbox.clone());
        both.push((transport, inbox));
    }
    both.try_into().unwrap_or_else(|_| unreachable!())
}

fn in_sim<F: Future<Output = ()> + Send + 'static>(test: impl FnOnce(Sim) -> F) {
    let sim = Sim::new(11);
    sim.run_until(10 * MINUTE, test(sim.clone())).unwrap();
}

#[test]
fn messages_arrive_in_both_directions_and_in_order() {
    in_sim(|sim| async move {
        let [(one, in_one), (two, in_two)] = two(&sim).await;
        for payload in [&b"a"[..], b"b", b"c"] {
            one.send(&peer(2, "host-2:1"), probe(1, 2, payload)).unwrap();
        }
        two.send(&peer(1, "host-1:1"), probe(2, 1, b"back")).unwrap();
        pause(&*sim.process(0), 100).await;
        assert_eq!(in_two.received.lock().unwrap().messages, [&b"a"[..], b"b", b"c"]);
        assert_eq!(in_one.received.lock().unwrap().messages, [&b"back"[..]]);
        assert_eq!((one.stats().connected, one.stats().bad_frames), (1, 0));
    });
}

#[test]
fn whoever_is_of_another_cluster_wants_another_server_or_group_is_refused() {
    in_sim(|sim| async move {
        let [_, (two, in_two)] = two(&sim).await;
        let stranger = bind(&sim.process(3), TcpConfig::default()).await;
        stranger.attach(FakeInbox::of(cluster(9), GroupId(0), 3, None));
        stranger.attach(FakeInbox::of(cluster(1), GroupId(7), 3, None));
        stranger.send(&peer(2, "host-2:1"), probe(3, 2, b"x")).unwrap();
        pause(&*sim.process(0), 20).await;
        assert_eq!(two.stats().refused_handshakes, 1);
        let group = Message::probe(cluster(1), GroupId(7), 3.into(), 2.into(), Bytes::new());
        stranger.send(&peer(2, "host-2:1"), group).unwrap();
        pause(&*sim.process(0), 20).await;
        let known = FakeInbox::new(3);
        stranger.detach(GroupId(0)).await;
        stranger.attach(known.clone());
        stranger.send(&peer(5, "host-2:1"), probe(3, 5, b"x")).unwrap();
        pause(&*sim.process(0), 20).await;
        assert!(two.stats().refused_handshakes >= 3, "{:?}", two.stats());
        assert_eq!(in_two.messages(), 0);
        assert_eq!(known.unreachable(), 1);
    });
}

/// Connects by hand, shakes hands as server 1, and sends `bytes`.
async fn by_hand(sim: &Sim, bytes: &[u8]) -> kontiki::runtime::BoxStream {
    let mut stream = sim.process(1).dial("host-2:1").await.unwrap();
    let mut hello = vec![1, 0];
    hello.extend(cluster(1).to_bytes());
    hello.extend(0_u64.to_le_bytes());
    hello.extend(NodeId::from(1).to_bytes());
    hello.extend(NodeId::from(2).to_bytes());
    stream.write_all(b"kontiki\n").await.unwrap();
    stream.write_all(&frame(1, &hello)).await.unwrap();
    stream.read_exact(&mut [0; 10]).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

#[test]
fn garbage_is_refused_and_counted() {
    in_sim(|sim| async move {
        let [_, (two, in_two)] = two(&sim).await;
        let mut stream = sim.process(1).dial("host-2:1").await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        pause(&*sim.process(0), 20).await;
        assert_eq!(two.stats().bad_handshakes, 1);

        let good = frame(3, &probe(1, 2, b"x").encode().into_bytes());
        let _good = by_hand(&sim, &good).await;
        let mut damaged = good.to_vec();
        *damaged.last_mut().unwrap() ^= 1;
        let _damaged = by_hand(&sim, &damaged).await;
        let _long = by_hand(&sim, &[0xff; 9]).await;
        let _nonsense = by_hand(&sim, &frame(3, b"nonsense")).await;
        let _misplaced = by_hand(&sim, &frame(4, b"chunk")).await;
        let forged = frame(3, &probe(7, 2, b"x").encode().into_bytes());
        let _forged = by_hand(&sim, &forged).await;
        pause(&*sim.process(0), 50).await;
        assert_eq!(in_two.messages(), 1);
        assert_eq!(two.stats().bad_frames, 4);
        assert_eq!(two.stats().forged_messages, 1);
    });
}

#[test]
fn a_connection_that_says_nothing_is_closed_at_the_deadline() {
    in_sim(|sim| async move {
        let [_, (two, _)] = two(&sim).await;
        let mut silent = sim.process(1).dial("host-2:1").await.unwrap();
        let began = sim.elapsed();
        assert_eq!(silent.read(&mut [0; 1]).await.unwrap_or(0), 0);
        let took = sim.elapsed() - began;
        assert!((2..5).contains(&took.as_secs()), "{took:?}");
        assert_eq!(two.stats().bad_handshakes, 1);
    });
}

#[test]
fn too_many_connections_are_turned_away() {
    in_sim(|sim| async move {
        let mut config = TcpConfig::default();
        config.connections_max = 1;
        let two = bind(&sim.process(2), config).await;
        two.attach(FakeInbox::new(2));
        let _first = by_hand(&sim, b"").await;
        let mut second = sim.process(1).dial("host-2:1").await.unwrap();
        assert_eq!(second.read(&mut [0; 1]).await.unwrap_or(0), 0);
        assert_eq!(two.stats().turned_away, 1);
    });
}

#[test]
fn what_does_not_fit_is_dropped_and_said() {
    in_sim(|sim| async move {
        let mut config = TcpConfig::default();
        config.queue_messages_max = 2;
        config.message_bytes_max = 1_000;
        let one = bind(&sim.process(1), config).await;
        assert!(matches!(
            one.send(&peer(2, "host-2:1"), probe(1, 2, b"x")),
            Err(TransportError::Detached)
        ));
        one.attach(FakeInbox::new(1));
        let to = peer(2, "host-2:1");
        let long = one.send(&to, probe(1, 2, &[0; 2_000]));
        assert!(matches!(long, Err(TransportError::TooLarge { .. })));
        let sent: Vec<bool> = (0..4).map(|_| one.send(&to, probe(1, 2, b"x")).is_ok()).collect();
        assert_eq!(sent, [true, true, false, false]);
        assert_eq!(one.stats().overflowed, 2);
    });
}

#[test]
fn a_peer_that_comes_back_is_found_again_and_one_that_moved_too() {
    in_sim(|sim| async move {
        let [(one, in_one), (two, _)] = two(&sim).await;
        let harness = sim.process(0);
        one.send(&peer(2, "host-2:1"), probe(1, 2, b"a")).unwrap();
        pause(&*harness, 20).await;
        drop(two);
        sim.kill(2);
        for _ in 0..5 {
            let _ = one.send(&peer(2, "host-2:1"), probe(1, 2, b"lost"));
            pause(&*harness, 500).await;
        }
        assert!(in_one.unreachable() >= 2);
        let back = bind(&sim.process(2), TcpConfig::default()).await;
        let in_back = FakeInbox::new(2);
        back.attach(in_back.clone());
        for _ in 0..10 {
            let _ = one.send(&peer(2, "host-2:1"), probe(1, 2, b"b"));
            pause(&*harness, 500).await;
        }
        assert!(in_back.messages() > 0);
        let moved = sim.process(3);
        let moved = TcpTransport::bind(moved.clone(), moved, "new:1", TcpConfig::default()).await;
        let moved = moved.unwrap();
        let in_moved = FakeInbox::new(2);
        moved.attach(in_moved.clone());
        one.send(&peer(2, "new:1"), probe(1, 2, b"c")).unwrap();
        pause(&*harness, 100).await;
        assert_eq!(in_moved.messages(), 1);
    });
}

fn body(bytes: Vec<u8>) -> ByteReader {
    Box::pin(Cursor::new(bytes))
}

#[test]
fn a_stream_arrives_whole_and_its_sender_hears_the_verdict() {
    in_sim(|sim| async move {
        let [(one, _), (_two, in_two)] = two(&sim).await;
        let bytes: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
        let to = peer(2, "host-2:1");
        one.send_stream(&to, probe(1, 2, b"head"), body(bytes.clone())).await.unwrap();
        assert_eq!(in_two.received.lock().unwrap().streams, [bytes]);
        let refusing = bind(&sim.process(3), TcpConfig::default()).await;
        let busy = FakeInbox::of(cluster(1), GroupId(0), 3, Some(StreamRefused::Busy));
        refusing.attach(busy);
        let three = peer(3, "host-3:1");
        let sent = one.send_stream(&three, probe(1, 3, b""), body(vec![0; 1 << 20]));
        let refused = sent.await.unwrap_err();
        assert!(matches!(refused, TransportError::Refused(StreamRefused::Busy)), "{refused}");
        let four = peer(4, "host-4:1");
        let nobody = one.send_stream(&four, probe(1, 4, b""), body(vec![]));
        assert!(matches!(nobody.await, Err(TransportError::Unreachable { .. })));
    });
}

struct Broken;

impl futures::io::AsyncRead for Broken {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        _: &mut [u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::task::Poll::Ready(Err(std::io::Error::other("planted")))
    }
}

#[test]
fn a_stream_that_is_broken_off_is_no_stream() {
    in_sim(|sim| async move {
        let [(one, _), (_two, in_two)] = two(&sim).await;
        let to = peer(2, "host-2:1");
        let begun = body(vec![7; 100_000]).chain(Broken);
        let sent = one.send_stream(&to, probe(1, 2, b"head"), Box::pin(begun)).await;
        assert!(sent.is_err());
        pause(&*sim.process(0), 30_000).await;
        assert!(in_two.received.lock().unwrap().streams.is_empty());
    });
}

#[test]
fn detaching_ends_everything_of_the_group() {
    in_sim(|sim| async move {
        let [(one, _), (two, in_two)] = two(&sim).await;
        one.send(&peer(2, "host-2:1"), probe(1, 2, b"a")).unwrap();
        pause(&*sim.process(0), 20).await;
        two.detach(GroupId(0)).await;
        // Nothing of the group holds the inbox any more.
        assert_eq!(Arc::strong_count(&in_two), 1);
        one.send(&peer(2, "host-2:1"), probe(1, 2, b"b")).unwrap();
        pause(&*sim.process(0), 20).await;
        assert_eq!(in_two.messages(), 1);
    });
}

#[test]
fn real_sockets_carry_it_too() {
    smol::block_on(async {
        let smol: Arc<Smol> = Arc::new(Smol::new());
        let mut servers = Vec::new();
        for n in [1_u64, 2] {
            let (runtime, net) = (smol.clone(), smol.clone());
            let bound = TcpTransport::bind(runtime, net, "127.0.0.1:0", TcpConfig::default()).await;
            let (transport, inbox) = (bound.unwrap(), FakeInbox::new(n));
            transport.attach(inbox.clone());
            servers.push((transport, inbox));
        }
        let to = peer(2, servers[1].0.local_address());
        servers[0].0.send_stream(&to, probe(1, 2, b"head"), body(vec![1; 100_000])).await.unwrap();
        servers[0].0.send(&to, probe(1, 2, b"a")).unwrap();
        while servers[1].1.messages() == 0 {
            pause(&*smol, 1).await;
        }
        assert_eq!(servers[1].1.received.lock().unwrap().streams[0].len(), 100_000);
    });
}
