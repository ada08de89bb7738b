//! Writes responses. Pure: it knows statuses, types and encodings, and no cluster.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder};
use http::Response;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, LOCATION, VARY};
use serde::Serialize as _;
use serde_json::Value;

use super::error::ApiError;
use super::parse::{Encoding, Presentation};
use crate::http::Body;

#[derive(Debug)]
pub(super) enum Reply {
    Empty,
    Json(Value),
}

pub(super) fn render(how: Presentation, result: Result<Reply, ApiError>) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let (content_type, text) = match result {
        Ok(Reply::Empty) => (None, String::new()),
        Ok(Reply::Json(value)) => (Some("application/json"), write(&value, how.pretty)),
        Err(error) => {
            *response.status_mut() = error.status;
            if let Some(location) = error.location.and_then(|to| HeaderValue::try_from(to).ok()) {
                response.headers_mut().insert(LOCATION, location);
            }
            let content_type = error.text.as_ref().map(|_| "text/plain; charset=utf-8");
            (content_type, error.text.unwrap_or_default())
        }
    };
    let headers = response.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    if let Some(content_type) = content_type {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    // Also what is empty is compressed, as Nomad's middleware does it.
    let body = match how.encoding {
        Some(encoding) => {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding.name()));
            encoding.compress(text.as_bytes()).into()
        }
        None => text.into(),
    };
    *response.body_mut() = body;
    response
}

impl Encoding {
    fn name(self) -> &'static str {
        match self {
            Self::Deflate => "deflate",
            Self::Gzip => "gzip",
        }
    }

    fn compress(self, bytes: &[u8]) -> Vec<u8> {
        let (out, level) = (Vec::new(), Compression::default());
        let compressed = match self {
            Self::Deflate => {
                let mut encoder = DeflateEncoder::new(out, level);
                encoder.write_all(bytes).and_then(|()| encoder.finish())
            }
            Self::Gzip => {
                let mut encoder = GzEncoder::new(out, level);
                encoder.write_all(bytes).and_then(|()| encoder.finish())
            }
        };
        compressed.expect("memory takes all that is written")
    }
}

fn write(value: &Value, pretty: bool) -> String {
    if !pretty {
        return value.to_string();
    }
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut writer = serde_json::Serializer::with_formatter(&mut text, formatter);
    value.serialize(&mut writer).expect("a value has a JSON form, and memory takes it");
    text.push(b'\n');
    String::from_utf8(text).expect("JSON is UTF-8")
}
