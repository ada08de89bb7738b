use std::sync::Arc;

use kontiki::GroupId;
use kontiki::transport::{Transport as _, TransportError};
use kontiki_transport_tcp::{TcpConfig, TcpTransport};

use crate::{FakeInbox, bind, in_sim, pause, peer, probe, two};

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

/// P43, P56.
#[test]
fn what_it_cannot_carry_and_addresses_that_nobody_can_dial_are_refused_beforehand() {
    in_sim(|sim| async move {
        let mut config = TcpConfig::default();
        config.message_bytes_max = 1_000;
        let one = bind(&sim.process(1), config).await;
        for address in ["", "host-1:1", "10.0.0.1:4647", "[2001:db8::1]:4647"] {
            assert!(one.check(address, 1_000).is_ok(), "{address}");
        }
        let long = one.check("host-1:1", 1_001);
        assert!(matches!(long, Err(TransportError::TooLarge { bytes: 1_001, bytes_max: 1_000 })));
        for address in ["0.0.0.0:4647", "[::]:4647", "10.0.0.1:0", "host-1:0"] {
            let refused = one.check(address, 1_000);
            assert!(matches!(refused, Err(TransportError::BadAddress { .. })), "{address}");
        }
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

/// P45.
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
        let tasks = Arc::strong_count(&in_one);
        one.send(&peer(2, "new:1"), probe(1, 2, b"c")).unwrap();
        pause(&*harness, 100).await;
        assert_eq!(in_moved.messages(), 1);
        assert_eq!(Arc::strong_count(&in_one), tasks, "nobody dials the old address any more");
    });
}

/// P45.
#[test]
fn what_waited_for_a_connection_that_failed_is_not_sent_on_the_next() {
    in_sim(|sim| async move {
        let [(one, in_one), (_two, in_two)] = two(&sim).await;
        let (harness, to) = (sim.process(0), peer(2, "host-2:1"));
        sim.partition(1, 2);
        for payload in [&b"old"[..], b"older"] {
            one.send(&to, probe(1, 2, payload)).unwrap();
            pause(&*harness, 1_000).await;
        }
        assert_eq!(in_one.unreachable(), 0, "still dialing");
        pause(&*harness, 1_010).await;
        assert_eq!(in_one.unreachable(), 1);
        sim.heal();
        one.send(&to, probe(1, 2, b"new")).unwrap();
        pause(&*harness, 5_000).await;
        assert_eq!(in_two.received.lock().unwrap().messages, [&b"new"[..]]);
    });
}

#[test]
fn a_peer_that_has_left_is_let_go() {
    in_sim(|sim| async move {
        let [(one, in_one), (_two, in_two)] = two(&sim).await;
        let (harness, to) = (sim.process(0), peer(2, "host-2:1"));
        let tasks = Arc::strong_count(&in_one);
        one.send(&to, probe(1, 2, b"a")).unwrap();
        pause(&*harness, 20).await;
        assert_eq!(Arc::strong_count(&in_one), tasks + 1);
        one.disconnect(GroupId(0), 2.into());
        pause(&*harness, 20).await;
        assert_eq!(Arc::strong_count(&in_one), tasks);
        one.send(&to, probe(1, 2, b"b")).unwrap();
        pause(&*harness, 20).await;
        assert_eq!(in_two.messages(), 2, "sending to it is no error");
    });
}
