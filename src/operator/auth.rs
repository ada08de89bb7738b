//! Who may do what.

use http::HeaderMap;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// Decides whose token allows management, which is what the Raft endpoints need.
pub trait Authorizer: Send + Sync + 'static {
    /// Whether whoever shows this token (`None` for nobody in particular) may manage the cluster.
    fn is_management(&self, token: Option<&str>) -> bool;
}

/// ACLs are off: everybody may do everything.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct AllowAll;

impl AllowAll {
    /// The one there is.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

impl Authorizer for AllowAll {
    fn is_management(&self, _: Option<&str>) -> bool {
        true
    }
}

/// A fixed list of management tokens. Only their SHA-256 is kept, and compared in constant time.
#[derive(Clone, Debug)]
pub struct TokenList {
    digests: Vec<[u8; 32]>,
}

impl TokenList {
    /// A list of these tokens. Empty ones are left out: they would let everybody in.
    pub fn new<T: AsRef<str>>(tokens: impl IntoIterator<Item = T>) -> Self {
        let tokens = tokens.into_iter().map(|token| token.as_ref().trim().to_owned());
        let digests = tokens.filter(|token| !token.is_empty()).map(|token| digest(&token));
        Self { digests: digests.collect() }
    }
}

impl Authorizer for TokenList {
    fn is_management(&self, token: Option<&str>) -> bool {
        let Some(token) = token else { return false };
        let shown = digest(token);
        // All of them are looked at, so that the time tells nothing of which.
        self.digests.iter().fold(false, |found, known| found | bool::from(known.ct_eq(&shown)))
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// The token that a request shows: `X-Nomad-Token`, or else a bearer token.
pub(super) fn token(headers: &HeaderMap) -> Option<String> {
    // Whatever bytes they are: a token that is no text is a wrong one, and not none.
    let text = |name: &str| headers.get(name).map(|v| String::from_utf8_lossy(v.as_bytes()));
    if let Some(token) = text("x-nomad-token").filter(|token| !token.trim().is_empty()) {
        return Some(token.trim().to_owned());
    }
    let authorization = text("authorization")?;
    let (scheme, rest) = authorization.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let token = rest.trim().split(' ').next().unwrap_or_default();
    (!token.is_empty()).then(|| token.to_owned())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_a_token_of_the_list_allows_management() {
        let list = TokenList::new(["secret", " other \n", ""]);
        assert!(list.is_management(Some("secret")) && list.is_management(Some("other")));
        assert!(!list.is_management(Some("Secret")));
        assert!(!list.is_management(Some("")) && !list.is_management(None));
        assert!(AllowAll.is_management(None));
    }

    #[test]
    fn nomads_header_wins_and_a_bearer_token_is_good_enough() {
        let of = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
            }
            token(&headers)
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("x-nomad-token", " a ")]).as_deref(), Some("a"));
        let both = [("x-nomad-token", "a"), ("authorization", "Bearer b")];
        assert_eq!(of(&both).as_deref(), Some("a"));
        let foreign = [("x-nomad-token", "ключ"), ("authorization", "Bearer b")];
        assert_eq!(of(&foreign).as_deref(), Some("ключ"), "the first wins, whatever it is");
        let twice = [("x-nomad-token", "a"), ("x-nomad-token", "b")];
        assert_eq!(of(&twice).as_deref(), Some("a"));
        assert_eq!(of(&[("authorization", "bEaReR  b c")]).as_deref(), Some("b"));
        assert_eq!(of(&[("authorization", "Basic b")]), None);
        assert_eq!(of(&[("authorization", "Bearer")]), None);
    }
}
