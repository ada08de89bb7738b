//! The bytes of messages: one message, one encoding.

use std::sync::Arc;

use bytes::Bytes;

use super::message::{DecodeError, Message, MessageBody, Request, RequestId, Verb};
use crate::id::{ClusterId, GroupId};
use crate::membership::{Change, Member};

fn request(verb: Verb) -> Vec<u8> {
    let id = RequestId { origin: 1.into(), incarnation: 2, number: 3 };
    let body = MessageBody::Request(Request { id, hops: 2, term: 4, patience_ms: 9, verb });
    let message = Message {
        cluster: ClusterId::NIL,
        group: GroupId(0),
        from: 1.into(),
        from_address: Arc::from("a"),
        to: None,
        body,
    };
    message.encode().into_bytes().to_vec()
}

fn refused(bytes: Vec<u8>) -> DecodeError {
    Message::decode(Bytes::from(bytes)).unwrap_err()
}

#[test]
fn nothing_may_stand_behind_the_member_of_a_join() {
    let member = Member::learner(4.into(), "n4", "a4");
    let len = u8::try_from(member.encode().len()).unwrap();
    let mut bytes = request(Verb::Join { member });
    let at = bytes.len() - usize::from(len) - 4;
    assert_eq!(bytes[at], len);
    bytes[at] += 1;
    bytes.push(0);
    assert_eq!(refused(bytes), DecodeError::TrailingBytes { bytes: 1 });
}

#[test]
fn the_membership_a_change_was_planned_on_is_said_in_one_way() {
    let change = Change::Remove(1.into());
    let len = change.encode().len();
    let with = |planned_on| request(Verb::Change { change: change.clone(), planned_on });
    let flag = |bytes: &Vec<u8>| bytes.len() - len - 4 - 9;
    let mut bytes = with(Some(7));
    let at = flag(&bytes);
    bytes[at] = 2;
    assert_eq!(refused(bytes), DecodeError::Invalid { field: "planned on" });
    let mut bytes = with(None);
    let at = flag(&bytes);
    bytes[at + 1] = 7;
    assert_eq!(refused(bytes), DecodeError::Invalid { field: "planned on" });
}
