//! How a peer is dialed, and what happens if it behaves badly.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::io::{AsyncReadExt as _, AsyncWriteExt as _};
use kontiki::runtime::sim::Sim;
use kontiki::runtime::{BoxStream, Net as _, Runtime as _};
use kontiki::transport::frame::frame;
use kontiki::transport::{Transport as _, TransportError};
use kontiki_transport_tcp::TcpConfig;

use crate::logs::logged;
use crate::{FakeInbox, bind, body, in_sim, pause, peer, probe};

/// A server at host-2:1 that reads a handshake, answers `answer` and then holds the connection;
/// gives when each connection came.
fn bad_server(sim: &Sim, answer: Vec<u8>) -> Arc<Mutex<Vec<Duration>>> {
    let came = Arc::new(Mutex::new(Vec::new()));
    let (process, world, times) = (sim.process(2), sim.clone(), Arc::clone(&came));
    sim.process(2).spawn(Box::pin(async move {
        let mut listener = process.listen("host-2:1").await.unwrap();
        let mut held: Vec<BoxStream> = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            times.lock().unwrap().push(world.elapsed());
            stream.read_exact(&mut [0; 75]).await.unwrap();
            stream.write_all(&answer).await.unwrap();
            if answer.is_empty() || answer[9] == 0 {
                held.push(stream);
            }
        }
    }));
    came
}

/// Server 1 goes on sending to server 2 for so long, as a node does.
async fn send_for(sim: &Sim, seconds: u64, payload: &'static [u8]) -> Arc<FakeInbox> {
    let one = bind(&sim.process(1), TcpConfig::default()).await;
    let inbox = FakeInbox::new(1);
    one.attach(inbox.clone());
    for _ in 0..10 * seconds {
        // A full queue is no reason to stop.
        let _ = one.send(&peer(2, "host-2:1"), probe(1, 2, payload));
        pause(&*sim.process(1), 100).await;
    }
    inbox
}

fn gaps(came: &Mutex<Vec<Duration>>) -> Vec<Duration> {
    came.lock().unwrap().windows(2).map(|two| two[1] - two[0]).collect()
}

#[test]
fn a_peer_that_does_not_answer_the_handshake_is_given_up_and_tried_again() {
    in_sim(|sim| async move {
        let came = bad_server(&sim, Vec::new());
        let inbox = send_for(&sim, 60, b"x").await;
        let gaps = gaps(&came);
        assert!(gaps.len() >= 9, "{gaps:?}");
        let limit = Duration::from_secs(3)..Duration::from_millis(5_200);
        assert!(gaps.iter().all(|gap| limit.contains(gap)), "{gaps:?}");
        assert!(inbox.unreachable() >= gaps.len());
    });
}

#[test]
fn a_peer_that_answers_nonsense_or_no_is_left_alone_for_longer_and_longer() {
    for answer in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], &frame(2, &[1]), &frame(2, &[77])] {
        let answer = answer.to_vec();
        let logs = logged(|| {
            in_sim(|sim| async move {
                let came = bad_server(&sim, answer);
                send_for(&sim, 60, b"x").await;
                let gaps = gaps(&came);
                assert!(gaps[0] < Duration::from_millis(200), "soon at first: {gaps:?}");
                assert!((28..=66).contains(&gaps.len()), "{} times in a minute", gaps.len());
                let late = &gaps[8..];
                let limit = Duration::from_secs(1)..Duration::from_millis(2_300);
                assert!(late.iter().all(|gap| limit.contains(gap)), "{late:?}");
                // Chance has a say, so that many who lost one peer do not come back in step.
                let (least, most) = (late.iter().min().unwrap(), late.iter().max().unwrap());
                assert!(*most - *least > Duration::from_millis(200), "{late:?}");
            });
        });
        assert!(logs.contains("no connection"), "{logs}");
    }
}

#[test]
fn a_peer_that_stops_reading_is_left_and_dialed_again() {
    in_sim(|sim| async move {
        let came = bad_server(&sim, frame(2, &[0]).to_vec());
        let inbox = send_for(&sim, 40, &[7; 5_000]).await;
        let gaps = gaps(&came);
        assert!((2..=4).contains(&gaps.len()), "{gaps:?}");
        assert!(inbox.unreachable() >= 2);
    });
}

#[test]
fn what_waits_for_one_peer_is_bounded_in_messages_and_bytes() {
    in_sim(|sim| async move {
        let mut config = TcpConfig::default();
        config.queue_messages_max = 3;
        config.queue_bytes_max = 5_000;
        let one = bind(&sim.process(1), config).await;
        one.attach(FakeInbox::new(1));
        let send = |n: u64, payload: &'static [u8]| {
            let to = peer(n, &format!("host-{n}:1"));
            let sent = one.send(&to, probe(1, n, payload));
            assert!(matches!(sent, Ok(()) | Err(TransportError::Full)), "{sent:?}");
            sent.is_ok()
        };
        let few: Vec<bool> = (0..4).map(|_| send(2, b"x")).collect();
        assert_eq!(few, [true, true, true, false]);
        // Each peer has a queue of its own, and bytes count too.
        let long: Vec<bool> = (0..3).map(|_| send(3, &[0; 2_000])).collect();
        assert_eq!(long, [true, true, false]);
        assert!(send(3, b"short"), "a shorter one still fits");
        assert_eq!(one.stats().overflowed, 2);
    });
}

#[test]
fn a_stream_has_a_connection_of_its_own_and_holds_no_message_up() {
    in_sim(|sim| async move {
        let (one, two) = (
            bind(&sim.process(1), TcpConfig::default()).await,
            bind(&sim.process(2), TcpConfig::default()).await,
        );
        let inbox = FakeInbox::new(2);
        one.attach(FakeInbox::new(1));
        two.attach(inbox.clone());
        let (process, sender) = (sim.process(1), one.clone());
        sim.process(1).spawn(Box::pin(async move {
            let waits = futures::stream::once(Box::pin(async move {
                pause(&*process, 5_000).await;
                Ok::<_, std::io::Error>(vec![7; 10])
            }));
            let slow = futures::TryStreamExt::into_async_read(waits);
            let whole = body(vec![1; 200_000]).chain(slow);
            let to = peer(2, "host-2:1");
            sender.send_stream(&to, probe(1, 2, b""), Box::pin(whole)).await.unwrap();
        }));
        pause(&*sim.process(1), 1_000).await;
        one.send(&peer(2, "host-2:1"), probe(1, 2, b"x")).unwrap();
        pause(&*sim.process(1), 20).await;
        assert_eq!(inbox.messages(), 1, "while the stream is under way");
        assert!(inbox.received.lock().unwrap().streams.is_empty());
        pause(&*sim.process(1), 6_000).await;
        assert_eq!(inbox.received.lock().unwrap().streams[0].len(), 200_010);
    });
}
