//! The end of a group on a transport.

use std::sync::Arc;

use futures::future::{Either, join, select};

use super::recorder::{End, Source, Taking};
use super::streams::send;
use super::{Seat, TransportFixture, WAIT_MAX, within};
use crate::conformance::{Broken, KEPT, Outcome};
use crate::id::GroupId;

type Fixture = Arc<dyn TransportFixture>;

async fn detach(seat: &Seat) -> Result<(), Broken> {
    let detaching = seat.transport.detach(seat.local.group);
    within(&*seat.runtime, WAIT_MAX, "the end of `detach`", detaching).await?;
    // This seat, and nobody else.
    let holders = Arc::strong_count(&seat.inbox);
    ensure!(holders == 1, "`detach` returned, and something still holds the inbox");
    Ok(())
}

pub(super) async fn detaching_lets_go_of_the_inbox(fixture: Fixture) -> Outcome {
    let (one, two) = (Seat::new(&fixture, 1).await, Seat::new(&fixture, 2).await);
    let other = two.with_group(GroupId(7));
    let marker = one.with_group(GroupId(7));
    for (from, to) in [(&one, &two), (&two, &one)] {
        from.send_until_it_arrives(&to.peer(), &to.inbox, "before").await?;
    }
    // Some that are under way while it ends.
    for _ in 0..100 {
        let _ = one.send(&two.peer(), "under way");
        let _ = two.send(&one.peer(), "under way");
    }
    detach(&two).await?;
    let delivered = two.inbox.with(|got| got.messages.len());
    for _ in 0..20 {
        let _ = one.send(&two.peer(), "too late");
    }
    marker.send_until_it_arrives(&other.peer(), &other.inbox, "a marker").await?;
    let more = two.inbox.with(|got| got.messages.len()) - delivered;
    ensure!(more == 0, "{more} messages were delivered after `detach` had returned");
    // Once more, and of a group that was never there.
    detach(&two).await?;
    two.transport.detach(GroupId(99)).await;
    KEPT
}

pub(super) async fn detaching_leaves_other_groups_alone(fixture: Fixture) -> Outcome {
    let (one, two) = (Seat::new(&fixture, 1).await, Seat::new(&fixture, 2).await);
    let (other_one, other_two) = (one.with_group(GroupId(7)), two.with_group(GroupId(7)));
    for (from, to) in [(&one, &two), (&other_one, &other_two), (&other_two, &other_one)] {
        from.send_until_it_arrives(&to.peer(), &to.inbox, "before").await?;
    }
    other_two.inbox.take_streams(Taking::NotYet);
    let source = Source::new(1, 1 << 20, End::Normal);
    let to = other_two.peer();
    let sending = send(&other_one, &to, &source);
    let detaching = async {
        let begun = other_one.until(&other_two.inbox, "a stream", |got| got.open == 1).await;
        let detached = join(detach(&one), detach(&two)).await;
        other_two.inbox.take_streams(Taking::All);
        begun.and(detached.0).and(detached.1)
    };
    let (sent, detached) = join(sending, detaching).await;
    detached?;
    let sent = sent?.is_ok();
    ensure!(sent, "a stream of one group was ended by `detach` of another");
    for (from, to) in [(&other_one, &other_two), (&other_two, &other_one)] {
        from.send_until_it_arrives(&to.peer(), &to.inbox, "after").await?;
    }
    KEPT
}

pub(super) async fn detaching_ends_streams(fixture: Fixture) -> Outcome {
    for receiver_ends in [true, false] {
        let (one, two) = (Seat::new(&fixture, 1).await, Seat::new(&fixture, 2).await);
        two.inbox.take_streams(Taking::NotYet);
        let source = Source::new(1, 8 << 20, End::Never);
        let (to, who) = (two.peer(), if receiver_ends { "receiver" } else { "sender" });
        let sending = Box::pin(send(&one, &to, &source));
        let waiting = Box::pin(async {
            one.until(&two.inbox, "the beginning of a stream", |got| got.open == 1).await
        });
        let sending = match select(waiting, sending).await {
            Either::Left((begun, sending)) => {
                begun?;
                sending
            }
            Either::Right(_) => return Err(Broken::new("a stream ended that nobody had taken")),
        };
        let ending = async {
            let group = one.local.group;
            match receiver_ends {
                true => detach(&two).await,
                // Its future, which holds the inbox of the sender, is the library's own.
                false => {
                    let detaching = one.transport.detach(group);
                    within(&*one.runtime, WAIT_MAX, "the end of `detach`", detaching).await
                }
            }
        };
        let (sent, ended) = join(sending, ending).await;
        ended?;
        let refused = sent?.is_err();
        ensure!(refused, "a stream counts as taken whose {who} has ended");
        // Whoever goes on reading finds out.
        two.inbox.take_streams(Taking::All);
        one.until(&two.inbox, "the end of a stream", |got| got.open == 0).await?;
        let taken = two.inbox.with(|got| got.streams.len());
        ensure!(taken == 0, "a stream whose {who} ended was taken for whole");
    }
    KEPT
}

pub(super) async fn a_group_can_be_attached_again(fixture: Fixture) -> Outcome {
    let (one, two) = (Seat::new(&fixture, 1).await, Seat::new(&fixture, 2).await);
    one.send_until_it_arrives(&two.peer(), &two.inbox, "to the first life").await?;
    for life in ["to the second life", "to the third life"] {
        detach(&two).await?;
        let Seat { runtime, transport, address, local, .. } = &two;
        let again =
            Seat::at(Arc::clone(runtime), Arc::clone(transport), address.clone(), local.clone());
        one.send_until_it_arrives(&again.peer(), &again.inbox, life).await?;
        again.send_until_it_arrives(&one.peer(), &one.inbox, life).await?;
        detach(&again).await?;
        let late = two.inbox.with(|got| got.payloads().any(|found| found == life));
        ensure!(!late, "a message was delivered to an inbox of an earlier life");
    }
    KEPT
}
