//! Reads requests. Pure: it knows paths, methods and parameters, and no cluster. The order of the
//! checks is Nomad's.

use http::header::{ACCEPT_ENCODING, UPGRADE};
use http::request::Parts;
use http::{Method, StatusCode};

use super::error::ApiError;
use super::go::{
    Query, canonical, is_go_duration, not_ip_and_port, not_uuid, quoted, unescaped_path,
};

/// A request understood.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Call {
    pub(super) verb: Verb,
    pub(super) selector: Selector,
    pub(super) stale: bool,
    pub(super) region: Option<String>,
}

/// How the answer is to be written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Presentation {
    pub(super) pretty: bool,
    pub(super) encoding: Option<Encoding>,
}

/// How a body is compressed. Deflate is without zlib's wrapper, as Go writes it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Encoding {
    Deflate,
    Gzip,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verb {
    /// `OPTIONS *`, which asks for nothing.
    Ping,
    Configuration,
    RemovePeer,
    StatusLeader,
    StatusPeers,
    Transfer,
}

/// Which server is meant.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Selector {
    /// What it is no IP and port for is still good if it is a member's address; only the cluster
    /// knows that.
    Address {
        text: String,
        malformed: Option<String>,
    },
    Id(String),
    None,
}

impl Verb {
    pub(super) fn needs_management(self) -> bool {
        !matches!(self, Self::Ping | Self::StatusLeader | Self::StatusPeers)
    }
}

impl Selector {
    pub(super) fn not_found(&self, coded: bool) -> ApiError {
        let (what, text) = match self {
            Self::Address { text, .. } => ("address", text.as_str()),
            Self::Id(text) => ("id", text.as_str()),
            Self::None => ("id", ""),
        };
        let text = format!("{what} {} was not found in the Raft configuration", quoted(text));
        if coded { ApiError::bad_request(text) } else { ApiError::internal(text) }
    }
}

pub(super) fn owns(path: &str) -> bool {
    let path = unescaped_path(path);
    let path = path.as_str();
    path == ROOT.trim_end_matches('/')
        || path.starts_with(ROOT)
        || matches!(path, "/v1/status/leader" | "/v1/status/peers")
}

pub(super) fn presentation(head: &Parts) -> Presentation {
    let query = Query::parse(head.uri.query().unwrap_or_default());
    let pretty = query.first("pretty").is_some_and(|value| value != "0");
    let accepted = head.headers.get(ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    let encodings = accepted.unwrap_or_default().split(',').filter_map(|name| match name.trim() {
        "deflate" => Some(Encoding::Deflate),
        "gzip" => Some(Encoding::Gzip),
        _ => None,
    });
    let upgrade = head.headers.get(UPGRADE).is_some_and(|value| !value.is_empty());
    let encoding = encodings.into_iter().next().filter(|_| !upgrade);
    Presentation { pretty, encoding }
}

pub(super) fn parse(head: &Parts) -> Result<Call, ApiError> {
    let (path, query) = (head.uri.path(), head.uri.query());
    let parameters = Query::parse(query.unwrap_or_default());
    if path == "*" && head.method == Method::OPTIONS {
        return Ok(parameters.call(Verb::Ping, Selector::None, true));
    }
    let elsewhere = match path {
        "*" => None,
        _ if path == ROOT.trim_end_matches('/') => Some(ROOT.to_owned()),
        _ => canonical(path),
    };
    if let Some(path) = elsewhere {
        let query = query.map_or_else(String::new, |query| format!("?{query}"));
        return Err(ApiError::redirect(format!("{path}{query}")));
    }
    route(head, &unescaped_path(path), &parameters)
}

fn route(head: &Parts, path: &str, query: &Query) -> Result<Call, ApiError> {
    match path {
        "/v1/status/leader" => return status(head, query, Verb::StatusLeader),
        "/v1/status/peers" => return status(head, query, Verb::StatusPeers),
        _ => {}
    }
    let Some(rest) = path.strip_prefix(ROOT) else {
        return Err(ApiError::bare(StatusCode::NOT_FOUND));
    };
    // By prefix, as Nomad does it: `peers` and `configuration/x` get here too.
    if rest.starts_with("configuration") {
        return configuration(head, query);
    }
    if rest.starts_with("peer") {
        return peer(head, query);
    }
    if rest.starts_with("transfer-leadership") {
        return transfer(head, query);
    }
    Err(ApiError::new(StatusCode::NOT_FOUND, INVALID_METHOD))
}

fn status(head: &Parts, query: &Query, verb: Verb) -> Result<Call, ApiError> {
    if head.method != Method::GET {
        return Err(ApiError::new(StatusCode::METHOD_NOT_ALLOWED, INVALID_METHOD));
    }
    Ok(query.call(verb, Selector::None, query.read_style()?))
}

fn configuration(head: &Parts, query: &Query) -> Result<Call, ApiError> {
    if head.method != Method::GET {
        return Err(ApiError::bare(StatusCode::METHOD_NOT_ALLOWED));
    }
    Ok(query.call(Verb::Configuration, Selector::None, query.read_style()?))
}

fn peer(head: &Parts, query: &Query) -> Result<Call, ApiError> {
    if head.method != Method::DELETE {
        return Err(ApiError::new(StatusCode::NOT_FOUND, INVALID_METHOD));
    }
    let (ids, addresses) = (query.all("id"), query.all("address"));
    let selector = match (ids.first(), &addresses[..]) {
        (Some(_), [_, ..]) => {
            return Err(ApiError::bad_request("must specify either id or address"));
        }
        (Some(id), []) => Selector::Id((*id).to_owned()),
        (None, []) => return Err(ApiError::bad_request("Must specify the peer's ID to remove")),
        (None, ["", ..]) => return Err(ApiError::bad_request("address must be non-empty")),
        (None, [_, _, ..]) => {
            return Err(ApiError::bad_request("must specify only one address"));
        }
        (None, [address]) => Selector::Address { text: (*address).to_owned(), malformed: None },
    };
    Ok(query.call(Verb::RemovePeer, selector, false))
}

fn transfer(head: &Parts, query: &Query) -> Result<Call, ApiError> {
    if head.method != Method::PUT && head.method != Method::POST {
        return Err(ApiError::new(StatusCode::METHOD_NOT_ALLOWED, INVALID_METHOD));
    }
    let (ids, addresses) = (query.all("id"), query.all("address"));
    let refused = match (&ids[..], &addresses[..]) {
        ([], []) => "must specify id or address",
        ([_, ..], [_, ..]) => "must specify either id or address",
        (["", ..], []) => "id must be non-empty",
        ([_, _, ..], []) => "must specify only one id",
        ([], ["", ..]) => "address must be non-empty",
        ([], [_, _, ..]) => "must specify only one address",
        ([id], []) => {
            if let Some(reason) = not_uuid(id) {
                return Err(ApiError::bad_request(format!("id must be a uuid: {reason}")));
            }
            return Ok(query.call(Verb::Transfer, Selector::Id((*id).to_owned()), false));
        }
        ([], [address]) => {
            let malformed = not_ip_and_port(address);
            let selector = Selector::Address { text: (*address).to_owned(), malformed };
            return Ok(query.call(Verb::Transfer, selector, false));
        }
    };
    Err(ApiError::bad_request(refused))
}

impl Query {
    fn call(&self, verb: Verb, selector: Selector, stale: bool) -> Call {
        let region = self.first("region").filter(|region| !region.is_empty());
        Call { verb, selector, stale, region: region.map(str::to_owned) }
    }

    /// The checks that every reading endpoint makes; gives whether a stale answer is good enough.
    fn read_style(&self) -> Result<bool, ApiError> {
        let stale = match self.first("stale") {
            None | Some("0" | "f" | "F" | "FALSE" | "false" | "False") => false,
            Some("" | "1" | "t" | "T" | "TRUE" | "true" | "True") => true,
            Some(_) => {
                let text = "Expect `true` or `false` for `stale` query string parameter";
                return Err(ApiError::bad_request(text));
            }
        };
        let given = |key| self.first(key).filter(|value| !value.is_empty());
        if given("per_page").is_some_and(|value| value.parse::<i32>().is_err()) {
            let text = "Expect a number for `per_page` query string parameter";
            return Err(ApiError::bad_request(text));
        }
        if given("wait").is_some_and(|value| !is_go_duration(value)) {
            return Err(ApiError::bad_request("Invalid wait time"));
        }
        let digits = |value: &str| value.bytes().all(|byte| byte.is_ascii_digit());
        if given("index").is_some_and(|value| !digits(value) || value.parse::<u64>().is_err()) {
            return Err(ApiError::bad_request("Invalid index"));
        }
        Ok(stale)
    }
}

const ROOT: &str = "/v1/operator/raft/";
const INVALID_METHOD: &str = "Invalid method";
