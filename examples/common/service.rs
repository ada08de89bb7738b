//! The key-value store over HTTP, beside the operator API on the same port.

use std::io::ErrorKind;
use std::sync::Arc;

use async_trait::async_trait;
use http::{Method, Request, Response, StatusCode};
use kontiki::http::{Body, BodyError, Handler};
use kontiki::operator::OperatorApi;
use kontiki::typed::{Client, Shared, TypedError};
use kontiki::{Consistency, ProposeError, Raft};
use percent_encoding::NON_ALPHANUMERIC;
use serde_json::json;

use crate::store::{Answer, Command, Condition, Hex, Store};

pub(crate) struct Service {
    pub(crate) raft: Raft,
    pub(crate) store: Shared<Store>,
    pub(crate) operator: Arc<OperatorApi>,
}

#[async_trait]
impl Handler for Service {
    async fn handle(&self, request: Request<Body>) -> Response<Body> {
        let path = request.uri().path();
        if path == "/kv" || path.starts_with("/kv/") {
            return self.kv(request).await.unwrap_or_else(|refused| refused);
        }
        self.operator.handle(request).await
    }
}

type Answered = Result<Response<Body>, Response<Body>>;

impl Service {
    async fn kv(&self, request: Request<Body>) -> Answered {
        let (head, body) = request.into_parts();
        let query = Query::parse(head.uri.query().unwrap_or_default());
        let key = head.uri.path().strip_prefix("/kv/").map(percent_decode);
        match (&head.method, key) {
            (&Method::GET, None) => self.list(&query).await,
            (&Method::GET, Some(key)) => self.get(&key, &query).await,
            (&Method::PUT, Some(key)) => self.put(key, &query, body).await,
            (&Method::DELETE, Some(key)) => self.propose(Command::Delete { key: Hex(key) }).await,
            (_, key) => Err(wrong_method(if key.is_some() { "GET, PUT, DELETE" } else { "GET" })),
        }
    }

    async fn list(&self, query: &Query) -> Answered {
        self.fresh(query).await?;
        let prefix = query.value("prefix").unwrap_or_default();
        let keys: Vec<String> = self.store.read(|store| store.keys(&prefix).map(shown).collect());
        Ok(reply(StatusCode::OK, &json!(keys)))
    }

    async fn get(&self, key: &[u8], query: &Query) -> Answered {
        self.fresh(query).await?;
        let (stored, applied) =
            self.store.read(|store| (store.value(key).cloned(), store.applied()));
        let mut response = match stored {
            None => failure(StatusCode::NOT_FOUND, "no such key"),
            Some(stored) => {
                let mut response = Response::new(Body::from(stored.value.0));
                response.headers_mut().insert("x-kv-index", stored.index.into());
                response.headers_mut().insert("content-type", OCTETS);
                response
            }
        };
        // Where in the history the answer stands: whoever checks one needs it, also when there is
        // nothing.
        response.headers_mut().insert("x-kv-applied", applied.into());
        Ok(response)
    }

    async fn put(&self, key: Vec<u8>, query: &Query, body: Body) -> Answered {
        let only_if = match (query.value("cas"), query.value("cas_index")) {
            (None, None) => None,
            (Some(value), None) => Some(Condition::Value(Hex(value))),
            (None, Some(index)) => {
                let index = String::from_utf8(index).ok().and_then(|text| text.parse().ok());
                let bad = || failure(StatusCode::BAD_REQUEST, "cas_index is a number");
                Some(Condition::Index(index.ok_or_else(bad)?))
            }
            _ => return Err(failure(StatusCode::BAD_REQUEST, "either cas or cas_index")),
        };
        let value = body.collect(BODY_BYTES_MAX).await.map_err(|error| match error {
            BodyError::TooLarge { .. } => {
                failure(StatusCode::PAYLOAD_TOO_LARGE, &error.to_string())
            }
            BodyError::Io(broken) if broken.kind() == ErrorKind::TimedOut => {
                failure(StatusCode::REQUEST_TIMEOUT, "the body did not come in time")
            }
            error => failure(StatusCode::BAD_REQUEST, &error.to_string()),
        })?;
        self.propose(Command::Put { key: Hex(key), value: Hex(value.to_vec()), only_if }).await
    }

    async fn propose(&self, command: Command) -> Answered {
        match Client::<Store>::new(self.raft.clone()).propose(&command).await {
            Ok((_, Answer::Done { index })) => {
                Ok(reply(StatusCode::OK, &json!({ "index": index })))
            }
            Ok((_, Answer::Refused { index, at })) => {
                let text =
                    json!({ "error": "the comparison failed", "index": index, "applied": at });
                Err(reply(StatusCode::CONFLICT, &text))
            }
            Err(TypedError::Propose(error)) => Err(refused(&error)),
            Err(error) => Err(failed(StatusCode::SERVICE_UNAVAILABLE, &error.to_string(), false)),
        }
    }

    /// Makes sure that what is read is as fresh as was asked.
    async fn fresh(&self, query: &Query) -> Result<(), Response<Body>> {
        let consistency = match query.value("consistency").as_deref() {
            None | Some(b"linearizable" | b"lease") => Consistency::Linearizable,
            Some(b"stale") => Consistency::Stale,
            Some(_) => {
                let text = "consistency is linearizable, lease or stale";
                return Err(failure(StatusCode::BAD_REQUEST, text));
            }
        };
        let read = self.raft.read(consistency).await;
        let unread = |error: kontiki::ReadError| {
            failed(StatusCode::SERVICE_UNAVAILABLE, &error.to_string(), true)
        };
        read.map(|_| ()).map_err(unread)
    }
}

fn refused(error: &ProposeError) -> Response<Body> {
    let status = match error {
        ProposeError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        ProposeError::Unknown => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    failed(status, &error.to_string(), error.is_not_applied())
}

fn failed(status: StatusCode, error: &str, not_applied: bool) -> Response<Body> {
    let outcome = if not_applied { "not_applied" } else { "unknown" };
    reply(status, &json!({ "error": error, "outcome": outcome }))
}

fn failure(status: StatusCode, error: &str) -> Response<Body> {
    reply(status, &json!({ "error": error }))
}

fn wrong_method(allowed: &'static str) -> Response<Body> {
    let mut response = failure(StatusCode::METHOD_NOT_ALLOWED, &format!("use {allowed}"));
    response.headers_mut().insert("allow", http::HeaderValue::from_static(allowed));
    response
}

fn reply(status: StatusCode, value: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(Body::from(value.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", JSON);
    response
}

/// The parameters of a request, written as a form's are; keys and values are bytes.
struct Query(Vec<(Vec<u8>, Vec<u8>)>);

impl Query {
    fn parse(query: &str) -> Self {
        let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let decoded = |text: &str| percent_decode(&text.replace('+', " "));
        Self(pairs.map(|(key, value)| (decoded(key), decoded(value))).collect())
    }

    fn value(&self, key: &str) -> Option<Vec<u8>> {
        self.0.iter().find(|(found, _)| found == key.as_bytes()).map(|(_, value)| value.clone())
    }
}

fn percent_decode(text: &str) -> Vec<u8> {
    percent_encoding::percent_decode_str(text).collect()
}

/// A key as JSON can hold it: one that is no text is written with escapes.
fn shown(key: &[u8]) -> String {
    let escaped = || percent_encoding::percent_encode(key, NON_ALPHANUMERIC).to_string();
    std::str::from_utf8(key).map_or_else(|_| escaped(), str::to_owned)
}

/// A command carries a key, a value and the value to compare with as base-16 text: the longest
/// value, and what fits into the head of a request.
pub(crate) const COMMAND_BYTES_MAX: usize = 2 * BODY_BYTES_MAX + (512 << 10);
const BODY_BYTES_MAX: usize = 1 << 20;
const JSON: http::HeaderValue = http::HeaderValue::from_static("application/json");
const OCTETS: http::HeaderValue = http::HeaderValue::from_static("application/octet-stream");
