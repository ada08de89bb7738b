//! Reads requests. Pure: it knows paths, methods and parameters, and no cluster. The order of the
//! checks is Nomad's.

use std::net::IpAddr;

use http::request::Parts;
use http::{Method, StatusCode};

use super::error::ApiError;

/// A request understood.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Call {
    pub(super) verb: Verb,
    pub(super) selector: Selector,
    pub(super) stale: bool,
    pub(super) region: Option<String>,
    pub(super) pretty: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verb {
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
        !matches!(self, Self::StatusLeader | Self::StatusPeers)
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
    path == ROOT.trim_end_matches('/')
        || path.starts_with(ROOT)
        || matches!(path, "/v1/status/leader" | "/v1/status/peers")
}

pub(super) fn parse(head: &Parts) -> Result<Call, ApiError> {
    let path = head.uri.path();
    let query = Query::parse(head.uri.query().unwrap_or_default());
    if path == ROOT.trim_end_matches('/') {
        let query = head.uri.query().map_or_else(String::new, |query| format!("?{query}"));
        return Err(ApiError::redirect(format!("{ROOT}{query}")));
    }
    match path {
        "/v1/status/leader" => return status(head, &query, Verb::StatusLeader),
        "/v1/status/peers" => return status(head, &query, Verb::StatusPeers),
        _ => {}
    }
    let Some(rest) = path.strip_prefix(ROOT) else {
        return Err(ApiError::bare(StatusCode::NOT_FOUND));
    };
    // By prefix, as Nomad does it: `peers` and `configuration/x` get here too.
    if rest.starts_with("configuration") {
        return configuration(head, &query);
    }
    if rest.starts_with("peer") {
        return peer(head, &query);
    }
    if rest.starts_with("transfer-leadership") {
        return transfer(head, &query);
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

/// The parameters, as Go reads them: a pair with a semicolon or a bad escape is dropped without a
/// word.
struct Query(Vec<(String, String)>);

impl Query {
    fn parse(query: &str) -> Self {
        let pairs = query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';'));
        let decoded = pairs.filter_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((unescape(key)?, unescape(value)?))
        });
        Self(decoded.collect())
    }

    fn all(&self, key: &str) -> Vec<&str> {
        self.0.iter().filter(|(found, _)| found == key).map(|(_, value)| value.as_str()).collect()
    }

    fn first(&self, key: &str) -> Option<&str> {
        self.all(key).first().copied()
    }

    fn call(&self, verb: Verb, selector: Selector, stale: bool) -> Call {
        let region = self.first("region").filter(|region| !region.is_empty());
        let pretty = self.first("pretty").is_some_and(|value| value != "0");
        Call { verb, selector, stale, region: region.map(str::to_owned), pretty }
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

fn unescape(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let value = digit(bytes.next())? * 16 + digit(bytes.next())?;
                u8::try_from(value).ok()?
            }
            byte => byte,
        });
    }
    Some(String::from_utf8_lossy(&out).into_owned())
}

/// Go's durations: a sign, then numbers with units, or a bare zero.
fn is_go_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (digits, after) = rest.split_at(number);
        if digits.matches('.').count() > 1 || !digits.contains(|c: char| c.is_ascii_digit()) {
            return false;
        }
        let units = ["ns", "us", "µs", "μs", "ms", "s", "m", "h"];
        let unit = units.iter().filter(|unit| after.starts_with(**unit)).max_by_key(|u| u.len());
        let Some(unit) = unit else { return false };
        rest = &after[unit.len()..];
    }
    true
}

fn not_uuid(text: &str) -> Option<String> {
    if text.len() != 36 {
        return Some("uuid string is wrong length".to_owned());
    }
    let dashes = [8, 13, 18, 23];
    if dashes.iter().any(|&at| text.as_bytes()[at] != b'-') {
        return Some("uuid is improperly formatted".to_owned());
    }
    let digits = text.char_indices().filter(|(at, _)| !dashes.contains(at));
    let bad = digits.map(|(_, c)| c).find(|c| !c.is_ascii_hexdigit())?;
    Some(format!("encoding/hex: invalid byte: U+{:04X} '{bad}'", u32::from(bad)))
}

fn not_ip_and_port(text: &str) -> Option<String> {
    let Some((host, port)) = text.rsplit_once(':') else {
        return Some("not an ip:port".to_owned());
    };
    if host.is_empty() {
        return Some("no IP".to_owned());
    }
    if port.is_empty() {
        return Some("no port".to_owned());
    }
    let bracketed = host.starts_with('[');
    let inner = match host.strip_prefix('[') {
        Some(inner) => match inner.strip_suffix(']') {
            Some(inner) => inner,
            None => return Some("missing ]".to_owned()),
        },
        None => host,
    };
    let number = port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse::<u16>().ok());
    if number.flatten().is_none() {
        return Some(format!("invalid port {} parsing {}", quoted(port), quoted(text)));
    }
    let (address, zone) = inner.split_once('%').map_or((inner, None), |(a, z)| (a, Some(z)));
    match address.parse::<IpAddr>() {
        Ok(IpAddr::V6(_)) if bracketed => None,
        Ok(IpAddr::V4(_)) if !bracketed && zone.is_none() => None,
        Ok(IpAddr::V6(_)) => Some(format!(
            "invalid ip:port {}, IPv6 addresses must be surrounded by square brackets",
            quoted(text)
        )),
        Ok(IpAddr::V4(_)) if bracketed => Some(format!(
            "invalid ip:port {}, square brackets can only be used with IPv6 addresses",
            quoted(text)
        )),
        _ => Some(format!("ParseAddr({}): unable to parse IP", quoted(inner))),
    }
}

/// As Go's `%q` writes it.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

const ROOT: &str = "/v1/operator/raft/";
const INVALID_METHOD: &str = "Invalid method";
