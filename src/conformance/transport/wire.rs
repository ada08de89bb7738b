//! What a transport does when the connections below it misbehave.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::io::{AsyncReadExt as _, AsyncWriteExt as _};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use super::proxy::{Mishap, Proxy};
use super::recorder::{End, Source, Taking};
use super::streams::send;
use super::{Seat, TransportFixture, WAIT_MAX, only_these, pattern, within};
use crate::conformance::{Broken, KEPT, Outcome, Promised as _, not_applicable};
use crate::runtime::{BoxStream, Net};
use crate::transport::{Local, Message, Peer, StreamRefused, TransportError};

type Fixture = Arc<dyn TransportFixture>;

pub(super) async fn garbage_delivers_nothing(fixture: Fixture) -> Outcome {
    let Some(net) = fixture.net() else { return not_applicable(NO_WIRE) };
    let (one, two) = (Seat::new(&fixture, 1).await, Seat::new(&fixture, 2).await);
    one.send_until_it_arrives(&two.peer(), &two.inbox, "before").await?;
    let mut garbage = vec![
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        vec![0; 10_000],
        vec![0xff; 10_000],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        Vec::new(),
    ];
    garbage.extend((0..20).map(|seed| pattern(seed, 500)));
    for bytes in garbage {
        let mut stream = dial(&*net, &two.address).await?;
        // It may be closed before all of it is written.
        let _ = stream.write_all(&bytes).await;
        let _ = stream.close().await;
        closed(&one, stream, "the end of a connection with garbage").await?;
    }
    one.send_until_it_arrives(&two.peer(), &two.inbox, "behind").await?;
    let strange = two.inbox.with(|got| {
        got.begun > 0 || got.payloads().any(|found| found != "before" && found != "behind")
    });
    ensure!(!strange, "garbage was delivered");
    KEPT
}

pub(super) async fn a_message_in_anothers_name_is_refused(fixture: Fixture) -> Outcome {
    let Some(_) = fixture.net() else { return not_applicable(NO_WIRE) };
    let (one, two) = (Seat::new(&fixture, 1).await, Seat::new(&fixture, 2).await);
    for payload in ["before", "behind one", "behind two", "behind three"] {
        one.send_until_it_arrives(&two.peer(), &two.inbox, payload).await?;
        // Refused by whoever sends it, or by whoever receives it.
        let _ = one.transport.send(&two.peer(), in_anothers_name(&one, &two));
    }
    one.send_until_it_arrives(&two.peer(), &two.inbox, "behind all").await?;
    let forged = two.inbox.with(|got| got.messages.iter().any(|it| it.from() != one.local.node));
    ensure!(!forged, "a message was delivered in the name of a server that has not sent it");
    KEPT
}

pub(super) async fn a_stream_in_anothers_name_is_refused(fixture: Fixture) -> Outcome {
    let Some(_) = fixture.net() else { return not_applicable(NO_WIRE) };
    let (one, two) = (Seat::new(&fixture, 1).await, Seat::new(&fixture, 2).await);
    let (source, to) = (Source::new(1, 10, End::Normal), two.peer());
    let sending = one.transport.send_stream(&to, in_anothers_name(&one, &two), source.reader());
    let what = "the end of a stream in another's name";
    let sent = within(&*one.runtime, WAIT_MAX, what, sending).await?;
    let begun = two.inbox.with(|got| got.begun);
    ensure!(begun == 0, "a stream was delivered in the name of a server that has not sent it");
    ensure!(sent.is_err(), "a stream in another's name counts as taken");
    send(&one, &to, &source).await?.promised("a stream in its sender's name")?;
    KEPT
}

fn in_anothers_name(one: &Seat, two: &Seat) -> Message {
    let Local { cluster, group, .. } = one.local;
    Message::probe(cluster, group, 3.into(), two.local.node, "in another's name".into())
}

pub(super) async fn a_silent_connection_is_closed(fixture: Fixture) -> Outcome {
    let Some(net) = fixture.net() else { return not_applicable(NO_WIRE) };
    let (one, two) = (Seat::new(&fixture, 1).await, Seat::new(&fixture, 2).await);
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(dial(&*net, &two.address).await?);
    }
    one.send_until_it_arrives(&two.peer(), &two.inbox, "beside silent ones").await?;
    for stream in silent {
        closed(&one, stream, "the end of a silent connection").await?;
    }
    KEPT
}

pub(super) async fn flipped_bits_are_never_delivered(fixture: Fixture) -> Outcome {
    let Some(net) = fixture.net() else { return not_applicable(NO_WIRE) };
    let places: Vec<usize> = (0..300).step_by(7).chain((300..900).step_by(60)).collect();
    // Several at once: what a flipped bit makes longer than it is, is waited for.
    let tries = stream::iter(places).map(|place| one_flipped_bit(&fixture, &net, place));
    tries.buffer_unordered(16).try_collect::<()>().await?;
    KEPT
}

async fn one_flipped_bit(
    fixture: &Fixture,
    net: &Arc<dyn Net>,
    place: usize,
) -> Result<(), Broken> {
    let (one, two) = (Seat::new(fixture, 1).await, Seat::new(fixture, 2).await);
    let proxy = Proxy::new(fixture, Arc::clone(net), &two.address).await?;
    let bit = u8::try_from(place * 3 % 8).unwrap_or_default();
    proxy.set(Mishap::Flip(place, bit));
    let (to, mut sent) = (two.peer_at(&proxy.address), BTreeSet::new());
    for n in 0..5 {
        let payload = Bytes::from(pattern(n, 150));
        // What comes behind the flipped bit may be refused or lost.
        let _ = one.send(&to, payload.clone());
        sent.insert(payload);
    }
    one.repeat("a connection to be made", || proxy.connections() > 0).await?;
    let source = Source::new(1, 700, End::Normal);
    let streamed = send(&one, &to, &source).await?;
    proxy.set(Mishap::None);
    sent.insert("a marker".into());
    one.send_until_it_arrives(&to, &two.inbox, "a marker").await?;
    two.inbox.with(|got| {
        let strange = got.payloads().any(|found| !sent.contains(found));
        ensure!(!strange, "bit {place}.{bit} is flipped, and a message comes that nobody sent");
        let whole =
            |(head, bytes): &(Bytes, Vec<u8>)| head == "the head" && *bytes == source.bytes();
        let whole = got.streams.iter().all(whole);
        ensure!(whole, "bit {place}.{bit} is flipped, and a stream is taken with it");
        let taken = streamed.is_err() || !got.streams.is_empty();
        ensure!(
            taken,
            "bit {place}.{bit} is flipped, and a stream counts as taken that never came"
        );
        Ok(())
    })
}

pub(super) async fn a_damaged_verdict_is_not_success(fixture: Fixture) -> Outcome {
    let Some(net) = fixture.net() else { return not_applicable(NO_WIRE) };
    let (one, two) = (Seat::new(&fixture, 1).await, Seat::new(&fixture, 2).await);
    let proxy = Proxy::new(&fixture, net, &two.address).await?;
    let source = Source::new(1, 10, End::Normal);
    two.inbox.take_streams(Taking::Part(0, StreamRefused::Busy));
    for place in 0..40 {
        for bit in [0, 1, 7] {
            proxy.set(Mishap::FlipBack(place, bit));
            let sent = send(&one, &two.peer_at(&proxy.address), &source).await?;
            ensure!(
                sent.is_err(),
                "the bit {place}.{bit} of a refusal is flipped, and it is success"
            );
        }
    }
    KEPT
}

pub(super) async fn a_broken_connection_is_reported_and_made_anew(fixture: Fixture) -> Outcome {
    let Some(net) = fixture.net() else { return not_applicable(NO_WIRE) };
    let (one, two) = (Seat::new(&fixture, 1).await, Seat::new(&fixture, 2).await);
    let proxy = Proxy::new(&fixture, net, &two.address).await?;
    let (to, mut sent, mut number) = (two.peer_at(&proxy.address), BTreeSet::new(), 0_u64);
    let mut send_another = || {
        number += 1;
        let payload = Bytes::from(number.to_string());
        if one.send(&to, payload.clone()).is_ok() {
            sent.insert(payload);
        }
    };
    let reports = || one.inbox.with(|got| got.unreachable.len());
    for place in [0, 1, 30, 100, 150, 200, 1_000, 5_000] {
        proxy.set(Mishap::Cut(place));
        proxy.break_all();
        let (made, before) = (proxy.connections(), reports());
        one.repeat(&format!("the report of a connection that breaks at {place}"), || {
            send_another();
            // One that was made before counts for nothing: another one, and its report.
            proxy.connections() > made && reports() > before + 1
        })
        .await?;
        proxy.set(Mishap::None);
        proxy.break_all();
        let seen = two.inbox.with(|got| got.messages.len());
        one.repeat(&format!("a new connection behind one that broke at {place}"), || {
            send_another();
            two.inbox.with(|got| got.messages.len() > seen)
        })
        .await?;
    }
    two.inbox.with(|got| only_these(got, &sent))?;
    let (reports, made) = (reports(), proxy.connections());
    ensure!(reports <= made, "{made} connections were made, and {reports} breaks were reported");
    // The server comes back elsewhere.
    let moved = Seat::of(&fixture, two.local.clone()).await;
    proxy.lead_to(&moved.address);
    proxy.break_all();
    one.send_until_it_arrives(&to, &moved.inbox, "to where it is now").await?;
    KEPT
}

pub(super) async fn a_stream_that_is_cut_off_is_no_stream(fixture: Fixture) -> Outcome {
    let Some(net) = fixture.net() else { return not_applicable(NO_WIRE) };
    let (one, two) = (Seat::new(&fixture, 1).await, Seat::new(&fixture, 2).await);
    let proxy = Proxy::new(&fixture, net, &two.address).await?;
    let to = two.peer_at(&proxy.address);
    let source = Source::new(1, 400_000, End::Normal);
    for place in [0, 50, 100, 300, 70_000, 200_000, 399_000] {
        proxy.set(Mishap::Cut(place));
        let sent = send(&one, &to, &source).await?;
        ensure!(sent.is_err(), "a stream was cut off at {place}, and counts as taken");
        one.until(&two.inbox, "the end of a stream that was cut off", |got| got.open == 0).await?;
        let taken = two.inbox.with(|got| got.streams.len());
        ensure!(taken == 0, "a stream was cut off at {place}, and taken for whole");
    }
    proxy.set(Mishap::None);
    send(&one, &to, &source).await?.promised("a stream behind some that were cut off")?;
    KEPT
}

pub(super) async fn a_server_that_never_answers_is_reported(fixture: Fixture) -> Outcome {
    let Some(net) = fixture.net() else { return not_applicable(NO_WIRE) };
    let (one, two) = (Seat::new(&fixture, 1).await, Seat::new(&fixture, 2).await);
    let listener = net.listen(&fixture.any_address()).await.promised("the kit's listening")?;
    let address = listener.local_address().promised("the kit's asking for its address")?;
    // Connections are made, by the system alone.
    let silent = Peer { id: Some(9.into()), address };
    one.send_until_it_is_said(&silent, "a server never answers").await?;
    let sent = send(&one, &silent, &Source::new(1, 10, End::Normal)).await?;
    ensure!(sent.is_err(), "a stream to a server that never answers counts as taken");
    one.send_until_it_arrives(&two.peer(), &two.inbox, "to one that does").await?;
    KEPT
}

pub(super) async fn a_connection_that_stands_still_is_given_up(fixture: Fixture) -> Outcome {
    let Some(net) = fixture.net() else { return not_applicable(NO_WIRE) };
    let (one, two) = (Seat::new(&fixture, 1).await, Seat::new(&fixture, 2).await);
    let proxy = Proxy::new(&fixture, net, &two.address).await?;
    let to = two.peer_at(&proxy.address);
    proxy.set(Mishap::Stop(100_000));
    let payload = Bytes::from(pattern(1, 60_000));
    one.repeat("the report of a connection that stands still", || {
        let _ = one.send(&to, payload.clone());
        one.inbox.with(|got| !got.unreachable.is_empty())
    })
    .await?;
    let stuck = send(&one, &to, &Source::new(1, 4 << 20, End::Normal)).await?;
    ensure!(stuck.is_err(), "a stream that stood still counts as taken");
    one.until(&two.inbox, "the end of a stream that stands still", |got| got.open == 0).await?;
    let taken = two.inbox.with(|got| got.streams.len());
    ensure!(taken == 0, "a stream that stood still was taken for whole");
    proxy.set(Mishap::None);
    one.send_until_it_arrives(&to, &two.inbox, "on a new connection").await?;
    KEPT
}

pub(super) async fn a_slow_server_holds_up_nobody(fixture: Fixture) -> Outcome {
    let Some(net) = fixture.net() else { return not_applicable(NO_WIRE) };
    let (one, two) = (Seat::new(&fixture, 1).await, Seat::new(&fixture, 2).await);
    let slow = Seat::new(&fixture, 3).await;
    let proxy = Proxy::new(&fixture, net, &slow.address).await?;
    proxy.set(Mishap::Stop(10_000));
    let to = slow.peer_at(&proxy.address);
    let payload = Bytes::from(pattern(1, 60_000));
    let began = one.runtime.now();
    let mut bytes = 0_usize;
    let refused = loop {
        match one.send(&to, payload.clone()) {
            Ok(()) => bytes += payload.len(),
            Err(refused) => break refused,
        }
        ensure!(bytes < 1 << 30, "a gigabyte waits for a slow server, and nothing was refused");
    };
    let took = one.runtime.now() - began;
    ensure!(took < WAIT_MAX / 2, "sending to a slow server took {took:?}");
    let full = matches!(refused, TransportError::Full);
    ensure!(full, "what does not fit the queue of a slow server is refused with: {refused}");
    one.send_until_it_arrives(&two.peer(), &two.inbox, "to one that is quick").await?;
    KEPT
}

/// Waits for the other end to close a connection, or to break it.
async fn closed(seat: &Seat, mut stream: BoxStream, what: &str) -> Result<(), Broken> {
    let mut rest = Vec::new();
    let reading = stream.read_to_end(&mut rest);
    within(&*seat.runtime, WAIT_MAX, what, reading).await.map(drop)
}

async fn dial(net: &dyn Net, address: &str) -> Result<BoxStream, Broken> {
    net.dial(address).await.promised("the kit's dialing")
}

const NO_WIRE: &str = "the transport does not run over `Net`";
