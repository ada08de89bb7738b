//! Every error, as Nomad's clients know it: a status and a text.

use http::StatusCode;

use crate::error::Fatal;
use crate::id::NodeId;
use crate::membership::MembershipError;
use crate::raft::{ReadError, TransferError};
use crate::status::Status;

#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    /// `None` has no body and no type, which is not the same as an empty text.
    pub(super) text: Option<String>,
    pub(super) location: Option<String>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: Some(text.into()), location: None }
    }

    pub(super) fn bare(status: StatusCode) -> Self {
        Self { status, text: None, location: None }
    }

    pub(super) fn redirect(location: String) -> Self {
        let status = StatusCode::TEMPORARY_REDIRECT;
        Self { status, text: None, location: Some(location) }
    }

    pub(super) fn bad_request(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    pub(super) fn internal(text: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, text)
    }

    pub(super) fn no_leader() -> Self {
        Self::internal("No cluster leader")
    }

    pub(super) fn leader_vanished() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "No cluster leader")
    }

    pub(super) fn no_path_to_region() -> Self {
        Self::internal("No path to region")
    }

    pub(super) fn permission_denied() -> Self {
        Self::new(StatusCode::FORBIDDEN, "Permission denied")
    }

    pub(super) fn not_voter(id: NodeId) -> Self {
        Self::bad_request(format!("server \"{id}\" is not a voter"))
    }

    pub(super) fn last_voter(status: &Status) -> Self {
        let left = status.membership.members().filter(|one| one.role == crate::Role::Learner);
        let left: Vec<_> =
            left.map(|one| format!("{{Nonvoter {} {}}}", one.id, one.address)).collect();
        let left = left.join(" ");
        Self::internal(format!("need at least one voter in configuration: {{[{left}]}}"))
    }

    pub(super) fn not_ready() -> Self {
        Self::internal("Not ready to serve consistent reads")
    }

    pub(super) fn stopped(fatal: &Fatal) -> Self {
        match fatal {
            Fatal::Shutdown => Self::internal("raft is already shutdown"),
            fatal => Self::internal(fatal.to_string()),
        }
    }

    pub(super) fn read(error: ReadError) -> Self {
        match error {
            ReadError::NoLeader(_) => Self::no_leader(),
            ReadError::Stopped(fatal) => Self::stopped(&fatal),
            ReadError::TimedOut => Self::not_ready(),
            error => Self::internal(error.to_string()),
        }
    }

    pub(super) fn membership(error: &MembershipError) -> Self {
        match error {
            MembershipError::NoLeader(_) => Self::no_leader(),
            MembershipError::Stopped(fatal) => Self::stopped(fatal),
            MembershipError::Unknown => Self::internal("leadership lost while committing log"),
            error => Self::internal(error.to_string()),
        }
    }

    pub(super) fn transfer_failed(attempts: u32, error: &TransferError) -> Self {
        let text = "failed to transfer leadership in";
        Self::internal(format!("{text} {attempts} attempts. last error: {error}"))
    }
}
