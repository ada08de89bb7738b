//! The replicated map that `kv` and `three_nodes` serve.

use std::collections::BTreeMap;

use kontiki::LogId;
use kontiki::typed::State;
use serde::{Deserialize, Serialize};

/// Keys and values are bytes. A command and a snapshot carry them as base-16 text, which JSON can
/// hold.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Store {
    entries: BTreeMap<Hex, Stored>,
    /// The place in the log of the last command, whatever it did.
    #[serde(default)]
    applied: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Stored {
    pub(crate) value: Hex,
    /// The place in the log of the command that wrote it.
    pub(crate) index: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Command {
    Delete { key: Hex },
    Put { key: Hex, value: Hex, only_if: Option<Condition> },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Condition {
    /// The key was last written at this index; 0: it does not exist.
    Index(u64),
    Value(Hex),
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Answer {
    Done {
        index: u64,
    },
    /// The comparison failed; `index` is where the key was last written, or 0, and `at` is where
    /// the comparison is in the log.
    Refused {
        index: u64,
        at: u64,
    },
}

impl Store {
    pub(crate) fn value(&self, key: &[u8]) -> Option<&Stored> {
        self.entries.get(&Hex(key.to_vec()))
    }

    /// The last command that is part of this state.
    pub(crate) fn applied(&self) -> u64 {
        self.applied
    }

    pub(crate) fn keys<'a>(&'a self, prefix: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let from = self.entries.range(Hex(prefix.to_vec())..);
        from.map(|(key, _)| &key.0[..]).take_while(move |key| key.starts_with(prefix))
    }
}

impl State for Store {
    type Command = Command;
    type Answer = Answer;

    fn apply(&mut self, at: LogId, command: Command) -> Answer {
        self.applied = at.index;
        match command {
            Command::Delete { key } => {
                self.entries.remove(&key);
            }
            Command::Put { key, value, only_if } => {
                let now = self.entries.get(&key);
                let index = now.map_or(0, |stored| stored.index);
                let holds = match only_if {
                    None => true,
                    Some(Condition::Index(wanted)) => wanted == index,
                    Some(Condition::Value(wanted)) => now.is_some_and(|s| s.value == wanted),
                };
                if !holds {
                    return Answer::Refused { index, at: at.index };
                }
                self.entries.insert(key, Stored { value, index: at.index });
            }
        }
        Answer::Done { index: at.index }
    }
}

/// Bytes that are written as base-16 text.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Hex(pub(crate) Vec<u8>);

impl Serialize for Hex {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(2 * self.0.len());
        for byte in &self.0 {
            text.extend(
                [byte >> 4, byte & 15]
                    .map(|digit| char::from_digit(digit.into(), 16).unwrap_or('0')),
            );
        }
        to.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let digits: Option<Vec<u32>> = text.chars().map(|c| c.to_digit(16)).collect();
        let digits = digits.filter(|digits| digits.len() % 2 == 0);
        let digits = digits.ok_or_else(|| serde::de::Error::custom("not base-16"))?;
        let byte = |pair: &[u32]| u8::try_from(pair[0] * 16 + pair[1]).unwrap_or(0);
        Ok(Self(digits.chunks(2).map(byte).collect()))
    }
}
