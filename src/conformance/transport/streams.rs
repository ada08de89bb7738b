//! Streams between servers on a sound network.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::{join, select};

use super::recorder::{End, Source, Taking};
use super::{Seat, TransportFixture, WAIT_MAX, cluster, local, within};
use crate::conformance::{Broken, KEPT, Outcome, Promised as _};
use crate::id::GroupId;
use crate::transport::{Local, Peer, StreamRefused, TransportError};

type Fixture = Arc<dyn TransportFixture>;

/// Sends a stream, and waits for the verdict.
pub(super) async fn send(
    from: &Seat,
    to: &Peer,
    source: &Arc<Source>,
) -> Result<Result<(), TransportError>, Broken> {
    let node = to.id.unwrap_or_else(super::somebody);
    let head = from.message(node, "the head");
    let sending = from.transport.send_stream(to, head, source.reader());
    within(&*from.runtime, WAIT_MAX, "the verdict on a stream", sending).await
}

pub(super) async fn a_stream_arrives_whole_and_in_order(fixture: Fixture) -> Outcome {
    let (one, two) = (Seat::new(&fixture, 1).await, Seat::new(&fixture, 2).await);
    for (seed, len) in (1..).zip([0, 1, 65_535, 65_536, 65_537, 300_001, 5 << 20]) {
        for (from, to) in [(&one, &two), (&two, &one)] {
            let source = Source::new(seed, len, End::Normal);
            let sent = send(from, &to.peer(), &source).await?;
            sent.promised(&format!("a stream of {len} bytes that its receiver takes"))?;
            let taken = to.inbox.with(|got| got.streams.last().cloned());
            let (head, bytes) = taken.promised("a stream counts as taken, and nothing came")?;
            ensure!(head == "the head", "the head of a stream is another than was sent");
            ensure!(bytes.len() == len, "of a stream of {len} bytes {} came", bytes.len());
            ensure!(bytes == source.bytes(), "a stream of {len} bytes came in another order");
        }
    }
    KEPT
}

pub(super) async fn the_verdict_comes_back(fixture: Fixture) -> Outcome {
    let (one, two) = (Seat::new(&fixture, 1).await, Seat::new(&fixture, 2).await);
    let reason = "no space left on device".to_owned();
    let verdicts = [
        StreamRefused::Busy,
        StreamRefused::NotNeeded,
        StreamRefused::Stopped,
        StreamRefused::Failed(reason),
    ];
    for verdict in verdicts {
        for (read, len) in [(0, 0), (0, 1 << 20), (100_000, 8 << 20)] {
            two.inbox.take_streams(Taking::Part(read, verdict.clone()));
            let source = Source::new(1, len, End::Normal);
            match send(&one, &two.peer(), &source).await? {
                Err(TransportError::Refused(heard)) if heard == verdict => {}
                other => {
                    let heard =
                        other.map_or_else(|error| error.to_string(), |()| "success".to_owned());
                    return Err(Broken::new(format!(
                        "the receiver refused after {read} of {len} bytes ({verdict}), and the \
                         sender hears: {heard}"
                    )));
                }
            }
        }
    }
    two.inbox.take_streams(Taking::All);
    let sent = send(&one, &two.peer(), &Source::new(2, 10, End::Normal)).await?;
    sent.promised("a stream behind some that were refused")?;
    KEPT
}

pub(super) async fn a_stream_is_not_held_in_memory(fixture: Fixture) -> Outcome {
    let (one, two) = (Seat::new(&fixture, 1).await, Seat::new(&fixture, 2).await);
    let source = Source::new(3, 24 << 20, End::Normal);
    two.inbox.take_streams(Taking::Closely(Arc::clone(&source), 16 << 20));
    let sent = send(&one, &two.peer(), &source).await?;
    sent.promised("a stream of 24 MiB, read a little at a time,")?;
    KEPT
}

pub(super) async fn streams_do_not_mix(fixture: Fixture) -> Outcome {
    let (one, two) = (Seat::new(&fixture, 1).await, Seat::new(&fixture, 2).await);
    let (other_one, other_two) = (one.with_group(GroupId(7)), two.with_group(GroupId(7)));
    let sources = [1, 2, 3].map(|seed| Source::new(seed, 3 << 20, End::Normal));
    let (to, other_to) = (two.peer(), other_two.peer());
    let of_one_group = join(send(&one, &to, &sources[0]), send(&one, &to, &sources[1]));
    let both = join(of_one_group, send(&other_one, &other_to, &sources[2]));
    let ((first, second), third) = both.await;
    third?.promised("a stream in one group while others are under way in another")?;
    for sent in [first?, second?] {
        // A receiver may take one at a time; then the other is refused.
        if !matches!(sent, Err(TransportError::Refused(StreamRefused::Busy))) {
            sent.promised("one of two streams at once")?;
        }
    }
    let taken = two.inbox.with(|got| got.streams.clone());
    ensure!(!taken.is_empty(), "of two streams at once none was taken");
    for (_, bytes) in taken {
        let whole = sources[..2].iter().any(|source| source.bytes() == bytes);
        ensure!(whole, "of two streams at once one came with bytes of neither");
    }
    let taken = other_two.inbox.with(|got| got.streams.clone());
    let whole = taken.len() == 1 && taken[0].1 == sources[2].bytes();
    ensure!(whole, "a stream of one group came with bytes of another");
    KEPT
}

pub(super) async fn messages_pass_a_stream_that_stands_still(fixture: Fixture) -> Outcome {
    let (one, two) = (Seat::new(&fixture, 1).await, Seat::new(&fixture, 2).await);
    two.inbox.take_streams(Taking::NotYet);
    let source = Source::new(1, 8 << 20, End::Normal);
    let to = two.peer();
    let sending = Box::pin(send(&one, &to, &source));
    let passing = Box::pin(async {
        one.until(&two.inbox, "the beginning of a stream", |got| got.open == 1).await?;
        for payload in ["one", "two", "three"] {
            one.send_until_it_arrives(&to, &two.inbox, payload).await?;
            two.send_until_it_arrives(&one.peer(), &one.inbox, payload).await?;
        }
        Ok::<_, Broken>(())
    });
    let (passed, sending) = match select(passing, sending).await {
        futures::future::Either::Left(done) => done,
        futures::future::Either::Right(_) => {
            return Err(Broken::new("a stream ended that its receiver had not taken yet"));
        }
    };
    passed?;
    two.inbox.take_streams(Taking::All);
    sending.await?.promised("a stream that goes on after it stood still")?;
    KEPT
}

pub(super) async fn a_stream_whose_source_fails_is_no_stream(fixture: Fixture) -> Outcome {
    let (one, two) = (Seat::new(&fixture, 1).await, Seat::new(&fixture, 2).await);
    for len in [0, 100, 65_536, 300_000] {
        let source = Source::new(1, len, End::Error);
        let sent = send(&one, &two.peer(), &source).await?;
        ensure!(
            sent.is_err(),
            "the source failed after {len} bytes, and the stream counts as sent"
        );
        one.until(&two.inbox, "the end of a broken stream", |got| got.open == 0).await?;
        let taken = two.inbox.with(|got| got.streams.len());
        ensure!(taken == 0, "the source failed after {len} bytes, and they were taken for all");
    }
    let sent = send(&one, &two.peer(), &Source::new(2, 10, End::Normal)).await?;
    sent.promised("a stream behind some that failed")?;
    KEPT
}

pub(super) async fn a_stream_that_is_let_go_of_is_no_stream(fixture: Fixture) -> Outcome {
    let (one, two) = (Seat::new(&fixture, 1).await, Seat::new(&fixture, 2).await);
    for len in [0, 65_536, 1 << 20] {
        let begun = two.inbox.with(|got| got.begun);
        let source = Source::new(1, len, End::Never);
        let head = one.message(two.local.node, "the head");
        let to = two.peer();
        let sending = one.transport.send_stream(&to, head, source.reader());
        let all_given = Box::pin(async {
            one.until(&two.inbox, "the beginning of a stream", |got| got.begun > begun).await?;
            one.repeat("the source of a stream to be read", || source.given() == len).await
        });
        match select(sending, all_given).await {
            futures::future::Either::Left(_) => {
                return Err(Broken::new("a stream ended whose source had not"));
            }
            // The other is dropped here, in the middle.
            futures::future::Either::Right((given, _)) => given?,
        }
        one.until(&two.inbox, "the end of a stream let go of", |got| got.open == 0).await?;
        let taken = two.inbox.with(|got| got.streams.len());
        ensure!(taken == 0, "a stream was let go of after {len} bytes, and taken for whole");
    }
    KEPT
}

pub(super) async fn a_stream_to_the_wrong_one_is_refused(fixture: Fixture) -> Outcome {
    let (one, two) = (Seat::new(&fixture, 1).await, Seat::new(&fixture, 2).await);
    let stranger = Seat::of(&fixture, Local { cluster: cluster(9), ..local(3) }).await;
    let alone = one.with_group(GroupId(7));
    let nobody = Peer { id: Some(9.into()), address: fixture.nowhere() };
    let another = Peer { id: Some(9.into()), ..two.peer() };
    for (from, to, what) in [
        (&one, nobody, "to nobody"),
        (&one, another, "to another server than the one that is there"),
        (&stranger, two.peer(), "from another cluster"),
        (&alone, two.peer(), "to a group that is not there"),
    ] {
        let sent = send(from, &to, &Source::new(1, 10, End::Normal)).await?;
        ensure!(sent.is_err(), "a stream {what} counts as taken");
        let begun = two.inbox.with(|got| got.begun);
        ensure!(begun == 0, "a stream {what} was delivered");
    }
    // So that the beginning of the case is known to work.
    let sent = send(&one, &two.peer(), &Source::new(1, 10, End::Normal)).boxed().await?;
    sent.promised("a stream to the right one")?;
    KEPT
}
