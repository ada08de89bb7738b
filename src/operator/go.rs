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
            Some((unescape(key)?, unescape(value)?))
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
pub(super) fn is_go_duration(text: &str) -> bool {
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

pub(super) fn not_uuid(text: &str) -> Option<String> {
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
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
