//! Writes responses. Pure: it knows statuses, types and encodings, and no cluster.

use http::header::{CONTENT_TYPE, HeaderValue, LOCATION, VARY};
use http::{Response, StatusCode};
use serde::Serialize as _;
use serde_json::Value;

use super::error::ApiError;
use crate::http::Body;

#[derive(Debug)]
pub(super) enum Reply {
    Empty,
    Json(Value),
}

pub(super) fn render(pretty: bool, result: Result<Reply, ApiError>) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    // Caches must know that the answer might differ, even while it never does.
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    let (content_type, text) = match result {
        Ok(Reply::Empty) => return response,
        Ok(Reply::Json(value)) => ("application/json", write(&value, pretty)),
        Err(error) => {
            *response.status_mut() = error.status;
            if let Some(location) = error.location.and_then(|to| HeaderValue::try_from(to).ok()) {
                response.headers_mut().insert(LOCATION, location);
            }
            let Some(text) = error.text else { return response };
            debug_assert!(error.status != StatusCode::OK);
            ("text/plain; charset=utf-8", text)
        }
    };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    *response.body_mut() = text.into();
    response
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
