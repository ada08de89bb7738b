//! Nomad's Raft operator HTTP API over a [`Raft`]: `parse` reads a request, [`OperatorApi`] carries
//! it out, `render` writes the response. `docs/operator-api.md` says where it differs from Nomad,
//! and why.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

mod auth;
mod error;
mod go;
mod json;
mod parse;
mod render;

pub use self::auth::{AllowAll, Authorizer, TokenList};
use self::error::ApiError;
use self::json::{Configuration, Server, Transfer};
use self::parse::{Call, Selector};
use self::render::Reply;
use crate::http::{Body, Handler};
use crate::id::NodeId;
use crate::membership::{Change, Member, MembershipError};
use crate::raft::{Consistency, Raft, TransferError};
use crate::runtime::Runtime;
use crate::status::Status;

/// How an [`OperatorApi`] behaves.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ApiConfig {
    /// The name of this cluster's region. Default `global`; requests for another are refused.
    pub region: String,
    /// How long a request waits for a leader. Default 5 s.
    pub hold: Duration,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self { region: "global".to_owned(), hold: Duration::from_secs(5) }
    }
}

/// The operator API of one server.
pub struct OperatorApi {
    raft: Raft,
    authorizer: Arc<dyn Authorizer>,
    runtime: Arc<dyn Runtime>,
    config: ApiConfig,
}

impl OperatorApi {
    /// The API of the node that `raft` is a handle on.
    #[must_use]
    pub fn new(
        raft: Raft,
        authorizer: Arc<dyn Authorizer>,
        runtime: Arc<dyn Runtime>,
        config: ApiConfig,
    ) -> Self {
        Self { raft, authorizer, runtime, config }
    }

    /// Whether a path belongs to this API; whoever mounts it beside something else asks this.
    #[must_use]
    pub fn owns(path: &str) -> bool {
        parse::owns(path)
    }

    /// In Nomad's order: the form of an address, the region, a leader (unless stale is good
    /// enough), the token, then the call itself.
    async fn execute(&self, call: &Call, token: Option<&str>) -> Result<Reply, ApiError> {
        if let Selector::Address { text, malformed: Some(reason) } = &call.selector
            && self.raft.status().membership.member_at(text).is_none()
        {
            return Err(ApiError::bad_request(format!(
                "address must be in IP:port format: {reason}"
            )));
        }
        if call.region.as_deref().is_some_and(|region| region != self.config.region) {
            return Err(ApiError::no_path_to_region());
        }
        if !call.stale {
            self.hold().await?;
        }
        if call.verb.needs_management() && !self.authorizer.is_management(token) {
            return Err(ApiError::permission_denied());
        }
        if !call.stale {
            // Nomad would ask the leader. Here this server answers, once it knows what the leader
            // knows: one that lags would not find a member that was just added.
            self.raft.read(Consistency::Linearizable).await.map_err(ApiError::read)?;
        }
        match call.verb {
            parse::Verb::Configuration => Ok(self.configuration()),
            parse::Verb::Ping => Ok(Reply::Empty),
            parse::Verb::RemovePeer => self.remove(&call.selector).await,
            parse::Verb::StatusLeader => {
                Ok(Reply::Json(json::text(&leader_address(&self.raft.status()))))
            }
            parse::Verb::StatusPeers => Ok(Reply::Json(json::peers(&self.raft.status()))),
            parse::Verb::Transfer => self.transfer(&call.selector).await,
        }
    }

    /// Waits until somebody leads who can serve.
    async fn hold(&self) -> Result<(), ApiError> {
        let deadline = self.runtime.now() + self.config.hold;
        loop {
            let status = self.raft.status();
            if let Some(fatal) = &status.stopped {
                return Err(ApiError::stopped(fatal));
            }
            let leads = status.leader == Some(status.id);
            if status.leader.is_some() && (!leads || status.established) {
                return Ok(());
            }
            let now = self.runtime.now();
            if now >= deadline {
                return Err(if leads { ApiError::not_ready() } else { ApiError::no_leader() });
            }
            self.runtime.timer((now + HOLD_STEP).min(deadline)).await;
        }
    }

    fn configuration(&self) -> Reply {
        let status = self.raft.status();
        let leader = leader_address(&status);
        let members = status.membership.members();
        let servers: Vec<Server> = members
            .map(|member| Server {
                address: member.address.clone(),
                id: member.id.to_string(),
                leader: !leader.is_empty() && member.address == leader,
                node: match member.name.as_str() {
                    "" => "(unknown)".to_owned(),
                    name => format!("{name}.{}", self.config.region),
                },
                raft_protocol: "3",
                voter: member.role == crate::Role::Voter,
            })
            .collect();
        let servers = Some(servers).filter(|servers| !servers.is_empty());
        let configuration = Configuration { index: status.membership.index(), servers };
        Reply::Json(json::value(&configuration))
    }

    async fn remove(&self, selector: &Selector) -> Result<Reply, ApiError> {
        let member = self.find(selector).ok_or_else(|| selector.not_found(false))?;
        match self.raft.change_membership(Change::Remove(member.id)).await {
            Ok(_) => Ok(Reply::Empty),
            Err(MembershipError::NotFound { .. }) => Err(selector.not_found(false)),
            Err(MembershipError::LastVoter) => Err(ApiError::last_voter(&self.raft.status())),
            Err(error) => Err(ApiError::membership(&error)),
        }
    }

    async fn transfer(&self, selector: &Selector) -> Result<Reply, ApiError> {
        let to = self.find(selector).ok_or_else(|| selector.not_found(true))?;
        let status = self.raft.status();
        let from = status.leader.and_then(|id| status.membership.member(id)).cloned();
        let from = from.ok_or_else(ApiError::leader_vanished)?;
        let noop = from.id == to.id;
        if !noop {
            self.transfer_to(to.id, selector).await?;
        }
        Ok(Reply::Json(json::value(&Transfer::new(&from, &to, noop))))
    }

    async fn transfer_to(&self, to: NodeId, selector: &Selector) -> Result<(), ApiError> {
        let mut attempt = 1;
        loop {
            match self.raft.transfer_leadership(to).await {
                Ok(()) => return Ok(()),
                Err(TransferError::NotVoter { id }) => return Err(ApiError::not_voter(id)),
                Err(TransferError::NoLeader(_)) => return Err(ApiError::no_leader()),
                // It was removed meanwhile.
                Err(TransferError::NotFound { .. }) => return Err(selector.not_found(true)),
                Err(TransferError::Stopped(fatal)) => return Err(ApiError::stopped(&fatal)),
                Err(error) if attempt == TRANSFER_ATTEMPTS => {
                    return Err(ApiError::transfer_failed(TRANSFER_ATTEMPTS, &error));
                }
                Err(_) => attempt += 1,
            }
        }
    }

    fn find(&self, selector: &Selector) -> Option<Member> {
        let membership = self.raft.status().membership;
        match selector {
            Selector::Address { text, .. } => membership.member_at(text).cloned(),
            // As text and exactly: an id in upper case is another one.
            Selector::Id(text) => membership.members().find(|m| m.id.to_string() == *text).cloned(),
            Selector::None => None,
        }
    }
}

impl std::fmt::Debug for OperatorApi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OperatorApi").field("config", &self.config).finish_non_exhaustive()
    }
}

#[async_trait]
impl Handler for OperatorApi {
    async fn handle(&self, request: http::Request<Body>) -> http::Response<Body> {
        let (head, _) = request.into_parts();
        let token = auth::token(&head.headers);
        let result = match parse::parse(&head) {
            Ok(call) => self.execute(&call, token.as_deref()).await,
            Err(error) => Err(error),
        };
        render::render(parse::presentation(&head), result)
    }
}

fn leader_address(status: &Status) -> String {
    let leader = status.leader.and_then(|id| status.membership.member(id));
    leader.map_or_else(String::new, |member| member.address.clone())
}

/// How often a held request looks for a leader.
const HOLD_STEP: Duration = Duration::from_millis(25);
const TRANSFER_ATTEMPTS: u32 = 3;
