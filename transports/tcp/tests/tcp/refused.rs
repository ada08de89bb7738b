use bytes::Bytes;
use futures::io::{AsyncReadExt as _, AsyncWriteExt as _};
use kontiki::runtime::Net as _;
use kontiki::runtime::sim::Sim;
use kontiki::transport::frame::frame;
use kontiki::transport::{Message, Transport as _};
use kontiki::{GroupId, NodeId};
use kontiki_transport_tcp::TcpConfig;

use crate::{FakeInbox, bind, cluster, in_sim, pause, peer, probe, two};

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
