use futures::io::AsyncReadExt as _;
use kontiki::GroupId;
use kontiki::transport::{StreamRefused, Transport as _, TransportError};
use kontiki_transport_tcp::TcpConfig;

use crate::{FakeInbox, bind, body, cluster, in_sim, peer, probe, two};

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
        let began = sim.elapsed();
        let sent = one.send_stream(&to, probe(1, 2, b"head"), Box::pin(begun)).await;
        assert!(sent.is_err());
        assert!((sim.elapsed() - began).as_secs() < 2, "the receiver hears of it at once");
        assert!(in_two.received.lock().unwrap().streams.is_empty());
    });
}
