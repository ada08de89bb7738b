use futures::io::AsyncReadExt as _;
use kontiki::transport::Transport as _;

use crate::{body, in_sim, peer, probe, two};

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
