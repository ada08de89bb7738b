//! Transports with a defect.

use std::collections::BTreeSet;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use async_trait::async_trait;
use futures::io::{AsyncRead, AsyncReadExt as _, Cursor};
use kontiki::conformance::transport::CASES;
use kontiki::conformance::{Broken, Fixture, Server, TransportFixture};
use kontiki::runtime::sim::Sim;
use kontiki::runtime::{BoxFuture, ByteReader, Net, Runtime};
use kontiki::transport::{Inbox, Message, Peer, Transport, TransportError};
use kontiki::{GroupId, NodeId};
use kontiki_transport_memory::Network;

use super::breaks;
use super::naive::Naive;
use crate::transports::run_in;

#[derive(Clone, Copy, PartialEq)]
enum Flaw {
    AttachesOnce,
    CountsWrong,
    DetachesAll,
    DropsSilently,
    EndsWhereItBreaks,
    ForgetsToDetach,
    Garbles,
    HoldsStreams,
    MixesGroups,
    MixesStreams,
    NeverAgain,
    NoBlanks,
    OnlyByName,
    OnlyShort,
    Optimist,
    Reorders,
    StreamsHoldUp,
    Timid,
    Twice,
    WhoeverIsThere,
}

struct Bent(Flaw, Arc<dyn Transport>, Mutex<Memory>);

#[derive(Default)]
struct Memory {
    attached: BTreeSet<GroupId>,
    disconnected: BTreeSet<NodeId>,
    stream: Option<Vec<u8>>,
    streaming: bool,
}

/// The same message in another group, and with another payload.
fn changed(message: &Message, group: GroupId, change: fn(&mut Vec<u8>)) -> Message {
    let mut payload = message.probe_payload().cloned().unwrap_or_default().to_vec();
    change(&mut payload);
    let to = message.to().unwrap();
    Message::probe(message.cluster(), group, message.from(), to, payload.into())
}

fn unreachable() -> TransportError {
    TransportError::Unreachable { reason: "a flaw".to_owned() }
}

#[async_trait]
impl Transport for Bent {
    fn check(&self, address: &str, bytes: u64) -> Result<(), TransportError> {
        match self.0 {
            Flaw::Timid if bytes > 64 << 10 => {
                Err(TransportError::TooLarge { bytes, bytes_max: 64 << 10 })
            }
            _ => self.1.check(address, bytes),
        }
    }

    fn attach(&self, inbox: Arc<dyn Inbox>) {
        let first = self.2.lock().unwrap().attached.insert(inbox.local().group);
        if first || self.0 != Flaw::AttachesOnce {
            self.1.attach(inbox);
        }
    }

    fn send(&self, peer: &Peer, message: Message) -> Result<(), TransportError> {
        let (bytes, group) = (message.encode().len() as u64, message.group());
        let lost = match (self.0, peer.id) {
            (Flaw::NeverAgain, Some(id)) => self.2.lock().unwrap().disconnected.contains(&id),
            (Flaw::NoBlanks, _) => message.cluster().is_nil(),
            (Flaw::OnlyByName, None) => true,
            (Flaw::StreamsHoldUp, _) => self.2.lock().unwrap().streaming,
            _ => false,
        };
        if lost {
            return Err(unreachable());
        }
        match self.0 {
            Flaw::DropsSilently => {
                let _ = self.1.send(peer, message);
                Ok(())
            }
            Flaw::CountsWrong if bytes > 16 << 20 => {
                Err(TransportError::TooLarge { bytes: 1, bytes_max: 16 << 20 })
            }
            Flaw::OnlyShort if bytes > 64 << 10 => {
                Err(TransportError::TooLarge { bytes, bytes_max: 64 << 10 })
            }
            Flaw::Garbles => self.1.send(peer, changed(&message, group, |bytes| bytes.reverse())),
            Flaw::MixesGroups => {
                let _ = self.1.send(peer, changed(&message, GroupId(0), |_| {}));
                self.1.send(peer, message)
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
            Flaw::MixesStreams => {
                let mut bytes = Vec::new();
                body.read_to_end(&mut bytes).await.unwrap();
                // Whatever came first.
                let bytes = self.2.lock().unwrap().stream.get_or_insert(bytes).clone();
                Box::pin(Cursor::new(bytes))
            }
            Flaw::EndsWhereItBreaks => Box::pin(EndsWhereItBreaks(body)),
            _ => body,
        };
        self.2.lock().unwrap().streaming = true;
        let sent = self.1.send_stream(peer, head, body).await;
        self.2.lock().unwrap().streaming = false;
        if self.0 == Flaw::Optimist { Ok(()) } else { sent }
    }

    fn disconnect(&self, group: GroupId, peer: NodeId) {
        self.2.lock().unwrap().disconnected.insert(peer);
        self.1.disconnect(group, peer);
    }

    async fn detach(&self, group: GroupId) {
        if self.0 == Flaw::DetachesAll {
            self.1.detach(GroupId(7)).await;
        }
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
        let transport = self.network.endpoint(&address);
        let transport = Arc::new(Bent(self.flaw, transport, Mutex::default()));
        Server { transport, address }
    }

    fn nowhere(&self) -> String {
        "nowhere".to_owned()
    }
}

#[test]
fn each_flaw_is_caught_by_the_promise_it_breaks() {
    for (flaw, name, how) in [
        (Flaw::AttachesOnce, "a_group_can_be_attached_again", "the arrival"),
        (Flaw::CountsWrong, "a_message_that_is_too_long_is_refused", "refused as 1 over"),
        (Flaw::CountsWrong, "what_is_carried_is_said_before", "of a message of 41942"),
        (Flaw::DetachesAll, "detaching_leaves_other_groups_alone", ""),
        (Flaw::DropsSilently, "nobody_there_is_said", "the report that nobody is there"),
        (Flaw::EndsWhereItBreaks, "a_stream_whose_source_fails_is_no_stream", "counts as sent"),
        (Flaw::ForgetsToDetach, "detaching_lets_go_of_the_inbox", "still holds the inbox"),
        (Flaw::ForgetsToDetach, "detaching_ends_streams", "still holds the inbox"),
        (Flaw::Garbles, "a_message_arrives_as_it_was_sent", "the arrival"),
        (Flaw::MixesGroups, "groups_do_not_mix", "of another group"),
        (Flaw::MixesGroups, "a_group_that_is_not_there_gets_nothing", "delivered to another"),
        (Flaw::MixesStreams, "streams_do_not_mix", "with bytes of another"),
        (Flaw::NeverAgain, "a_disconnected_server_can_be_sent_to_again", "the arrival"),
        (Flaw::NoBlanks, "a_blank_server_is_let_in", "the arrival"),
        (Flaw::OnlyByName, "whoever_answers_gets_what_is_for_anybody", "the arrival"),
        (Flaw::OnlyShort, "a_long_message_arrives", "the arrival"),
        (Flaw::StreamsHoldUp, "messages_pass_a_stream_that_stands_still", "the arrival"),
        (Flaw::HoldsStreams, "a_stream_is_not_held_in_memory", "ahead of these"),
        (Flaw::Optimist, "the_verdict_comes_back", "the sender hears: success"),
        (Flaw::Optimist, "a_stream_to_the_wrong_one_is_refused", "counts as taken"),
        (Flaw::Reorders, "a_stream_arrives_whole_and_in_order", "in another order"),
        (Flaw::Timid, "a_long_message_arrives", "can start"),
        (Flaw::Timid, "what_is_carried_is_said_before", "65537 bytes, and they are not refused"),
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
            ("a_broken_connection_is_reported_and_made_anew", ""),
            ("a_message_in_anothers_name_is_refused", "in the name of a server"),
            ("a_stream_in_anothers_name_is_refused", "in the name of a server"),
            ("a_damaged_verdict_is_not_success", "and it is success"),
            ("a_connection_that_stands_still_is_given_up", "stands still"),
            ("a_stream_that_is_let_go_of_is_no_stream", "taken for whole"),
            ("a_silent_connection_is_closed", "the end of a silent connection"),
            ("flipped_bits_are_never_delivered", "is flipped"),
            ("a_stream_that_is_cut_off_is_no_stream", "cut off"),
            ("a_server_that_never_answers_is_reported", "the report that a server never answers"),
            ("a_slow_server_holds_up_nobody", "nothing was refused"),
            ("detaching_lets_go_of_the_inbox", ""),
        ],
    );
}
