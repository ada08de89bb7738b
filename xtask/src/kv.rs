//! A client of the `kv` example that tells apart what is known of a request's fate.

use std::io;
use std::time::Duration;

use ureq::http::{Request, Response};

/// What became of a request. `applied` is the last command that the answer takes into account.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Answer {
    /// There is no such key.
    Absent { applied: u64 },
    /// Applied, by the entry at this index.
    Done { index: u64 },
    /// The value, and the index of the entry that wrote it.
    Found { value: String, index: u64, applied: u64 },
    /// It was not applied and never will be.
    NotApplied(String),
    /// The comparison failed.
    Refused { applied: u64 },
    /// It may have been applied, or still be.
    Unknown(String),
}

/// On what a write depends.
pub(crate) enum If<'a> {
    Always,
    /// The key does not exist.
    Nothing,
    Value(&'a str),
}

pub(crate) struct Client {
    agent: ureq::Agent,
}

impl Client {
    /// No connection is used twice: whoever finds one closed cannot know whether the request was
    /// read, and must not send it again.
    pub(crate) fn new(patience: Duration) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(patience))
            .http_status_as_error(false)
            .max_idle_connections(0)
            .max_idle_connections_per_host(0)
            .proxy(None);
        Self { agent: config.build().into() }
    }

    pub(crate) fn get(&self, server: &str, key: &str) -> Answer {
        let request = Request::get(format!("http://{server}/kv/{key}")).body(());
        answer(self.agent.run(request.expect("a key is part of a URL")), &|response| {
            let (index, applied) =
                (header(response, "x-kv-index")?, header(response, "x-kv-applied")?);
            Some(Answer::Found { value: text(response)?, index, applied })
        })
    }

    pub(crate) fn put(&self, server: &str, key: &str, value: &str, only: &If<'_>) -> Answer {
        let condition = match only {
            If::Always => String::new(),
            If::Nothing => "?cas_index=0".to_owned(),
            If::Value(value) => format!("?cas={value}"),
        };
        let request = Request::put(format!("http://{server}/kv/{key}{condition}")).body(value);
        answer(self.agent.run(request.expect("a key is part of a URL")), &written)
    }

    pub(crate) fn delete(&self, server: &str, key: &str) -> Answer {
        let request = Request::delete(format!("http://{server}/kv/{key}")).body(());
        answer(self.agent.run(request.expect("a key is part of a URL")), &written)
    }

    /// The body of whatever the server answers, and its `Date`.
    pub(crate) fn ask(&self, server: &str, path: &str) -> Result<(u16, String, String), String> {
        let request = Request::get(format!("http://{server}{path}")).body(());
        let response = self.agent.run(request.map_err(|error| error.to_string())?);
        let mut response = response.map_err(|error| error.to_string())?;
        let date = response.headers().get("date").and_then(|date| date.to_str().ok());
        let date = date.unwrap_or_default().to_owned();
        let body = response.body_mut().read_to_string().map_err(|error| error.to_string())?;
        Ok((response.status().as_u16(), body, date))
    }
}

type Read<'a> = &'a dyn Fn(&mut Response<ureq::Body>) -> Option<Answer>;

fn written(response: &mut Response<ureq::Body>) -> Option<Answer> {
    Some(Answer::Done { index: json(response)?["index"].as_u64()? })
}

fn answer(response: Result<Response<ureq::Body>, ureq::Error>, good: Read<'_>) -> Answer {
    let mut response = match response {
        Ok(response) => response,
        Err(error) if never_sent(&error) => return Answer::NotApplied(error.to_string()),
        Err(error) => return Answer::Unknown(error.to_string()),
    };
    let read = match response.status().as_u16() {
        200 => good(&mut response),
        404 => header(&response, "x-kv-applied").map(|applied| Answer::Absent { applied }),
        409 => {
            let applied = json(&mut response).and_then(|json| json["applied"].as_u64());
            applied.map(|applied| Answer::Refused { applied })
        }
        status => json(&mut response).map(|json| match json["outcome"].as_str() {
            Some("not_applied") => Answer::NotApplied(json["error"].to_string()),
            _ => Answer::Unknown(format!("{status} {json}")),
        }),
    };
    read.unwrap_or_else(|| Answer::Unknown(format!("{} cut short", response.status())))
}

fn header(response: &Response<ureq::Body>, name: &str) -> Option<u64> {
    response.headers().get(name)?.to_str().ok()?.parse().ok()
}

fn text(response: &mut Response<ureq::Body>) -> Option<String> {
    response.body_mut().read_to_string().ok()
}

fn json(response: &mut Response<ureq::Body>) -> Option<serde_json::Value> {
    serde_json::from_str(&text(response)?).ok()
}

/// There was no connection, so there was no request.
fn never_sent(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::ConnectionFailed => true,
        ureq::Error::Io(error) => error.kind() == io::ErrorKind::ConnectionRefused,
        _ => false,
    }
}
