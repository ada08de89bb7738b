//! Messages between servers on a sound network.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::{Seat, TransportFixture, cluster, local, only_these, pattern};
use crate::config::Config;
use crate::conformance::{Broken, KEPT, Outcome, Promised as _};
use crate::id::{ClusterId, GroupId};
use crate::transport::{Local, Peer, TransportError};

type Fixture = Arc<dyn TransportFixture>;

pub(super) async fn a_message_arrives_as_it_was_sent(fixture: Fixture) -> Outcome {
    let (one, two) = (Seat::new(&fixture, 1).await, Seat::new(&fixture, 2).await);
    for (from, to) in [(&one, &two), (&two, &one)] {
        for len in [0, 1, 100, 4_096, 100_000] {
            let payload = Bytes::from(pattern(len as u64, len));
            from.send_until_it_arrives(&to.peer(), &to.inbox, payload.clone()).await?;
            let wanted = from.message(to.local.node, payload);
            let whole = to.inbox.with(|got| got.messages.contains(&wanted));
            ensure!(whole, "a message arrived with another cluster, group, sender or receiver");
        }
    }
    KEPT
}

pub(super) async fn a_long_message_arrives(fixture: Fixture) -> Outcome {
    let (one, two) = (Seat::new(&fixture, 1).await, Seat::new(&fixture, 2).await);
    let message_bytes = Config::default().message_bytes();
    let said = one.transport.check(&one.address, message_bytes);
    said.promised("the check whether a node of the default configuration can start")?;
    let payload = one.payload_of(message_bytes);
    one.send_until_it_arrives(&two.peer(), &two.inbox, payload).await?;
    KEPT
}

pub(super) async fn what_is_carried_is_said_before(fixture: Fixture) -> Outcome {
    let (one, two) = (Seat::new(&fixture, 1).await, Seat::new(&fixture, 2).await);
    let lengths = match one.transport.check("", LONG) {
        // Also exactly as long as it may be, and one longer.
        Err(TransportError::TooLarge { bytes_max, .. }) => {
            vec![bytes_max, bytes_max.saturating_add(1), LONG]
        }
        _ => vec![LONG],
    };
    for len in lengths {
        let payload = one.payload_of(len);
        match one.transport.check("", len) {
            Ok(()) => one.send_until_it_arrives(&two.peer(), &two.inbox, payload).await?,
            Err(TransportError::TooLarge { bytes, bytes_max }) => {
                let sensible = bytes == len && bytes_max < len;
                ensure!(sensible, "the check of {len} bytes says {bytes}, over {bytes_max}");
                let sent = one.send(&two.peer(), payload);
                let refused = matches!(sent, Err(TransportError::TooLarge { .. }));
                ensure!(refused, "the check says no to {len} bytes, and they are not refused");
            }
            Err(error) => {
                return Err(Broken::new(format!("the check of {len} bytes fails with: {error}")));
            }
        }
    }
    KEPT
}

pub(super) async fn a_message_that_is_too_long_is_refused(fixture: Fixture) -> Outcome {
    let (one, two) = (Seat::new(&fixture, 1).await, Seat::new(&fixture, 2).await);
    one.send_until_it_arrives(&two.peer(), &two.inbox, "before").await?;
    let len = LONG;
    match one.send(&two.peer(), one.payload_of(len)) {
        // One that carries messages of any length.
        Ok(()) => {}
        Err(TransportError::TooLarge { bytes, bytes_max }) => {
            let sensible = bytes > bytes_max && bytes >= len;
            ensure!(sensible, "{len} bytes are refused as {bytes} over the limit of {bytes_max}");
        }
        Err(error) => {
            return Err(Broken::new(format!("a message of {len} bytes is refused with: {error}")));
        }
    }
    one.send_until_it_arrives(&two.peer(), &two.inbox, "behind").await?;
    KEPT
}

pub(super) async fn a_message_arrives_at_most_once(fixture: Fixture) -> Outcome {
    let (one, two) = (Seat::new(&fixture, 1).await, Seat::new(&fixture, 2).await);
    let mut sent = BTreeSet::new();
    for number in 0..500_u64 {
        let payload = Bytes::copy_from_slice(&number.to_le_bytes());
        if one.send(&two.peer(), payload.clone()).is_ok() {
            sent.insert(payload);
        }
    }
    // Until one arrives that was sent behind all of them; each is another.
    let mut number = LATE;
    one.repeat("the arrival of a message behind five hundred others", || {
        number += 1;
        let payload = Bytes::copy_from_slice(&number.to_le_bytes());
        if one.send(&two.peer(), payload.clone()).is_ok() {
            sent.insert(payload);
        }
        two.inbox.with(|got| got.payloads().any(is_late))
    })
    .await?;
    two.inbox.with(|got| only_these(got, &sent))?;
    KEPT
}

fn is_late(payload: &Bytes) -> bool {
    <[u8; 8]>::try_from(&payload[..]).is_ok_and(|bytes| u64::from_le_bytes(bytes) > LATE)
}

pub(super) async fn groups_do_not_mix(fixture: Fixture) -> Outcome {
    let (one, two) = (Seat::new(&fixture, 1).await, Seat::new(&fixture, 2).await);
    let (other_one, other_two) = (one.with_group(GroupId(7)), two.with_group(GroupId(7)));
    for (from, to, payload) in [(&one, &two, "group 0"), (&other_one, &other_two, "group 7")] {
        from.send_until_it_arrives(&to.peer(), &to.inbox, payload).await?;
        to.send_until_it_arrives(&from.peer(), &from.inbox, payload).await?;
    }
    let (zero, seven) = ([&one, &two], [&other_one, &other_two]);
    let all = zero.map(|seat| (seat, "group 0")).into_iter();
    for (seat, payload) in all.chain(seven.map(|seat| (seat, "group 7"))) {
        let strange = seat.inbox.with(|got| got.payloads().any(|found| found != payload));
        ensure!(!strange, "a message of another group was delivered to {payload}");
    }
    KEPT
}

pub(super) async fn a_group_that_is_not_there_gets_nothing(fixture: Fixture) -> Outcome {
    let (one, two) = (Seat::new(&fixture, 1).await, Seat::new(&fixture, 2).await);
    let alone = one.with_group(GroupId(7));
    for _ in 0..3 {
        // Refused or lost, as the transport likes.
        let _ = alone.send(&two.peer(), "for group 7");
        one.send_until_it_arrives(&two.peer(), &two.inbox, "for group 0").await?;
    }
    let strange = two.inbox.with(|got| got.payloads().any(|found| found != "for group 0"));
    ensure!(!strange, "a message for a group that is not there was delivered to another");
    KEPT
}

pub(super) async fn another_cluster_is_refused(fixture: Fixture) -> Outcome {
    let (one, two) = (Seat::new(&fixture, 1).await, Seat::new(&fixture, 2).await);
    let stranger = Local { cluster: cluster(9), ..local(3) };
    let stranger = Seat::of(&fixture, stranger).await;
    for whoever in [false, true] {
        let to = Peer { id: two.peer().id.filter(|_| !whoever), ..two.peer() };
        for _ in 0..3 {
            let _ = stranger.send(&to, "from another cluster");
            one.send_until_it_arrives(&two.peer(), &two.inbox, "from the same").await?;
        }
    }
    let strange = two.inbox.with(|got| got.payloads().any(|found| found != "from the same"));
    ensure!(
        !strange,
        "a message of another cluster was delivered, which the inbox does not accept"
    );
    KEPT
}

pub(super) async fn a_blank_server_is_let_in(fixture: Fixture) -> Outcome {
    let one = Seat::new(&fixture, 1).await;
    let mut blank = Seat::of(&fixture, Local { cluster: ClusterId::NIL, ..local(2) }).await;
    let whoever = Peer { id: None, ..one.peer() };
    blank.send_until_it_arrives(&whoever, &one.inbox, "may I join?").await?;
    one.send_until_it_arrives(&blank.peer(), &blank.inbox, "you may").await?;
    blank.inbox.join(cluster(1));
    blank.local.cluster = cluster(1);
    blank.send_until_it_arrives(&one.peer(), &one.inbox, "here I am").await?;
    one.send_until_it_arrives(&blank.peer(), &blank.inbox, "welcome").await?;
    KEPT
}

pub(super) async fn another_server_gets_nothing(fixture: Fixture) -> Outcome {
    let (one, two) = (Seat::new(&fixture, 1).await, Seat::new(&fixture, 2).await);
    let wanted = Peer { id: Some(9.into()), ..two.peer() };
    one.send_until_it_is_said(&wanted, "another server is there").await?;
    one.send_until_it_arrives(&two.peer(), &two.inbox, "for you").await?;
    let strange = two.inbox.with(|got| got.payloads().any(|found| found != "for you"));
    ensure!(!strange, "a message was delivered to another server than the one that was wanted");
    KEPT
}

pub(super) async fn whoever_answers_gets_what_is_for_anybody(fixture: Fixture) -> Outcome {
    let (one, two) = (Seat::new(&fixture, 1).await, Seat::new(&fixture, 2).await);
    let whoever = Peer { id: None, ..two.peer() };
    one.send_until_it_arrives(&whoever, &two.inbox, "for anybody").await?;
    KEPT
}

pub(super) async fn nobody_there_is_said(fixture: Fixture) -> Outcome {
    let (one, two) = (Seat::new(&fixture, 1).await, Seat::new(&fixture, 2).await);
    let nobody = Peer { id: Some(9.into()), address: fixture.nowhere() };
    one.send_until_it_is_said(&nobody, "nobody is there").await?;
    one.send_until_it_arrives(&two.peer(), &two.inbox, "for you").await?;
    let wrong = one.inbox.with(|got| got.unreachable.contains(&two.local.node));
    ensure!(!wrong, "a server that can be reached was reported in the place of another");
    KEPT
}

pub(super) async fn a_disconnected_server_can_be_sent_to_again(fixture: Fixture) -> Outcome {
    let (one, two) = (Seat::new(&fixture, 1).await, Seat::new(&fixture, 2).await);
    one.send_until_it_arrives(&two.peer(), &two.inbox, "before").await?;
    for payload in ["after the first time", "after the second time"] {
        one.transport.disconnect(one.local.group, two.local.node);
        // Neither of these was ever heard of.
        one.transport.disconnect(one.local.group, 9.into());
        one.transport.disconnect(GroupId(9), two.local.node);
        one.send_until_it_arrives(&two.peer(), &two.inbox, payload).await?;
    }
    KEPT
}

/// Longer than any sensible limit, and not longer than a queue.
const LONG: u64 = 40 << 20;
/// Messages that are sent behind others have higher numbers than this.
const LATE: u64 = 1_000;
