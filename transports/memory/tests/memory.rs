//! The in-process network and everything that can go wrong on it, in virtual time.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::io::{AsyncReadExt as _, Cursor};
use kontiki::runtime::sim::Sim;
use kontiki::runtime::{ByteReader, Runtime};
use kontiki::transport::{Inbox, Local, Message, Peer, StreamRefused, Transport, TransportError};
use kontiki::{ClusterId, GroupId, NodeId};
use kontiki_transport_memory::{Faults, MemoryTransport, Network};

struct FakeInbox {
    local: Local,
    messages: Mutex<Vec<u8>>,
    streams: Mutex<Vec<Vec<u8>>>,
}

#[async_trait]
impl Inbox for FakeInbox {
    fn local(&self) -> Local {
        self.local.clone()
    }

    fn deliver(&self, message: Message) {
        self.messages.lock().unwrap().push(message.probe_payload().unwrap()[0]);
    }

    fn unreachable(&self, _: NodeId) {}

    async fn receive_stream(&self, _: Message, mut body: ByteReader) -> Result<(), StreamRefused> {
        let mut bytes = Vec::new();
        body.read_to_end(&mut bytes).await.unwrap();
        if bytes.is_empty() {
            return Err(StreamRefused::NotNeeded);
        }
        self.streams.lock().unwrap().push(bytes);
        Ok(())
    }

    fn accepts(&self, _: ClusterId, _: NodeId) -> bool {
        true
    }
}

struct World {
    sim: Sim,
    network: Network,
    one: Arc<MemoryTransport>,
    two: Arc<MemoryTransport>,
    inbox: Arc<FakeInbox>,
}

/// Servers 1 and 2, of which 2 receives.
fn with_two<F: Future<Output = ()> + Send + 'static>(
    test: impl FnOnce(World) -> F + Send + 'static,
) {
    let sim = Sim::new(4);
    let network = Network::new(sim.process(0));
    let inbox = |n: u64| {
        let local = Local { cluster: ClusterId::NIL, group: GroupId(0), node: n.into() };
        Arc::new(FakeInbox { local, messages: Mutex::default(), streams: Mutex::default() })
    };
    let (one, two) = (network.endpoint("one"), network.endpoint("two"));
    one.attach(inbox(1));
    let received = inbox(2);
    two.attach(received.clone());
    let world = World { sim: sim.clone(), network, one, two, inbox: received };
    sim.run_until(Duration::from_secs(60), test(world)).unwrap();
}

fn probe(number: u8) -> Message {
    let payload = Bytes::copy_from_slice(&[number]);
    Message::probe(ClusterId::NIL, GroupId(0), 1.into(), 2.into(), payload)
}

fn peer(n: u64, address: &str) -> Peer {
    Peer { id: Some(n.into()), address: address.to_owned() }
}

impl World {
    fn send(&self, number: u8) -> Result<(), TransportError> {
        self.one.send(&peer(2, "two"), probe(number))
    }

    async fn stream(&self, bytes: &[u8]) -> Result<(), TransportError> {
        let body = Box::pin(Cursor::new(bytes.to_vec()));
        self.one.send_stream(&peer(2, "two"), probe(0), body).await
    }

    fn received(&self) -> Vec<u8> {
        self.inbox.messages.lock().unwrap().clone()
    }

    async fn pause(&self, ms: u64) {
        let process = self.sim.process(0);
        process.timer(process.now() + Duration::from_millis(ms)).await;
    }
}

#[test]
fn without_faults_everything_arrives_at_once_and_in_order() {
    with_two(|world| async move {
        (1..=3).for_each(|n| world.send(n).unwrap());
        assert_eq!(world.received(), [1, 2, 3]);
        world.stream(b"snapshot").await.unwrap();
        assert_eq!(*world.inbox.streams.lock().unwrap(), [b"snapshot"]);
        let refused = world.stream(b"").await;
        assert!(matches!(refused, Err(TransportError::Refused(StreamRefused::NotNeeded))));
    });
}

#[test]
fn only_who_is_wanted_is_reached() {
    with_two(|world| async move {
        let unreachable = |sent| matches!(sent, Err(TransportError::Unreachable { .. }));
        assert!(unreachable(world.one.send(&peer(2, "three"), probe(1))));
        assert!(unreachable(world.one.send(&peer(3, "two"), probe(1))));
        let anybody = Peer { id: None, address: "two".to_owned() };
        world.one.send(&anybody, probe(2)).unwrap();
        world.two.detach(GroupId(0)).await;
        assert!(unreachable(world.send(3)));
        assert_eq!(world.received(), [2]);
        assert_eq!(world.network.counters().undeliverable, 3);
    });
}

#[test]
fn a_cut_lets_nothing_through_until_it_is_mended() {
    with_two(|world| async move {
        for cut in [
            |network: &Network| network.partition("one", "two"),
            |network: &Network| network.partition("two", "one"),
            |network: &Network| network.isolate("one"),
            |network: &Network| network.isolate("two"),
        ] {
            cut(&world.network);
            assert!(world.send(1).is_err() && world.stream(b"x").await.is_err());
            world.network.heal();
        }
        world.network.partition("one", "three");
        world.send(2).unwrap();
        assert_eq!(world.received(), [2]);
    });
}

#[test]
fn chance_loses_and_doubles_as_often_as_it_was_told() {
    with_two(|world| async move {
        world.network.set_faults(Faults { loss: 0.25, ..Faults::default() });
        (0..200).for_each(|n| world.send(n).unwrap());
        let (arrived, lost) = (world.received().len(), world.network.counters().lost);
        assert!((120..180).contains(&arrived), "{arrived}");
        assert_eq!(arrived as u64 + lost, 200);
        world.network.set_faults(Faults { loss: 1.0, ..Faults::default() });
        world.send(1).unwrap();
        assert!(world.stream(b"x").await.is_err());
        assert_eq!(world.received().len(), arrived);
        world.network.set_faults(Faults { duplication: 0.5, ..Faults::default() });
        (0..200).for_each(|n| world.send(n).unwrap());
        world.pause(1).await;
        let twice = world.received().len() - arrived - 200;
        assert!((60..140).contains(&twice), "{twice}");
    });
}

#[test]
fn messages_with_a_delay_come_in_the_order_of_arrival() {
    with_two(|world| async move {
        let delay = Duration::from_millis(10)..Duration::from_millis(20);
        world.network.set_faults(Faults { delay, ..Faults::default() });
        (0..50).for_each(|n| world.send(n).unwrap());
        // That another server ends, be it the sender, changes nothing for what is on its way.
        world.one.detach(GroupId(0)).await;
        world.pause(9).await;
        assert!(world.received().is_empty());
        world.pause(12).await;
        let mut received = world.received();
        assert!(!received.is_sorted(), "they overtake each other");
        received.sort_unstable();
        assert!(received.iter().copied().eq(0..50));
    });
}

#[test]
fn nothing_is_delivered_any_more_after_detach() {
    with_two(|world| async move {
        let delay = Duration::from_millis(10)..Duration::from_millis(20);
        world.network.set_faults(Faults { delay, duplication: 1.0, ..Faults::default() });
        (0..50).for_each(|n| world.send(n).unwrap());
        world.pause(15).await;
        world.two.detach(GroupId(0)).await;
        let before = world.received().len();
        assert!((1..100).contains(&before));
        assert_eq!(Arc::strong_count(&world.inbox), 1, "nothing holds it any more");
        world.pause(100).await;
        assert_eq!(world.received().len(), before);
    });
}

#[test]
fn the_task_of_a_network_ends_with_it() {
    let sim = Sim::new(4);
    let process = sim.process(0);
    let references = Arc::strong_count(&process);
    let network = Network::new(process.clone());
    drop(network);
    sim.run_for(Duration::from_secs(1));
    assert_eq!(Arc::strong_count(&process), references);
}
