//! Names of things: servers, clusters, groups, places in the log.

use std::fmt;
use std::str::FromStr;

/// The identity of a server: a UUID, printed in lower case.
///
/// A server keeps its id for as long as it keeps its log. One that lost its log is a *new* server
/// and needs a new id: it forgot votes and acknowledgements that the cluster counted on.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NodeId(Uuid);

impl NodeId {
    /// Makes an id of 16 bytes.
    ///
    /// # Errors
    ///
    /// [`InvalidId::ZeroHead`] if the first eight bytes are zero: they are the engine's name of the
    /// server.
    pub fn from_bytes(bytes: [u8; 16]) -> Result<Self, InvalidId> {
        if bytes[..8] == [0; 8] {
            return Err(InvalidId::ZeroHead);
        }
        Ok(Self(Uuid(bytes)))
    }

    /// Makes a version 4 UUID of two random numbers.
    #[must_use]
    pub fn from_random(high: u64, low: u64) -> Self {
        Self(Uuid::v4(high, low))
    }

    /// The 16 bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.0
    }

    /// The first eight bytes, which is what the consensus engine calls this server. Never zero.
    #[must_use]
    pub fn raft_id(self) -> u64 {
        self.0.high()
    }
}

/// Embeds a small number in the high half, for tests and examples.
///
/// # Panics
///
/// Panics on zero.
impl From<u64> for NodeId {
    fn from(number: u64) -> Self {
        assert_ne!(number, 0, "zero is not the id of a server");
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        Self(Uuid(bytes))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for NodeId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Self::from_bytes(text.parse::<Uuid>()?.0)
    }
}

/// The identity of a cluster: a UUID, made when the first server is bootstrapped.
///
/// It goes into every handshake, so that a server of another cluster at a reused address is
/// refused.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ClusterId(Uuid);

impl ClusterId {
    /// What a blank server shows before it has joined.
    pub const NIL: Self = Self(Uuid([0; 16]));

    /// Makes an id of 16 bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid(bytes))
    }

    /// Makes a version 4 UUID of two random numbers.
    #[must_use]
    pub fn from_random(high: u64, low: u64) -> Self {
        Self(Uuid::v4(high, low))
    }

    /// The 16 bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.0
    }

    /// Whether this is the id of no cluster.
    #[must_use]
    pub fn is_nil(self) -> bool {
        self == Self::NIL
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ClusterId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        text.parse().map(Self)
    }
}

/// Which of several groups of one cluster; 0 for the only one.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_structs, reason = "a number with a name")]
pub struct GroupId(pub u64);

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A place in the log: the index counts entries from 1, the term says which leader wrote it.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(
    clippy::exhaustive_structs,
    reason = "users build it by literal; the field has no third part"
)]
pub struct LogId {
    /// The term of the leader that proposed the entry.
    pub term: u64,
    /// The position, counted from 1; 0 is before the first entry.
    pub index: u64,
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.term, self.index)
    }
}

/// A text or bytes that name no server or cluster.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidId {
    /// Something other than a hexadecimal digit, or a dash in the wrong place.
    #[error("an id is hexadecimal digits in groups of 8-4-4-4-12")]
    Malformed,
    /// Not 36 characters.
    #[error("an id has 36 characters, not {found}")]
    WrongLength {
        /// How many there are.
        found: usize,
    },
    /// The first eight bytes are zero.
    #[error("the first eight bytes of a server's id must not all be zero")]
    ZeroHead,
}

#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
struct Uuid([u8; 16]);

impl Uuid {
    fn v4(high: u64, low: u64) -> Self {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&high.to_be_bytes());
        bytes[8..].copy_from_slice(&low.to_be_bytes());
        bytes[6] = 0x40 | (bytes[6] & 0x0f);
        bytes[8] = 0x80 | (bytes[8] & 0x3f);
        Self(bytes)
    }

    fn high(self) -> u64 {
        let (high, _) = self.0.split_at(8);
        high.iter().fold(0, |number, &byte| (number << 8) | u64::from(byte))
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, byte) in self.0.iter().enumerate() {
            if DASH_BEFORE.contains(&position) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Uuid {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let text = text.as_bytes();
        if text.len() != 36 {
            return Err(InvalidId::WrongLength { found: text.len() });
        }
        let mut bytes = [0; 16];
        let mut rest = text;
        for (position, byte) in bytes.iter_mut().enumerate() {
            if DASH_BEFORE.contains(&position) {
                rest = rest.strip_prefix(b"-").ok_or(InvalidId::Malformed)?;
            }
            let (pair, after) = rest.split_at_checked(2).ok_or(InvalidId::Malformed)?;
            *byte = (hex(pair[0])? << 4) | hex(pair[1])?;
            rest = after;
        }
        Ok(Self(bytes))
    }
}

fn hex(digit: u8) -> Result<u8, InvalidId> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
        .ok_or(InvalidId::Malformed)
}

const DASH_BEFORE: [usize; 4] = [4, 6, 8, 10];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_what_it_prints() {
        let id = NodeId::from_random(0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210);
        assert_eq!(id.to_string(), "01234567-89ab-4def-bedc-ba9876543210");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.raft_id(), 0x0123_4567_89ab_4def);
        assert_eq!(NodeId::from(7).raft_id(), 7);
        assert_eq!(NodeId::from(7).to_string(), "00000000-0000-0007-0000-000000000000");
        let shown = format!("{:?}", NodeId::from(7));
        assert_eq!(shown, "NodeId(00000000-0000-0007-0000-000000000000)");
    }

    #[test]
    fn what_is_no_id_is_refused_with_the_reason() {
        assert_eq!("7".parse::<NodeId>(), Err(InvalidId::WrongLength { found: 1 }));
        let nil = ClusterId::NIL.to_string();
        assert_eq!(nil.parse::<NodeId>(), Err(InvalidId::ZeroHead));
        assert_eq!(nil.parse(), Ok(ClusterId::NIL));
        let dashes = "0123456-789ab-4def-bedc-ba98765432100";
        assert_eq!(dashes[..36].parse::<NodeId>(), Err(InvalidId::Malformed));
        assert_eq!("é123456789ab-4def-bedc-ba98765432100".len(), 37);
    }
}
