//! What Go's library makes of text, as far as Nomad's clients can see it.

use std::net::IpAddr;

/// The parameters, as Go reads them: a pair with a semicolon or a bad escape is dropped without a
/// word.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(query: &str) -> Self {
        let pairs = query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';'));
        let decoded = pairs.filter_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((unescape(key, b' ')?, unescape(value, b' ')?))
        });
        Self(decoded.collect())
    }

    pub(super) fn all(&self, key: &str) -> Vec<&str> {
        self.0.iter().filter(|(found, _)| found == key).map(|(_, value)| value.as_str()).collect()
    }

    pub(super) fn first(&self, key: &str) -> Option<&str> {
        self.all(key).first().copied()
    }
}

/// A path without its escapes, in which a plus sign is one; as it is if an escape is bad.
pub(super) fn unescaped_path(path: &str) -> String {
    unescape(path, b'+').unwrap_or_else(|| path.to_owned())
}

fn unescape(text: &str, plus: u8) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => plus,
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

/// Where a path that is not canonical leads: without empty, `.` and `..` parts. `None` if it is.
pub(super) fn canonical(path: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let slash = if path.ends_with('/') && !parts.is_empty() { "/" } else { "" };
    let canonical = format!("/{}{slash}", parts.join("/"));
    (canonical != path).then_some(canonical)
}

/// Go's durations: a sign, then numbers with units, or a bare zero; at most what 63 bits of
/// nanoseconds hold.
pub(super) fn is_go_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    if rest.is_empty() {
        return false;
    }
    let mut total = 0;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (digits, after) = rest.split_at(number);
        if digits.matches('.').count() > 1 || !digits.contains(|c: char| c.is_ascii_digit()) {
            return false;
        }
        let found = UNITS.iter().filter(|(unit, _)| after.starts_with(unit));
        let Some((unit, nanos)) = found.max_by_key(|(unit, _)| unit.len()) else { return false };
        let whole = digits.split('.').next().unwrap_or_default();
        let whole = if whole.is_empty() { Some(0) } else { whole.parse::<u64>().ok() };
        let added = whole.and_then(|whole| whole.checked_mul(*nanos));
        match added.and_then(|added| added.checked_add(total)) {
            Some(sum) if sum <= i64::MAX as u64 => total = sum,
            _ => return false,
        }
        rest = &after[unit.len()..];
    }
    true
}

pub(super) fn not_uuid(text: &str) -> Option<String> {
    if text.len() != 36 {
        return Some("uuid string is wrong length".to_owned());
    }
    let dashes = [8, 13, 18, 23];
    if dashes.iter().any(|&at| text.as_bytes()[at] != b'-') {
        return Some("uuid is improperly formatted".to_owned());
    }
    let digits = text.bytes().enumerate().filter(|(at, _)| !dashes.contains(at));
    let bad = digits.map(|(_, byte)| byte).find(|byte| !byte.is_ascii_hexdigit())?;
    let shown = match bad {
        b' '..=b'~' | 0xa1..=0xac | 0xae.. => format!(" '{}'", char::from(bad)),
        _ => String::new(),
    };
    Some(format!("encoding/hex: invalid byte: U+{bad:04X}{shown}"))
}

pub(super) fn not_ip_and_port(text: &str) -> Option<String> {
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
        _ if zone == Some("") => {
            Some(format!("ParseAddr({}): zone must be a non-empty string", quoted(inner)))
        }
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
pub(super) fn quoted(text: &str) -> String {
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
            c if c.is_control() || is_format(c) => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The invisible characters that a terminal would act on, and spaces other than the usual one.
fn is_format(c: char) -> bool {
    let other_space = c.is_whitespace() && c != ' ';
    other_space
        || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}')
}

const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];
