//! The membership at each place of the log, from the newest snapshot on.

use std::collections::BTreeMap;

use crate::membership::Membership;

/// Never empty: the first one is that of the log's base.
#[derive(Debug)]
pub(super) struct History(BTreeMap<u64, Membership>);

impl History {
    pub(super) fn new(index: u64, membership: Membership) -> Self {
        Self(BTreeMap::from([(index, membership)]))
    }

    pub(super) fn current(&self) -> &Membership {
        self.0.values().next_back().expect("there is always one")
    }

    pub(super) fn push(&mut self, index: u64, membership: Membership) {
        self.0.insert(index, membership);
    }

    /// The membership at `index`, which is not before the base.
    pub(super) fn at(&self, index: u64) -> &Membership {
        let newest = self.0.range(..=index).next_back();
        newest.or_else(|| self.0.iter().next()).expect("there is always one").1
    }

    /// Forgets what was in force only before `index`.
    pub(super) fn forget_before(&mut self, index: u64) {
        let Some((&keep, _)) = self.0.range(..=index).next_back() else { return };
        self.0 = self.0.split_off(&keep);
    }
}
