//! Nomad's field names, and its way of writing them: keys in order of their bytes.

use serde::Serialize;
use serde_json::Value;

use crate::membership::Member;
use crate::status::Status;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Configuration {
    pub(super) index: u64,
    /// `None`, which is written `null`, if there is none.
    pub(super) servers: Option<Vec<Server>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Server {
    pub(super) address: String,
    #[serde(rename = "ID")]
    pub(super) id: String,
    pub(super) leader: bool,
    pub(super) node: String,
    pub(super) raft_protocol: &'static str,
    pub(super) voter: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Transfer {
    err: Option<String>,
    from: Place,
    noop: bool,
    to: Place,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Place {
    address: String,
    #[serde(rename = "ID")]
    id: String,
}

impl Transfer {
    pub(super) fn new(from: &Member, to: &Member, noop: bool) -> Self {
        let place = |one: &Member| Place { address: one.address.clone(), id: one.id.to_string() };
        Self { err: None, from: place(from), noop, to: place(to) }
    }
}

pub(super) fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

pub(super) fn peers(status: &Status) -> Value {
    status.membership.members().map(|member| Value::String(member.address.clone())).collect()
}

/// The value's keys come out sorted: without `serde_json`'s `preserve_order` its maps are.
pub(super) fn value(value: &impl Serialize) -> Value {
    serde_json::to_value(value).expect("strings, numbers and flags have a JSON form")
}
