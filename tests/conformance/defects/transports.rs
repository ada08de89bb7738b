//! Transports with a defect.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use async_trait::async_trait;
use futures::io::{AsyncRead, AsyncReadExt as _, Cursor};
use kontiki::GroupId;
use kontiki::conformance::transport::CASES;
use kontiki::conformance::{Broken, Fixture, Server, TransportFixture};
use kontiki::runtime::sim::Sim;
use kontiki::runtime::{BoxFuture, ByteReader, Net, Runtime};
use kontiki::transport::{Inbox, Message, Peer, Transport, TransportError};
use kontiki_transport_memory::Network;

use super::breaks;
use super::naive::Naive;
use crate::transports::run_in;

#[derive(Clone, Copy, PartialEq)]
enum Flaw {
    DropsSilently,
    EndsWhereItBreaks,
    ForgetsToDetach,
    HoldsStreams,
    Optimist,
    Reorders,
    Twice,
    WhoeverIsThere,
}

struct Bent(Flaw, Arc<dyn Transport>);

#[async_trait]
impl Transport for Bent {
    fn attach(&self, inbox: Arc<dyn Inbox>) {
        self.1.attach(inbox);
    }

    fn send(&self, peer: &Peer, message: Message) -> Result<(), TransportError> {
        match self.0 {
            Flaw::DropsSilently => {
                let _ = self.1.send(peer, message);
                Ok(())
            }
            Flaw::Twice => {
                let _ = self.1.send(peer, message.clone());
                self.1.send(peer, message)
            }
            Flaw::WhoeverIsThere => self.1.send(&Peer { id: None, ..peer.clone() }, message),
            _ => self.1.send(peer, message),
        }
    }

    async fn send_stream(
        &self,
        peer: &Peer,
        head: Message,
        mut body: ByteReader,
    ) -> Result<(), TransportError> {
        let body: ByteReader = match self.0 {
            Flaw::Reorders => {
                let mut bytes = Vec::new();
                let read = body.read_to_end(&mut bytes).await;
                // The last two chunks change places.
                let mut chunks: Vec<&[u8]> = bytes.chunks(65_536).collect();
                if let [.., one, two] = &mut chunks[..] {
                    std::mem::swap(one, two);
                }
                let rest = Then(read.is_err());
                Box::pin(Cursor::new(chunks.concat()).chain(rest))
            }
            Flaw::HoldsStreams => {
                let mut bytes = Vec::new();
                let mut chunk = vec![0; 65_536];
                loop {
                    match body.read(&mut chunk).await {
                        Ok(0) => break,
                        Ok(read) => bytes.extend_from_slice(&chunk[..read]),
                        Err(_) => return Err(TransportError::Detached),
                    }
                }
                Box::pin(Cursor::new(bytes))
            }
            Flaw::EndsWhereItBreaks => Box::pin(EndsWhereItBreaks(body)),
            _ => body,
        };
        let sent = self.1.send_stream(peer, head, body).await;
        if self.0 == Flaw::Optimist { Ok(()) } else { sent }
    }

    async fn detach(&self, group: GroupId) {
        if self.0 != Flaw::ForgetsToDetach {
            self.1.detach(group).await;
        }
    }
}

/// Ends, or fails.
struct Then(bool);

impl AsyncRead for Then {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(if self.0 { Err(io::Error::other("broken")) } else { Ok(0) })
    }
}

struct EndsWhereItBreaks(ByteReader);

impl AsyncRead for EndsWhereItBreaks {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.0.as_mut().poll_read(cx, into).map(|read| Ok(read.unwrap_or(0)))
    }
}

struct World {
    flaw: Flaw,
    sim: Sim,
    network: Network,
    count: AtomicU64,
}

fn with(flaw: Flaw) -> Arc<dyn TransportFixture> {
    let sim = Sim::new(1);
    let network = Network::new(sim.process(0));
    Arc::new(World { flaw, sim, network, count: AtomicU64::new(0) })
}

impl Fixture for World {
    fn run(&self, case: BoxFuture<'static>) -> Result<(), Broken> {
        run_in(&self.sim, case)
    }
}

#[async_trait]
impl TransportFixture for World {
    fn runtime(&self) -> Arc<dyn Runtime> {
        self.sim.process(0)
    }

    async fn server(&self) -> Server {
        let address = format!("server-{}", self.count.fetch_add(1, Ordering::SeqCst));
        let transport = Arc::new(Bent(self.flaw, self.network.endpoint(&address)));
        Server { transport, address }
    }

    fn nowhere(&self) -> String {
        "nowhere".to_owned()
    }
}

#[test]
fn each_flaw_is_caught_by_the_promise_it_breaks() {
    for (flaw, name, how) in [
        (Flaw::DropsSilently, "nobody_there_is_said", "the report that nobody is there"),
        (Flaw::EndsWhereItBreaks, "a_stream_whose_source_fails_is_no_stream", "counts as sent"),
        (Flaw::ForgetsToDetach, "detaching_lets_go_of_the_inbox", "still holds the inbox"),
        (Flaw::HoldsStreams, "a_stream_is_not_held_in_memory", "ahead of these"),
        (Flaw::Optimist, "the_verdict_comes_back", "the sender hears: success"),
        (Flaw::Optimist, "a_stream_to_the_wrong_one_is_refused", "counts as taken"),
        (Flaw::Reorders, "a_stream_arrives_whole_and_in_order", "in another order"),
        (Flaw::Twice, "a_message_arrives_at_most_once", "delivered twice"),
        (Flaw::WhoeverIsThere, "another_server_gets_nothing", ""),
    ] {
        breaks(CASES, || with(flaw), &[(name, how)]);
    }
}

struct OverSockets {
    sim: Sim,
    count: AtomicU64,
}

impl Fixture for OverSockets {
    fn run(&self, case: BoxFuture<'static>) -> Result<(), Broken> {
        run_in(&self.sim, case)
    }
}

#[async_trait]
impl TransportFixture for OverSockets {
    fn runtime(&self) -> Arc<dyn Runtime> {
        self.sim.process(0)
    }

    async fn server(&self) -> Server {
        let process = self.sim.process(self.count.fetch_add(1, Ordering::SeqCst));
        let (transport, address) = Naive::listen(process).await;
        Server { transport, address }
    }

    fn nowhere(&self) -> String {
        "nowhere:1".to_owned()
    }

    fn net(&self) -> Option<Arc<dyn Net>> {
        Some(self.sim.process(0))
    }

    fn any_address(&self) -> String {
        "between:0".to_owned()
    }
}

#[test]
fn a_naive_transport_is_caught_on_the_wire() {
    let fixture = || {
        let world = OverSockets { sim: Sim::new(1), count: AtomicU64::new(1) };
        Arc::new(world) as Arc<dyn TransportFixture>
    };
    breaks(
        CASES,
        fixture,
        &[
            ("another_cluster_is_refused", "which the inbox does not accept"),
            ("a_silent_connection_is_closed", "the end of a silent connection"),
            ("flipped_bits_are_never_delivered", "is flipped"),
            ("a_stream_that_is_cut_off_is_no_stream", "cut off"),
            ("a_server_that_never_answers_is_reported", "the report that a server never answers"),
            ("a_slow_server_holds_up_nobody", "nothing was refused"),
            ("detaching_lets_go_of_the_inbox", ""),
        ],
    );
}
